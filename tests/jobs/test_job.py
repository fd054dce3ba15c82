# SPDX-License-Identifier: Apache-2.0
"""A generation job: the cascade's own video, kept window by window; and each fault, told in one message."""

import copy
import dataclasses
import json
import os
import shutil
from contextlib import contextmanager

import pytest
import torch
from diffusers import DDPMScheduler

from diffusers_show1.clips.frames import to_uint8
from diffusers_show1.clips.reading import read_video
from diffusers_show1.runs.fingerprint import changes, fingerprint
from diffusers_show1.runs.folder import JobError, JobFolder
from diffusers_show1.runs.job import GenerationJob
from diffusers_show1.runs.memory import memory_advice
from diffusers_show1.sampling.loop import FiniteSteps

from .small import SETTINGS, WINDOWS, call, finished, shared_pipe, small_pipe


ALL = [f"{stage}-{index:03d}" for stage, count in WINDOWS.items() for index in range(count)]


@pytest.fixture(scope="module")
def pipe():
    return shared_pipe()


@pytest.fixture(scope="module")
def whole(pipe):
    """The video without a job."""
    return pipe(**call()).frames


@pytest.fixture(scope="module")
def done(pipe, tmp_path_factory):
    """A finished job's folder, not to be changed."""
    folder = tmp_path_factory.mktemp("jobs") / "done"
    GenerationJob(pipe, folder, SETTINGS, about={"for": "tests"}).run("pt")
    return folder


@pytest.fixture
def half(done, tmp_path):
    """A job that was killed in super-resolution's third window."""
    folder = tmp_path / "half"
    shutil.copytree(done, folder)
    for name in ALL[ALL.index("superres-002") :]:
        (folder / "windows" / f"{name}.safetensors").unlink()
    (folder / "superres.webp").unlink()
    (folder / "refine.webp").unlink()
    return folder


def steps(job):
    """The stages of the steps that a run makes, and its frames."""
    seen = []
    frames = job.run("pt", callback_on_step_end=lambda stage, *_: seen.append(stage.stage_name)).frames
    return seen, frames


def test_a_job_makes_the_cascades_own_video(pipe, whole, done):
    assert finished(done) == ALL
    output = GenerationJob(pipe, done).run("pt")
    assert torch.equal(output.frames, whole)
    assert list(output.stages) == list(WINDOWS)
    seen = []
    arrays = (
        GenerationJob(pipe, done).run("np", callback_on_stage_end=lambda p, name, frames: seen.append(name)).frames
    )
    assert torch.equal(torch.from_numpy(arrays).permute(0, 1, 4, 2, 3), whole)
    assert seen == list(WINDOWS)
    assert (read_video(done / "refine.webp") == to_uint8(arrays[0])).all()
    images = GenerationJob(pipe, done).run().frames
    assert images[0][0].size == (whole.shape[-1], whole.shape[-2])
    with pytest.raises(ValueError, match="`output_type` must be 'pil', 'np' or 'pt', got 'latent'"):
        GenerationJob(pipe, done).run("latent")


def test_it_goes_on_behind_the_last_window(pipe, whole, half):
    (half / "windows" / ".show1-left").mkdir()  # as a kill in the middle of writing leaves it
    seen, frames = steps(GenerationJob(pipe, half, SETTINGS))
    assert torch.equal(frames, whole)
    assert seen == ["superres"] * 4 + ["refine"] * 2
    assert finished(half) == ALL
    assert not list(half.rglob(".show1-*"))
    assert steps(GenerationJob(pipe, half))[0] == []


