# SPDX-License-Identifier: Apache-2.0
"""What diffusers promises of every model, under the names that diffusers' own tests have."""

import json
from typing import Any

import pytest
import torch
from diffusers import AutoModel
from diffusers.models.attention import AttentionModuleMixin
from torch import nn

from ..golden.cases import max_difference
from .components import seeded


class BaseModelTesterConfig:
    """A concrete config names the class and gives a small config and inputs for a call."""

    model_class: type[nn.Module]
    attention_modules: int
    output_shape: tuple[int, ...]

    def get_init_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def get_dummy_inputs(self, seed: int = 0) -> dict[str, Any]:
        raise NotImplementedError

    def get_model(self, **changes: Any) -> Any:
        """Random weights everywhere: at its start a network's temporal layers do nothing."""
        torch.manual_seed(0)
        model = self.model_class(**{**self.get_init_dict(), **changes})
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
        return model.eval()


class ModelTesterMixin:
    """Outputs, saving and loading, types."""

    def test_output(self):
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            sample = model(**inputs).sample
        assert sample.shape == self.output_shape
        assert torch.isfinite(sample).all()
        assert sample.std() > 0

    def test_dict_tuple_outputs_equivalent(self):
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            as_tuple = model(**inputs, return_dict=False)
            assert isinstance(as_tuple, tuple)
            assert torch.equal(as_tuple[0], model(**inputs).sample)

    def test_determinism(self):
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            assert torch.equal(model(**inputs).sample, model(**inputs).sample)

    def test_every_input_counts(self):
        """Each input changes the output, and only that of its own video."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            expected = model(**inputs).sample
            for name in inputs:
                changed = {**inputs, name: inputs[name].clone()}
                row = changed[name][1]
                changed[name][1] = row.flip(-1) if row.ndim else row // 2
                sample = model(**changed).sample
                assert max_difference(sample[1], expected[1]) > 1e-4, name
                assert max_difference(sample[0], expected[0]) < 1e-4, name

    def test_every_parameter_counts(self):
        """A gradient reaches every parameter: none is left out of the forward pass."""
        model = self.get_model()
        model(**self.get_dummy_inputs()).sample.square().mean().backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        # a bias of the keys shifts all scores of a softmax alike
        assert [name for name in without if not name.endswith(("to_k.bias", "add_k_proj.bias", "k_proj.bias"))] == []

    def test_frames_see_each_other(self):
        """A change in one frame reaches the others: through the temporal layers only."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        changed = {**inputs, "sample": inputs["sample"].clone()}
        changed["sample"][:, :, 0] += 1
        with torch.no_grad():
            difference = (model(**changed).sample - model(**inputs).sample).abs()
        assert difference[:, :, -1].max() > 1e-4

    @pytest.mark.parametrize("frames", [1, 2, 5])
    def test_any_number_of_frames(self, frames):
        model, inputs = self.get_model(), self.get_dummy_inputs()
        inputs["sample"] = torch.randn(2, inputs["sample"].shape[1], frames, 8, 12, generator=seeded())
        with torch.no_grad():
            sample = model(**inputs).sample
        assert sample.shape == (2, self.output_shape[1], frames, 8, 12)
        assert torch.isfinite(sample).all()

    @pytest.mark.parametrize("kind", [int, float, torch.tensor])
    def test_timestep_kinds(self, kind):
        """A number, a tensor of no axes, and one value a video are the same."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        inputs["timestep"] = torch.tensor([651, 651])
        with torch.no_grad():
            expected = model(**inputs).sample
            assert torch.equal(model(**{**inputs, "timestep": kind(651)}).sample, expected)

    def test_save_load(self, tmp_path):
        """Saved and loaded: the same numbers bit for bit, by the class itself and by `AutoModel`."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == self.model_class.__name__
        loaded = self.model_class.from_pretrained(tmp_path)
        written, read = (
            {k: v for k, v in json.loads(m.to_json_string()).items() if not k.startswith("_")} for m in (model, loaded)
        )
        assert written == read
        assert list(loaded.state_dict()) == list(model.state_dict())
        with torch.no_grad():
            expected = model(**inputs).sample
            assert torch.equal(loaded(**inputs).sample, expected)
        (tmp_path / "unet").mkdir()
        model.save_pretrained(tmp_path / "unet")
        (tmp_path / "model_index.json").write_text(
            json.dumps({"_class_name": "X", "unet": ["diffusers_show1", self.model_class.__name__]})
        )
        automatic = AutoModel.from_pretrained(str(tmp_path), subfolder="unet")
        assert type(automatic) is self.model_class
        with torch.no_grad():
            assert torch.equal(automatic(**inputs).sample, expected)

    def test_save_load_sharded(self, tmp_path):
        model, inputs = self.get_model(), self.get_dummy_inputs()
        model.save_pretrained(tmp_path, max_shard_size="500KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        with torch.no_grad():
            loaded = self.model_class.from_pretrained(tmp_path)
            assert torch.equal(loaded(**inputs).sample, model(**inputs).sample)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_from_save_pretrained_dtype(self, tmp_path, dtype):
        model = self.get_model().to(dtype)
        model.save_pretrained(tmp_path, variant="half")
        loaded = self.model_class.from_pretrained(tmp_path, variant="half", dtype=dtype)
        assert {p.dtype for p in loaded.parameters()} == {dtype}

    def test_to_dtype(self):
        """In bfloat16 the numbers stay close to those in float32."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            expected = model(**inputs).sample
            model.to(torch.bfloat16)
            half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
            sample = model(**half).sample
        assert sample.dtype == torch.bfloat16
        assert (sample.float() - expected).square().mean().sqrt() < 0.1 * expected.std()

    def test_layerwise_casting_inference(self):
        """Weights stored in 8 bits and computed in float32: convolutions and linear layers, but not the norms."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            expected = model(**inputs).sample
            model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
            stored = {name: p.dtype for name, p in model.named_parameters()}
            sample = model(**inputs).sample
        assert stored["mid_block.resnets.0.conv1.weight"] == torch.float8_e4m3fn
        assert stored["mid_block.temp_convs.0.conv1.2.weight"] == torch.float8_e4m3fn
        assert stored["mid_block.temp_attentions.0.proj_in.weight"] == torch.float8_e4m3fn
        assert stored["mid_block.resnets.0.norm1.weight"] == torch.float32
        assert stored["time_embedding.linear_1.weight"] == torch.float32
        assert torch.isfinite(sample).all()
        assert 0 < max_difference(sample, expected)
        assert (sample - expected).square().mean().sqrt() < 0.5 * expected.std()

    def test_keep_in_config(self):
        """`from_config` of a model's own config makes the same network again."""
        model = self.get_model()
        again = self.model_class.from_config(model.config)
        shapes = {k: v.shape for k, v in model.state_dict().items()}
        assert {k: v.shape for k, v in again.state_dict().items()} == shapes


class UNetTesterMixin:
    """What diffusers' UNets can do besides: feed-forwards in chunks, FreeU."""

    @pytest.mark.parametrize("dim", [0, 1])
    def test_forward_chunking(self, dim):
        """The same numbers, from more and smaller calls of every feed-forward."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        counts = {n: 0 for n, _ in model.named_modules() if n.endswith(".ff")}
        for name in counts:

            def count(*_, name=name):
                counts[name] += 1

            model.get_submodule(name).register_forward_hook(count)
        expected = model(**inputs).sample.detach()  # with gradients: without, a CPU takes parts by itself
        assert set(counts.values()) == {1}
        model.enable_forward_chunking(chunk_size=2, dim=dim)
        assert max_difference(model(**inputs).sample, expected) < 1e-5
        assert min(counts.values()) >= 1 + 2
        again = dict(counts)
        model.disable_forward_chunking()
        assert torch.equal(model(**inputs).sample, expected)
        assert {name: counts[name] - again[name] for name in counts} == dict.fromkeys(counts, 1)

    def test_freeu(self):
        """It changes the numbers, in both of its parts, and leaves no trace."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        off = {"s1": 1.0, "s2": 1.0, "b1": 1.0, "b2": 1.0}
        with torch.no_grad():
            expected = model(**inputs).sample
            model.enable_freeu(**off)
            assert max_difference(model(**inputs).sample, expected) < 1e-4
            for factor in off:
                model.enable_freeu(**{**off, factor: 0.3})
                assert max_difference(model(**inputs).sample, expected) > 1e-4, factor
            model.disable_freeu()
            assert torch.equal(model(**inputs).sample, expected)


class TrainingTesterMixin:
    """Training: gradients with and without checkpointing, adapters."""

    def test_training(self):
        """A few steps on one batch lower its loss."""
        model, inputs = self.get_model().train(), self.get_dummy_inputs()
        target = torch.randn(self.output_shape, generator=seeded(5))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(4):
            loss = (model(**inputs).sample - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]

    def test_gradient_checkpointing_equivalence(self):
        """The same loss and the same gradient of every parameter, computed in pieces (dropout off)."""

        def gradients(checkpointing: bool):
            model = self.get_model().train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            runs = []
            hook = model.mid_block.resnets[0].register_forward_hook(lambda *_: runs.append(1))
            if checkpointing:
                model.enable_gradient_checkpointing()
                assert model.is_gradient_checkpointing
            loss = model(**self.get_dummy_inputs()).sample.square().mean()
            loss.backward()
            hook.remove()
            assert len(runs) == 1 + checkpointing  # computed a second time on the way back
            return loss.item(), {name: p.grad for name, p in model.named_parameters()}

        (loss, plain), (loss_again, pieces) = gradients(False), gradients(True)
        assert loss == pytest.approx(loss_again, rel=1e-6)
        for name, gradient in plain.items():
            assert max_difference(gradient, pieces[name]) < 1e-5 * (1 + gradient.abs().max()), name

    def test_gradient_checkpointing_reaches_every_block(self):
        model = self.get_model()
        model.enable_gradient_checkpointing()
        blocks = [*model.down_blocks, model.mid_block, *model.up_blocks]
        assert all(block.gradient_checkpointing for block in blocks)
        model.disable_gradient_checkpointing()
        assert not any(block.gradient_checkpointing for block in blocks)

    def test_lora_adapter(self, tmp_path):
        """A PEFT adapter on the attentions trains, saves, loads, and leaves with no trace."""
        from peft import LoraConfig

        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            expected = model(**inputs).sample
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        with torch.no_grad():
            adapted = model(**inputs).sample
        assert max_difference(adapted, expected) > 1e-3
        model.save_lora_adapter(tmp_path)
        other = self.get_model()
        other.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
        with torch.no_grad():
            assert max_difference(other(**inputs).sample, adapted) < 1e-5
            other.unload_lora()
            assert max_difference(other(**inputs).sample, expected) < 1e-5


class AttentionTesterMixin:
    """The attention modules, and the backends that they can be computed by."""

    def attentions(self, model: nn.Module) -> dict[str, AttentionModuleMixin]:
        return {name: m for name, m in model.named_modules() if isinstance(m, AttentionModuleMixin)}

    def test_attention_modules_count(self):
        """Every attention in the network is one that diffusers can find, and has a processor of its own."""
        model = self.get_model()
        found = self.attentions(model)
        assert len(found) == self.attention_modules
        assert {name.removesuffix(".processor") for name in model.attn_processors} == set(found)
        assert len({id(m.processor) for m in found.values()}) == len(found)

    @pytest.mark.parametrize("backend", ["native", "_native_math"])
    def test_set_attention_backend(self, backend, same_attention_backend, monkeypatch):
        """A chosen backend reaches every attention module, and is the one that computes."""
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            expected = model(**inputs).sample
        model.set_attention_backend(backend)
        processors = [m.processor for m in self.attentions(model).values()]
        assert {p._attention_backend.value for p in processors} == {backend}
        key = processors[0]._attention_backend
        calls, real = [], registry._backends[key]

        def count(*args, **kwargs):
            calls.append(1)
            return real(*args, **kwargs)

        monkeypatch.setitem(registry._backends, key, count)
        with torch.no_grad():
            assert max_difference(model(**inputs).sample, expected) < 1e-5
        assert len(calls) == self.attention_modules
        model.reset_attention_backend()
        assert {p._attention_backend for p in processors} == {None}

    def test_unknown_attention_backend(self):
        with pytest.raises(ValueError, match="nonesuch"):
            self.get_model().set_attention_backend("nonesuch")

    def test_xformers(self):
        """It has no operators for a CPU: that is said before anything changes. Without it, the default is back."""
        model = self.get_model()
        processors = [m.processor for m in self.attentions(model).values()]
        if not torch.cuda.is_available():
            with pytest.raises((ModuleNotFoundError, ValueError), match="xformers"):
                model.enable_xformers_memory_efficient_attention()
            assert {p._attention_backend for p in processors} == {None}
        for module in self.attentions(model).values():
            module.set_attention_backend("xformers")  # what enabling comes to where there is a GPU
        model.disable_xformers_memory_efficient_attention()
        assert {p._attention_backend for p in processors} == {None}

    def test_get_set_processor(self):
        from diffusers.models.attention_processor import AttnProcessor

        model = self.get_model()
        model.set_attn_processor({name: AttnProcessor() for name in model.attn_processors})
        assert {type(m.get_processor()) for m in self.attentions(model).values()} == {AttnProcessor}
        with pytest.raises(ValueError, match="number of processors"):
            model.set_attn_processor({next(iter(model.attn_processors)): AttnProcessor()})

    @pytest.mark.parametrize("slice_size", ["auto", "max", 1])
    def test_set_attention_slice(self, slice_size, monkeypatch):
        """Every attention is computed in as many calls as it has slices of heads, and the numbers stay."""
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

        model, inputs = self.get_model(), self.get_dummy_inputs()
        key, real = registry.get_active_backend()
        calls = []

        def count(*args, **kwargs):
            calls.append(1)
            return real(*args, **kwargs)

        monkeypatch.setitem(registry._backends, key, count)
        with torch.no_grad():
            expected = model(**inputs).sample
            assert len(calls) == self.attention_modules
            calls.clear()
            model.set_attention_slice(slice_size)
            assert max_difference(model(**inputs).sample, expected) < 1e-5
            heads = [m.heads for m in self.attentions(model).values()]
            sizes = [max(h // 2, 1) if slice_size == "auto" else 1 for h in heads]
            assert len(calls) == sum(-(-h // size) for h, size in zip(heads, sizes, strict=True)) > len(heads)
            model.set_attention_slice(None)
            assert torch.equal(model(**inputs).sample, expected)

    def test_set_default_attn_processor(self):
        """What was set is gone: another processor, a backend, slices."""

        class Silent:
            def __call__(self, attn, query, *args, **kwargs):
                return torch.zeros_like(query)

        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            expected = model(**inputs).sample
            model.set_attn_processor(Silent())
            assert max_difference(model(**inputs).sample, expected) > 1e-4
            model.set_default_attn_processor()
            model.set_attention_slice(1)
            model.set_default_attn_processor()
            assert torch.equal(model(**inputs).sample, expected)
        assert {type(m.processor) for m in self.attentions(model).values()} == {
            type(m)._default_processor_cls for m in self.attentions(model).values()
        }

    def test_fuse_unfuse_qkv_projections(self):
        """The call is accepted and changes nothing: fused projections are not supported."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():
            expected = model(**inputs).sample
            model.fuse_qkv_projections()
            assert torch.equal(model(**inputs).sample, expected)
            model.unfuse_qkv_projections()


class TorchCompileTesterMixin:
    """torch.compile traces the whole network into one graph, and computes the same."""

    @pytest.fixture(autouse=True)
    def _fresh_compiler(self):
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    def test_torch_compile_fullgraph(self):
        model, inputs = self.get_model(), self.get_dummy_inputs()
        graphs = []

        def backend(graph, _):
            graphs.append(graph)
            return graph.forward

        with torch.no_grad():
            expected = model(**inputs).sample
            compiled = torch.compile(model, backend=backend, fullgraph=True)
            assert max_difference(compiled(**inputs).sample, expected) < 1e-5
            other = self.get_dummy_inputs(seed=1)
            assert max_difference(compiled(**other).sample, model(**other).sample) < 1e-5
        assert len(graphs) == 1  # one graph, not traced anew for other numbers


class RegionalCompileTesterMixin:
    """Compiling block by block."""

    def test_compile_repeated_blocks(self):
        """The regional compilation names blocks that the network has, and computes the same."""
        model, inputs = self.get_model(), self.get_dummy_inputs()
        with torch.no_grad():  # within torch's own limit of recompilations: above it, `fullgraph` is an error
            expected = model(**inputs).sample
            model.compile_repeated_blocks(backend="eager", fullgraph=True)
            compiled = {type(m).__name__ for m in model.modules() if m._compiled_call_impl is not None}
            assert compiled == set(self.repeated_blocks)
            assert max_difference(model(**inputs).sample, expected) < 1e-5
        torch.compiler.reset()
