# SPDX-License-Identifier: Apache-2.0
"""The `show1` command: what it refuses without loading a model, and what it makes with the cascade in the package."""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model_state_dict

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, __version__, cli
from diffusers_show1.clips.frames import to_uint8
from diffusers_show1.clips.reading import read_video
from diffusers_show1.families import all_families
from diffusers_show1.runs import machine, outputs, refusals, settings, vocabulary


PROMPT = "a red circle moving right on a white background"
# The fewest steps that run: what the clip shows is the business of the cascade's own tests.
STAGES = ("base", "interpolation", "superres", "refine")  # of the cascade in the package
QUICK = ["--steps", "base=1,interpolation=1,superres=1,refine=10", "--seed", "7"]


def run(*arguments: str | os.PathLike[str]) -> int:
    return cli.main([os.fspath(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PROMPT must be at least one prompt"),
        ([""], "PROMPT must be a text that is not empty, got ''"),
        (["a", " \n"], "PROMPT must be a text that is not empty, got"),
        ([PROMPT, "--seed", "-1"], "--seed must be a whole number from 0"),
        ([PROMPT, "--seed", "x"], "--seed"),
        ([PROMPT, "--steps", "0"], "--steps must be a whole number from 1 to 1000"),
        ([PROMPT, "--steps", "1.5"], "--steps must be a whole number"),
        ([PROMPT, "--steps", "foo=3"], "base, interpolation, superres, refine), got 'foo=3'"),
        ([PROMPT, "--steps", "base=3,base=4"], "got 'base=3,base=4'"),
        ([PROMPT, "--guidance", "0.5"], "--guidance must be a number of at least 1"),
        ([PROMPT, "--guidance", "nan"], "--guidance must be a number of at least 1"),
        ([PROMPT, "--frames", "1"], "--frames must be a whole number of at least 2, got 1"),
        ([PROMPT, "--height", "0"], "--height must be a whole number of at least 1, got 0"),
        ([PROMPT, "--fps", "0"], "--fps must be a number above 0"),
        (
            [PROMPT, "--stop-after", "sr"],
            "--stop-after must be one of base, interpolation, superres, refine, got 'sr'",
        ),
        ([PROMPT, "--recipe", "mine"], "--recipe must be one of default, fast, official, got 'mine'"),
        ([PROMPT, "--dtype", "int8"], "--dtype must be one of auto, float32, float16, bfloat16, got 'int8'"),
        ([PROMPT, "--device", "gpu"], "--device must be one of auto, cpu, cuda"),
        ([PROMPT, "--device", "cuda:99"], "--device must be auto or one of cpu"),
        ([PROMPT, "--device", "cpu", "--offload", "model"], "--offload must be none on a CPU"),
        ([PROMPT, "--offload", "disk"], "--offload must be one of none, model, sequential, got 'disk'"),
        ([PROMPT, "--model", "tinny"], "--model must be tiny, showlab, a folder"),
        ([PROMPT, "--model", "a/b/c"], "got 'a/b/c'"),
        ([PROMPT, "--model", "../no such folder"], "there is no folder of this name"),
        ([PROMPT, "--prompts-file", "missing.txt"], "--prompts-file must be a text file"),
        ([PROMPT, "--colour", "red"], "--colour"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run("generate", *arguments, "-o", "out.mp4") == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    assert message in streams.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.avi", "--output must end in .mp4, .gif or .webp"),
        ("", "--output must end in"),
        ("taken.mp4", "--output must be a name that is not taken"),
        ("taken.gif", "got 'taken.json'"),
        ("taken.mp4/out.mp4", "--output must be in a folder that can be written"),
        (".", "--output must be a new folder or one with nothing but frames"),
        ("folder.mp4", "--output must be a file"),
    ],
)
def test_bad_outputs_are_refused(tmp_path, monkeypatch, capsys, output, message):
    monkeypatch.chdir(tmp_path)
    Path("taken.mp4").touch()
    Path("taken.json").touch()
    Path("folder.mp4").mkdir()
    assert run("generate", PROMPT, "-o", output) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert len(list(tmp_path.iterdir())) == 3


def test_a_json_that_is_a_folder_is_never_replaced(tmp_path, capsys):
    (tmp_path / "out.json").mkdir()
    assert run("generate", PROMPT, "-o", tmp_path / "out.mp4", "--overwrite") == 2
    assert "--no-json" in capsys.readouterr().err


def test_every_output_of_several_prompts_is_checked_first(tmp_path, capsys):
    (tmp_path / "out-001.mp4").touch()
    assert run("generate", PROMPT, PROMPT, "-o", tmp_path / "out.mp4") == 2
    assert "out-001.mp4" in capsys.readouterr().err


def test_stage_clips_are_checked_first(tmp_path, capsys):
    (tmp_path / "out.superres.mp4").touch()
    assert run("generate", PROMPT, "-o", tmp_path / "out.mp4", "--stages") == 2
    assert "out.superres.mp4" in capsys.readouterr().err


def test_folders_without_a_cascade_are_refused(tmp_path, capsys):
    for index, message in (
        (None, "has no readable model_index.json"),
        ("no json", "has no readable model_index.json"),
        ("[]", "has no readable model_index.json"),
        ('{"_class_name": "TextToVideoIFPipeline"}', "holds a TextToVideoIFPipeline"),
    ):
        if index is not None:
            (tmp_path / "model_index.json").write_text(index)
        assert run("generate", PROMPT, "-o", tmp_path / "out.mp4", "--model", tmp_path) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error


def test_a_refusal_imports_no_framework(tmp_path):
    code = (
        "import sys; from diffusers_show1.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    for arguments, expected in (
        (["--help"], 0),
        (["generate", "--help"], 0),
        (["--version"], 0),
        (["generate", PROMPT, "-o", str(tmp_path / "out.mp4"), "--steps", "0"], 2),
        (["generate", PROMPT, "-o", str(tmp_path / "out.avi")], 2),
    ):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == expected, result.stderr


def test_help_answers_at_once():
    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "diffusers_show1", "--help"], capture_output=True, check=True)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) < 1.0


