# SPDX-License-Identifier: Apache-2.0
"""The denoising loop of every stage: text projected once, guidance split, no waiting for the device."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn import init
from torch.utils._python_dispatch import TorchDispatchMode

import diffusers_show1
from diffusers_show1 import TINY_PATH, Show1CascadePipeline, Show1UNet3DConditionModel
from diffusers_show1.sampling.loop import DenoisingMixin

from ..contract.components import SMALL_RUN, Calls, clip, pipeline, seeded
from ..golden.cases import max_difference


STAGES = ["base", "interpolation", "superres", "refine"]
PACKAGE = str(Path(diffusers_show1.__file__).parent)


def call(pipe, name: str, **changes):
    options = {**SMALL_RUN[name], "prompt": "a red circle", "output_type": "latent", "generator": seeded()}
    if name != "base":
        options |= {"frames": clip(frames=3), "input_type": "latent"}
    return pipe(**{**options, **changes}, return_dict=False)[0]


def text_layer(pipe):
    """The first layer that reads text."""
    ends = (".attentions.0.add_k_proj", ".attentions.0.transformer_blocks.0.attn2.to_k")
    return next(module for name, module in pipe.unet.named_modules() if name.endswith(ends))


def count(layer) -> list:
    calls: list = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("name", STAGES)
def test_text_is_projected_once_a_loop(name):
    """Once for each call of the loop (super-resolution's windows are a loop each), and not in every step."""
    pipe = pipeline(name)
    if name == "refine":  # there with diffusers' own network, which has no cache
        unet = Show1UNet3DConditionModel.from_config(pipe.unet.config)
        unet.load_state_dict(pipe.unet.state_dict())
        pipe = pipeline(name, unet=unet)
    layer = count(text_layer(pipe))
    with Calls(pipe.unet) as calls:
        call(pipe, name)
    loops = len({id(c["text_cache"]) for c in calls if "text_cache" in c})
    assert len(layer) == loops < len(calls)


@pytest.mark.parametrize("name", STAGES)
def test_split_guidance(name):
    """The two branches one after the other: half the batch, twice the calls, the same result."""
    pipe = pipeline(name)
    with Calls(pipe.unet) as whole:
        expected = call(pipe, name)
    with Calls(pipe.unet) as split:
        got = call(pipe, name, split_guidance=True)
    assert len(split) == 2 * len(whole)
    assert 2 * len(split[0]["sample"]) == len(whole[0]["sample"])
    assert max_difference(got, expected) < 1e-4
    # without guidance there is nothing to split
    with Calls(pipe.unet) as alone:
        call(pipe, name, split_guidance=True, guidance_scale=1.0)
    assert len(alone) == len(whole)


@pytest.mark.parametrize("split", [False, True])
def test_callback_may_change_text_and_weights(split):
    """What a callback changes is projected anew: embeddings, put in place or returned, and the network's weights."""
    pipe = pipeline("base")
    embeds, negative = pipe.encode_prompt("a red circle", device="cpu")
    other, _ = pipe.encode_prompt("a blue square on a black background", device="cpu")

    def run(callback):
        return call(
            pipe, "base", prompt=None, prompt_embeds=embeds.clone(), negative_prompt_embeds=negative,
            num_inference_steps=3, split_guidance=split, callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )  # fmt: skip

    def returned(pipe, step, t, tensors):
        return {"prompt_embeds": other}

    def in_place(pipe, step, t, tensors):
        tensors["prompt_embeds"].copy_(other)

    unchanged = run(None)
    assert max_difference(run(returned), unchanged) > 1e-4
    assert max_difference(run(in_place), run(returned)) == 0
    layer = text_layer(pipe)
    weight = layer.weight.data.clone()

    def turned(pipe, step, t, tensors):
        layer.weight.mul_(-1)

    with torch.no_grad():
        changed = run(turned)
        layer.weight.copy_(weight)
    assert max_difference(changed, unchanged) > 1e-5


def test_threads_do_not_share_text():
    """Two calls of one pipeline's networks at a time, each with a text of its own."""
    pipes = [pipeline("base")]
    pipes.append(type(pipes[0])(**pipes[0].components))
    pipes[1].set_progress_bar_config(disable=True)
    prompts = ["a red circle", "a blue square"]

    def run(pipe, prompt):
        return pipe(prompt, **SMALL_RUN["base"], generator=seeded(), output_type="pt").frames

    alone = list(map(run, pipes, prompts))
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(run, pipes, prompts))
    assert [max_difference(a, b) for a, b in zip(alone, together, strict=True)] == [0, 0]


class NoReading(TorchDispatchMode):
    """Fails where our own code takes a number out of a tensor, which makes the host wait for an accelerator."""

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            frame = sys._getframe(1)
            while frame.f_code.co_filename.startswith(str(Path(torch.__file__).parent)):
                frame = frame.f_back
            where = frame.f_code.co_filename
            assert not where.startswith(PACKAGE), f"{where}:{frame.f_lineno} reads a tensor"
            type(self).reads += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", STAGES)
def test_loop_reads_no_tensor(name, monkeypatch):
    """No `.item()`, `bool(tensor)` or indexing by a tensor in our part of the loop (schedulers have their own)."""
    pipe = pipeline(name)
    loop = DenoisingMixin.denoise

    def watched(self, *args, **kwargs):
        with NoReading():
            return loop(self, *args, **kwargs)

    monkeypatch.setattr(DenoisingMixin, "denoise", watched)
    call(pipe, name)


def test_reading_a_tensor_is_noticed():
    """The watch above sees a read in code of the package's folder."""
    with pytest.raises(AssertionError, match=r"example\.py:1 reads a tensor"), NoReading():
        exec(compile("bool(x)", f"{PACKAGE}/example.py", "exec"), {"x": torch.ones(())})


def test_loading_initialises_no_weights(monkeypatch):
    """Loading makes the networks without numbers and puts the file's in: not one call of torch.nn.init draws any."""
    drawn = []
    for name in ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"):
        function = getattr(init, name)

        def counting(tensor, *args, function=function, **kwargs):
            if tensor.device.type != "meta":
                drawn.append(tuple(tensor.shape))
            return function(tensor, *args, **kwargs)

        monkeypatch.setattr(init, name, counting)
    torch.nn.Linear(2, 2)
    assert len(drawn) == 2, "a module made by itself draws its numbers"
    drawn.clear()
    Show1CascadePipeline.from_pretrained(TINY_PATH)
    assert not drawn
