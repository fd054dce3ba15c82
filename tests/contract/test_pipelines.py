# SPDX-License-Identifier: Apache-2.0
"""diffusers' promises, kept by the four stages and by the cascade."""

import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from diffusers_show1 import (
    Show1CascadePipeline,
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1RefinementPipeline,
    Show1SuperResolutionPipeline,
)

from ..golden.cases import max_difference
from .components import SMALL_RUN, Calls, clip, components, pipeline, seeded
from .pipelines import (
    BasePipelineTesterConfig,
    GuidanceTesterMixin,
    LatentsTesterMixin,
    PipelineTesterMixin,
    PromptTesterMixin,
    SigmasTesterMixin,
)


PROMPTS = ["a red car driving on the rainbow road.", "a blue sea"]
COMMON_PARAMS = frozenset(
    {
        "prompt",
        "num_inference_steps",
        "timesteps",
        "sigmas",
        "guidance_scale",
        "negative_prompt",
        "num_videos_per_prompt",
        "eta",
        "generator",
        "prompt_embeds",
        "negative_prompt_embeds",
        "output_type",
        "return_dict",
        "cross_attention_kwargs",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    }
)


def prompts_and_generators(videos: int) -> dict:
    if videos == 1:
        return {"prompt": PROMPTS[0], "generator": seeded()}
    return {"prompt": PROMPTS[:videos], "generator": [seeded(i) for i in range(videos)]}


class Show1KeyframePipelineTesterConfig(BasePipelineTesterConfig):
    pipeline_class = Show1KeyframePipeline
    output_shape = (3, 3, 8, 12)
    call_params = COMMON_PARAMS | {"height", "width", "num_frames", "latents"}
    latents_shape = (1, 3, 3, 8, 12)
    steps = 2

    def get_dummy_components(self):
        return components("base")

    def get_dummy_inputs(self, videos=1):
        return {
            **prompts_and_generators(videos),
            "height": 8,
            "width": 12,
            "num_frames": 3,
            "num_inference_steps": 2,
            "guidance_scale": 5.0,
            "output_type": "pt",
        }


class TestShow1Keyframe(
    Show1KeyframePipelineTesterConfig,
    PipelineTesterMixin,
    PromptTesterMixin,
    GuidanceTesterMixin,
    LatentsTesterMixin,
    SigmasTesterMixin,
):
    def test_height_and_width_default_to_the_networks(self, pipe):
        """One number in the config is a width of frames of 5:8; two are height and width."""
        pipe.unet.register_to_config(sample_size=16)
        inputs = {k: v for k, v in self.get_dummy_inputs().items() if k not in ("height", "width")}
        assert pipe(**inputs).frames.shape[-2:] == (10, 16)
        pipe.unet.register_to_config(sample_size=(6, 4))
        assert pipe(**inputs).frames.shape[-2:] == (6, 4)

    def test_sigmas_above_the_highest_of_training(self, pipe):
        """They share a timestep, and a step is run for each."""
        scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        highest = scheduler.sigmas[0].item()
        pipe.scheduler, before = scheduler, pipe.scheduler
        try:
            with Calls(pipe.unet) as calls:
                frames = pipe(**{**self.get_dummy_inputs(), "sigmas": [3 * highest, 2 * highest, 1.0, 0.0]}).frames
        finally:
            pipe.scheduler = before
        assert [round(float(call["timestep"])) for call in calls[:2]] == [999, 999]
        assert len(calls) == 3
        assert torch.isfinite(frames).all()


class Show1InterpolationPipelineTesterConfig(BasePipelineTesterConfig):
    pipeline_class = Show1InterpolationPipeline
    output_shape = (9, 3, 8, 12)
    call_params = COMMON_PARAMS | {"frames", "frames_between", "window_noise", "window_batch_size", "latents"}
    latents_shape = (1, 3, 5, 8, 12)
    steps = 2

    def get_dummy_components(self):
        return components("interpolation")

    def get_dummy_inputs(self, videos=1):
        return {
            **prompts_and_generators(videos),
            "frames": clip(videos=videos),
            "input_type": "latent",
            "num_inference_steps": 2,
            "guidance_scale": 4.0,
            "output_type": "pt",
        }


class TestShow1Interpolation(
    Show1InterpolationPipelineTesterConfig,
    PipelineTesterMixin,
    PromptTesterMixin,
    GuidanceTesterMixin,
    LatentsTesterMixin,
    SigmasTesterMixin,
):
    def test_from_pipe_of_another_stage(self):
        """A stage made from another shares its text encoder and takes networks of its own."""
        base, parts = pipeline("base"), components("interpolation")
        made = Show1InterpolationPipeline.from_pipe(base, unet=parts["unet"], scheduler=parts["scheduler"])
        assert made.text_encoder is base.text_encoder
        assert made.tokenizer is base.tokenizer
        assert made.unet is parts["unet"]


