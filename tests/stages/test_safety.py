# SPDX-License-Identifier: Apache-2.0
"""The slot for a safety checker, with diffusers' own checkers at a tiny size: what they flag, nobody gets to see."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from diffusers_show1 import Show1CascadePipeline, Show1RefinementPipeline
from diffusers_show1.runs.fingerprint import fingerprint

from ..contract.components import FOLDERS, SMALL_RUN, clip, pipeline, seeded
from ..contract.standin import StandInDevice, is_there


PROMPT = "a red car driving on the rainbow road."
LAYERS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
FORMS = ("pil", "np", "pt")


def config() -> CLIPConfig:
    return CLIPConfig(
        vision_config={**LAYERS, "image_size": 32, "patch_size": 16, "projection_dim": 8}, projection_dim=8
    )


def if_checker(nsfw: float = -9.0, watermark: float = -9.0) -> IFSafetyChecker:
    """IF's checker with random weights. It flags what scores above 0.5; these biases decide the score."""
    torch.manual_seed(0)
    checker = IFSafetyChecker(config()).eval()
    torch.nn.init.constant_(checker.p_head.bias, nsfw)
    torch.nn.init.constant_(checker.w_head.bias, watermark)
    return checker


def feature_extractor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def checked(name: str, checker: torch.nn.Module | None = None):
    return pipeline(name, safety_checker=checker or if_checker(), feature_extractor=feature_extractor())


def call(name: str, **changes) -> dict:
    inputs = {"prompt": PROMPT, "generator": seeded(), "output_type": "pt", **changes}
    if name != "cascade":
        inputs.update(SMALL_RUN[name])
    if name in ("interpolation", "superres", "refine"):
        inputs.update(frames=clip(2 if name == "interpolation" else 3), input_type="latent")
    return inputs


def black(frames) -> bool:
    if isinstance(frames, list):
        return all(max(high for _, high in frame.getextrema()) == 0 for frame in frames)
    return not frames.any()


@pytest.fixture(scope="module")
def expected():
    """The cascade's frames, unchecked."""
    return pipeline("cascade")(**call("cascade")).frames


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_flagged_is_black_and_the_output_says_why(name, diffusers_log):
    pipe = checked(name)
    output = pipe(**call(name))
    assert (output.nsfw_detected, output.watermark_detected) == ([False], [False])
    assert not diffusers_log.text
    pipe.safety_checker = None
    unchecked = pipe(**call(name), return_dict=False)
    assert len(unchecked) == 1
    assert torch.equal(unchecked[0], output.frames)
    pipe.safety_checker = if_checker(nsfw=9.0)
    frames, *flags = pipe(**call(name), return_dict=False)
    assert black(frames)
    assert flags == [[True], [False]]
    assert "The safety checker flagged 1 of 1 videos: all of their frames are black." in diffusers_log.text


def test_watermarks_of_others_are_flagged_as_well():
    output = checked("base", if_checker(watermark=9.0))(**call("base"))
    assert (output.nsfw_detected, output.watermark_detected) == ([False], [True])
    assert black(output.frames)


def test_one_bad_frame_condemns_its_video_and_no_other():
    """The bias is put between the two highest scores of all frames: the checker flags just one."""
    inputs = {**call("base"), "num_videos_per_prompt": 2, "output_type": "np"}
    inputs["generator"] = [seeded(0), seeded(1)]
    frames = pipeline("base")(**inputs).frames
    checker, prepare = if_checker(nsfw=0.0), feature_extractor()
    images = list((frames.reshape(-1, *frames.shape[2:]) * 255).round().astype(np.uint8))
    with torch.no_grad():
        embeds = checker.vision_model(prepare(images, return_tensors="pt").pixel_values)[0]
        scores = checker.p_head(embeds).flatten()
        second, first = scores.sort().values[-2:]
        checker.p_head.bias += 0.5 - (first + second) / 2
    worst = int(scores.argmax()) // frames.shape[1]
    for form in FORMS:
        inputs["generator"] = [seeded(0), seeded(1)]
        output = checked("base", checker)(**{**inputs, "output_type": form})
        assert output.nsfw_detected == [video == worst for video in range(2)]
        assert [black(video) for video in output.frames] == output.nsfw_detected
    shown = output.frames[1 - worst].permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(shown, frames[1 - worst])


def test_latents_are_not_checked():
    output = checked("base", if_checker(nsfw=9.0))(**call("base", output_type="latent"))
    assert output.nsfw_detected is None
    assert output.frames.std() > 0.1


def test_stable_diffusions_checker_works_too():
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(config()).eval()
    torch.nn.init.ones_(checker.concept_embeds_weights)  # of the cosine with a concept, which no image reaches
    torch.nn.init.ones_(checker.special_care_embeds_weights)
    output = checked("base", checker)(**call("base"))
    assert (output.nsfw_detected, output.watermark_detected) == ([False], None)
    assert output.frames.std() > 0.05
    torch.nn.init.constant_(checker.concept_embeds_weights, -1)
    output = checked("base", checker)(**call("base"))
    assert (output.nsfw_detected, output.watermark_detected) == ([True], None)
    assert black(output.frames)


