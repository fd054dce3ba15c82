# SPDX-License-Identifier: Apache-2.0
"""Frames of any kind to model tensors and back, and the windows that stages cut videos into. Pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def to_model_space(frames: Any, input_type: str | None = None, name: str = "frames") -> Tensor:
    """Any form of one or several videos -> a tensor in model space.

    Args:
        frames: a list of PIL images (one video) or a list of such lists; an array (f, h, w, 3) or (b, f, h, w, 3),
            uint8 or float in 0..1; a tensor (b, f, 3, h, w) or (f, 3, h, w) in 0..1 (`output_type="pt"`); a tensor
            (b, 3, f, h, w) in model space (`output_type="latent"` of a pixel stage); or a list of such tensors.
        input_type: `"pt"` or `"latent"`, for tensors whose layout does not tell (three frames); `None` reads it off
            the channel axis.
        name: the argument's name in messages.

    Returns:
        (b, 3, f, h, w) float32, nominally in [-1, 1].

    Raises:
        TypeError: not frames at all.
        ValueError: wrong number of axes, channels or range, frames of different sizes, or an ambiguous layout.
    """
    if isinstance(frames, (list, tuple)) and frames and all(isinstance(video, Tensor) for video in frames):
        videos = [_tensor_to_model_space(video, input_type, f"{name}[{i}]") for i, video in enumerate(frames)]
        if len({video.shape[1:] for video in videos}) > 1:
            raise ValueError(f"`{name}` must be videos of one shape, got {[tuple(video.shape) for video in videos]}.")
        return torch.cat(videos)
    if isinstance(frames, Tensor):
        return _tensor_to_model_space(frames, input_type, name)
    if input_type is not None and input_type != "pt":
        raise ValueError(f"`input_type` must be None or 'pt' when `{name}` is no tensor, got {input_type!r}.")
    if isinstance(frames, PIL.Image.Image):
        raise ValueError(f"`{name}` must be a video: a list of images, got a single image.")
    if isinstance(frames, (list, tuple)):
        frames = _list_to_array(frames, name)
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"`{name}` must be PIL images, a numpy array or a torch tensor, got {type(frames).__name__}.")
    if frames.ndim == 4:
        frames = frames[None]
    if frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(
            f"`{name}` must have shape (frames, h, w, 3) or (batch, frames, h, w, 3), got {frames.shape}."
        )
    _check_not_empty(frames.shape, name)
    if frames.dtype == np.uint8:
        video = torch.from_numpy(np.ascontiguousarray(frames)).float() / 255
    elif np.issubdtype(frames.dtype, np.floating):
        video = torch.from_numpy(np.ascontiguousarray(frames)).float()
        _check_unit_range(video, name)
    else:
        raise ValueError(f"`{name}` must be uint8 or float in 0..1, got dtype {frames.dtype}.")
    return video.permute(0, 4, 1, 2, 3) * 2 - 1


def _list_to_array(frames: list | tuple, name: str) -> np.ndarray:
    if not frames:
        raise ValueError(f"`{name}` must hold at least one frame, got an empty list.")
    if isinstance(frames[0], (list, tuple)):
        videos = [_list_to_array(video, f"{name}[{i}]") for i, video in enumerate(frames)]
        if any(v.shape != videos[0].shape for v in videos):
            raise ValueError(f"`{name}` must be videos of one shape, got {sorted({v.shape for v in videos})}.")
        return np.stack(videos)
    if all(isinstance(frame, PIL.Image.Image) for frame in frames):
        sizes = {frame.size for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"`{name}` must be frames of one size, got (width, height) {sorted(sizes)}.")
        return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    if all(isinstance(frame, np.ndarray) for frame in frames):
        if any(frame.shape != frames[0].shape for frame in frames):
            raise ValueError(f"`{name}` must be frames of one shape, got {sorted({f.shape for f in frames})}.")
        return np.stack(frames)
    raise TypeError(f"`{name}` must hold PIL images or arrays, got {sorted({type(f).__name__ for f in frames})}.")


def _tensor_to_model_space(frames: Tensor, input_type: str | None, name: str) -> Tensor:
    if frames.ndim == 4:
        frames = frames[None]
    if frames.ndim != 5:
        raise ValueError(f"`{name}` must have 5 axes, (b, f, 3, h, w) or (b, 3, f, h, w), got {tuple(frames.shape)}.")
    _check_not_empty(frames.shape, name)
    if not frames.is_floating_point():
        raise ValueError(f"`{name}` must be a floating-point tensor, got {frames.dtype}.")
    if input_type is None:
        layouts = [kind for kind, axis in (("pt", 2), ("latent", 1)) if frames.shape[axis] == 3]
        if len(layouts) != 1:
            raise ValueError(
                f"`{name}` of shape {tuple(frames.shape)} must have its 3 channels on axis 2 (frames in 0..1) or on "
                f"axis 1 (model space); pass `input_type='pt'` or `'latent'` where both fit."
            )
        input_type = layouts[0]
    if input_type not in ("pt", "latent"):
        raise ValueError(f"`input_type` must be None, 'pt' or 'latent', got {input_type!r}.")
    channels = frames.shape[2 if input_type == "pt" else 1]
    if channels != 3:
        raise ValueError(f"`{name}` must have 3 channels, got {channels} (shape {tuple(frames.shape)}).")
    frames = frames.detach().float()
    if input_type == "latent":
        if not torch.isfinite(frames).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
        return frames
    _check_unit_range(frames, name)
    return frames.transpose(1, 2) * 2 - 1


def _check_not_empty(shape: tuple[int, ...] | torch.Size, name: str) -> None:
    if 0 in shape:
        raise ValueError(f"`{name}` must not be empty, got shape {tuple(shape)}.")


def _check_unit_range(video: Tensor, name: str) -> None:
    low, high = video.min().item(), video.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
        raise ValueError(f"`{name}` must lie in 0..1, got {low:.3g}..{high:.3g}.")


def from_model_space(video: Tensor, output_type: str) -> Any:
    """(b, c, f, h, w) in model space -> frames in the form of `output_type` (see `VideoPipelineOutput`)."""
    if output_type == "latent":
        return video
    batch, channels, num_frames, height, width = video.shape
    device = video.device if output_type == "pt" else "cpu"
    frames = torch.empty(batch, num_frames, channels, height, width, device=device)
    for i in range(num_frames):  # beside the result, float32 holds one frame at a time
        frames[:, i] = (video[:, :, i].float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return frames
    array = frames.permute(0, 1, 3, 4, 2).numpy()
    if output_type == "np":
        return array
    if output_type == "pil":
        return [[PIL.Image.fromarray((f * 255).round().astype(np.uint8)) for f in v] for v in array]
    raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")


def truncate_to_uint8(video: Tensor) -> np.ndarray:
    """(b, c, f, h, w) in model space -> uint8 (b, f, h, w, c), cut off as the released code does, not rounded."""
    frames = video.float().mul(0.5).add(0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).cpu().numpy()
    return (frames * 255).astype(np.uint8)


def resize_uint8(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (b, f, h, w, c) -> (b, f, height, width, c) by Pillow's bicubic filter, as the released code resizes."""
    size = (width, height)
    return np.stack([[np.asarray(PIL.Image.fromarray(f).resize(size)) for f in video] for video in frames])
