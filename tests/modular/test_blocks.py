# SPDX-License-Identifier: Apache-2.0
"""The modular cascade is the cascade, block by block, and can be taken apart, added to, saved and guided."""

import subprocess
import sys

import diffusers
import pytest
import torch
from diffusers import ClassifierFreeGuidance
from diffusers.modular_pipelines import InputParam, ModularPipelineBlocks, OutputParam, SequentialPipelineBlocks

from diffusers_show1 import Show1Blocks, Show1ModularPipeline
from diffusers_show1.families.show1 import modular

from ..contract.components import Calls, clip, pipeline, seeded


PROMPTS = ["a cat", "a dog on a horse"]
STAGE_BLOCKS = {
    "base": modular.Show1KeyframeStep,
    "interpolation": modular.Show1InterpolationStep,
    "superres": modular.Show1SuperResolutionStep,
    "refine": modular.Show1RefinementStep,
}


def over(cascade, blocks):
    """A modular pipeline of `blocks` over the components and options of a cascade."""
    pipe = blocks.init_pipeline()
    assert isinstance(pipe, Show1ModularPipeline)
    known = {name: part for name, part in cascade.components.items() if name in pipe.component_names}
    pipe.update_components(**known, stage_defaults=cascade.config.stage_defaults)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def cascade():
    return pipeline("cascade")


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": PROMPTS, "negative_prompt": "blur", "num_frames": 4},
        {"prompt": PROMPTS[0], "recipe": "official", "num_videos_per_prompt": 2},
    ],
    ids=["default", "official"],
)
def test_the_whole_is_the_cascade(cascade, call):
    expected = cascade(**call, generator=seeded(3), output_type="np").frames
    made = over(cascade, Show1Blocks())(**call, generator=seeded(3), output_type="np", output="videos")
    assert (made == expected).all()


@pytest.mark.parametrize("name", STAGE_BLOCKS)
def test_a_block_is_its_stage(cascade, name):
    stage = getattr(cascade, name)
    embeds, negative = stage.encode_prompt("a cat")
    frames = {} if name == "base" else {"frames": clip(2 if name == "interpolation" else 3)}
    text = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    given = {**frames, **({"input_type": "latent"} if frames else {}), **text}
    expected = stage(
        **given, **cascade.resolve_options()[name], generator=seeded(1), output_type="latent", return_dict=False
    )[0]
    if name == "refine":
        text = {f"refine_{key}": value for key, value in text.items()}
    block = STAGE_BLOCKS[name]()
    output = block.intermediate_outputs[0].name
    assert torch.equal(over(cascade, block)(**frames, **text, generator=seeded(1), output=output), expected)


def test_a_video_goes_to_refinement_and_the_rest_is_not_asked_for(cascade):
    pipe = over(cascade, Show1Blocks().get_workflow("video2video"))
    assert not {"base_unet", "text_encoder"} & set(pipe.component_names)
    video = (clip(3).transpose(1, 2) / 2 + 0.5).clamp(0, 1)  # three frames of three channels: the layout can't tell
    with pytest.raises(ValueError, match="`video` .*input_type"):
        pipe(prompt="a cat", video=video)
    made = pipe(prompt="a cat", video=video, input_type="pt", output_type="pt", generator=seeded(2), output="videos")
    expected = cascade.refine(
        video,
        "a cat",
        **cascade.resolve_options()["refine"],
        input_type="pt",
        output_type="pt",
        generator=cascade.stage_generators(cascade.stage_names, seeded(2), 1, False)["refine"],
    ).frames
    assert torch.equal(made, expected)


class Backwards(ModularPipelineBlocks):
    """A user's block."""

    @property
    def inputs(self):
        return [InputParam("frames", required=True)]

    @property
    def intermediate_outputs(self):
        return [OutputParam("frames")]

    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        block_state.frames = block_state.frames.flip(2)
        self.set_block_state(state, block_state)
        return components, state


