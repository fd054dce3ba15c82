# SPDX-License-Identifier: Apache-2.0
"""What is loaded into networks and encoders: adapters, learned tokens, single files, fewer bits."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.quantizers import PipelineQuantizationConfig

from diffusers_show1 import Show1KeyframePipeline, Show1RefinementPipeline, Show1UNet3DConditionModel
from diffusers_show1.families.show1.unet_config import PUBLISHED
from diffusers_show1.sampling.text import tokenize

from ..golden.cases import MODELS, max_difference
from .components import FOLDERS, own_refinement_network, pipeline, seeded
from .lora import LoraBlocksTesterMixin, LoraTesterMixin
from .test_models import LatentUNetTesterConfig, PixelUNetTesterConfig
from .test_pipelines import (
    Show1CascadePipelineTesterConfig,
    Show1InterpolationPipelineTesterConfig,
    Show1KeyframePipelineTesterConfig,
    Show1RefinementPipelineTesterConfig,
)


SHAPES = Path(__file__).parents[1] / "models" / "published"


class TestShow1KeyframeLora(Show1KeyframePipelineTesterConfig, LoraTesterMixin, LoraBlocksTesterMixin):
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

    @pytest.mark.parametrize(
        ("weights", "words"),
        [
            ({"middle": 1.0}, r"`adapter_weights\['unet'\]` must have keys among .*'middle'"),
            ({"down": {"block_9": 1.0}}, r"\['down'\]` must have keys among .*'block_9'"),
            ({"up": [1.0] * 9}, r"\['up'\]` must have \d weights for block_0"),
            ({"down": 2.0, "mid": "much"}, r"\['mid'\]` must be a finite number, got 'much'"),
            ({"down": float("nan")}, r"\['down'\]` must be a finite number, got nan"),
        ],
    )
    def test_wrong_weights_of_blocks(self, weights, words):
        """Told before anything is changed."""
        pipe = self.add_adapters(self.get_pipeline(), "a")
        with pytest.raises(ValueError, match=words):
            pipe.set_adapters("a", {"unet": weights})
        assert {m.scaling["a"] for m in pipe.unet.modules() if hasattr(m, "scaling")} == {1.0}


class TestShow1InterpolationLora(Show1InterpolationPipelineTesterConfig, LoraTesterMixin, LoraBlocksTesterMixin):
    pass


class TestShow1RefinementLora(Show1RefinementPipelineTesterConfig, LoraTesterMixin, LoraBlocksTesterMixin):
    def get_dummy_components(self):
        return {**super().get_dummy_components(), "unet": own_refinement_network()}

    def test_published_repository(self, tmp_path, base_pipe_output):
        """Its index names diffusers' network, which takes no adapters. The error says what to do, and that is it."""
        from peft.utils import get_peft_model_state_dict

        adapted = self.add_adapters(self.get_pipeline(), "a")
        adapted.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(adapted.unet, adapter_name="a"))
        folder = MODELS / FOLDERS["refine"]
        published = Show1RefinementPipeline.from_pretrained(folder, dtype=torch.float32)
        with pytest.raises(ValueError, match=r"CLASS.from_pretrained\(.*, subfolder='unet'\)"):
            published.load_lora_weights(tmp_path)
        unet = Show1UNet3DConditionModel.from_pretrained(folder, subfolder="unet")
        pipe = Show1RefinementPipeline.from_pretrained(folder, unet=unet, dtype=torch.float32)
        for each in (published, pipe):
            each.set_progress_bar_config(disable=True)
        assert max_difference(self.run(published), self.run(pipe)) < 1e-4
        pipe.load_lora_weights(tmp_path)
        assert max_difference(self.run(pipe), self.run(adapted)) < 1e-5


class TestShow1CascadeLora(Show1CascadePipelineTesterConfig, LoraTesterMixin, LoraBlocksTesterMixin):
    def get_dummy_components(self):
        return {**super().get_dummy_components(), "refine_unet": own_refinement_network()}

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
    """`from_single_file`, as diffusers has it, with the config told or, of a published network, recognised."""

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

    @pytest.mark.parametrize("kind", ["safetensors", "checkpoint", "tensors"])
    def test_single_file_without_config(self, saved, kind, monkeypatch):
        """A network whose shapes are those of a published one, here of the test's own, among the real four."""
        model, folder = saved
        monkeypatch.setitem(PUBLISHED, "somebody/small", self.get_init_dict())
        torch.save({"state_dict": model.state_dict()}, folder / "unet.ckpt")
        source = {
            "safetensors": str(folder / "unet" / "diffusion_pytorch_model.safetensors"),
            "checkpoint": str(folder / "unet.ckpt"),
            "tensors": model.state_dict(),
        }[kind]
        loaded = Show1UNet3DConditionModel.from_single_file(source, subfolder="unet")
        with torch.no_grad():
            inputs = self.get_dummy_inputs()
            assert torch.equal(loaded(**inputs).sample, model(**inputs).sample)
        half = Show1UNet3DConditionModel.from_single_file(source, dtype=torch.float16)
        assert half.dtype == torch.float16


