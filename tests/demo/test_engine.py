# SPDX-License-Identifier: Apache-2.0
"""The demo's engine, without a page: what it makes, in which order, and what happens when something goes wrong."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
import torch

from diffusers_show1 import cli, read_video
from diffusers_show1.demo.engine import Engine, QueueFull
from diffusers_show1.demo.form import read_form
from diffusers_show1.runs.refusals import BadInput
from diffusers_show1.runs.settings import Settings

from .conftest import finish


PROMPT = "a red car driving on the rainbow road."
KEYFRAMES = Settings(PROMPT, 3, stop_after="base")
LONG = dataclasses.replace(KEYFRAMES, stage_options={"base": {"num_inference_steps": 1000}})


def begun(request):
    """Waits until a request has made a step."""
    while not request.view.step:
        assert not request.view.over, request.view
        time.sleep(0.002)


def test_every_stage_is_shown_as_it_is_done_and_the_record_makes_it_again(
    make_engine, small_cascade, tmp_path, capsys
):
    engine = make_engine()
    request = engine.submit(Settings(PROMPT, 3, model=small_cascade))
    views = []
    while not views or not views[-1].over:
        if not views or views[-1] is not request.view:
            views.append(request.view)
        time.sleep(0.001)
    last = views[-1]
    assert last.state == "done", last
    stages = engine.pipe.stage_names
    assert list(last.clips) == list(stages)
    progress = [view.progress for view in views]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    counts = [len(view.clips) for view in views]
    assert counts == sorted(counts)
    assert set(counts) >= {0, 1, 2, 3}  # each stage could be seen before the next was done
    assert {path.parent for path in (*last.clips.values(), last.record)} == {request.folder}
    assert request.folder.parent == engine.folder
    assert [read_video(last.clips[stage]).shape[:3] for stage in stages] == [
        (2, 8, 12),
        (5, 8, 12),
        (5, 16, 24),
        (5, 16, 24),
    ]
    assert cli.main(["generate", "--from-json", str(last.record), "-o", str(tmp_path / "again.mp4")]) == 0
    assert "exactly those of the JSON" in capsys.readouterr().out
    again, record = (json.loads(path.read_text()) for path in (tmp_path / "again.json", last.record))
    assert again.keys() == record.keys()
    assert again["settings"] == record["settings"]
    assert again["output"].keys() == record["output"].keys()


def test_cancel_ends_a_run_at_its_next_step_and_frees_the_worker(make_engine):
    engine = make_engine()
    request = engine.submit(LONG)
    begun(request)
    engine.cancel(request)
    assert finish(request).state == "cancelled"
    assert request.view.step < 1000
    engine.cancel(request)  # once more changes nothing
    assert request.view.state == "cancelled"
    assert finish(engine.submit(KEYFRAMES)).state == "done"


def test_the_queue_is_bounded_in_order_and_each_owner_cancels_their_own(make_engine):
    engine = make_engine(limit=2)
    running = engine.submit(LONG, "ann")
    begun(running)
    first, second = engine.submit(KEYFRAMES, "ann"), engine.submit(LONG, "bob")
    assert [engine.ahead(request) for request in (running, first, second)] == [0, 1, 2]
    with pytest.raises(QueueFull, match="the queue is full, 2 wait already"):
        engine.submit(KEYFRAMES, "eve")
    assert engine.waiting == 2
    engine.cancel(second)
    assert second.view.state == "cancelled"
    assert not second.folder.exists()
    third = engine.submit(KEYFRAMES, "bob")
    engine.cancel_all("ann")
    assert first.view.state == "cancelled"
    assert finish(third).state == "done"
    assert running.view.state == "cancelled"


def test_what_the_cascade_refuses_is_told_in_the_words_of_the_command(make_engine, small_cascade, tmp_path, capsys):
    request = make_engine().submit(Settings(PROMPT, 0, stage_options={"refine": {"num_inference_steps": 1}}))
    view = finish(request)
    arguments = ["--model", small_cascade, "--steps", "refine=1", "-o", str(tmp_path / "out.mp4")]
    assert cli.main(["generate", PROMPT, *arguments]) == 2
    assert view.state == "failed"
    assert capsys.readouterr().err.splitlines()[-1] == f"show1: {view.message}"
    assert not view.clips


def test_after_a_fault_the_next_request_is_served(make_engine):
    engine = make_engine()
    weight = next(engine.pipe.base_unet.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    view = finish(engine.submit(KEYFRAMES))
    assert view.state == "failed"
    assert "stage 'base': step 1 of 2" in view.message
    with torch.no_grad():
        weight.copy_(kept)
    scheduler, engine.pipe.base_scheduler = engine.pipe.base_scheduler, None  # a fault that nobody thought of
    assert "the log of the demo says what" in finish(engine.submit(KEYFRAMES)).message
    engine.pipe.base_scheduler = scheduler
    assert finish(engine.submit(KEYFRAMES)).state == "done"


def test_old_results_and_too_many_are_removed(make_engine):
    engine = make_engine(keep_seconds=60, keep_results=2)
    requests = [engine.submit(dataclasses.replace(KEYFRAMES, seed=seed)) for seed in range(3)]
    assert [finish(request).state for request in requests] == ["done"] * 3
    engine.sweep()
    assert [request.folder.exists() for request in requests] == [False, True, True]
    os.utime(requests[1].folder, (0, 0))
    engine.sweep()
    assert [request.folder.exists() for request in requests] == [False, False, True]


def test_closing_ends_what_runs_and_leaves_no_file(make_engine):
    engine = make_engine()
    running, waiting = engine.submit(LONG), engine.submit(LONG)
    begun(running)
    engine.close()
    assert running.view.state == waiting.view.state == "cancelled"
    assert not engine.folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "--queue must be a whole number of at least 1, got 0"),
        ({"offload": "disk"}, "--offload must be one of none, model, sequential, got 'disk'"),
        ({"model": "no such model"}, "--model must be tiny, showlab, a folder"),
        ({"device": "gpu"}, "--device must be one of auto, cpu"),
        ({"dtype": "int8"}, "--dtype must be one of auto, float32"),
    ],
)
def test_bad_engines_are_refused(options, message):
    with pytest.raises(BadInput) as error:
        Engine(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("form", "flags"),
    [
        ({"prompt": ""}, [""]),
        ({"prompt": " \n"}, [" \n"]),
        ({"prompt": "x" * 10_001}, ["x" * 10_001]),
        ({"negative_prompt": "x" * 10_001}, [PROMPT, "--negative-prompt", "x" * 10_001]),
        ({"seed": -1}, [PROMPT, "--seed", "-1"]),
        ({"seed": 2**53 + 2}, [PROMPT, "--seed", str(2**53 + 2)]),
        ({"steps": {"base": 0}}, [PROMPT, "--steps", "base=0"]),
        ({"steps": {"base": None, "superres": 1001}}, [PROMPT, "--steps", "superres=1001"]),
        ({"steps": {"base": 1.5, "interpolation": 2}}, [PROMPT, "--steps", "base=1.5,interpolation=2"]),
        ({"guidance": {"interpolation": 0.5}}, [PROMPT, "--guidance", "interpolation=0.5"]),
        ({"guidance": {"base": "<b>"}}, [PROMPT, "--guidance", "base=<b>"]),
        ({"recipe": "mine"}, [PROMPT, "--recipe", "mine"]),
        ({"stop_after": "sr"}, [PROMPT, "--stop-after", "sr"]),
    ],
)
def test_the_form_refuses_in_the_words_of_the_command(form, flags, tmp_path, capsys):
    with pytest.raises(BadInput) as error:
        read_form(Settings("-", 0), **{"prompt": PROMPT, "seed": 0, **form})
    assert cli.main(["generate", *flags, "-o", str(tmp_path / "out.mp4")]) == 2
    assert capsys.readouterr().err == f"show1: {str(error.value)}\n"


@pytest.mark.parametrize("seed", [1.5, None, float("inf"), float("nan"), "7", [7]])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(BadInput, match="--seed must be a whole number, got"):
        read_form(Settings("-", 0), PROMPT, seed=seed)


def test_the_form_becomes_the_settings_of_the_command():
    read = read_form(
        Settings("-", 0, model="tiny", device="cpu", dtype="float32"),
        PROMPT,
        "a tree",
        7,
        recipe="fast",
        stop_after="superres",
        steps={"base": 20, "interpolation": None, "superres": 4},
        guidance={"interpolation": 7.5, "refine": None},
    )
    assert read == Settings(
        PROMPT,
        7,
        negative_prompt="a tree",
        recipe="fast",
        stage_options={
            "base": {"num_inference_steps": 20},
            "superres": {"num_inference_steps": 4},
            "interpolation": {"guidance_scale": 7.5},
        },
        stop_after="superres",
        device="cpu",
        dtype="float32",
    )
    drawn = {read_form(read, PROMPT, random_seed=True).seed for _ in range(3)}
    assert len(drawn) == 3


def test_the_examples_are_those_of_the_command_that_made_them():
    """Their records say what made them, with the weights of today, one a line of prompts.txt, and they are small."""
    from diffusers_show1.runs.machine import file_digest, model_identity
    from diffusers_show1.runs.settings import parse_settings, read_prompts

    folder = Path(cli.__file__).parents[1] / "demo" / "examples"
    prompts = read_prompts((folder / "prompts.txt").read_text(encoding="utf-8"))
    for index, prompt in enumerate(prompts):
        record = json.loads((folder / f"{index:03d}.json").read_text(encoding="utf-8"))
        settings = parse_settings(record, "JSON", "it", "a record")
        assert (settings.prompt, settings.seed, settings.model) == (prompt, index, "tiny")
        assert record["model"] == model_identity("tiny"), "run the command in prompts.txt again"
        assert record["output"]["sha256"] == file_digest(folder / f"{index:03d}.mp4")
    assert len(list(folder.iterdir())) == 2 * len(prompts) + 1
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
