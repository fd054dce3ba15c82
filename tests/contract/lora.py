# SPDX-License-Identifier: Apache-2.0
"""What diffusers promises of every pipeline that takes adapters, under the names that diffusers' own tests have."""

import pytest
import torch

from ..golden.cases import max_difference


class LoraTesterMixin:
    """Adapters of random weights, by diffusers' methods on the pipeline."""

    @property
    def networks(self):
        return self.pipeline_class._lora_loadable_modules

    def add_adapters(self, pipe, *names):
        from peft import LoraConfig

        for i, name in enumerate(names):
            for component in self.networks:
                torch.manual_seed(i)
                config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
                getattr(pipe, component).add_adapter(config, adapter_name=name)
        return pipe

    def run(self, pipe, **changes):
        return pipe(**{**self.get_dummy_inputs(), **changes}).frames

    def test_loadable_modules_of_the_class(self):
        """diffusers' tests, and `fuse_lora(components=...)`, ask the class."""
        assert self.networks == self.pipeline_class._lora_networks == self.get_pipeline()._lora_loadable_modules

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

    def test_simple_inference_with_text_denoiser_lora_save_load(self, tmp_path, base_pipe_output):
        """Saved under the pipeline's names, unloaded and loaded again."""
        from peft.utils import get_peft_model_state_dict

        pipe = self.add_adapters(self.get_pipeline(), "a")
        adapted = self.run(pipe)
        layers = {
            f"{name}_lora_layers": get_peft_model_state_dict(getattr(pipe, name), adapter_name="a")
            for name in self.networks
        }
        self.pipeline_class.save_lora_weights(tmp_path, **layers)
        pipe.unload_lora_weights()
        assert torch.equal(self.run(pipe), base_pipe_output)
        pipe.load_lora_weights(tmp_path)
        assert pipe.get_list_adapters() == {name: ["default_0"] for name in self.networks}
        assert max_difference(self.run(pipe), adapted) < 1e-5

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


class LoraBlocksTesterMixin:
    """Weights by block, of networks that go down and up again."""

    def test_simple_inference_with_text_denoiser_block_scale_for_all_dict_options(self):
        """A weight for a part, for a block, for a layer of a block, and 1 for all that has none."""
        pipe = self.add_adapters(self.get_pipeline(), "a")
        for name in self.networks:
            unet = getattr(pipe, name)
            up = {f"block_{i}": [10.0 * i + k for k in range(len(b.resnets))] for i, b in enumerate(unet.up_blocks)}
            pipe.set_adapters("a", {name: {"mid": [3.0], "down": {"block_0": 2.0}, "up": {**up, "block_0": 7.0}}})
            layers = [(key.split("."), layer) for key, layer in unet.named_modules() if hasattr(layer, "scaling")]
            for (part, block, _kind, layer, *_), module in layers:
                expected = {"mid_block": 3.0, "down_blocks": 2.0 if block == "0" else 1.0}.get(part, 1.0)
                if part == "up_blocks":
                    expected = 7.0 if block == "0" else 10.0 * int(block) + int(layer)
                assert module.scaling == {"a": expected}
            assert {keys[0] for keys, _ in layers} >= {"down_blocks", "mid_block", "up_blocks"}
            pipe.set_adapters("a", {name: {"down": 5.0}})
            assert {module.scaling["a"] for keys, module in layers if keys[0] == "down_blocks"} == {5.0}
            assert {module.scaling["a"] for keys, module in layers if keys[0] != "down_blocks"} == {1.0}