def test_what_the_folder_says(pipe, done):
    job = GenerationJob(pipe, done)
    assert job.about == {"for": "tests"}
    assert (job.settings.prompt, job.settings.seed) == (SETTINGS.prompt, SETTINGS.seed)
    # every option of every stage: another version of the package may have other defaults
    assert job.settings.stage_options["refine"]["vae_batch_size"] == 8
    record = json.loads((done / "job.json").read_text())
    assert set(record["versions"]) >= {"diffusers_show1", "torch", "diffusers"}
    assert set(record["models"]) >= {"base_unet", "refine_vae", "tokenizer", "superres_scheduler"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "`settings.seed` must be the job's, 3, got 4"),
        ({"prompt": "a"}, "`settings.prompt` must be the job's"),
        ({"recipe": "official"}, "`settings.recipe` must be the job's, 'default', got 'official'"),
        ({"num_frames": 5}, "`settings.num_frames` must be the job's, 9, got 5"),
        (
            {"stage_options": {"superres": {"noise_level": 3}}},
            "stage_options\\['superres'\\]\\['noise_level'\\]` must be the job's, 250, got 3",
        ),
    ],
)
def test_other_settings_are_refused(pipe, done, change, message):
    with pytest.raises(ValueError, match=message):
        GenerationJob(pipe, done, dataclasses.replace(SETTINGS, **change))


def test_settings_that_cannot_begin(pipe, tmp_path):
    with pytest.raises(ValueError, match="`settings` is required"):
        GenerationJob(pipe, tmp_path / "new")
    bad = dataclasses.replace(SETTINGS, stage_options={"superres": {"first_frame": torch.zeros(1, 3, 1, 16, 24)}})
    with pytest.raises(ValueError, match="`settings` must hold what JSON can say"):
        GenerationJob(pipe, tmp_path / "new", bad)
    assert not (tmp_path / "new").exists()


def test_smaller_portions_on_the_way(pipe, whole, half, done):
    """What saves memory may change: finished stages stay, an unfinished one begins again in the new portions."""
    fewer = dataclasses.replace(SETTINGS, stage_options={"refine": {"vae_batch_size": 1}})
    seen, frames = steps(GenerationJob(pipe, half, fewer))
    assert torch.allclose(frames, whole, atol=1e-5)
    assert "interpolation" not in seen
    shutil.rmtree(half)
    shutil.copytree(done, half)
    for name in ALL[ALL.index("interpolation-001") :]:
        (half / "windows" / f"{name}.safetensors").unlink()
    for stage in ("interpolation", "superres", "refine"):
        (half / f"{stage}.webp").unlink()
    seen, frames = steps(GenerationJob(pipe, half, dataclasses.replace(SETTINGS, stage_options={})))
    assert torch.allclose(frames, whole, atol=1e-4)
    assert seen.count("interpolation") == 2  # both pairs at once, of 2 steps
    assert "interpolation-001" not in finished(half)
    assert steps(GenerationJob(pipe, half))[0] == []


def test_low_memory_on_the_way(whole, half):
    """All of its switches reach the stages that are not finished; windows that are finished stay."""
    pipe = small_pipe()
    pipe.enable_low_memory("cpu")
    before = (half / "windows" / "interpolation-000.safetensors").stat().st_mtime_ns
    job = GenerationJob(pipe, half)
    options = job.settings.stage_options
    assert [options[stage]["split_guidance"] for stage in WINDOWS] == [False, False, True, True]
    assert options["refine"]["vae_batch_size"] == 1
    batches = []
    for network in (pipe.superres_unet, pipe.refine_unet):
        network.register_forward_pre_hook(lambda _, arguments: batches.append(len(arguments[0])))
    seen, frames = steps(job)
    assert torch.allclose(frames, whole, atol=1e-3)
    assert seen == ["superres"] * 4 + ["refine"] * 2
    assert batches == [1, 1] * len(seen)  # one branch of guidance after the other
    assert (half / "windows" / "interpolation-000.safetensors").stat().st_mtime_ns == before
    # without the switches, the job keeps to what it has
    assert GenerationJob(shared_pipe(), half).settings == job.settings


def test_other_weights_are_refused(done):
    changed = small_pipe()
    with torch.no_grad():
        changed.superres_unet.conv_in.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(JobError, match="begun with other weights; changed since: superres_unet. Load what"):
        GenerationJob(changed, done)
    with pytest.raises(JobError, match=r"base_unet \(float32, now bfloat16\)"):
        GenerationJob(small_pipe().to(torch.bfloat16), done)