def test_help_names_every_verb_and_option(capsys):
    assert run("--help") == 0
    assert {"generate", "env"} <= set(capsys.readouterr().out.split())
    assert run("generate", "--help") == 0
    words = set(capsys.readouterr().out.replace(",", " ").split())
    assert words >= {"-o", *settings.CONTENT_FLAGS.values(), "--json", "--no-json", "--from-json", "--overwrite"}
    assert run() == 2
    assert "generate" in capsys.readouterr().err


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"show1 {__version__}\n"


def test_env_names_versions_and_devices(capsys):
    assert run("env") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["diffusers_show1"] == __version__
    assert {"torch", "diffusers", "transformers", "python", "platform", "cpu", "xformers"} <= set(lines)


@given(
    st.dictionaries(st.sampled_from(STAGES), st.integers(1, 1000), min_size=1),
    st.sampled_from(["", " "]),
)
def test_numbers_by_stage(values, space):
    text = f",{space}".join(f"{stage}{space}={space}{value}" for stage, value in values.items())
    assert settings.per_stage("--steps", text, int, 1, 1000, STAGES) == values
    assert settings.per_stage("--guidance", text, float, 1, math.inf, STAGES) == values


@given(st.integers(1, 1000))
def test_one_number_for_every_stage(value):
    assert settings.per_stage("--steps", str(value), int, 1, 1000, STAGES) == dict.fromkeys(STAGES, value)


@given(st.text(st.sampled_from("base=refin,0123456789.-+e nan_") | st.characters(), max_size=20))
def test_anything_else_by_stage_is_refused(text):
    for number, most in ((int, 1000), (float, math.inf)):
        try:
            values = settings.per_stage("--steps", text, number, 1, most, STAGES)
        except refusals.BadInput:
            continue
        assert values
        assert set(values) <= set(STAGES)
        assert all(isinstance(value, number) and 1 <= value <= most for value in values.values())


@given(
    st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)), st.lists(st.sampled_from(["", "# c"]))
)
def test_prompts_files(prompts, noise):
    lines = [
        line
        for pair in zip(prompts, [*noise, *[""] * len(prompts)], strict=False)
        for line in (f" {pair[0]} ", pair[1])
    ]
    assert settings.read_prompts("\n".join(lines)) == [prompt for prompt in prompts if not prompt.startswith("#")]


@pytest.mark.parametrize(
    ("output", "count", "names"),
    [
        ("out.mp4", 1, ["out.mp4"]),
        ("out.mp4", 2, ["out-000.mp4", "out-001.mp4"]),
        ("a.b/out", 2, ["a.b/out-000", "a.b/out-001"]),
        ("v1.2/", 2, ["v1.2-000/", "v1.2-001/"]),
        ("{index}/out.gif", 2, ["000/out.gif", "001/out.gif"]),
        ("{index}.gif", 1, ["000.gif"]),
        ("{0}.gif", 2, ["{0}-000.gif", "{0}-001.gif"]),
    ],
)
def test_output_names(output, count, names):
    assert outputs.output_names(output, count) == names


