# SPDX-License-Identifier: Apache-2.0
"""diffusers' promises, kept by the toy: by what ladder/ and sampling/ do for any family."""

import torch

from ..contract.components import clip
from ..contract.lora import LoraTesterMixin
from ..contract.pipelines import (
    BasePipelineTesterConfig,
    GuidanceTesterMixin,
    LatentsTesterMixin,
    PipelineTesterMixin,
    PromptTesterMixin,
    SigmasTesterMixin,
)
from ..contract.test_pipelines import COMMON_PARAMS, prompts_and_generators
from ..golden.cases import max_difference
from .between import ToyBetweenPipeline
from .cascade import ToyCascadePipeline
from .frames import ToyFramesPipeline
from .make import SMALL_RUN, components
from .unet import ToyUNet
from .upscale import ToyUpscalePipeline


class ToyTesterConfig(BasePipelineTesterConfig):
    network_class = ToyUNet
    loaded_tolerance = 1e-5  # of 3-D convolutions


class ToyStageTesterConfig(ToyTesterConfig):
    name: str
    encode_options = {}
    steps = 2

    def get_dummy_components(self):
        return components(self.name)

    def get_dummy_inputs(self, videos=1):
        frames = {} if self.name == "frames" else {"frames": clip(3, 8, 12, videos=videos), "input_type": "latent"}
        common = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "pt"}
        return {**prompts_and_generators(videos), **frames, **common, **self.own_inputs}

    own_inputs: dict = {}


class ToyFramesTesterConfig(ToyStageTesterConfig):
    name, pipeline_class = "frames", ToyFramesPipeline
    output_shape, latents_shape = (3, 3, 8, 12), (1, 4, 3, 4, 6)
    call_params = COMMON_PARAMS | {"num_frames", "height", "width", "vae_batch_size", "latents"}
    own_inputs = {"num_frames": 3, "height": 8, "width": 12}


class ToyBetweenTesterConfig(ToyStageTesterConfig):
    name, pipeline_class = "between", ToyBetweenPipeline
    output_shape, latents_shape = (5, 3, 8, 12), (1, 3, 5, 8, 12)
    call_params = COMMON_PARAMS | {"frames", "latents"}


class ToyUpscaleTesterConfig(ToyStageTesterConfig):
    """Two windows."""

    name, pipeline_class = "upscale", ToyUpscalePipeline
    output_shape, latents_shape = (3, 3, 16, 24), (1, 3, 3, 16, 24)
    call_params = COMMON_PARAMS | {"frames", "window_size", "latents"}
    own_inputs = {"window_size": 2}
    steps = 4


class ToyCascadeTesterConfig(ToyTesterConfig):
    pipeline_class = ToyCascadePipeline
    output_shape = (5, 3, 16, 24)
    call_params = frozenset(
        {
            "prompt",
            "negative_prompt",
            "num_frames",
            "recipe",
            "stage_options",
            "num_videos_per_prompt",
            "generator",
            "prompt_embeds",
            "negative_prompt_embeds",
            "stop_after",
            "return_stages",
            "output_type",
            "return_dict",
            "cross_attention_kwargs",
            "callback_on_stage_end",
            "callback_on_step_end",
            "callback_on_step_end_tensor_inputs",
            "window_store",
        }
    )
    steps = 2 + 2 + 1 + 2 * 2
    interrupted_steps = 4  # each stage is a loop of its own
    scheduler_names = ("frames_scheduler", "between_scheduler", "upscale_scheduler")

    def get_dummy_components(self):
        return {**components(), "stage_defaults": SMALL_RUN}

    def get_dummy_inputs(self, videos=1):
        return {**prompts_and_generators(videos), "output_type": "pt"}

    @torch.no_grad()
    def get_embeds(self, pipe):
        embeds = pipe.frames.encode_prompt(self.get_dummy_inputs()["prompt"])
        return dict(zip(("prompt_embeds", "negative_prompt_embeds"), embeds, strict=True))

    @staticmethod
    def get_config(pipe):
        return {"stage_defaults": pipe.config.stage_defaults}

    @property
    def progress_totals(self):
        return [2, 1, 4]


class StageMixins(
    PipelineTesterMixin, PromptTesterMixin, GuidanceTesterMixin, LatentsTesterMixin, SigmasTesterMixin, LoraTesterMixin
):
    """What every stage is tested for."""


class TestToyFrames(ToyFramesTesterConfig, StageMixins):
    pass


class TestToyBetween(ToyBetweenTesterConfig, StageMixins):
    pass


class TestToyUpscale(ToyUpscaleTesterConfig, StageMixins):
    pass


class TestToyCascade(ToyCascadeTesterConfig, PipelineTesterMixin, LoraTesterMixin):
    def test_callback_inputs(self, pipe, base_pipe_output):
        """Every stage's steps come to the callback, with that stage, in order."""
        seen = []

        def look(stage, step, timestep, tensors):
            assert set(tensors) == self.callback_inputs
            seen.append((stage.stage_name, step))
            return tensors

        inputs = {**self.get_dummy_inputs(), "callback_on_step_end": look}
        frames = pipe(**inputs, callback_on_step_end_tensor_inputs=sorted(self.callback_inputs)).frames
        assert torch.equal(frames, base_pipe_output)
        stages = ["frames", "frames", "between", "between", "between2", *4 * ["upscale"]]
        assert [name for name, _ in seen] == stages
        assert [step for _, step in seen] == [0, 1, 0, 1, 0, 0, 1, 0, 1]

    def test_embeds_stand_for_the_prompt(self, pipe, base_pipe_output):
        inputs = {**self.get_dummy_inputs(), "prompt": None, **self.get_embeds(pipe)}
        assert max_difference(pipe(**inputs).frames, base_pipe_output) < 1e-4