class Show1SuperResolutionPipelineTesterConfig(BasePipelineTesterConfig):
    """Two windows, and the first frame by the image model."""

    pipeline_class = Show1SuperResolutionPipeline
    output_shape = (3, 3, 16, 24)
    call_params = COMMON_PARAMS | {
        "frames",
        "height",
        "width",
        "noise_level",
        "first_frame",
        "condition_frames",
        "window_size",
        "window_noise",
    }
    steps = 4
    scheduler_names = ("scheduler", "first_frame_scheduler")
    unguided = {"first_frame_guidance_scale": 1.0}

    def get_dummy_components(self):
        return components("superres")

    def get_dummy_inputs(self, videos=1):
        return {
            **prompts_and_generators(videos),
            "frames": clip(3, 4, 6, videos=videos),
            "input_type": "latent",
            "num_inference_steps": 2,
            "guidance_scale": 4.0,
            "first_frame_num_inference_steps": 3,
            "window_size": 2,
            "output_type": "pt",
        }

    @property
    def progress_totals(self):
        return [3, self.steps]


class TestShow1SuperResolution(
    Show1SuperResolutionPipelineTesterConfig,
    PipelineTesterMixin,
    PromptTesterMixin,
    GuidanceTesterMixin,
    SigmasTesterMixin,
):
    def test_latents_input(self, pipe):
        """Given noise decides, and is checked."""

        def run(latents):
            return pipe(**{**self.get_dummy_inputs(), "latents": latents}).frames

        latents = torch.randn(1, 3, 3, 16, 24, generator=seeded(3))
        first = run(latents)
        assert torch.equal(run(latents), first)
        assert max_difference(run(-latents), first) > 1e-3
        with pytest.raises(ValueError, match="`latents`"):
            run(latents[:, :, :1])

    def test_frames_as_a_list_of_tensors(self, pipe):
        """One tensor a video is the batch of them."""
        inputs, again = self.get_dummy_inputs(videos=2), self.get_dummy_inputs(videos=2)
        again["frames"] = list(again["frames"])
        assert torch.equal(pipe(**again).frames, pipe(**inputs).frames)


class Show1RefinementPipelineTesterConfig(BasePipelineTesterConfig):
    pipeline_class = Show1RefinementPipeline
    output_shape = (3, 3, 16, 24)
    call_params = COMMON_PARAMS | {"frames", "latents", "height", "width", "strength", "resize", "vae_batch_size"}
    steps = 2
    encode_options = {}

    def get_dummy_components(self):
        return components("refine")

    def get_dummy_inputs(self, videos=1):
        return {
            **prompts_and_generators(videos),
            "frames": clip(3, 16, 24, videos=videos),
            "input_type": "latent",
            "num_inference_steps": 3,
            "strength": 0.8,
            "guidance_scale": 4.0,
            "output_type": "pt",
        }


class TestShow1Refinement(
    Show1RefinementPipelineTesterConfig,
    PipelineTesterMixin,
    PromptTesterMixin,
    GuidanceTesterMixin,
    SigmasTesterMixin,
):
    def test_latents_input(self, pipe):
        """Given noise decides, and is checked."""

        def run(latents):
            return pipe(**{**self.get_dummy_inputs(), "latents": latents}).frames

        latents = torch.randn(1, 4, 3, 16 // pipe.vae_scale_factor, 24 // pipe.vae_scale_factor, generator=seeded(3))
        first = run(latents)
        assert torch.equal(run(latents), first)
        assert max_difference(run(-latents), first) > 1e-3
        with pytest.raises(ValueError, match="`latents`"):
            run(latents[:, :, :1])

    def test_frames_as_a_list_of_tensors(self, pipe):
        """One tensor a video is the batch of them."""
        inputs, again = self.get_dummy_inputs(videos=2), self.get_dummy_inputs(videos=2)
        again["frames"] = list(again["frames"])
        assert torch.equal(pipe(**again).frames, pipe(**inputs).frames)

    @pytest.mark.parametrize("way", ["slicing", "tiling"])
    def test_vae_slicing_and_tiling(self, base_pipe_output, way):
        """The VAE's own ways to save memory, on it and on the cascade's, reach the call."""
        pipe = self.get_pipeline()
        getattr(pipe.vae, f"enable_{way}")()
        assert getattr(pipe.vae, f"use_{way}")
        assert max_difference(pipe(**self.get_dummy_inputs()).frames, base_pipe_output) < 1e-4

    def test_stock_unet(self, pipe, base_pipe_output):
        """diffusers' own `UNet3DConditionModel` (ModelScope, zeroscope) is accepted as the network."""
        from diffusers import UNet3DConditionModel

        torch.manual_seed(0)
        unet = UNet3DConditionModel(
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=8,
        )
        frames = self.get_pipeline(unet=unet.eval())(**self.get_dummy_inputs()).frames
        assert frames.shape == base_pipe_output.shape
        assert torch.isfinite(frames).all()


class Show1CascadePipelineTesterConfig(BasePipelineTesterConfig):
    pipeline_class = Show1CascadePipeline
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
            "refine_prompt_embeds",
            "refine_negative_prompt_embeds",
            "stop_after",
            "return_stages",
            "output_type",
            "return_dict",
            "callback_on_stage_end",
            "callback_on_step_end",
            "callback_on_step_end_tensor_inputs",
        }
    )
    steps = 2 + 2 + 2 * 2 + 2
    interrupted_steps = 4  # each stage is a loop of its own
    scheduler_names = (
        "base_scheduler",
        "interpolation_scheduler",
        "superres_scheduler",
        "first_frame_scheduler",
        "refine_scheduler",
    )

    def get_dummy_components(self):
        return {**components("cascade"), "stage_defaults": SMALL_RUN}

    def get_dummy_inputs(self, videos=1):
        return {**prompts_and_generators(videos), "output_type": "pt"}

    @torch.no_grad()
    def get_embeds(self, pipe):
        prompt = self.get_dummy_inputs()["prompt"]
        t5, clip_text = pipe.base.encode_prompt(prompt), pipe.refine.encode_prompt(prompt)
        return {
            "prompt_embeds": t5[0],
            "negative_prompt_embeds": t5[1],
            "refine_prompt_embeds": clip_text[0],
            "refine_negative_prompt_embeds": clip_text[1],
        }

    @staticmethod
    def get_config(pipe):
        return {"stage_defaults": pipe.config.stage_defaults}

    @property
    def progress_totals(self):
        return [2, 4]