@pytest.mark.parametrize("name", ["base", "interpolation", "sr1", "sr2"])
def test_published_networks_are_recognised_by_their_shapes(name):
    """Of the published parameters, without a number in them, comes the published config."""
    config = json.loads((SHAPES / f"{name}.json").read_text())
    shapes = json.loads(gzip.decompress((SHAPES / f"{name}.shapes.json.gz").read_bytes()))
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    unet = Show1UNet3DConditionModel.from_single_file(weights, device="meta")
    written = json.loads(unet.to_json_string())
    assert {k: written[k] for k in config if not k.startswith("_")} == {
        k: v for k, v in config.items() if not k.startswith("_")
    }
    assert {key: list(value.shape) for key, value in unet.state_dict().items()} == shapes
    weights.pop("conv_out.bias")
    with pytest.raises(ValueError, match="`config` is required, since these are the shapes of no published network"):
        Show1UNet3DConditionModel.from_single_file(weights, device="meta")


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


class TorchAoTesterMixin:
    """Linear layers in 8 bits, by torchao, whose numbers a CPU computes with too."""

    @pytest.fixture
    def quantized(self, tmp_path):
        """A network with its middle block as it was."""
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        self.get_model().save_pretrained(tmp_path)
        config = TorchAoConfig(Int8WeightOnlyConfig(version=2), modules_to_not_convert=["mid_block"])
        return self.model_class.from_pretrained(tmp_path, quantization_config=config, dtype=torch.bfloat16)

    @staticmethod
    def in_8_bits(model):
        return {n for n, m in model.named_modules() if type(getattr(m, "weight", None)).__name__ == "Int8Tensor"}

    @torch.no_grad()
    def run(self, model):
        inputs = self.get_dummy_inputs().items()
        return model(**{k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs}).sample.float()

    def test_torchao_quantization_inference(self, quantized):
        """All linear layers outside of the middle block. Most of the error is that of bfloat16."""
        linear = {name for name, m in quantized.named_modules() if isinstance(m, torch.nn.Linear)}
        assert self.in_8_bits(quantized) == {name for name in linear if not name.startswith("mid_block.")}
        assert any(name.startswith("mid_block.") for name in linear)
        expected = self.run(self.get_model())
        assert (self.run(quantized) - expected).square().mean().sqrt() < 0.2 * expected.std()

    def test_torchao_training(self, quantized):
        """Adapters over the 8 bits change the result and are trained."""
        from peft import LoraConfig

        before = self.run(quantized)
        quantized.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        assert max_difference(self.run(quantized), before) > 1e-2
        inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in self.get_dummy_inputs().items()}
        quantized(**inputs).sample.float().square().mean().backward()
        adapters = {name: p for name, p in quantized.named_parameters() if ".lora_" in name}
        assert adapters
        assert [name for name, p in adapters.items() if p.grad is None or not p.grad.any()] == []
        assert not any(p.requires_grad for name, p in quantized.named_parameters() if ".lora_" not in name)

    def test_torchao_dequantize(self, quantized):
        """Weights back in 16 bits, with the numbers that they had in 8."""
        weights = {name: quantized.get_submodule(name).weight.dequantize() for name in self.in_8_bits(quantized)}
        quantized.dequantize()
        assert self.in_8_bits(quantized) == set()
        assert all(torch.equal(quantized.get_submodule(name).weight, weight) for name, weight in weights.items())
        assert torch.isfinite(self.run(quantized)).all()


class TestPixelUNetTorchAo(PixelUNetTesterConfig, TorchAoTesterMixin):
    pass


class TestLatentUNetTorchAo(LatentUNetTesterConfig, TorchAoTesterMixin):
    pass


class TestTorchAo:
    """A pipeline in 8 bits: network and text encoder."""

    def test_quant_config_set_correctly_through_granular(self, tmp_path):
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
