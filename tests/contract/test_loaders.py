# SPDX-License-Identifier: Apache-2.0
"""What is loaded into networks and encoders: adapters, learned tokens, single files, fewer bits."""

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.quantizers import PipelineQuantizationConfig

from diffusers_show1 import Show1KeyframePipeline, Show1UNet3DConditionModel
from diffusers_show1.text import tokenize

from ..golden.cases import max_difference
from .components import pipeline, seeded
from .test_models import LatentUNetTesterConfig, PixelUNetTesterConfig
from .test_pipelines import (
    Show1CascadePipelineTesterConfig,
    Show1KeyframePipelineTesterConfig,
    Show1RefinementPipelineTesterConfig,
)


class LoraTesterMixin:
    """Adapters of random weights, by diffusers' methods on the pipeline."""

    @property
    def networks(self):
        return self.pipeline_class._lora_loadable_modules

    def add_adapters(self, pipe, *names):
        from peft import LoraConfig

        for i, name in enumerate(names):
            for component in pipe._lora_loadable_modules:  # the cascade's refinement here is diffusers' own network
                torch.manual_seed(i)
                config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
                getattr(pipe, component).add_adapter(config, adapter_name=name)
        return pipe

    def run(self, pipe, **changes):
        return pipe(**{**self.get_dummy_inputs(), **changes}).frames

    def test_loadable_modules_of_the_class(self):
        """diffusers' tests, and `fuse_lora(components=...)`, ask the class."""
        assert self.networks == self.pipeline_class._lora_networks

    def test_simple_inference_with_text_denoiser_lora_and_scale(self, base_pipe_output):
        pipe = self.add_adapters(self.get_pipeline(), "a")
        whole = self.run(pipe)
        half = self.run(pipe, cross_attention_kwargs={"scale": 0.5})
        assert max_difference(whole, base_pipe_output) > 1e-3
        assert max_difference(whole, half) > 1e-3
        assert max_difference(half, base_pipe_output) > 1e-3
        assert max_difference(self.run(pipe, cross_attention_kwargs={"scale": 0.0}), base_pipe_output) < 1e-4
        assert torch.equal(self.run(pipe), whole)  # the call's scale is gone with it

    def test_lora_scale_kwargs_match_fusion(self, base_pipe_output):
        """A scale in the call, one of `set_adapters`, and one that is fused are the same."""
        pipe = self.add_adapters(self.get_pipeline(), "a")
        scaled = self.run(pipe, cross_attention_kwargs={"scale": 0.8})
        pipe.fuse_lora(components=pipe._lora_loadable_modules, lora_scale=0.8)
        assert pipe.num_fused_loras == 1
        assert max_difference(self.run(pipe), scaled) < 1e-3
        pipe.unfuse_lora(components=pipe._lora_loadable_modules)
        pipe.set_adapters("a", 0.8)
        assert max_difference(self.run(pipe), scaled) < 1e-4
        pipe.disable_lora()
        assert max_difference(self.run(pipe), base_pipe_output) < 1e-4

    def test_logs_info_when_no_lora_keys_found(self, diffusers_log):
        """Keys that name no layer are warned of, and nothing is loaded."""
        pipe = self.get_pipeline()
        pipe.load_lora_weights({"lora_foo": torch.tensor(2.0), "lora_bar": torch.tensor(3.0)})
        assert "No LoRA keys" in diffusers_log.text
        assert pipe.get_list_adapters() == {}

    @pytest.mark.parametrize("wrong", [0.5, {"scale": "much"}, {"scale": float("nan")}, {"foo": 1}])
    def test_wrong_cross_attention_kwargs(self, wrong):
        with pytest.raises(ValueError, match="`cross_attention_kwargs"):
            self.run(self.get_pipeline(), cross_attention_kwargs=wrong)


