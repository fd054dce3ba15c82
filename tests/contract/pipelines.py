# SPDX-License-Identifier: Apache-2.0
"""What diffusers promises of every pipeline, under the names that diffusers' own tests have."""

import inspect
import json
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from diffusers_show1 import Show1UNet3DConditionModel

from ..golden.cases import max_difference
from .components import seeded


SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
)


class BasePipelineTesterConfig:
    """A concrete config names the class and gives real components at a tiny size, and inputs for a call."""

    pipeline_class: type[DiffusionPipeline]
    output_shape: tuple[int, ...]  # of one video: (frames, channels, height, width)
    call_params: frozenset[str]
    callback_inputs = frozenset({"latents", "prompt_embeds", "negative_prompt_embeds"})
    steps: int  # network evaluations of a call, counted by the step callback
    scheduler_names: tuple[str, ...] = ("scheduler",)
    network_class: type[nn.Module] = Show1UNet3DConditionModel  # the family's
    # Weights read from a file may lie otherwise in memory, and a kernel's sums are then rounded otherwise.
    loaded_tolerance = 0.0

    def own_networks(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The networks of the family's own class, by component."""
        return {name: part for name, part in pipe.components.items() if isinstance(part, self.network_class)}

    def get_dummy_components(self) -> dict[str, Any]:
        raise NotImplementedError

    def get_dummy_inputs(self, videos: int = 1) -> dict[str, Any]:
        """Inputs of a call for several videos, with a generator for each; one: a plain call."""
        raise NotImplementedError

    @torch.no_grad()
    def get_embeds(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The embeddings that stand for the prompts of `get_dummy_inputs()`."""
        embeds, negative = pipe.encode_prompt(self.get_dummy_inputs()["prompt"], **self.encode_options)
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}

    encode_options: dict[str, Any] = {"clean_caption": True}

    def get_pipeline(self, **changes: Any) -> Any:
        pipe = self.pipeline_class(**{**self.get_dummy_components(), **changes})
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.eval()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @pytest.fixture(scope="class")
    @classmethod
    def pipe(cls):
        """One pipeline for the tests that only call it."""
        return cls().get_pipeline()

    @pytest.fixture(scope="class")
    @classmethod
    def base_pipe_output(cls):
        return cls().get_pipeline()(**cls().get_dummy_inputs()).frames


class PipelineTesterMixin:
    """Saving, loading, outputs, batches, callbacks, dtypes."""

    def test_pipeline_call_signature(self):
        """The published argument names are all there, and all optional."""
        parameters = inspect.signature(self.pipeline_class.__call__).parameters
        assert self.call_params <= set(parameters)
        required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n != "self"]
        assert required == []

    def test_output(self, base_pipe_output):
        assert isinstance(base_pipe_output, torch.Tensor)
        assert base_pipe_output.shape == (1, *self.output_shape)
        assert base_pipe_output.min() >= 0
        assert base_pipe_output.max() <= 1
        assert base_pipe_output.std() > 0.05

    def test_call_leaves_components_alone(self, pipe, base_pipe_output):
        """A call changes no registered component: the second is the first again."""
        configs = {n: dict(getattr(pipe, n).config) for n in self.scheduler_names}
        modules = {n: c for n, c in pipe.components.items() if isinstance(c, nn.Module)}
        assert torch.equal(pipe(**self.get_dummy_inputs()).frames, base_pipe_output)
        assert torch.equal(pipe(**self.get_dummy_inputs()).frames, base_pipe_output)
        assert {n: dict(getattr(pipe, n).config) for n in self.scheduler_names} == configs
        assert all(getattr(pipe, n) is c and not c.training for n, c in modules.items())
        assert all(p.grad is None for c in modules.values() for p in c.parameters())

    def test_save_load_local(self, tmp_path, base_pipe_output):
        """Saved and loaded: the same video bit for bit, by the class itself and by the generic loader."""
        pipe = self.get_pipeline()
        pipe.save_pretrained(tmp_path)
        index = json.loads((tmp_path / "model_index.json").read_text())
        assert index["_class_name"] == self.pipeline_class.__name__
        library = self.network_class.__module__.partition(".")[0]
        for name in self.own_networks(pipe):
            assert index[name] == [library, self.network_class.__name__]
        for loader in (self.pipeline_class, DiffusionPipeline):
            loaded = loader.from_pretrained(tmp_path, dtype=torch.float32)
            assert type(loaded) is self.pipeline_class
            assert set(loaded.components) == set(pipe.components)
            loaded.set_progress_bar_config(disable=True)
            assert max_difference(loaded(**self.get_dummy_inputs()).frames, base_pipe_output) <= self.loaded_tolerance

    def test_serialization_with_variants(self, tmp_path):
        """`variant` goes into every weight file's name, and loading asks for it by that name."""
        pipe = self.get_pipeline()
        pipe.save_pretrained(tmp_path, variant="fp16")
        weights = [p.name for p in tmp_path.glob("*/*.safetensors")]
        assert weights
        assert all(".fp16." in name for name in weights)
        loaded = self.pipeline_class.from_pretrained(tmp_path, variant="fp16", dtype=torch.float32)
        for name, component in pipe.components.items():
            if isinstance(component, nn.Module):
                other = getattr(loaded, name).state_dict()
                assert all(torch.equal(v, other[k]) for k, v in component.state_dict().items())
        with pytest.raises((OSError, ValueError)):
            self.pipeline_class.from_pretrained(tmp_path, dtype=torch.float32)

    def test_save_load_optional_components(self, tmp_path):
        """Without its optional components a pipeline is saved, loaded, and runs from embeddings."""
        pipe = self.get_pipeline()
        inputs = {**self.get_dummy_inputs(), "prompt": None, **self.get_embeds(pipe)}
        for name in pipe._optional_components:
            setattr(pipe, name, None)
        expected = pipe(**inputs).frames
        pipe.save_pretrained(tmp_path)
        loaded = self.pipeline_class.from_pretrained(tmp_path, dtype=torch.float32)
        loaded.set_progress_bar_config(disable=True)
        for name in pipe._optional_components:
            assert getattr(loaded, name) is None, name
        inputs["generator"] = seeded()
        assert max_difference(loaded(**inputs).frames, expected) <= self.loaded_tolerance

    def test_dict_tuple_outputs_equivalent(self, pipe, base_pipe_output):
        output = pipe(**self.get_dummy_inputs(), return_dict=False)
        assert isinstance(output, tuple)
        assert len(output) == 1
        assert torch.equal(output[0], base_pipe_output)
        assert torch.equal(pipe(**self.get_dummy_inputs())[0], base_pipe_output)

    def test_output_types_agree(self, pipe, base_pipe_output):
        """pil, np and pt are the same frames."""
        as_np = pipe(**{**self.get_dummy_inputs(), "output_type": "np"}).frames
        assert torch.equal(torch.from_numpy(as_np).permute(0, 1, 4, 2, 3), base_pipe_output)
        as_pil = pipe(**{**self.get_dummy_inputs(), "output_type": "pil"}).frames
        frames, _, height, width = self.output_shape
        assert [len(video) for video in as_pil] == [frames]
        assert as_pil[0][0].size == (width, height)
        rounded = (base_pipe_output[0, 0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert (rounded == as_pil[0][0]).all()

    def test_inference_batch_consistent(self, pipe):
        """As many videos as prompts, whatever their lengths."""
        inputs = self.get_dummy_inputs(videos=2)
        inputs["prompt"] = [inputs["prompt"][0], 40 * "very long "]
        assert pipe(**inputs).frames.shape == (2, *self.output_shape)

    def test_inference_batch_single_identical(self, pipe):
        """With a list of generators each video of a batch is the one that is made alone."""
        both = pipe(**self.get_dummy_inputs(videos=2)).frames
        assert max_difference(both[:1], both[1:]) > 1e-2
        for i in range(2):
            inputs = self.get_dummy_inputs(videos=2)
            for name, value in inputs.items():
                if name in ("prompt", "generator"):
                    inputs[name] = value[i]
                elif name == "frames":
                    inputs[name] = value[i : i + 1]
            assert max_difference(pipe(**inputs).frames, both[i : i + 1]) < 1e-4

    def test_num_videos_per_prompt(self, pipe, base_pipe_output):
        """Several videos of a prompt: each of its own noise, and of that prompt."""
        inputs = self.get_dummy_inputs()
        inputs.update(num_videos_per_prompt=2, generator=[seeded(), seeded(7)])
        frames = pipe(**inputs).frames
        assert frames.shape == (2, *self.output_shape)
        assert max_difference(frames[:1], base_pipe_output) < 1e-4
        assert max_difference(frames[1:], base_pipe_output) > 1e-2
        inputs = self.get_dummy_inputs(videos=2)
        inputs.update(num_videos_per_prompt=2, generator=seeded())
        frames = pipe(**inputs).frames
        assert frames.shape == (4, *self.output_shape)
        assert max_difference(frames[:1], frames[1:2]) > 1e-2  # one generator still gives each its own noise

    def test_generator_decides(self, pipe, base_pipe_output):
        assert max_difference(pipe(**{**self.get_dummy_inputs(), "generator": seeded(1)}).frames, base_pipe_output) > 0
        free = pipe(**{**self.get_dummy_inputs(), "generator": None}).frames
        assert torch.isfinite(free).all()

    def test_callback_inputs(self, pipe, base_pipe_output):
        """The step callback gets what it asks for; what it returns is used."""
        assert self.callback_inputs == set(self.pipeline_class._callback_tensor_inputs)
        seen = []

        def look(stage, step, timestep, tensors):
            seen.append((step, int(timestep), set(tensors)))
            assert all(isinstance(t, torch.Tensor) for t in tensors.values())
            return tensors

        inputs = {**self.get_dummy_inputs(), "callback_on_step_end": look}
        frames = pipe(**inputs, callback_on_step_end_tensor_inputs=sorted(self.callback_inputs)).frames
        # without batching of the image model, to which no callback goes
        assert len(seen) == self.steps
        assert all(names == self.callback_inputs for *_, names in seen)
        assert torch.equal(frames, base_pipe_output)

        def shift(stage, step, timestep, tensors):
            return {"latents": torch.zeros_like(tensors["latents"])}

        inputs = {**self.get_dummy_inputs(), "output_type": "latent", "callback_on_step_end": shift}
        assert pipe(**inputs).frames.abs().max() == 0

    def test_callback_object(self, pipe):
        """diffusers' own callback objects are accepted."""
        from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

        class Count(PipelineCallback):
            steps = 0
            tensor_inputs = ["latents", "prompt_embeds"]

            def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
                assert list(callback_kwargs) == self.tensor_inputs
                self.steps += 1
                return callback_kwargs

        count = Count(cutoff_step_index=None, cutoff_step_ratio=1.0)
        pipe(**self.get_dummy_inputs(), callback_on_step_end=count)
        pipe(**self.get_dummy_inputs(), callback_on_step_end=MultiPipelineCallbacks([count]))
        assert count.steps == 2 * self.steps

    def test_callback_interrupt(self, pipe, base_pipe_output):
        """`pipe._interrupt = True` in the callback ends the loop; the next call runs in full."""
        steps = []

        def stop(stage, step, timestep, tensors):
            steps.append(step)
            stage._interrupt = True
            return {}

        interrupted = pipe(**self.get_dummy_inputs(), callback_on_step_end=stop).frames
        assert len(steps) == self.interrupted_steps
        assert interrupted.shape == base_pipe_output.shape
        assert torch.isfinite(interrupted).all()
        assert max_difference(interrupted, base_pipe_output) > 1e-3
        assert torch.equal(pipe(**self.get_dummy_inputs()).frames, base_pipe_output)

    interrupted_steps = 1

    def test_components_function(self, base_pipe_output):
        """`components` is everything that makes the pipeline again."""
        parts = self.get_dummy_components()
        pipe = self.get_pipeline()
        assert {k for k, v in pipe.components.items() if v is not None} == {
            k for k, v in parts.items() if v is not None and k != "stage_defaults"
        }
        again = self.pipeline_class(**pipe.components, **self.get_config(pipe))
        again.set_progress_bar_config(disable=True)
        assert torch.equal(again(**self.get_dummy_inputs()).frames, base_pipe_output)

    @staticmethod
    def get_config(pipe):
        return {}

    def test_from_pipe(self, base_pipe_output):
        """`from_pipe` takes over every component and option of the other pipeline, the networks too."""
        pipe = self.get_pipeline()
        other = self.pipeline_class.from_pipe(pipe)
        assert all(getattr(other, name) is component for name, component in pipe.components.items())
        other.set_progress_bar_config(disable=True)
        assert torch.equal(other(**self.get_dummy_inputs()).frames, base_pipe_output)

    def test_to_dtype(self):
        """`pipe.to(dtype)` reaches every network, and a call then runs in it."""
        pipe = self.get_pipeline()
        pipe.to(dtype=torch.bfloat16)
        networks = [c for c in pipe.components.values() if isinstance(c, nn.Module)]
        assert all(p.dtype == torch.bfloat16 for c in networks for p in c.parameters() if p.is_floating_point())
        frames = pipe(**self.get_dummy_inputs()).frames
        assert torch.isfinite(frames).all()
        assert frames.std() > 0.02
        pipe.to(dtype=torch.float32)
        assert all(c.dtype == torch.float32 for c in networks)

    def test_save_load_dtype(self, tmp_path):
        """`from_pretrained(dtype=)` gives every network that type."""
        self.get_pipeline().save_pretrained(tmp_path)
        loaded = self.pipeline_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert all(c.dtype == torch.bfloat16 for c in loaded.components.values() if isinstance(c, nn.Module))

    def test_progress_bar(self, capsys):
        """The bar counts to the number of steps, and is silent when switched off."""
        pipe = self.get_pipeline()
        pipe.set_progress_bar_config(disable=False)
        pipe(**self.get_dummy_inputs())
        shown = capsys.readouterr().err
        for total in self.progress_totals:
            assert f"{total}/{total}" in shown, total
        pipe.set_progress_bar_config(disable=True)
        pipe(**self.get_dummy_inputs())
        assert capsys.readouterr().err == ""

    @property
    def progress_totals(self):
        return [self.steps]

    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_scheduler_swaps(self, scheduler):
        """Other schedulers, made from the config as diffusers' docs say, run and give frames."""
        pipe = self.get_pipeline()
        for name in self.scheduler_names:
            swapped = getattr(diffusers, scheduler).from_config(getattr(pipe, name).config)
            pipe.register_modules(**{name: swapped})
        frames = pipe(**self.get_dummy_inputs()).frames
        assert frames.shape == (1, *self.output_shape)
        assert torch.isfinite(frames).all()
        assert frames.std() > 0.02

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_save_load_float16(self, tmp_path, dtype):
        """In half precision a call gives frames, and the pipeline that `from_pretrained(dtype=)` reads the same."""
        self.get_pipeline().save_pretrained(tmp_path)
        first, second = (self.pipeline_class.from_pretrained(tmp_path, dtype=dtype) for _ in range(2))
        networks = {name: c for name, c in first.components.items() if isinstance(c, nn.Module)}
        assert {c.dtype for c in networks.values()} == {dtype}
        first.save_pretrained(tmp_path / "half")
        second = self.pipeline_class.from_pretrained(tmp_path / "half", dtype=dtype)
        frames = []
        for pipe in (first, second):
            pipe.set_progress_bar_config(disable=True)
            frames.append(pipe(**self.get_dummy_inputs()).frames)
        assert torch.isfinite(frames[0]).all()
        assert frames[0].std() > 0.02
        assert torch.equal(*frames)

    def test_torch_dtype_dict(self, tmp_path):
        """A type for one network, and one for the others."""
        pipe = self.get_pipeline()
        pipe.save_pretrained(tmp_path)
        networks = [name for name, c in pipe.components.items() if isinstance(c, nn.Module)]
        types = {networks[-1]: torch.bfloat16, "default": torch.float16}
        loaded = self.pipeline_class.from_pretrained(tmp_path, dtype=types)
        assert {name: getattr(loaded, name).dtype for name in networks} == {
            name: types.get(name, torch.float16) for name in networks
        }

    def test_loading_with_incorrect_variants_raises_error(self, tmp_path):
        self.get_pipeline().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="load the model files of the `variant=fp16`"):
            self.pipeline_class.from_pretrained(tmp_path, variant="fp16", dtype=torch.float32)

    def test_pipeline_with_accelerator_device_map(self, tmp_path, base_pipe_output):
        """`device_map` puts the networks where it says; a call then runs there."""
        self.get_pipeline().save_pretrained(tmp_path)
        loaded = self.pipeline_class.from_pretrained(tmp_path, device_map="cpu", dtype=torch.float32)
        loaded.set_progress_bar_config(disable=True)
        assert loaded.device == torch.device("cpu")
        assert max_difference(loaded(**self.get_dummy_inputs()).frames, base_pipe_output) <= self.loaded_tolerance

    def test_layerwise_casting_inference(self):
        """Every network of ours stored in 8 bits and computed in bfloat16."""
        pipe = self.get_pipeline().to(dtype=torch.bfloat16)
        ours = self.own_networks(pipe).values()
        for unet in ours:
            unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
        frames = pipe(**self.get_dummy_inputs()).frames
        assert torch.isfinite(frames).all()
        assert all(unet.conv_in.weight.dtype == torch.float8_e4m3fn for unet in ours)

    def test_attention_slicing_forward_pass(self, base_pipe_output):
        """It reaches every attention of our networks, and the numbers stay."""
        pipe = self.get_pipeline()
        ours = [c for c in pipe.components.values() if type(c).__name__ == "Show1UNet3DConditionModel"]
        pipe.enable_attention_slicing(slice_size=1)
        assert {p.slice_size for unet in ours for p in unet.attn_processors.values()} == ({1} if ours else set())
        assert max_difference(pipe(**self.get_dummy_inputs()).frames, base_pipe_output) < 1e-3
        pipe.disable_attention_slicing()
        assert {p.slice_size for unet in ours for p in unet.attn_processors.values()} == ({None} if ours else set())

    def test_model_cpu_offload_sequence(self):
        """Every network stands in `model_cpu_offload_seq`, so that offloading moves them all."""
        networks = {n for n, c in self.get_pipeline().components.items() if isinstance(c, nn.Module)}
        assert networks | {"safety_checker"} == set(self.pipeline_class.model_cpu_offload_seq.split("->"))

    def test_set_attention_backend(self, same_attention_backend):
        """A backend chosen on the networks changes nothing but the kernel."""
        pipe = self.get_pipeline()
        expected = pipe(**self.get_dummy_inputs()).frames
        for network in self.own_networks(pipe).values():
            network.set_attention_backend("_native_math")
        assert max_difference(pipe(**self.get_dummy_inputs()).frames, expected) < 1e-4


class PromptTesterMixin:
    """Encoding prompts, for pipelines with an `encode_prompt` of their own."""

    def test_encode_prompt_names_what_it_returns(self):
        """diffusers' own test reads off `encode_prompt` by which names a call takes its results."""
        from diffusers.utils.source_code_parsing_utils import ReturnNameVisitor

        visitor = ReturnNameVisitor()
        visitor.visit(visitor.get_ast_tree(cls=self.pipeline_class))
        assert visitor.return_names == ["prompt_embeds", "negative_prompt_embeds"]

    def test_encode_prompt_works_in_isolation(self, pipe, base_pipe_output):
        """Encoders alone make the embeddings, and those stand for the prompt."""
        expected = self.get_embeds(pipe)
        empty = {name: None for name in self.get_dummy_components() if name not in ("tokenizer", "text_encoder")}
        alone = self.pipeline_class(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, **empty)
        embeds = self.get_embeds(alone)
        for name, value in expected.items():
            assert torch.equal(embeds[name], value)
        inputs = {**self.get_dummy_inputs(), "prompt": None, **embeds}
        assert torch.equal(pipe(**inputs).frames, base_pipe_output)

    def test_prompt_embeds_repeat(self, pipe):
        """The copies of a prompt's row lie side by side, as prompts and frames are paired."""
        embeds, negative = pipe.encode_prompt(["a red car", "a blue sea"], num_videos_per_prompt=2)
        assert embeds.shape[0] == negative.shape[0] == 4
        assert torch.equal(embeds[0], embeds[1])
        assert torch.equal(embeds[2], embeds[3])
        assert not torch.equal(embeds[1], embeds[2])
        assert pipe.encode_prompt("a red car", do_classifier_free_guidance=False)[1] is None

    def test_negative_prompt_decides(self, pipe, base_pipe_output):
        """A negative prompt changes the video; the empty one is the default; unguided, it changes nothing."""

        def run(**changes):
            return pipe(**{**self.get_dummy_inputs(), **changes}).frames

        assert torch.equal(run(negative_prompt=""), base_pipe_output)
        assert max_difference(run(negative_prompt="low resolution, blur"), base_pipe_output) > 1e-3
        unguided = {"guidance_scale": 1.0, **self.unguided}
        assert torch.equal(run(negative_prompt="low resolution, blur", **unguided), run(**unguided))

    unguided: dict[str, Any] = {}


class GuidanceTesterMixin:
    """A callback that changes the guidance of the steps to come."""

    def test_callback_cfg(self, pipe, base_pipe_output):
        """Each loop begins with the call's guidance, and follows what the callback sets."""

        def increase(stage, step, timestep, tensors):
            stage._guidance_scale += 1.0
            return tensors

        inputs = {**self.get_dummy_inputs(), "guidance_scale": 2.0}
        expected = pipe(**inputs).frames
        inputs = {**self.get_dummy_inputs(), "guidance_scale": 2.0, "callback_on_step_end": increase}
        assert max_difference(pipe(**inputs).frames, expected) > 1e-4
        assert pipe.guidance_scale == 2.0 + pipe.num_timesteps
        assert torch.equal(pipe(**self.get_dummy_inputs()).frames, base_pipe_output)

    def test_cfg(self, pipe, base_pipe_output):
        """Guidance that a callback switches off half-way is that of `guidance_interval`."""

        def cut(stage, step, timestep, tensors):
            stage._guidance_scale = 0.0
            return tensors

        inputs = {**self.get_dummy_inputs(), **self.unguided}  # no callback goes to the image model
        off = pipe(**inputs, callback_on_step_end=cut).frames
        assert max_difference(off, base_pipe_output) > 1e-4
        inputs = {**self.get_dummy_inputs(), **self.unguided}
        half = pipe(**inputs, guidance_interval=(0.0, 0.5)).frames
        assert torch.equal(off, half)


class SigmasTesterMixin:
    """The `sigmas` argument, which diffusers' `retrieve_timesteps` takes beside `timesteps`."""

    def test_sigmas(self, pipe):
        """A scheduler's own noise levels are its own steps; others are others."""
        scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        pipe.scheduler, before = scheduler, pipe.scheduler
        scheduler.set_timesteps(self.get_dummy_inputs()["num_inference_steps"])
        sigmas = scheduler.sigmas.tolist()
        try:
            expected, steps = pipe(**self.get_dummy_inputs()).frames, pipe.num_timesteps
            inputs = {**self.get_dummy_inputs(), "num_inference_steps": None}
            assert max_difference(pipe(**inputs, sigmas=sigmas).frames, expected) < 1e-3
            assert pipe.num_timesteps == steps
            inputs["generator"] = seeded()
            assert max_difference(pipe(**inputs, sigmas=[sigma / 3 for sigma in sigmas]).frames, expected) > 1e-2
        finally:
            pipe.scheduler = before


class LatentsTesterMixin:
    """The `latents` argument."""

    def test_latents_input(self, pipe):
        """Given noise decides the start; the generator then only feeds the steps."""
        latents = torch.randn(self.latents_shape, generator=seeded(3))

        def run(**changes):
            inputs = {**self.get_dummy_inputs(), "latents": latents, **changes}
            return pipe(**inputs).frames

        pipe.scheduler, before = (
            diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config),
            pipe.scheduler,
        )
        try:
            first = run()
            assert torch.equal(run(generator=seeded(9)), first)
            assert max_difference(run(latents=-latents), first) > 1e-3
        finally:
            pipe.scheduler = before
