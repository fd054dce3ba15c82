# SPDX-License-Identifier: Apache-2.0
"""The same seed gives the same video: however it is batched, parted, offloaded, and in whichever process it is made.

Bit for bit where the same sums are made in the same order. Another batch size changes their order: float32 then
differs in the last digits (`ROUNDING`), in a range of 0 to 1.
"""

import multiprocessing
import os

import pytest
import torch

from diffusers_show1 import cli
from diffusers_show1.clips.reading import read_video
from diffusers_show1.sampling.windows import WindowStore

from .contract.components import pipeline, seeded


ROUNDING = 1e-3  # a quarter of an 8-bit level
PROMPTS = ["a red car driving on the rainbow road.", "a dog"]
STAGES = ("base", "interpolation", "superres", "refine")


@pytest.fixture(scope="module")
def pipe():
    return pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)


def run(pipe, prompt=PROMPTS[0], seeds=(3,), **options):
    """Every stage's frames of 3 keyframes, 9 frames, one generator a video."""
    generators = [seeded(seed) for seed in seeds]
    return pipe(
        prompt,
        num_frames=9,
        generator=generators if len(seeds) > 1 else generators[0],
        output_type="pt",
        return_stages=True,
        **options,
    ).stages


@pytest.fixture(scope="module")
def alone(pipe):
    """Each prompt by itself, with its own seed."""
    return [run(pipe, prompt, [seed]) for prompt, seed in zip(PROMPTS, (3, 4), strict=True)]


def assert_close(stages, expected, row=0):
    for name in STAGES:
        torch.testing.assert_close(stages[name][row], expected[name][0], rtol=0, atol=ROUNDING, msg=name)


def assert_same(stages, expected):
    for name in STAGES:
        assert torch.equal(stages[name], expected[name]), name


def test_again(pipe, alone):
    """Bit for bit, without touching torch's own generator; another seed is another video."""
    torch.rand(3)
    before = torch.get_rng_state()
    assert_same(run(pipe), alone[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert (run(pipe, seeds=[5])["base"] - alone[0]["base"]).abs().max() > 0.01


@pytest.mark.parametrize("recipe", ["default", "official"])
def test_many_prompts(pipe, recipe):
    """Video i of a batch is that of its prompt alone with its generator."""
    together = run(pipe, PROMPTS, [3, 4], recipe=recipe)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, (3, 4), strict=True)):
        assert_close(together, run(pipe, prompt, [seed], recipe=recipe), row)


def test_the_batch_size(pipe, alone):
    """One video among three of its prompt, at the end of them."""
    assert_close(run(pipe, seeds=[8, 9, 3], num_videos_per_prompt=3), alone[0], row=2)


@pytest.mark.parametrize("size", [1, 2])
def test_windows_at_once(pipe, alone, size):
    assert_close(run(pipe, stage_options={"interpolation": {"window_batch_size": size}}), alone[0])


@pytest.mark.parametrize("size", [1, None])
def test_frames_in_the_vae_at_once(pipe, alone, size):
    assert_close(run(pipe, stage_options={"refine": {"vae_batch_size": size}}), alone[0])


def test_earlier_stages_do_not_depend_on_later_ones(pipe, alone):
    for stage in STAGES[:-1]:
        frames = run(pipe, stop_after=stage)[stage]
        assert torch.equal(frames, alone[0][stage])


def test_resumed(pipe, alone):
    """Bit for bit; in processes that are killed: `tests/jobs/test_killed.py`."""
    store = WindowStore()
    run(pipe, window_store=store)
    for name in STAGES:
        begun = WindowStore({**store.windows, name: store.windows[name][:-1]})
        assert_same(run(pipe, window_store=begun), alone[0])


def test_layer_by_layer(alone):
    """The weights come to the device leaf by leaf; the portions are smaller, so to rounding."""
    pipe = pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)
    pipe.enable_low_memory(device="cpu")
    assert_close(run(pipe), alone[0])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_low_memory", "none"]
)
def test_offloading(alone, offload):
    """The same on the accelerator in every mode of offloading, bit for bit with equal portions; near the CPU's."""
    portions = {"interpolation": {"window_batch_size": 1}, "refine": {"vae_batch_size": 1}}
    plain = pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None).to("cuda")
    expected = run(plain, stage_options=portions)
    pipe = pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)
    pipe.to("cuda") if offload == "none" else getattr(pipe, offload)()
    assert_same(run(pipe, stage_options=portions), expected)


def generate_there(arguments):
    torch.set_num_threads(1)
    raise SystemExit(cli.main(arguments))


def test_threads(pipe, alone):
    """Another number of threads adds in another order: rounding, which records and jobs name."""
    before = torch.get_num_threads()
    torch.set_num_threads(3 if before == 1 else 1)
    try:
        assert_close(run(pipe), alone[0])
    finally:
        torch.set_num_threads(before)


def test_one_process_or_several(tmp_path):
    """`show1 generate` with two prompts and a seed: clip i is that of prompt i alone with seed + i, in any process."""
    prompts = ["a red circle moving right on a white background", "a blue square growing on a black background"]
    options = ["--steps", "base=2", "--stop-after", "base", "--no-json"]
    context = multiprocessing.get_context("forkserver")
    runs = [
        [*prompts, "--seed", "7", "-o", str(tmp_path / "all.webp")],
        [prompts[0], "--seed", "7", "-o", str(tmp_path / "one-000.webp")],
        [prompts[1], "--seed", "8", "-o", str(tmp_path / "one-001.webp")],
    ]
    processes = [context.Process(target=generate_there, args=(["generate", *each, *options],)) for each in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for index in range(2):
        together, separate = (read_video(tmp_path / f"{name}-00{index}.webp") for name in ("all", "one"))
        assert (together == separate).all()
    assert len(os.listdir(tmp_path)) == 4