class TestShow1KeyframeLora(Show1KeyframePipelineTesterConfig, LoraTesterMixin):
    def test_simple_inference_with_text_denoiser_multi_adapter_weighted(self, base_pipe_output):
        pipe = self.add_adapters(self.get_pipeline(), "a", "b")
        frames = []
        for names, weights in (("a", None), ("b", None), (["a", "b"], None), (["a", "b"], [0.5, 0.6])):
            pipe.set_adapters(names, weights)
            frames.append(self.run(pipe))
        frames.append(base_pipe_output)
        for i, one in enumerate(frames):
            assert all(max_difference(one, other) > 1e-3 for other in frames[:i])
        pipe.set_adapters("a", {"unet": {"down": 5.0}})  # block by block
        assert max_difference(self.run(pipe), frames[0]) > 1e-3
        pipe.delete_adapters(["a", "b"])
        assert max_difference(self.run(pipe), base_pipe_output) < 1e-4


class TestShow1CascadeLora(Show1CascadePipelineTesterConfig, LoraTesterMixin):
    def test_a_stages_own_scale(self):
        """The scale of `stage_options` goes before the call's."""
        pipe = self.add_adapters(self.get_pipeline(), "a")
        off, half = {"scale": 0.0}, {"scale": 0.5}
        own = {name: {"cross_attention_kwargs": off} for name in pipe.stage_names}
        frames = self.run(pipe, stage_options=own, cross_attention_kwargs=half)
        assert torch.equal(frames, self.run(pipe, cross_attention_kwargs=off))
        with pytest.raises(ValueError, match="`cross_attention_kwargs"):
            self.run(pipe, stage_options={"refine": {"cross_attention_kwargs": 1}})


class TestTextualInversion(Show1RefinementPipelineTesterConfig):
    """Learned tokens for CLIP, which refinement reads."""

    @torch.no_grad()
    @pytest.mark.parametrize("vectors", [1, 3])
    def test_text_inversion_multi_tokens(self, base_pipe_output, vectors):
        pipe = self.get_pipeline()
        width = pipe.text_encoder.config.hidden_size
        before = len(pipe.tokenizer)
        pipe.load_textual_inversion({"<style>": torch.randn(vectors, width, generator=seeded(1))})
        assert len(pipe.tokenizer) == before + vectors
        frames = self.run_with(pipe, "a car, <style>")
        written_out = " ".join(["<style>", *(f"<style>_{i}" for i in range(1, vectors))])
        expected = pipe.text_encoder(tokenize(pipe.tokenizer, [f"a car, {written_out}"]).input_ids)[0]
        assert torch.equal(pipe.encode_prompt("a car, <style>")[0], expected)
        ids = pipe.tokenizer(pipe.maybe_convert_prompt("a car, <style>", pipe.tokenizer)).input_ids
        assert sum(token >= before for token in ids) == vectors
        assert max_difference(frames, self.run_with(pipe, "a car, style")) > 1e-3
        assert max_difference(pipe(**self.get_dummy_inputs()).frames, base_pipe_output) < 1e-4
        pipe.unload_textual_inversion()
        assert len(pipe.tokenizer) == before

    def run_with(self, pipe, prompt):
        return pipe(**{**self.get_dummy_inputs(), "prompt": prompt}).frames

    def test_of_a_cascade(self):
        """Loaded by the cascade's stage, the tokens are the cascade's."""
        pipe = pipeline("cascade")
        width = pipe.refine_text_encoder.config.hidden_size
        pipe.refine.load_textual_inversion({"<style>": torch.randn(2, width, generator=seeded(1))})
        tokens = pipe.refine_tokenizer(pipe.refine.maybe_convert_prompt("<style>", pipe.refine_tokenizer)).input_ids
        assert len(tokens) == 2 + 2  # with the start and the end
        assert torch.isfinite(pipe("a car, <style>", output_type="pt", generator=seeded()).frames).all()


