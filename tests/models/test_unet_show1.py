# SPDX-License-Identifier: Apache-2.0
"""The video UNet: published parameters, image UNets inflated, stock configs translated, bad configs."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel
from torch import nn

from diffusers_show1 import Show1UNet3DConditionModel

from ..contract.components import seeded
from ..golden.cases import max_difference


PUBLISHED = Path(__file__).parent / "published"
PARAMETERS = {
    "base": 1_726_848_390,
    "interpolation": 1_726_859_910,
    "sr1": 796_343_046,
    "sr2": 1_411_233_860,
}

SMALL = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("ResnetDownsampleBlock3D", "SimpleCrossAttnDownBlock3D"),
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock3D", "ResnetUpsampleBlock3D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}


# --- published checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameters(name):
    """Every published config gives exactly the checkpoint's parameter names, shapes and count, in its order."""
    config = json.loads((PUBLISHED / f"{name}.json").read_text())
    shapes = json.loads(gzip.decompress((PUBLISHED / f"{name}.shapes.json.gz").read_bytes()))
    with torch.device("meta"):
        unet = Show1UNet3DConditionModel.from_config(config)
    assert {key: list(value.shape) for key, value in unet.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS[name]
    assert sum(math.prod(shape) for shape in shapes.values()) == PARAMETERS[name]
    assert unet.size_divisor == {"base": 8, "interpolation": 8, "sr1": 16, "sr2": 1}[name]


def test_published_config_is_kept():
    """Saving writes the published keys back, the misspelled one too."""
    config = json.loads((PUBLISHED / "sr2.json").read_text())
    with torch.device("meta"):
        unet = Show1UNet3DConditionModel.from_config(config)
    written = json.loads(unet.to_json_string())
    assert {key: written[key] for key in config if not key.startswith("_")} == {
        key: value for key, value in config.items() if not key.startswith("_")
    }


# --- image UNets inflated -----------------------------------------------------------------------------------------


def image_unet(style: str, **changes) -> UNet2DConditionModel:
    torch.manual_seed(0)
    if style == "deepfloyd":
        config = {
            "in_channels": 3,
            "out_channels": 6,
            "block_out_channels": (32, 64),
            "layers_per_block": (1, 2),
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "act_fn": "gelu",
            "attention_head_dim": 8,
            "cross_attention_dim": 32,
            "cross_attention_norm": "group_norm",
            "encoder_hid_dim": 48,
            "encoder_hid_dim_type": "text_proj",
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 4,
            "resnet_time_scale_shift": "scale_shift",
            "resnet_skip_time_act": True,
            "resnet_out_scale_factor": 1.4142,
            "mid_block_scale_factor": 1.4142,
            "time_embedding_act_fn": "gelu",
            "time_embedding_dim": 64,
        }
    else:
        config = {
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 8 if style == "stable diffusion 1" else (4, 8),
            "use_linear_projection": style == "stable diffusion 2",
            "cross_attention_dim": 32,
        }
    return UNet2DConditionModel(**{**config, **changes}).eval()


def frames_and_text(unet) -> tuple[torch.Tensor, torch.Tensor]:
    width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    return (
        torch.randn(2, unet.config.in_channels, 3, 8, 12, generator=seeded()),
        torch.randn(2, 7, width, generator=seeded(1)),
    )


def frame_by_frame(unet: UNet2DConditionModel, video: torch.Tensor, text: torch.Tensor, **kwargs) -> torch.Tensor:
    return torch.stack([unet(frame, 333, text, **kwargs).sample for frame in video.unbind(2)], dim=2)


@pytest.mark.parametrize("style", ["deepfloyd", "stable diffusion 1", "stable diffusion 2"])
@torch.no_grad()
def test_from_2d(style):
    """An inflated image UNet predicts what the image UNet does, frame by frame; a temporal weight changes that."""
    image = image_unet(style)
    video, text = frames_and_text(image)
    unet = Show1UNet3DConditionModel.from_2d(image).eval()
    expected = frame_by_frame(image, video, text)
    assert max_difference(unet(video, 333, text).sample, expected) < 1e-5
    for weight in (unet.mid_block.temp_convs[0].conv4[-1].weight, unet.mid_block.temp_attentions[0].proj_out.weight):
        nn.init.normal_(weight, std=0.1)
        assert max_difference(unet(video, 333, text).sample, expected) > 1e-3
        nn.init.zeros_(weight)
        assert max_difference(unet(video, 333, text).sample, expected) < 1e-5


@torch.no_grad()
def test_from_2d_with_noise_level():
    image = image_unet("deepfloyd", class_embed_type="timestep", in_channels=6)
    video, text = frames_and_text(image)
    labels = torch.tensor([250, 100])
    unet = Show1UNet3DConditionModel.from_2d(image).eval()
    expected = frame_by_frame(image, video, text, class_labels=labels)
    assert max_difference(unet(video, 333, text, labels).sample, expected) < 1e-5


@torch.no_grad()
def test_from_2d_with_more_input_channels():
    """New input channels start at weight zero: they change nothing until they are trained (interpolation)."""
    image = image_unet("deepfloyd")
    video, text = frames_and_text(image)
    unet = Show1UNet3DConditionModel.from_2d(image, in_channels=7).eval()
    assert unet.config.in_channels == 7
    condition = torch.randn(2, 4, 3, 8, 12, generator=seeded(2))
    sample = unet(torch.cat([video, condition], dim=1), 333, text).sample
    assert max_difference(sample, frame_by_frame(image, video, text)) < 1e-5
    nn.init.normal_(unet.conv_in.weight[:, 3:])
    assert max_difference(unet(torch.cat([video, condition], dim=1), 333, text).sample, sample) > 1e-3


def test_from_2d_leaves_the_image_unet_alone():
    image = image_unet("stable diffusion 1")
    before = {key: value.clone() for key, value in image.state_dict().items()}
    unet = Show1UNet3DConditionModel.from_2d(image)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in image.state_dict().items())


