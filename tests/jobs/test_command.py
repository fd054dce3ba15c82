# SPDX-License-Identifier: Apache-2.0
"""`show1 generate --job FOLDER` and `--resume`, with the cascade in the package: stopped, refused, gone on."""

import json
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from diffusers_show1 import TINY_PATH, cli
from diffusers_show1.runs.plan import Plan
from diffusers_show1.runs.settings import Settings

from .small import finished


PROMPT = "a red circle moving right on a white background"
QUICK = ["--steps", "base=1,interpolation=1,superres=1,refine=10", "--seed", "7"]
ONE_STAGE = ["--steps", "base=1", "--seed", "7", "--stop-after", "base"]


def run(*arguments: str | os.PathLike[str]) -> int:
    return cli.main([os.fspath(argument) for argument in arguments])


def run_there(log: Path, limit: int | None, arguments: list[str]) -> None:
    """The command in a process of its own, no file of which may grow beyond `limit` bytes."""
    import resource

    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    sys.stderr = log.open("w", buffering=1)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.exit(run(*arguments))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished job, and its clip."""
    folder = tmp_path_factory.mktemp("made")
    assert run("generate", PROMPT, "-o", folder / "out.mp4", "--job", folder / "job", *QUICK) == 0
    return folder


def told(capsys) -> str:
    """What the command said on stderr: one line, beside progress bars of loading."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("show1: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_finished_job_is_left_as_it_is(made, capsys):
    before = (made / "out.mp4").stat().st_mtime_ns
    assert run("generate", "--job", made / "job", "--resume") == 0
    assert run("generate", PROMPT, "-o", made / "out.mp4", "--job", made / "job", "--resume", *QUICK) == 0
    assert capsys.readouterr().out.count("done already, by the job in") == 2
    assert (made / "out.mp4").stat().st_mtime_ns == before
    assert json.loads((made / "job" / "made.json").read_text()) == json.loads((made / "out.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PROMPT, "-o", "new.mp4", "--job", "JOB"], "--job must be a new folder, got"),
        (["--job", "JOB", "--resume", "--seed", "8"], "--seed must be left out beside --resume, got 8"),
        ([PROMPT, "-o", "new.mp4", "--job", "JOB", "--resume", "--seed", "8"], "--seed must be the job's, 7, got 8"),
        (["a", "-o", "new.mp4", "--job", "JOB", "--resume"], "PROMPT must be the job's"),
        (
            [PROMPT, "-o", "new.mp4", "--job", "JOB", "--resume", "--steps", "base=2"],
            "--steps must be the job's, 1, got 2 (this is its base num_inference_steps)",
        ),
        ([PROMPT, "-o", "new.mp4", "--job", "JOB", "--resume", "--recipe", "official"], "--recipe must be the job's"),
        (["--job", "none", "--resume"], "--job must be the folder of a job that has begun, got 'none'"),
        (["--job", "JOB/job.json", "--resume"], "is a file"),
        (["--job", ".", "--resume"], "--job must be a folder for a job of its own"),
        ([PROMPT, "-o", "new.mp4", "--resume"], "--resume must be given beside --job"),
        ([PROMPT, "-o", "JOB/../out.mp4", "--job", "new"], "--output must be a name that is not taken"),
    ],
)
def test_bad_input(made, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("mine").touch()
    assert run("generate", *[argument.replace("JOB", str(made / "job")) for argument in arguments]) == 2
    assert message in told(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_job_of_another_program_is_not_the_commands(tmp_path, capsys):
    record = {"show1_job": 1, "settings": {}, "models": {}, "versions": {}, "about": {}}
    (tmp_path / "job.json").write_text(json.dumps(record))
    assert run("generate", "--job", tmp_path, "--resume") == 2
    assert "the folder of a job that show1 generate began" in told(capsys)


def copied(made, folder):
    """The finished job, copied to another folder, without the record of its clip."""
    shutil.copytree(made / "job", folder)
    (folder / "made.json").unlink()
    return folder


def test_somebody_elses_job_says_not_where_a_clip_goes(made, tmp_path, capsys):
    """A job that was copied, or that a stranger made: it needs an output, and replaces nothing."""
    job = copied(made, tmp_path / "job")
    assert run("generate", "--job", job, "--resume") == 2
    assert f"--output must be given beside a job that was begun elsewhere, got None (this one in {made / 'job'})" in (
        told(capsys)
    )
    (tmp_path / "mine.mp4").write_bytes(b"mine")
    assert run("generate", "--job", job, "--resume", "-o", tmp_path / "mine.mp4") == 2
    assert "--output must be a name that is not taken" in told(capsys)
    assert (tmp_path / "mine.mp4").read_bytes() == b"mine"
    assert run("generate", "--job", job, "--resume", "-o", tmp_path / "new.mp4") == 0
    assert (tmp_path / "new.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_a_job_replaces_its_own_clip_only(tmp_path, capsys):
    """What stands where the job writes is replaced if these settings made it, as after a kill before the record."""
    job, clip = tmp_path / "job", tmp_path / "out.webp"
    assert run("generate", PROMPT, "-o", clip, "--job", job, *ONE_STAGE) == 0
    (job / "made.json").unlink()
    assert run("generate", "--job", job, "--resume") == 0
    (job / "made.json").unlink()
    (tmp_path / "out.json").write_text('{"mine": 1}')
    assert run("generate", "--job", job, "--resume") == 2
    assert "out.json" in capsys.readouterr().err
    (tmp_path / "out.json").unlink()
    assert run("generate", PROMPT, "-o", clip, "--overwrite", *ONE_STAGE[:2], "--seed", "8", *ONE_STAGE[4:]) == 0
    before = clip.read_bytes()
    assert run("generate", "--job", job, "--resume") == 2
    assert "--output must be a name that is not taken" in capsys.readouterr().err.splitlines()[-1]
    assert clip.read_bytes() == before
    assert run("generate", "--job", job, "--resume", "--overwrite") == 0
    assert clip.read_bytes() != before


def test_settings_that_were_edited_are_told(made, tmp_path, capsys):
    """job.json holds each setting once; one that was changed by hand fits neither the windows nor the record."""
    job = copied(made, tmp_path / "job")
    record = json.loads((job / "job.json").read_text())
    assert not set(record["settings"]) & set(record["about"]["settings"])
    record["settings"]["seed"] = 99
    (job / "job.json").write_text(json.dumps(record))
    assert run("generate", "--job", job, "--resume", "-o", tmp_path / "new.mp4") == 2
    assert "job.json was changed since the job began" in told(capsys)


def test_how_to_go_on_is_told_for_a_shell(tmp_path, capsys):
    folder = tmp_path / "a job; of 'mine'"
    words = shlex.split(Plan(Settings("a", 0), "out.mp4", folder).go_on.removeprefix("To go on: "))
    assert words == ["show1", "generate", "--job", str(folder), "--resume"]


def test_stopped_by_the_keyboard(processes, made, tmp_path, capsys):
    """SIGINT: exit code 130, how to go on, and then the clip of an undisturbed run."""
    job = tmp_path / "job"
    arguments = ["generate", PROMPT, "-o", str(tmp_path / "out.mp4"), "--job", str(job), *QUICK]
    process = processes.Process(target=run_there, args=(tmp_path / "log", None, arguments))
    process.start()
    while process.is_alive() and not finished(job):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    log = (tmp_path / "log").read_text()
    assert f"show1: stopped. To go on: show1 generate --job {job} --resume" in log
    assert "Traceback" not in log
    assert not (tmp_path / "out.mp4").exists()
    assert run("generate", "--job", job, "--resume") == 0
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_a_full_disk(processes, made, tmp_path, capsys):
    """The windows that fit are kept; with room again, the job goes on. The same for the clip itself."""
    job = tmp_path / "job"
    arguments = ["generate", PROMPT, "-o", str(tmp_path / "out.mp4"), "--job", str(job), *QUICK]
    process = processes.Process(target=run_there, args=(tmp_path / "log", 100 * 1024, arguments))
    process.start()
    process.join()
    assert process.exitcode == 1
    line = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("show1: ")]
    assert line == [
        f"show1: {job} can't be written to (File too large): what was finished before is kept; mend that, and resume. "
        f"To go on: show1 generate --job {job} --resume"
    ]
    assert finished(job) == ["base-000"]
    assert run("generate", "--job", job, "--resume") == 0
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()
    (job / "made.json").unlink()
    process = processes.Process(
        target=run_there, args=(tmp_path / "log", 2 * 1024, ["generate", "--job", str(job), "--resume"])
    )
    process.start()
    process.join()
    assert process.exitcode == 1
    assert "of 29 frames; is the disk full?" in (tmp_path / "log").read_text()
    assert (tmp_path / "out.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_a_model_that_changes_or_vanishes(tmp_path, capsys):
    model, job = tmp_path / "model", tmp_path / "job"
    shutil.copytree(TINY_PATH, model)
    out = ["-o", tmp_path / "out.webp", "--no-json", "--model", model]
    assert run("generate", PROMPT, *out, "--job", job, *ONE_STAGE) == 0
    (job / "made.json").unlink()
    weights = next((model / "base_unet").glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["conv_out.bias"][0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    capsys.readouterr()
    assert run("generate", "--job", job, "--resume") == 1
    assert "was begun with other weights; changed since: base_unet. Load what it was begun with" in told(capsys)
    assert run("generate", PROMPT, *out[:3], "--model", model, "--overwrite", *ONE_STAGE) == 1
    assert told(capsys).startswith("show1: stage 'base': step 1 of 1 (timestep")
    shutil.rmtree(model)
    assert run("generate", "--job", job, "--resume") == 2
    assert (
        f"--model must be tiny, showlab, a folder that holds a cascade, or a Hub id (owner/name), got '{model}'"
        in (told(capsys))
    )
    assert finished(job) == ["base-000"]


def test_several_prompts_have_a_job_each(tmp_path, capsys):
    """The same command again makes what is missing, and nothing twice."""
    command = ["generate", PROMPT, PROMPT, "-o", tmp_path / "out.webp", "--job", tmp_path / "job", *ONE_STAGE]
    assert run(*command) == 0
    clips = [(tmp_path / f"out-00{index}.webp").read_bytes() for index in range(2)]
    shutil.rmtree(tmp_path / "job-001")
    (tmp_path / "out-001.webp").unlink()
    (tmp_path / "out-001.json").unlink()
    capsys.readouterr()
    assert run(*command, "--resume") == 0
    out = capsys.readouterr().out
    assert out.count("done already") == 1
    assert out.count(" fps, seed ") == 1
    assert [(tmp_path / f"out-00{index}.webp").read_bytes() for index in range(2)] == clips