class SingleFileTesterMixin:
    """`from_single_file`, as diffusers has it, with the config told."""

    @pytest.fixture
    def saved(self, tmp_path):
        model = self.get_model()
        model.save_pretrained(tmp_path / "unet")
        return model, tmp_path

    def test_single_file_model_parameters(self, saved):
        model, folder = saved
        file = str(folder / "unet" / "diffusion_pytorch_model.safetensors")
        loaded = Show1UNet3DConditionModel.from_single_file(file, config=str(folder), subfolder="unet")
        assert not loaded.training
        for name, parameter in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], parameter), name
        with torch.no_grad():
            inputs = self.get_dummy_inputs()
            assert torch.equal(loaded(**inputs).sample, model(**inputs).sample)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_single_file_loading_dtype(self, saved, dtype):
        model, folder = saved
        torch.save(model.state_dict(), folder / "unet.ckpt")
        file, config = str(folder / "unet.ckpt"), str(folder / "unet")
        assert Show1UNet3DConditionModel.from_single_file(file, config=config, dtype=dtype).dtype == dtype

    def test_what_a_single_file_lacks(self, saved):
        model, folder = saved
        weights, config = model.state_dict(), str(folder / "unet")
        with pytest.raises(ValueError, match="`config` is required"):
            Show1UNet3DConditionModel.from_single_file(weights)
        less = {name: value for name, value in weights.items() if name != "conv_in.weight"}
        with pytest.raises(ValueError, match=r"lacks 1 of \d+ parameters.*'conv_in.weight'"):
            Show1UNet3DConditionModel.from_single_file(less, config=config)
        narrow = {**weights, "conv_in.weight": weights["conv_in.weight"][:, :1]}
        with pytest.raises(ValueError, match="conv_in.weight"):
            Show1UNet3DConditionModel.from_single_file(narrow, config=config)


class TestPixelUNetSingleFile(PixelUNetTesterConfig, SingleFileTesterMixin):
    pass


class TestLatentUNetSingleFile(LatentUNetTesterConfig, SingleFileTesterMixin):
    pass


def test_single_file_of_diffusers_own_classes(tmp_path):
    """Our network in diffusers' table leaves the others alone."""
    vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=32)
    vae.save_pretrained(tmp_path)
    file = str(tmp_path / "diffusion_pytorch_model.safetensors")
    assert isinstance(AutoencoderKL.from_single_file(file, config=str(tmp_path)), AutoencoderKL)


class TestTorchAo:
    """Weights in 8 bits, by torchao: the one of diffusers' back ends that also computes on a CPU."""

    def test_quant_config_set_correctly_through_granular(self, tmp_path):
        pytest.importorskip("torchao")
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig as TextTorchAoConfig

        pipe = pipeline("base")
        pipe.save_pretrained(tmp_path / "whole")
        config = PipelineQuantizationConfig(
            quant_mapping={
                "unet": TorchAoConfig(Int8WeightOnlyConfig(version=2)),
                "text_encoder": TextTorchAoConfig(Int8WeightOnlyConfig(version=2)),
            }
        )
        whole, dtype = tmp_path / "whole", torch.bfloat16
        small = Show1KeyframePipeline.from_pretrained(whole, quantization_config=config, dtype=dtype)
        small.set_progress_bar_config(disable=True)
        for name in ("unet", "text_encoder"):
            network = getattr(small, name)
            assert network.config.quantization_config.quant_method == "torchao"
            assert any(type(p).__name__ == "Int8Tensor" for p in network.parameters())
        inputs = {"height": 8, "width": 12, "num_frames": 2, "num_inference_steps": 2, "output_type": "pt"}
        frames = small("a red car", generator=seeded(), **inputs).frames
        assert torch.isfinite(frames).all()
        assert frames.std() > 0.05
        small.save_pretrained(tmp_path / "small")
        again = Show1KeyframePipeline.from_pretrained(tmp_path / "small", dtype=dtype)
        again.set_progress_bar_config(disable=True)
        assert torch.equal(again("a red car", generator=seeded(), **inputs).frames, frames)