def test_from_2d_keeps_the_dtype():
    unet = Show1UNet3DConditionModel.from_2d(image_unet("stable diffusion 1").to(torch.bfloat16))
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("style", "changes", "overrides", "words"),
    [
        ("stable diffusion 1", {}, {"block_out_channels": (32, 32)}, ["in_channels"]),
        ("stable diffusion 1", {}, {"in_channels": 3}, ["conv_in.weight"]),
        ("stable diffusion 1", {"down_block_types": ("DownBlock2D", "AttnDownBlock2D")}, {}, ["AttnDownBlock3D"]),
        ("stable diffusion 1", {"transformer_layers_per_block": 2}, {}, ["transformer_layers_per_block", "2"]),
        ("stable diffusion 1", {"attention_type": "gated", "cross_attention_dim": 768}, {}, ["attention_type"]),
        (
            "stable diffusion 1",
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8},
            {},
            ["8"],
        ),
    ],
)
def test_from_2d_refuses(style, changes, overrides, words):
    """What has no counterpart in the video UNet is told, not dropped."""
    image = image_unet(style, **changes)
    with pytest.raises(ValueError, match="`") as error:
        Show1UNet3DConditionModel.from_2d(image, **overrides)
    assert all(word in str(error.value) for word in words)


# --- diffusers' own video UNet ------------------------------------------------------------------------------------


def stock_unet(**changes) -> UNet3DConditionModel:
    torch.manual_seed(0)
    config = {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    }
    unet = UNet3DConditionModel(**{**config, **changes}).eval()
    for parameter in unet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return unet


@pytest.mark.parametrize("changes", [{}, {"attention_head_dim": 16, "layers_per_block": 2}], ids=["8", "16"])
@torch.no_grad()
def test_stock_config_is_translated(tmp_path, changes):
    """A `UNet3DConditionModel` checkpoint (ModelScope, zeroscope) loads and gives the same numbers."""
    stock = stock_unet(**changes)
    stock.save_pretrained(tmp_path)
    unet = Show1UNet3DConditionModel.from_pretrained(tmp_path).eval()
    assert set(unet.state_dict()) == set(stock.state_dict())
    video, text = torch.randn(2, 4, 3, 8, 12, generator=seeded()), torch.randn(2, 7, 32, generator=seeded(1))
    expected = stock(video, 333, text).sample
    assert max_difference(unet(video, 333, text).sample, expected) < 1e-5
    odd = video[..., :7, :11]
    assert max_difference(unet(odd, 333, text).sample, stock(odd, 333, text).sample) < 1e-5


@torch.no_grad()
def test_freeu_is_diffusers():
    """With the same weights the same numbers as diffusers' own network, at sizes that are powers of two and others."""
    stock = stock_unet(
        block_out_channels=(32, 32, 64),
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
    )
    unet = Show1UNet3DConditionModel.from_config(stock.config).eval()
    unet.load_state_dict(stock.state_dict())
    for height, width in ((8, 8), (8, 12)):
        video = torch.randn(1, 4, 2, height, width, generator=seeded())
        text = torch.randn(1, 7, 32, generator=seeded(1))
        plain = unet(video, 5, text).sample
        for network in (stock, unet):
            network.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
        expected = stock(video, 5, text).sample
        assert max_difference(expected, plain) > 1e-2
        assert max_difference(unet(video, 5, text).sample, expected) < 1e-5
        for network in (stock, unet):
            network.disable_freeu()
        assert torch.equal(unet(video, 5, text).sample, plain)