class TestShow1Cascade(Show1CascadePipelineTesterConfig, PipelineTesterMixin):
    def test_callback_inputs(self, pipe, base_pipe_output):
        """Every stage's steps come to the callback, with that stage, in order."""
        seen = []

        def look(stage, step, timestep, tensors):
            assert set(tensors) == self.callback_inputs
            seen.append((type(stage).__name__, step))
            return tensors

        inputs = {**self.get_dummy_inputs(), "callback_on_step_end": look}
        frames = pipe(**inputs, callback_on_step_end_tensor_inputs=sorted(self.callback_inputs)).frames
        assert torch.equal(frames, base_pipe_output)
        assert seen == [
            *((name, step) for name in ("Show1KeyframePipeline", "Show1InterpolationPipeline") for step in (0, 1)),
            *(("Show1SuperResolutionPipeline", step) for step in (0, 1, 0, 1)),
            *(("Show1RefinementPipeline", step) for step in (0, 1)),
        ]

    def test_embeds_stand_for_the_prompt(self, pipe, base_pipe_output):
        inputs = {**self.get_dummy_inputs(), "prompt": None, **self.get_embeds(pipe)}
        assert max_difference(pipe(**inputs).frames, base_pipe_output) < 1e-4

    def test_sigmas_of_a_stage(self):
        """Noise levels are an option of a stage."""
        pipe = self.get_pipeline()
        pipe.refine_scheduler = EulerDiscreteScheduler.from_config(pipe.refine_scheduler.config)
        pipe.refine_scheduler.set_timesteps(SMALL_RUN["refine"]["num_inference_steps"])
        sigmas = pipe.refine_scheduler.sigmas.tolist()
        expected = pipe(**self.get_dummy_inputs()).frames
        given = pipe(**self.get_dummy_inputs(), stage_options={"refine": {"sigmas": sigmas}}).frames
        assert max_difference(given, expected) < 1e-3
        with pytest.raises(ValueError, match="stage 'refine': `sigmas` must fall"):
            pipe(**self.get_dummy_inputs(), stage_options={"refine": {"sigmas": sigmas[::-1]}})

    def test_stage_defaults_are_saved(self, tmp_path):
        """The checkpoint's own options travel in `model_index.json`."""
        pipe = self.get_pipeline()
        pipe.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "model_index.json").read_text())["stage_defaults"] == SMALL_RUN
        loaded = Show1CascadePipeline.from_pretrained(tmp_path, dtype=torch.float32)
        assert loaded.resolve_options() == pipe.resolve_options()

    def test_from_stages_is_the_same_cascade(self, base_pipe_output):
        """Four stages and an image model, put together, are the cascade of the same parts."""
        superres = pipeline("superres")
        made = Show1CascadePipeline.from_stages(
            base=pipeline("base"),
            interpolation=pipeline("interpolation"),
            superres=superres,
            refine=pipeline("refine"),
            stage_defaults=SMALL_RUN,
        )
        made.register_modules(
            first_frame_unet=superres.first_frame_unet, first_frame_scheduler=superres.first_frame_scheduler
        )
        made.set_progress_bar_config(disable=True)
        assert torch.equal(made(**self.get_dummy_inputs()).frames, base_pipe_output)

    def test_a_missing_component_is_told(self, tmp_path):
        """Only optional components may be left out."""
        parts = self.get_dummy_components()
        parts.pop("base_unet")
        with pytest.raises(TypeError, match="base_unet"):
            self.pipeline_class(**parts)
