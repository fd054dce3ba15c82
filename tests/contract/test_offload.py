# SPDX-License-Identifier: Apache-2.0
"""Where the cascade's networks are, and when: diffusers' ways to offload, on a device that stands in for a GPU."""

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import apply_layerwise_casting
from diffusers.utils.torch_utils import get_device
from torch import nn

from ..golden.cases import max_difference
from .components import clip, pipeline, seeded
from .standin import StandInDevice, is_there


PROMPT = "a red car driving on the rainbow road."
ONE_STEP = {
    "base": {"num_inference_steps": 1},
    "interpolation": {"num_inference_steps": 1},
    "superres": {"num_inference_steps": 1, "first_frame_num_inference_steps": 1},
    "refine": {"num_inference_steps": 2},
}


def run(pipe, **changes):
    inputs = {"prompt": PROMPT, "stage_options": ONE_STEP, "generator": seeded(), "output_type": "pt", **changes}
    return pipe(**inputs).frames


def networks(pipe):
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


@pytest.fixture(scope="module")
def expected():
    return run(pipeline("cascade"))


@pytest.fixture
def offloaded():
    """A cascade with `enable_model_cpu_offload`, and who was on the device after each call of a network."""
    pipe, seen = pipeline("cascade"), []
    watched = {**networks(pipe), "refine_vae": pipe.refine_vae.encoder, "decoder": pipe.refine_vae.decoder}
    for name, network in watched.items():

        def look(*_, name=name):
            there = {n for n, part in networks(pipe).items() if is_there(part)}
            if (name, there) not in seen:
                seen.append((name, there))

        network.register_forward_hook(look)
    with StandInDevice():
        pipe.enable_model_cpu_offload(device="meta")
        yield pipe, seen


def on_device(pipe):
    return [name for name, part in networks(pipe).items() if is_there(part)]


def test_each_network_comes_for_its_stage_and_leaves(offloaded, expected):
    """One network at a time is on the device, but for the VAE and its neighbours; the numbers are those without."""
    pipe, seen = offloaded
    frames = run(pipe)
    assert frames.device.type == "meta"
    assert max_difference(frames.held, expected) < 1e-4
    assert seen == [
        *((name, {name}) for name in ("text_encoder", "base_unet", "interpolation_unet")),
        *((name, {name}) for name in ("first_frame_unet", "superres_unet", "refine_text_encoder")),
        ("refine_vae", {"refine_text_encoder", "refine_vae"}),
        ("refine_unet", {"refine_unet", "refine_vae"}),
        ("decoder", {"refine_vae"}),
    ]
    assert on_device(pipe) == []


def test_nothing_stays_when_the_next_in_line_is_not_called(offloaded):
    """CLIP and the image model push out who was before them: without them the cascade does."""
    pipe, seen = offloaded
    embeds = pipe.refine.encode_prompt(PROMPT)
    options = {**ONE_STEP, "superres": {"num_inference_steps": 1, "first_frame": clip(1, 16, 24)}}
    seen.clear()
    run(
        pipe,
        stage_options=options,
        refine_prompt_embeds=embeds[0],
        refine_negative_prompt_embeds=embeds[1],
    )
    there = dict(seen)
    assert "first_frame_unet" not in there
    assert there["superres_unet"] == {"superres_unet"}
    assert there["refine_unet"] == {"refine_unet", "refine_vae"}


def test_nothing_stays_after_an_error_or_an_interruption(offloaded, expected):
    """An error in any stage leaves the device empty, and the pipeline as it was."""
    pipe, seen = offloaded

    def fail(stage, step, timestep, tensors):
        if stage.stage_name == "refine":
            raise RuntimeError("stopped by the test")
        stage._interrupt = True
        return {}

    with pytest.raises(RuntimeError, match="stopped by the test"):
        run(pipe, callback_on_step_end=fail)
    assert "refine_unet" in dict(seen)
    assert on_device(pipe) == []
    assert max_difference(run(pipe).held, expected) < 1e-4


def test_group_offload(expected):
    """diffusers' group offload of all components at once, by leaves and by blocks."""
    for options in ({"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}):
        pipe = pipeline("cascade")
        pipe.enable_group_offload(torch.device("cpu"), **options)
        assert max_difference(run(pipe), expected) < 1e-5


def test_enable_low_memory(expected):
    """Group offload, and stages in their smallest portions, over the checkpoint's options and under the caller's."""
    pipe = pipeline("cascade")
    calls = []
    pipe.interpolation_unet.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[0]))
    pipe.refine_vae.decoder.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[0]))
    pipe.enable_low_memory("cpu")
    assert max_difference(run(pipe, num_frames=9), run(pipeline("cascade"), num_frames=9)) < 1e-4
    assert calls == [1] * 4 + [1] * 9  # two pairs, for each both branches of guidance; nine frames
    assert max_difference(run(pipe), expected) < 1e-4
    chosen = pipe.resolve_options(stage_options={"refine": {"vae_batch_size": 4}})
    assert chosen["refine"]["vae_batch_size"] == 4
    assert chosen["interpolation"]["window_batch_size"] == 1


@pytest.mark.skipif(get_device() != "cpu", reason="there is an accelerator")
def test_enable_low_memory_wants_a_device():
    with pytest.raises(RuntimeError, match="`device` is required"):
        pipeline("cascade").enable_low_memory()


def test_sequential_offload(expected):
    """Accelerate's hooks layer by layer, as `enable_sequential_cpu_offload` sets them.

    The method itself asks for device "cpu:0", which accelerate takes for another than "cpu" and then loses its
    parameters' class; a GPU has an index.
    """
    pipe = pipeline("cascade")
    for network in networks(pipe).values():
        cpu_offload(network, torch.device("cpu"), offload_buffers=len(network._parameters) > 0)
    assert {p.device.type for network in networks(pipe).values() for p in network.parameters()} == {"meta"}
    assert max_difference(run(pipe), expected) < 1e-5


def test_layerwise_casting_of_t5(expected):
    """T5's matrices at 8 bits, but for `wo`, whose dtype T5 gives to its input; embeddings within that precision."""
    pipe = pipeline("cascade")
    whole, _ = pipe.base.encode_prompt(PROMPT)
    bytes_before = sum(p.nbytes for p in pipe.text_encoder.parameters())
    apply_layerwise_casting(
        pipe.text_encoder, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=["norm", "embed", "shared", "wo"]
    )
    matrices = sum(p.nbytes for p in pipe.text_encoder.parameters() if p.dtype == torch.float8_e4m3fn)
    rest = sum(p.nbytes for p in pipe.text_encoder.parameters() if p.dtype != torch.float8_e4m3fn)
    assert bytes_before == 4 * matrices + rest
    assert matrices > 0
    cast, _ = pipe.base.encode_prompt(PROMPT)
    assert 0 < max_difference(cast, whole) < 0.2 * whole.abs().max()
    assert run(pipe).shape == expected.shape
