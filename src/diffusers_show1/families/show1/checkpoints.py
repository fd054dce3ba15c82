# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Show-1, and of the models that its stages came from: DeepFloyd IF and ModelScope.

Values only, so that a model is recognised without importing torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ladder.checkpoints import Checkpoints, Foreign, Loan, Network, licence_page
from . import FAMILY


if TYPE_CHECKING:
    from .cascade import Show1CascadePipeline

NETWORK = "Show1UNet3DConditionModel"
FIRST_FRAME_REPO = "DeepFloyd/IF-II-L-v1.0"  # the released code makes the first frame of super-resolution with it

_IF_UNET: dict[str, Any] = {
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "attention_head_dim": 64,
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
}
_KEYFRAME_UNET: dict[str, Any] = {
    **_IF_UNET,
    "sample_size": 64,
    "in_channels": 3,
    "block_out_channels": [320, 640, 960, 1280],
    "cross_attention_dim": 1280,
    "down_block_types": ["ResnetDownsampleBlock3D"] + 3 * ["SimpleCrossAttnDownBlock3D"],
    "layers_per_block": 3,
    "up_block_types": 3 * ["SimpleCrossAttnUpBlock3D"] + ["ResnetUpsampleBlock3D"],
}
PUBLISHED_UNETS: dict[str, dict[str, Any]] = {
    "base": _KEYFRAME_UNET,
    "interpolation": {**_KEYFRAME_UNET, "in_channels": 7},
    "superres": {
        **_IF_UNET,
        "sample_size": 256,
        "in_channels": 6,
        "block_out_channels": [128, 256, 512, 768, 768],
        "class_embed_type": "timestep",
        "cross_attention_dim": 768,
        "down_block_types": 3 * ["ResnetDownsampleBlock3D"] + 2 * ["SimpleCrossAttnDownBlock3D"],
        "layers_per_block": [2, 2, 3, 4, 2],
        "mid_block_scale_factor": 1.4142271248762552,  # close to the square root of 2, as published
        "resnet_out_scale_factor": 1.4142271248762552,
        "resnet_skip_time_act": True,
        "time_embedding_act_fn": "gelu",
        "time_embedding_dim": 768,
        "up_block_types": 2 * ["SimpleCrossAttnUpBlock3D"] + 3 * ["ResnetUpsampleBlock3D"],
    },
    "refine": {
        "sample_size": 32,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "transfromer_in_opt": True,
        "use_linear_projection": True,
    },
}

_IF_I = ("IFPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline")
_IF_II = ("IFSuperResolutionPipeline", "IFImg2ImgSuperResolutionPipeline", "IFInpaintingSuperResolutionPipeline")
_MODELSCOPE = ("TextToVideoSDPipeline", "VideoToVideoSDPipeline")
assert FAMILY.published_network is not None

CHECKPOINTS = Checkpoints(
    licence="Show-1's weights are published under CC BY-NC 4.0 "
    "(https://creativecommons.org/licenses/by-nc/4.0/): not for commercial use, and with credit to their authors, "
    "Zhang et al., Show-1, https://arxiv.org/abs/2309.15818. Its pixel networks began as DeepFloyd IF's.",
    foreign=(
        Foreign(
            "if",
            "a DeepFloyd IF model",
            {**dict.fromkeys(_IF_I, ("base", "interpolation")), **dict.fromkeys(_IF_II, ("superres",))},
            licence="DeepFloyd IF's weights are under the DeepFloyd IF License Agreement, which a user accepts on the "
            "Hub: {page}. It binds what is made of them, this conversion included.",
            page="https://huggingface.co/DeepFloyd/IF-I-XL-v1.0",
            # interpolation reads the noisy frames, the known ones, and the mask that says which are known
            inflated={"base": {}, "interpolation": {"in_channels": 7}, "superres": {}},
        ),
        Foreign(
            "modelscope",
            "a ModelScope video model",
            dict.fromkeys(_MODELSCOPE, ("refine",)),
            licence="ModelScope's text-to-video weights, and zeroscope's, which come from them, are published under "
            "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): not for commercial use.",
            libraries=("diffusers", FAMILY.published_network[0]),
        ),
    ),
    network_names={"UNet3DConditionModel": NETWORK, "ShowOneUNet3DConditionModel": NETWORK},
    networks={rung: Network(NETWORK, config) for rung, config in PUBLISHED_UNETS.items()},
    loans={
        "first_frame": Loan(
            f"DeepFloyd IF-II ({FIRST_FRAME_REPO})",
            "if",
            "superres",
            {"unet": "first_frame_unet", "scheduler": "first_frame_scheduler"},
        )
    },
)


def load_published(first_frame: Any = FIRST_FRAME_REPO, **kwargs: Any) -> Show1CascadePipeline:
    """The cascade of the four published stages, on the CPU.

    Args:
        first_frame: the image super-resolution model of the first frame, a Hub id, a folder or a loaded pipeline;
            `None` runs without. DeepFloyd IF-II is gated: where it cannot be had, a warning points to its licence
            page, and the cascade runs without it.
        kwargs: for `from_pretrained`, such as `dtype=torch.float16`.
    """
    from .cascade import Show1CascadePipeline

    stages: dict[str, Any] = {rung: repository.repo_id for rung, repository in FAMILY.published.items()}
    return Show1CascadePipeline.from_stages(**stages, first_frame=load_first_frame(first_frame, **kwargs), **kwargs)


def load_first_frame(source: Any = FIRST_FRAME_REPO, **kwargs: Any) -> Any:
    """DeepFloyd IF-II for the first frame of super-resolution, or `None` with a warning where it cannot be had.

    Args:
        source: a Hub id, a folder, a loaded pipeline, or `None`.
        kwargs: for `from_pretrained`.
    """
    if not isinstance(source, (str, Path)):
        return source
    from diffusers import IFSuperResolutionPipeline
    from diffusers.utils import logging

    unused = {"tokenizer": None, "text_encoder": None, "safety_checker": None, "watermarker": None}
    try:
        return IFSuperResolutionPipeline.from_pretrained(str(source), **unused, **kwargs)
    except OSError as error:
        logging.get_logger(__name__).warning(
            f"{source} makes the first frame of super-resolution in the released code, and cannot be loaded "
            f"({str(error).strip().splitlines()[0]}). Continuing without it. It is gated: {licence_page(str(source))}."
        )
        return None