def test_a_block_of_ones_own_between_two_stages(cascade):
    text = {"text_encoder": modular.Show1TextEncoderStep, "keyframes": modular.Show1KeyframeStep}
    rest = {"interpolation": modular.Show1InterpolationStep}
    straight = over(cascade, SequentialPipelineBlocks.from_blocks_dict(text))
    mine = over(cascade, SequentialPipelineBlocks.from_blocks_dict({**text, "mine": Backwards, **rest}))
    keyframes = straight(prompt="a cat", generator=seeded(4))
    backwards = keyframes.frames.flip(2)
    draws = seeded(4)
    straight(prompt="a cat", generator=draws)  # leaves the generator where the next stage finds it
    alone = over(cascade, modular.Show1InterpolationStep())
    embeds = {name: keyframes.get(name) for name in ("prompt_embeds", "negative_prompt_embeds")}
    expected = alone(frames=backwards, **embeds, generator=draws, output="frames")
    assert torch.equal(mine(prompt="a cat", generator=seeded(4), output="frames"), expected)


def test_saved_and_loaded_with_its_guider(cascade, tmp_path):
    pipe = over(cascade, Show1Blocks())
    pipe.update_components(base_guider=ClassifierFreeGuidance(guidance_scale=9.0))
    pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)
    loaded = diffusers.ModularPipeline.from_pretrained(str(tmp_path))
    assert isinstance(loaded, Show1ModularPipeline)
    assert isinstance(loaded.blocks, Show1Blocks)
    loaded.load_components(dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    guiders = ["interpolation_guider", "superres_guider", "refine_guider"]
    assert loaded.null_component_names == [*guiders, "feature_extractor", "safety_checker"]
    assert loaded.base_guider.guidance_scale == 9.0
    call = {"prompt": "a cat", "generator": seeded(5), "output_type": "pt", "output": "videos"}
    # weights read from a file may lie otherwise in memory, and sums are then rounded otherwise
    made = loaded(**call)
    call["generator"] = seeded(5)
    assert torch.allclose(made, pipe(**call), atol=1e-3)


def test_a_cascade_of_todays_folder_is_loaded_by_blocks(cascade, tmp_path):
    cascade.save_pretrained(tmp_path)
    pipe = Show1Blocks().init_pipeline(tmp_path)
    pipe.load_components(dtype=torch.float32)
    assert type(pipe.base_scheduler) is type(cascade.base_scheduler)
    assert pipe.config.stage_defaults["base"]["num_frames"] == 2
    absent = [name for name in pipe.null_component_names if not name.endswith("guider")]
    assert absent == ["feature_extractor", "safety_checker"]


def test_a_guider_guides_in_place_of_guidance_scale(cascade):
    blocks = {"text_encoder": modular.Show1TextEncoderStep, "keyframes": modular.Show1KeyframeStep}
    pipe = over(cascade, SequentialPipelineBlocks.from_blocks_dict(blocks))
    call = {"prompt": "a cat", "negative_prompt": "a dog", "output": "frames"}
    call["stage_options"] = {"base": {"num_inference_steps": 4, "guidance_scale": 2.5}}
    plain = pipe(**call, generator=seeded(6))
    pipe.update_components(base_guider=ClassifierFreeGuidance(guidance_scale=2.5))
    with Calls(pipe.base_unet) as calls:
        guided = pipe(**call, generator=seeded(6))
    assert torch.allclose(guided, plain, atol=1e-4)
    assert len(calls) == 8  # one after the other
    pipe.update_components(base_guider=ClassifierFreeGuidance(guidance_scale=2.5, stop=0.5))
    with Calls(pipe.base_unet) as calls:
        halved = pipe(**call, generator=seeded(6))
    assert len(calls) == 6  # the second half without guidance
    assert not torch.allclose(halved, plain, atol=1e-4)


def test_bad_options_are_told_before_any_network_runs(cascade):
    pipe = over(cascade, Show1Blocks())
    with Calls(pipe.base_unet) as calls, Calls(pipe.text_encoder) as encoded:
        with pytest.raises(ValueError, match="stage 'refine': `strength`.*got 7"):
            pipe(prompt="a cat", stage_options={"refine": {"strength": 7}})
        with pytest.raises(ValueError, match="`recipe` must be one of"):
            pipe(prompt="a cat", recipe="quick")
        with pytest.raises(ValueError, match="'prompt' is missing"):
            pipe()
    assert not calls
    assert not encoded


def test_every_input_is_described():
    for name in modular.__all__:
        if name.endswith(("Step", "Blocks")):
            block = getattr(modular, name)()
            assert block.description
            assert all(param.description for param in block.inputs), name
            assert name in block.doc


def test_importing_the_package_imports_no_blocks():
    blocks = "diffusers_show1.families.show1.modular"
    script = f"import sys, diffusers_show1; assert not {{{blocks!r}, 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