def test_a_cascade_hands_out_nothing_unchecked():
    """What the stage callback gets, `stages` and the result."""
    seen = {}
    output = checked("cascade", if_checker(nsfw=9.0))(
        **call("cascade", output_type="pil"),
        return_stages=True,
        callback_on_stage_end=lambda _, name, frames: seen.update({name: frames[0]}),
    )
    assert list(seen) == list(output.stages) == list(FOLDERS)
    assert all(black(frames) for frames in [output.frames[0], *seen.values(), *(v[0] for v in output.stages.values())])
    assert output.nsfw_detected == [True]


def test_a_result_that_is_flagged_is_black_in_its_stages_too(expected):
    """And a stage that alone is flagged is black alone: the result depends on itself, whatever else is returned."""

    def run(condemned):
        def judge(module, args, kwargs, flags):
            size = kwargs["images"][0].shape[0]
            return kwargs["images"], [size == condemned] * len(kwargs["images"])

        checker = if_checker()
        checker.register_forward_hook(judge, with_kwargs=True)
        return checked("cascade", checker)(**call("cascade"), return_stages=True)

    early = run(condemned=8)  # the height of keyframes and of what interpolation makes
    assert [black(video) for video in early.stages.values()] == [True, True, False, False]
    assert early.nsfw_detected == [True]
    assert torch.equal(early.frames, expected)
    late = run(condemned=16)
    assert all(black(video) for video in late.stages.values())
    assert black(late.frames)


def test_saved_and_loaded(tmp_path):
    pipe = checked("cascade", if_checker(nsfw=9.0))
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["safety_checker"] == ["deepfloyd_if", "IFSafetyChecker"]
    loaded = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    weights = loaded.safety_checker.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in pipe.safety_checker.state_dict().items())
    assert loaded.feature_extractor.to_dict()["crop_size"] == pipe.feature_extractor.to_dict()["crop_size"]
    loaded.set_progress_bar_config(disable=True)
    assert loaded(**call("cascade"), stop_after="base").nsfw_detected == [True]
    assert fingerprint(loaded) == fingerprint(pipe)  # a job knows its checker again


def test_passed_to_a_repository_that_has_none(tmp_path):
    pipeline("refine").save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for name in ("safety_checker", "feature_extractor"):  # as in the published repository
        assert index.pop(name) == [None, None]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    parts = {"safety_checker": if_checker(nsfw=9.0), "feature_extractor": feature_extractor()}
    loaded = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float32, **parts)
    loaded.set_progress_bar_config(disable=True)
    assert loaded(**call("refine")).nsfw_detected == [True]
    loaded.save_pretrained(tmp_path / "again")
    for options, there in (({}, True), ({"safety_checker": None}, False)):
        again = Show1RefinementPipeline.from_pretrained(tmp_path / "again", **options)
        assert (again.safety_checker is not None) is there
    assert DiffusionPipeline.from_pretrained(tmp_path).safety_checker is None


def test_a_cascade_of_stages_gets_its_own():
    stages = {name: pipeline(name) for name in FOLDERS}
    parts = {"safety_checker": if_checker(), "feature_extractor": feature_extractor()}
    pipe = Show1CascadePipeline.from_stages(**stages, **parts)
    for part in (pipe, *(getattr(pipe, name) for name in FOLDERS)):
        assert part.safety_checker is parts["safety_checker"]
        assert part.feature_extractor is parts["feature_extractor"]


@pytest.mark.parametrize("name", [*FOLDERS, "cascade"])
def test_a_checker_without_its_preparation_is_refused_before_any_work(name):
    pipe = pipeline(name, safety_checker=if_checker(), feature_extractor=None)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.register_forward_pre_hook(lambda *_: pytest.fail("a model ran"))
    with pytest.raises(ValueError, match="`feature_extractor` must be the one of the `safety_checker`"):
        pipe(**call(name))


def test_offloaded_with_the_other_networks():
    """The checker comes to the device alone, and leaves it."""
    pipe, there = checked("cascade", if_checker(nsfw=9.0)), []
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    pipe.safety_checker.register_forward_hook(
        lambda *_: there.append({name for name, part in networks.items() if is_there(part)})
    )
    with StandInDevice():
        pipe.enable_model_cpu_offload(device="meta")
        output = pipe(**call("cascade"), stop_after="interpolation", return_stages=True)
    assert output.nsfw_detected == [True]
    assert there == [{"safety_checker"}] * 2
    assert not [name for name, part in networks.items() if is_there(part)]


def test_group_offload_and_half_precision():
    pipe = checked("base", if_checker(nsfw=9.0))
    pipe.to(dtype=torch.bfloat16)
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    output = pipe(**call("base"))
    assert output.nsfw_detected == [True]
    assert black(output.frames)