def test_a_fingerprint_is_of_the_numbers(pipe):
    before = fingerprint(pipe)
    assert fingerprint(small_pipe()) == before
    other = copy.copy(pipe)
    other.base_scheduler = type(pipe.base_scheduler).from_config(pipe.base_scheduler.config, beta_end=0.03)
    assert changes(before, fingerprint(other)) == ["base_scheduler"]
    without = {name: digest for name, digest in before.items() if name != "refine_vae"}
    assert changes(before, without) == ["refine_vae (float32, now missing)"]


def test_other_versions_are_told(pipe, half, diffusers_log):
    record = json.loads((half / "job.json").read_text())
    record["versions"]["torch"] = "0.1"
    (half / "job.json").write_text(json.dumps(record))
    GenerationJob(pipe, half)
    assert "was begun with {'torch': '0.1'}" in diffusers_log.text


# --- faults ------------------------------------------------------------------------------------------------------


@contextmanager
def a_full_disk():
    """No file may grow beyond 8 KiB: writing fails in the system, as on a full disk. (The tests' own log, too.)"""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(pipe, whole, half):
    job = GenerationJob(pipe, half)
    with pytest.raises(JobError, match="can't be written to .File too large.: what was finished before is kept"):
        with a_full_disk():
            job.run("pt")
    assert finished(half) == ALL[: ALL.index("superres-002")]
    assert not list(half.rglob(".show1-*"))
    assert torch.equal(GenerationJob(pipe, half).run("pt").frames, whole)


def test_folders_that_cannot_be_a_jobs(pipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JobError, match="a job must have a folder of its own, and .*file is a file"):
        GenerationJob(pipe, tmp_path / "file", SETTINGS)
    with pytest.raises(JobError, match=r"below can't be written to \(Not a directory\)"):
        GenerationJob(pipe, tmp_path / "file" / "below", SETTINGS)
    with pytest.raises(JobError, match="holds 'file'"):
        GenerationJob(pipe, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"show1_job": 99}', '{"show1_job": 1, "settings": 3}'])
def test_records_that_are_none(pipe, tmp_path, text):
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(JobError, match=r"job.json (can't be read|has the format 99)"):
        GenerationJob(pipe, tmp_path, SETTINGS)


def test_a_damaged_window_is_named(pipe, whole, half):
    path = half / "windows" / "superres-001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    job = GenerationJob(pipe, half)
    with pytest.raises(JobError, match="superres-001.safetensors is damaged .* delete it, and it is made again"):
        job.run("pt")
    path.unlink()
    assert torch.equal(job.run("pt").frames, whole)


def hold(folder, held, leave):
    with JobFolder(folder).locked():
        held.set()
        leave.wait()


def test_two_processes_in_one_folder(processes, pipe, half):
    """The second is refused; the lock of a killed one is none."""
    held, leave = processes.Event(), processes.Event()
    other = processes.Process(target=hold, args=(half, held, leave))
    other.start()
    held.wait()
    with pytest.raises(JobError, match="another process is at work in .*half"):
        GenerationJob(pipe, half)
    other.kill()
    other.join()
    GenerationJob(pipe, half)


def test_out_of_memory_names_the_stage_and_what_helps(pipe, whole, half):
    """A real failure of the allocator, in the second step of super-resolution; then the job goes on."""
    job = GenerationJob(pipe, half)
    handle = pipe.superres_unet.register_forward_pre_hook(lambda *_: torch.empty(2**50) and None)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="stage 'superres' ran out of memory on cpu") as caught:
            job.run("pt")
    finally:
        handle.remove()
    message = str(caught.value)
    assert "\n" not in message
    assert "--dtype" in message
    assert "a smaller window_size than 3" in message
    assert finished(half) == ALL[: ALL.index("superres-002")]
    assert torch.equal(job.run("pt").frames, whole)


