# SPDX-License-Identifier: Apache-2.0
"""Bad calls of any family's stages and cascade: (changed arguments, error, words of the message)."""

import math
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn

from .components import clip, seeded


IMAGE = PIL.Image.new("RGB", (12, 8))
Row = tuple[dict[str, Any], Any, list[str]]


def of_all(embeds: torch.Tensor) -> list[Row]:
    """Of every stage, and of the cascade; `embeds` are (1, tokens, width) of the text that the first one reads."""
    return [
        ({"prompt": None}, ValueError, ["`prompt`", "neither"]),
        ({"prompt": "\t"}, ValueError, ["`prompt`", "empty"]),
        ({"prompt": ["a", " "]}, ValueError, ["`prompt`", "['a', ' ']"]),
        ({"prompt": []}, ValueError, ["`prompt`", "empty list"]),
        ({"prompt": 7}, TypeError, ["`prompt`", "7"]),
        ({"prompt": ["a", None]}, TypeError, ["`prompt`", "None"]),
        ({"negative_prompt": 7}, TypeError, ["`negative_prompt`", "7"]),
        ({"negative_prompt": ["a", "b"]}, ValueError, ["`negative_prompt`", "2"]),
        ({"prompt_embeds": embeds}, ValueError, ["`prompt_embeds`", "both"]),
        (
            {"prompt": None, "prompt_embeds": embeds[0]},
            ValueError,
            ["`prompt_embeds`", f"({embeds.shape[1]}, {embeds.shape[2]})"],
        ),
        (
            {"prompt": None, "prompt_embeds": embeds, "negative_prompt_embeds": embeds[:, :5]},
            ValueError,
            ["`negative_prompt_embeds`", f"(1, 5, {embeds.shape[2]})"],
        ),
        ({"num_videos_per_prompt": 0}, ValueError, ["`num_videos_per_prompt`", "0"]),
        ({"num_videos_per_prompt": True}, ValueError, ["`num_videos_per_prompt`", "True"]),
        ({"output_type": "mp4"}, ValueError, ["`output_type`", "'mp4'"]),
        (
            {"callback_on_step_end": lambda *_: {}, "callback_on_step_end_tensor_inputs": ["noise"]},
            ValueError,
            ["`callback_on_step_end_tensor_inputs`", "noise"],
        ),
        ({"generator": 7}, TypeError, ["`generator`", "7"]),
        ({"generator": [seeded(), seeded()]}, ValueError, ["`generator`", "2"]),
        ({"generator": []}, ValueError, ["`generator`", "0"]),
        ({"generator": [7]}, TypeError, ["`generator`", "7"]),
    ]


def of_stages(embeds: torch.Tensor) -> list[Row]:
    """Of every stage."""
    return [
        ({"negative_prompt_embeds": embeds.repeat(3, 1, 1)}, ValueError, ["`negative_prompt_embeds`", "3"]),
        ({"prompt": None, "prompt_embeds": embeds[..., :5]}, ValueError, ["`prompt_embeds`", "5"]),
        ({"num_inference_steps": 0}, ValueError, ["`num_inference_steps`", "0"]),
        ({"num_inference_steps": 2.5}, ValueError, ["`num_inference_steps`", "2.5"]),
        ({"num_inference_steps": None}, ValueError, ["`num_inference_steps`", "None"]),
        ({"num_inference_steps": 1001}, ValueError, ["num_inference_steps", "1001"]),
        ({"timesteps": []}, ValueError, ["`timesteps`", "[]"]),
        ({"timesteps": 5}, ValueError, ["`timesteps`", "5"]),
        ({"timesteps": [1000]}, ValueError, ["`timesteps`", "1000"]),
        ({"timesteps": [1, 900]}, ValueError, ["`timesteps`", "[1, 900]"]),
        ({"timesteps": [900, 900]}, ValueError, ["`timesteps`", "[900, 900]"]),
        ({"sigmas": [14.0, 1.0, 0.0]}, ValueError, ["`sigmas`", "Scheduler", "[14.0, 1.0, 0.0]"]),
        ({"timesteps": [900], "sigmas": [1.0, 0.0]}, ValueError, ["Only one of `timesteps` or `sigmas`", "[900]"]),
        ({"guidance_scale": math.nan}, ValueError, ["`guidance_scale`", "nan"]),
        ({"guidance_scale": math.inf}, ValueError, ["`guidance_scale`", "inf"]),
        ({"guidance_scale": -1}, ValueError, ["`guidance_scale`", "-1"]),
        ({"guidance_scale": "7"}, ValueError, ["`guidance_scale`", "'7'"]),
    ]


def of_frames() -> list[Row]:
    """Of the stages that are given frames."""
    return [
        ({"frames": None}, ValueError, ["`frames`", "required"]),
        ({"frames": "video.mp4", "input_type": None}, TypeError, ["`frames`", "str"]),
        ({"frames": [], "input_type": None}, ValueError, ["`frames`", "empty"]),
        ({"frames": IMAGE, "input_type": None}, ValueError, ["`frames`", "single image"]),
        ({"frames": np.zeros((8, 12, 3)), "input_type": None}, ValueError, ["`frames`", "(8, 12, 3)"]),
        ({"frames": np.full((2, 8, 12, 3), np.nan), "input_type": None}, ValueError, ["`frames`", "nan"]),
        ({"frames": np.full((2, 8, 12, 3), 200.0), "input_type": None}, ValueError, ["`frames`", "200"]),
        ({"frames": torch.zeros(1, 3, 3, 8, 12), "input_type": None}, ValueError, ["`frames`", "`input_type"]),
        ({"frames": torch.zeros(1, 2, 3, 8, 12).byte(), "input_type": None}, ValueError, ["`frames`", "uint8"]),
        ({"frames": clip(2) * torch.nan}, ValueError, ["`frames`", "NaN"]),
        ({"frames": clip(2, 8, 12), "input_type": "np"}, ValueError, ["`input_type`", "'np'"]),
        ({"frames": clip(2, 8, 12, videos=3)}, ValueError, ["`frames`", "3"]),
        (
            {"frames": [IMAGE, PIL.Image.new("RGB", (12, 10))], "input_type": None},
            ValueError,
            ["`frames`", "(12, 10)"],
        ),
    ]


def watch(pipe: Any) -> list[str]:
    """A list that grows by a name when a network of the pipeline runs."""
    ran: list[str] = []
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            # `vae.encode` and `vae.decode` do not go through the VAE's own forward
            for module in (part.encoder, part.decoder) if hasattr(part, "quant_conv") else (part,):
                module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    return ran