@pytest.mark.parametrize(
    ("output", "stage", "record"),
    [
        ("a/out.mp4", "a/out.base.mp4", "a/out.json"),
        ("out", "out.base/", "out.json"),
        ("v1.2/", "v1.2.base/", "v1.2.json"),
    ],
)
def test_names_beside_the_output(output, stage, record):
    assert outputs.beside(output, "base") == stage
    assert str(outputs.json_name(output)) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
field_names = [field.name for field in dataclasses.fields(settings.Settings)]


@given(json_values | st.fixed_dictionaries({"settings": st.dictionaries(st.sampled_from(field_names), json_values)}))
def test_any_other_json_is_refused(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(refusals.BadInput, match="must be") as caught:
        settings.read_record(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "no JSON"),
        ("[1]", "no settings"),
        ('{"settings": {"prompt": 3}}', "its prompt is 3"),
    ],
)
def test_records_that_are_none_are_named(tmp_path, capsys, content, message):
    path = tmp_path / "in.json"
    if content is not None:
        path.write_text(content)
    assert run("generate", "--from-json", path, "-o", tmp_path / "out.mp4") == 2
    error = capsys.readouterr().err
    assert error.startswith("show1: --from-json must be a JSON file that show1 generate wrote")
    assert message in error


def test_flags_that_a_record_decides_are_refused_beside_it(tmp_path, capsys):
    for arguments in ([PROMPT], ["--seed", "0"], ["--steps", "3"], ["--model", "tiny"]):
        assert run("generate", *arguments, "--from-json", "in.json", "-o", tmp_path / "out.mp4") == 2
        assert "left out beside --from-json" in capsys.readouterr().err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clip and its record, made once with every stage kept."""
    folder = tmp_path_factory.mktemp("made")
    assert run("generate", PROMPT, "-o", folder / "out.mp4", "--stages", "--negative-prompt", "blue", *QUICK) == 0
    return folder


def test_generate_writes_a_clip_its_stages_and_its_record(made):
    record = json.loads((made / "out.json").read_text())
    assert sorted(path.name for path in made.iterdir()) == sorted(
        ["out.base.mp4", "out.interpolation.mp4", "out.json", "out.mp4", "out.superres.mp4"]
    )
    assert {"prompt": PROMPT, "seed": 7, "negative_prompt": "blue", "model": "tiny"}.items() <= record[
        "settings"
    ].items()
    assert set(record["settings"]["stage_options"]) == set(STAGES)
    assert set(record["seconds"]) == {"load", *STAGES}
    assert record["versions"]["diffusers_show1"] == __version__
    clip = read_video(made / "out.mp4")
    output = record["output"]
    assert clip.shape == (output["frames"], output["height"], output["width"], 3)
    assert output["sha256"] == machine.file_digest(made / "out.mp4")
    assert len(record["model"]["index_sha256"]) == 64


def test_the_record_makes_the_clip_again(made, tmp_path, capsys):
    assert run("generate", "--from-json", made / "out.json", "-o", tmp_path / "again.mp4") == 0
    assert "The frames are exactly those of the JSON." in capsys.readouterr().out
    first, again = (json.loads(path.read_text()) for path in (made / "out.json", tmp_path / "again.json"))
    assert first["settings"] == again["settings"]
    assert first["output"]["frames_sha256"] == again["output"]["frames_sha256"]
    assert (tmp_path / "again.mp4").read_bytes() == (made / "out.mp4").read_bytes()


def test_a_record_of_something_else_says_what_changed(made, tmp_path, capsys):
    record = json.loads((made / "out.json").read_text())
    record["settings"]["stop_after"] = "base"
    assert record["threads"] == torch.get_num_threads()
    record["versions"]["torch"] = "0"
    record["threads"] = 99
    (tmp_path / "in.json").write_text(json.dumps(record))
    assert run("generate", "--from-json", tmp_path / "in.json", "-o", tmp_path / "out.webp", "--no-json") == 0
    assert (
        "The frames differ from those of the JSON; what changed since: torch, threads (99, now "
        in capsys.readouterr().out
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out.webp"]


def test_several_prompts_make_several_clips(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text(f"# two more\n{PROMPT}\n\na blue square growing on a black background\n")
    arguments = ("--prompts-file", tmp_path / "prompts.txt", "--stop-after", "base", "--no-json", *QUICK)
    assert run("generate", PROMPT, *arguments, "-o", tmp_path / "clip.webp") == 0
    first, second, third = (read_video(tmp_path / f"clip-00{index}.webp") for index in range(3))
    assert first.shape == second.shape == third.shape
    assert (first != second).any()  # the same prompt, the next seed
    assert capsys.readouterr().out.count(" fps, seed ") == 3


def test_without_an_output_the_clip_is_called_after_its_prompt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("generate", PROMPT.upper() + " / ..!", "--stop-after", "base", *QUICK) == 0
    name = "a-red-circle-moving-right-on-a-white-background"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}-2.json", f"{name}-2.mp4", f"{name}.json", f"{name}.mp4",
    ]  # fmt: skip


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_default_names_are_names(prompts):
    names = outputs.default_names(prompts)
    assert len({*names}) == len(prompts)
    for name in names:
        assert Path(name).name == name
        assert name.endswith(".mp4")
        assert not name.startswith((".", "-"))
        assert len(name.encode()) < 240


def test_a_size_is_that_of_the_clip(tmp_path):
    arguments = ["--stop-after", "interpolation", "--height", "24", "--width", "32", *QUICK]
    assert run("generate", PROMPT, *arguments, "-o", tmp_path / "out.webp") == 0
    assert read_video(tmp_path / "out.webp").shape[1:3] == (24, 32)
    tiny = settings.DEFAULT_MODEL
    assert [settings.stage_of_size(tiny, name) for name in (*STAGES, None)] == [
        "base", "base", "superres", "refine", "refine",
    ]  # fmt: skip


def test_an_adapter_is_loaded_scaled_recorded_and_made_again(tmp_path, capsys):
    """The clip of the same call in Python; the record names the file and its digest, and makes it again."""
    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
    torch.manual_seed(0)
    pipe.base_unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "ours")
    layers = {
        name: 8 * layer for name, layer in get_peft_model_state_dict(pipe.base_unet, adapter_name="ours").items()
    }
    pipe.save_lora_weights(tmp_path, base_unet_lora_layers=layers, weight_name="ours.safetensors")
    pipe.unload_lora_weights()
    file = tmp_path / "ours.safetensors"
    arguments = [PROMPT, "--stop-after", "base", *QUICK, "--lora", f"{file}:0.5"]
    assert run("generate", *arguments, "-o", tmp_path / "out.webp") == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["settings"]["lora"] == [f"{file}:0.5"]
    assert record["model"]["adapters"] == {f"{file}:0.5": machine.file_digest(file)}
    call = {"stage_options": {"base": {"num_inference_steps": 1}}, "stop_after": "base", "output_type": "np"}
    plain = to_uint8(pipe(PROMPT, generator=torch.Generator().manual_seed(7), **call).frames[0])
    pipe.load_lora_weights(str(file), adapter_name="ours")
    pipe.set_adapters("ours", 0.5)
    expected = to_uint8(pipe(PROMPT, generator=torch.Generator().manual_seed(7), **call).frames[0])
    assert (expected != plain).any()
    assert record["output"]["frames_sha256"] == hashlib.sha256(expected.tobytes()).hexdigest()
    assert run("generate", "--from-json", tmp_path / "out.json", "-o", tmp_path / "again.webp") == 0
    assert "The frames are exactly those of the JSON." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "--lora must be [STAGE=]FILE[:SCALE]"),
        ("x.safetensors:1e9", "its scale is from -1000 to 1000"),
        ("nobody/no-such.safetensors", "--lora must be an adapter that fits, got 'nobody/no-such.safetensors:1'"),
    ],
)
def test_adapters_that_are_none_are_one_line(tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("generate", PROMPT, "-o", tmp_path / "out.mp4", "--lora", given) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_words_that_the_model_never_saw_are_told(tmp_path, capsys):
    """The command makes the clip all the same; what the model knows is in its folder, and is its world's."""
    from diffusers_show1.tiny import world

    assert json.loads((TINY_PATH / "vocabulary.json").read_text()) == world.vocabulary()
    quick = ["--stop-after", "base", "--no-json", *QUICK]
    assert run("generate", "Toad practicing karate", PROMPT, "-o", tmp_path / "out.webp", *quick) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("show1: ")]
    assert len(told) == 1
    assert (
        "'Toad practicing karate': this model does not know 'toad', 'practicing', 'karate'. It knows: a [SIZE]"
        in (told[0])
    )
    assert told[0].endswith(f"For example: {PROMPT}")
    assert run("generate", "--help") == 0
    assert f"For example: {PROMPT}" in " ".join(capsys.readouterr().out.split())