def test_other_errors_stay_what_they_are(pipe, half):
    job = GenerationJob(pipe, half)

    def fail(*_):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="^something else$"):
        job.run("pt", callback_on_step_end=fail)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("base", "fewer frames"),
        ("interpolation", "window_batch_size=1 denoises one window at a time instead of 2: about 1/2 of"),
        ("superres", "window_size"),
        ("refine", "vae_batch_size=1 encodes and decodes one frame at a time instead of 8"),
    ],
)
def test_advice_fits_the_stage(pipe, stage, words):
    options = pipe.resolve_options(num_frames=9)
    assert any(words in line for line in memory_advice(pipe, stage, options))
    options["interpolation"]["window_batch_size"] = options["refine"]["vae_batch_size"] = 1
    if stage in ("interpolation", "refine"):
        assert not any(words in line for line in memory_advice(pipe, stage, options))


@pytest.mark.parametrize("stage", list(WINDOWS))
def test_advice_to_split_guidance(pipe, stage):
    """Where there is guidance, and it is not split yet; there is always some advice."""
    words = "split_guidance=True gives the network one branch of guidance at a time instead of both: about half of"
    options = pipe.resolve_options(num_frames=9)
    assert any(words in line for line in memory_advice(pipe, stage, options))
    options[stage]["guidance_scale"] = 1.0
    assert not any(words in line for line in memory_advice(pipe, stage, options))
    options = pipe.resolve_options(num_frames=9, stage_options=pipe.low_memory_options)
    advice = [line for line in memory_advice(pipe, stage, options) if "--dtype" not in line]
    assert len(advice) == 1
    assert "fewer frames" in advice[0] or "is another video" in advice[0] or "are another video" in advice[0]


@pytest.mark.parametrize("stage", ["base", "interpolation", "superres", "refine"])
def test_numbers_that_are_none(stage, tmp_path):
    """One NaN among the weights: the stage and its first step are named, the stages before are kept."""
    pipe = small_pipe()
    with torch.no_grad():
        getattr(pipe, f"{stage}_unet").conv_out.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=rf"stage '{stage}': step 1 of \d \(timestep \d+\) made NaN"):
        GenerationJob(pipe, tmp_path / "job", SETTINGS).run("pt")
    assert finished(tmp_path / "job") == [name for name in ALL if _before(name, stage)]


def _before(window, stage):
    return list(WINDOWS).index(window.split("-")[0]) < list(WINDOWS).index(stage)


def test_infinity_that_a_scheduler_would_clip_is_found_too(tmp_path):
    pipe = small_pipe()
    with torch.no_grad():
        pipe.base_unet.conv_out.bias[0] = float("inf")
    with pytest.raises(FloatingPointError, match="stage 'base': step 1 of 2"):
        pipe(**call(), stop_after="base")


def test_the_step_is_the_first_bad_one():
    """Also where the flags are read only after the loop, as on an accelerator."""
    steps = FiniteSteps("superres", torch.tensor([9, 7, 5]), DDPMScheduler())
    steps._flags = [torch.tensor(True), torch.tensor(False), torch.tensor(False)]
    with pytest.raises(
        FloatingPointError, match=r"stage 'superres': step 2 of 3 \(timestep 7\) .* bfloat16 and float32"
    ):
        steps.check(torch.float16)


def test_a_decoder_that_makes_none(tmp_path):
    pipe = small_pipe()
    with torch.no_grad():
        pipe.refine_vae.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="stage 'refine': decoding made NaN"):
        GenerationJob(pipe, tmp_path / "job", SETTINGS).run("pt")
    assert finished(tmp_path / "job") == ALL


def test_an_interrupted_stage_ends_the_run(pipe, whole, half):
    """What the stages behind would make of half a window is not saved."""
    job = GenerationJob(pipe, half)

    def stop(stage, step, timestep, tensors):
        stage._interrupt = True
        return {}

    with pytest.raises(JobError, match="stage 'superres' was interrupted"):
        job.run("pt", callback_on_step_end=stop)
    assert finished(half) == ALL[: ALL.index("superres-002")]
    assert torch.equal(job.run("pt").frames, whole)


def test_the_lock_is_let_go(pipe, done):
    GenerationJob(pipe, done).run("pt")
    with JobFolder(done).locked():
        assert os.path.exists(done / "job.json")