@torch.no_grad()
def test_stock_object_config_is_translated():
    """The config of a stock network in memory, too."""
    stock = stock_unet()
    unet = Show1UNet3DConditionModel.from_config(stock.config).eval()
    unet.load_state_dict(stock.state_dict())
    video, text = torch.randn(1, 4, 2, 8, 8, generator=seeded()), torch.randn(1, 7, 32, generator=seeded(1))
    assert max_difference(unet(video, 5, text).sample, stock(video, 5, text).sample) < 1e-5


def test_translated_config_is_saved_as_our_own(tmp_path):
    """Saved again, the config needs no second translation."""
    unet = Show1UNet3DConditionModel.from_config(stock_unet().config)
    unet.save_pretrained(tmp_path)
    again = Show1UNet3DConditionModel.from_pretrained(tmp_path)
    for key in ("attention_head_dim", "transfromer_in_opt", "transformer_in_head_dim", "mid_block_type"):
        assert again.config[key] == unet.config[key], key


# --- a fresh network, and what it refuses -------------------------------------------------------------------------


@torch.no_grad()
def test_fresh_temporal_layers_are_the_identity():
    """A network starts as an image network: a frame's prediction does not depend on the other frames."""
    torch.manual_seed(0)
    unet = Show1UNet3DConditionModel(**SMALL).eval()
    video, text = torch.randn(1, 4, 3, 8, 12, generator=seeded()), torch.randn(1, 7, 32, generator=seeded(1))
    whole = unet(video, 7, text).sample
    alone = unet(video[:, :, 1:2], 7, text).sample
    assert max_difference(whole[:, :, 1:2], alone) < 1e-5


@pytest.mark.parametrize("size", [(7, 12), (8, 11)])
def test_size_must_fit_the_halvings(size):
    unet = Show1UNet3DConditionModel(**SMALL)
    with pytest.raises(ValueError, match=rf"`sample`.*multiples of 2.*{size[0]}x{size[1]}"):
        unet(torch.zeros(1, 4, 1, *size), 1, torch.zeros(1, 7, 32))


def test_noise_level_is_required():
    unet = Show1UNet3DConditionModel(**SMALL, class_embed_type="timestep")
    with pytest.raises(ValueError, match="`class_labels` is required"):
        unet(torch.zeros(1, 4, 1, 8, 8), 1, torch.zeros(1, 7, 32))


@torch.no_grad()
def test_class_embeddings():
    """The other two kinds of class embedding: a table, and a vector as it is."""
    torch.manual_seed(0)
    video, text = torch.randn(2, 4, 2, 8, 8, generator=seeded()), torch.randn(2, 7, 32, generator=seeded(1))
    table = Show1UNet3DConditionModel(**SMALL, num_class_embeds=5).eval()
    samples = [table(video, 3, text, torch.tensor([i, 4])).sample for i in (0, 1)]
    assert max_difference(samples[0][0], samples[1][0]) > 1e-4
    assert max_difference(samples[0][1], samples[1][1]) < 1e-5
    vector = Show1UNet3DConditionModel(**SMALL, class_embed_type="identity").eval()
    zero = vector(video, 3, text, torch.zeros(2, 128)).sample
    assert max_difference(vector(video, 3, text, torch.ones(2, 128)).sample, zero) > 1e-4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("down_block_types", ("DownBlock2D", "DownBlock3D")),
        ("down_block_types", ("DownBlock3D",)),
        ("up_block_types", ("UpBlock3D", "DownBlock3D")),
        ("mid_block_type", "UNetMidBlock2D"),
        ("block_out_channels", (32, 48)),
        ("layers_per_block", (1, 2, 3)),
        ("attention_head_dim", (8, 8, 8)),
        ("only_cross_attention", (True,)),
        ("cross_attention_norm", "batch_norm"),
        ("class_embed_type", "projection"),
        ("addition_embed_type", "image"),
        ("encoder_hid_dim_type", "image_proj"),
        ("resnet_time_scale_shift", "ada_group"),
        ("dual_cross_attention", True),
        ("num_attention_heads", 8),
        ("time_embedding_type", "fourier"),
        ("transformer_layers_per_block", 2),
        ("time_cond_proj_dim", 16),
    ],
)
def test_bad_config(key, value):
    """A config that the network would misread is refused, naming key and value."""
    with pytest.raises(ValueError, match=f"`{key}`") as error:
        Show1UNet3DConditionModel(**{**SMALL, key: value})
    assert f"`{key}`" in str(error.value)
    shown = value if not isinstance(value, tuple) or key != "only_cross_attention" else list(value)
    assert str(shown) in str(error.value) or str(list(value)) in str(error.value)