def test_every_caption_of_the_world_is_known():
    from diffusers_show1.tiny import world

    known = vocabulary.vocabulary_of(settings.DEFAULT_MODEL)
    for colour, shape, motion in itertools.product(world.COLOURS, world.SHAPES, world.MOTIONS):
        for ground, size in itertools.product((None, *world.BACKGROUNDS), world.SIZES):
            assert known.unknown(world.Attributes(colour, shape, motion, ground, size).caption()) == []
    assert known.unknown("Two RED circles, grey!") == ["two", "circles"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": 1, "words": [], "example": ""}', "[" * 100_000])
def test_a_vocabulary_that_is_none_is_none(tmp_path, text):
    (tmp_path / "vocabulary.json").write_text(text)
    assert vocabulary.vocabulary_of(str(tmp_path)) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_drops_no_prompt(tmp_path):
    command = [sys.executable, "-m", "diffusers_show1", "generate", PROMPT, PROMPT, "-o", tmp_path / "clip.webp"]
    with open("/dev/full", "w") as full:
        made = subprocess.run(
            [*command, "--stop-after", "base", *QUICK], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert made.returncode == 0
    assert made.stderr.count("nothing can be printed any more (No space left on device); the work goes on") == 1
    assert len(list(tmp_path.glob("*.webp"))) == len(list(tmp_path.glob("*.json"))) == 2


def test_a_reader_that_leaves_ends_nothing():
    code = "from diffusers_show1.cli.say import say\nfor _ in range(4): say('x' * 100_000)\nprint('y' * 100_000)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 0
    assert error == "show1: nothing can be printed any more (Broken pipe); the work goes on\n"


def test_steps_and_guidance_reach_their_stage(tmp_path):
    arguments = ("--steps", "base=2", "--guidance", "base=3.5", "--stop-after", "base", "--seed", "1")
    assert run("generate", PROMPT, *arguments, "-o", tmp_path / "frames/") == 0
    record = json.loads((tmp_path / "frames.json").read_text())
    options = record["settings"]["stage_options"]
    assert (options["base"]["num_inference_steps"], options["base"]["guidance_scale"]) == (2, 3.5)
    assert record["settings"]["fps"] == 2  # a keyframe every four frames of 8 a second
    assert record["output"]["sha256"] is None
    assert len(read_video(tmp_path / "frames")) == record["output"]["frames"]


def test_the_command_knows_the_stages_of_every_model_that_has_a_name():
    for family in all_families():
        for name in family.short_names:
            assert settings.stage_names(name) == family.cascade_class.stage_names
    assert settings.stage_names(settings.DEFAULT_MODEL) == STAGES
    for family in all_families():
        assert settings.DEFAULT_RECIPE in family.cascade_class.recipes


def test_a_model_that_cannot_be_had_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("generate", PROMPT, "-o", tmp_path / "out.mp4", "--model", "nobody/no-such-model") == 2
    assert capsys.readouterr().err.startswith("show1: --model must be a model that can be loaded")
    assert not list(tmp_path.iterdir())


def test_numbers_that_do_not_fit_the_cascade_are_one_line(tmp_path, capsys):
    assert run("generate", PROMPT, "-o", tmp_path / "out.mp4", "--steps", "refine=1") == 2
    error = capsys.readouterr().err.splitlines()[-1]  # a progress bar of loading may stand before it
    assert error.startswith("show1: stage 'refine': `strength` must be at least")
    assert not list(tmp_path.iterdir())


def test_options_that_the_cascade_does_not_know_are_one_line(made, tmp_path, capsys):
    record = json.loads((made / "out.json").read_text())
    record["settings"]["stage_options"]["base"]["colour"] = "red"
    (tmp_path / "in.json").write_text(json.dumps(record))
    assert run("generate", "--from-json", tmp_path / "in.json", "-o", tmp_path / "out.mp4") == 2
    assert "has no option 'colour'" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_demo_fits_its_budget(tmp_path):
    """From the shell prompt to the file in 30 s and 2 GB on two cores, at the default number of steps."""
    resource = pytest.importorskip("resource")
    began = time.perf_counter()
    command = [sys.executable, "-m", "diffusers_show1", "generate", PROMPT, "-o", str(tmp_path / "demo.mp4")]
    subprocess.run(command, check=True, capture_output=True)
    assert time.perf_counter() - began < 30
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB on Linux
