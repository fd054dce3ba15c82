# SPDX-License-Identifier: Apache-2.0
"""The arguments that every stage's call has, described once.

`documented` puts them into a call's docstring, so that `help(pipe)` and the reference show all of them; the source of
a stage describes its own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar


Function = TypeVar("Function", bound=Callable[..., Any])

ARGUMENTS = {
    "prompt": "one prompt or a list; not with `prompt_embeds`.",
    "num_inference_steps": "at least 1, at most the scheduler's training timesteps.",
    "timesteps": "falling diffusion timesteps, to be used in place of `num_inference_steps`.",
    "sigmas": """falling noise levels (sigma, 0 for none), likewise, for schedulers that take them, as
        `EulerDiscreteScheduler` does: one more than steps, the last is where the result is.""",
    "guidance_scale": "at least 0; guidance is off up to 1.",
    "guidance_interval": """(start, stop), fractions of the steps: the first int(start·steps) and those from
        int(stop·steps) on are not guided and cost half as much. 0 is the noisiest end, 1 the cleanest. A `guider` has
        a start and a stop of its own.""",
    "split_guidance": """the network takes the two branches of guidance one after the other, not as one batch: half
        the activations, the same result.""",
    "negative_prompt": "what guidance leads away from (`None`: the empty prompt).",
    "num_videos_per_prompt": "at least 1; `frames`, if any, hold one video for each of them, one a prompt, or one.",
    "eta": "DDIM's noise, for schedulers that know it.",
    "generator": "one generator for everything, or a list of one a video.",
    "latents": "initial noise (b, c, f, h, w) instead of drawn noise.",
    "prompt_embeds": "(prompts, tokens, width) from `encode_prompt`.",
    "negative_prompt_embeds": "likewise, of the negative prompts.",
    "input_type": """`"pt"` or `"latent"` (a pixel stage's) where the layout of `frames` does not tell.""",
    "clean_caption": "DeepFloyd IF's caption cleaning before encoding.",
    "final_sigmas_type": """`"sigma_min"` for the last DPM-Solver++ step of the released code.""",
    "output_type": """`"pil"`, `"np"`, `"pt"` or `"latent"`, see `VideoPipelineOutput`.""",
    "return_dict": "a `VideoPipelineOutput` rather than a tuple.",
    "cross_attention_kwargs": '`{"scale": number}`, how much of its adapters (LoRA) the network uses.',
    "callback_on_step_end": """called as `(pipe, step, timestep, tensors)` after each step; may return changed
        tensors. `pipe._interrupt = True` ends the loop.""",
    "callback_on_step_end_tensor_inputs": ("which of `latents`, `prompt_embeds`, `negative_prompt_embeds` it gets."),
    "window_store": """a `WindowStore`, which is given each window when it is finished, in the model's own range, and
        from which the windows that an earlier run of this call has finished are taken over.""",
    "window_noise": """`"independent"`: every window has noise of its own. `"same"`: all windows have the same, as in
        the released code.""",
}
_RAISES = """
Raises:
    ValueError, TypeError: before any model runs, naming the argument, its value and what is allowed.
"""


def documented(function: Function) -> Function:
    """Completes the `Args:` of a call's docstring, in the order of its signature, and its `Raises:`."""
    text = inspect.cleandoc(function.__doc__ or "")
    head, found, rest = text.partition("\nArgs:\n")
    own: dict[str, str] = {}
    if found:
        end = re.search(r"\n(?=\S)|\Z", rest)
        listed, rest = rest[: end.start()], rest[end.start() :]
        for entry in re.split(r"\n(?=    \S)", listed.strip("\n")):
            name, _, told = entry.strip().partition(": ")
            own[name] = told
    elif (end := re.search(r"\n(?=Returns:|Raises:)", text)) is not None:
        head, rest = text[: end.start()], text[end.start() :]
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    lines = [f"    {name}: {own.get(name) or _laid_out(ARGUMENTS[name])}" for name in names]
    rest = rest.strip("\n")
    parts = [head.rstrip(), "", "Args:", *lines, "", rest]
    if "Raises:" not in rest:
        parts.append(_RAISES.rstrip())
    function.__doc__ = "\n".join(parts) + "\n"
    return function


def _laid_out(text: str) -> str:
    return re.sub(r"\n\s*", "\n        ", text)
