# SPDX-License-Identifier: Apache-2.0
"""The toy as modular blocks: those of a latent rung, and of two rungs that share a class and a network."""

import pytest
import torch
from diffusers import ModularPipeline

from diffusers_show1.ladder.modular import blocks_of
from diffusers_show1.ladder.rung import Recipe

from ..contract.components import clip, seeded
from ..golden.cases import max_difference
from ..modular.test_mixins import ModularPipelineTesterMixin
from .cascade import ToyCascadePipeline
from .make import pipeline
from .modular import BLOCKS, ToyBlocks, ToyModularPipeline


def over(cascade, blocks):
    pipe = blocks.init_pipeline()
    assert type(pipe) is ToyModularPipeline
    known = {name: part for name, part in cascade.components.items() if name in pipe.component_names}
    pipe.update_components(**known, stage_defaults=cascade.config.stage_defaults)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def cascade():
    return pipeline()


def test_the_blocks():
    """One a rung and a text encoder, and one where latents become pixels."""
    assert list(BLOCKS) == [
        "ToyTextEncoderStep",
        "ToyFramesStep",
        "ToyFramesPixelsStep",
        "ToyBetweenStep",
        "ToyBetween2Step",
        "ToyUpscaleStep",
        "ToyPixelBlocks",
        "ToyVideoInputStep",
        "ToySourceStep",
        "ToyInputStep",
        "ToyDecodeStep",
        "ToyBlocks",
    ]
    names = list(ToyBlocks().get_workflow("text2video").sub_blocks)
    stages = ["frames.frames", "frames.frames_pixels", "frames.between", "frames.between2"]
    assert names == ["input", "text_encoder", *stages, "upscale", "decode"]
    assert (
        list(ToyBlocks().get_workflow("video2video").sub_blocks)
        == [
            "input",
            "text_encoder",
            "frames.video",
            "upscale",
            "decode",
        ]
        or "frames" in ToyBlocks().get_workflow("video2video").sub_blocks
    )


@pytest.mark.parametrize("call", [{}, {"num_frames": 4, "num_videos_per_prompt": 2}, {"recipe": "fast"}], ids=str)
def test_the_whole_is_the_cascade(cascade, call):
    call = {"prompt": ["a cat", "a red circle"], "negative_prompt": "blur", **call}
    expected = cascade(**call, generator=seeded(3), output_type="pt").frames
    made = over(cascade, ToyBlocks())(**call, generator=seeded(3), output_type="pt", output="videos")
    assert torch.equal(made, expected)


def test_a_video_goes_to_the_last_stage(cascade):
    pipe = over(cascade, ToyBlocks().get_workflow("video2video"))
    assert not {"frames_unet", "frames_vae", "between_unet"} & set(pipe.component_names)
    video = (clip(3).transpose(1, 2) / 2 + 0.5).clamp(0, 1)
    call = {"prompt": "a cat", "video": video, "output_type": "pt"}
    made = pipe(**call, input_type="pt", generator=seeded(2), output="videos")
    video = torch.nn.functional.pad(video, (0, 0, 0, 0, 0, 0, 0, 1))  # four frames: the layout tells
    assert made.shape == (1, 3, 3, 16, 24)
    again = pipe(**{**call, "video": video}, generator=seeded(2), output="videos")
    assert torch.equal(again, cascade(**{**call, "video": video}, generator=seeded(2)).frames)


def test_latents_of_ones_own(cascade):
    """The first block alone gives latents, the one behind it pixels."""
    blocks = ToyBlocks().get_workflow("text2video")
    for name in ("frames.between", "frames.between2", "upscale", "decode"):
        blocks.sub_blocks.pop(name)
    state = over(cascade, blocks)(prompt="a cat", generator=seeded(1))
    assert state.latents.shape == (1, 4, 2, 4, 6)
    expected = cascade("a cat", generator=seeded(1), stop_after="frames", output_type="pt").frames
    assert max_difference((state.frames / 2 + 0.5).clamp(0, 1).transpose(1, 2), expected) == 0


def test_a_recipe_must_treat_the_stages_of_a_text_encoder_alike():
    recipe = Recipe(ToyCascadePipeline.recipes["default"].stages, negative_prompt_stages=("upscale",))
    kind = type("SplitCascadePipeline", (ToyCascadePipeline,), {"recipes": {"default": recipe}})
    with pytest.raises(ValueError, match="`recipes`: 'default' must give a negative prompt to all"):
        blocks_of(kind, __name__, model_name="split")


class TestToyModular(ModularPipelineTesterMixin):
    pipeline_class, blocks_class = ToyModularPipeline, ToyBlocks
    network_names = ("frames_unet", "between_unet", "upscale_unet", "frames_vae", "text_encoder")
    output_shape = (5, 3, 16, 24)

    def get_cascade(self):
        return pipeline()


def test_the_base_class_says_what_is_missing(tmp_path):
    pipeline().save_pretrained(tmp_path)
    assert type(ModularPipeline.from_pretrained(str(tmp_path))) is ToyModularPipeline
