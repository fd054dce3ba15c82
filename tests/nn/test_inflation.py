# SPDX-License-Identifier: Apache-2.0
"""A video network made from an image network, reported parameter by parameter."""

import pytest
import torch
from torch import nn

from diffusers_show1.nn.inflation import inflate
from diffusers_show1.nn.temporal import TemporalConvLayer


class Image(nn.Module):
    def __init__(self, channels: int = 3):
        super().__init__()
        self.conv_in = nn.Conv2d(channels, 16, 1)
        self.out = nn.Linear(16, 4)


class Video(nn.Module):
    def __init__(self, channels: int = 3):
        super().__init__()
        self.conv_in = nn.Conv2d(channels, 16, 1)
        self.temp_conv = TemporalConvLayer(16, 8)
        self.last = nn.Linear(16, 4)


def rename(name: str) -> str:
    return name.replace("out.", "last.")


def is_temporal(name: str) -> bool:
    return name.startswith("temp_")


def test_report_and_weights():
    image, video = Image(), Video(5).double()
    before = {name: weight.clone() for name, weight in video.temp_conv.state_dict().items()}
    report = inflate(image, video, is_temporal, rename)
    assert report.copied == ("conv_in.bias", "last.weight", "last.bias")
    assert report.extended == ("conv_in.weight",)
    assert report.fresh == tuple(f"temp_conv.{name}" for name in before)
    assert torch.equal(video.last.weight.float(), image.out.weight)
    assert torch.equal(video.conv_in.weight[:, :3].float(), image.conv_in.weight)
    assert not video.conv_in.weight[:, 3:].any()
    assert all(torch.equal(weight, before[name]) for name, weight in video.temp_conv.state_dict().items())
    assert video.last.weight.dtype == torch.float64


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match=r"the video UNet lacks: out\.weight"):
        inflate(Image(), Video(), is_temporal)
    with pytest.raises(ValueError, match=r"`conv_in\.weight` is \(16, 5, 1, 1\) in `unet` and \(16, 3, 1, 1\)"):
        inflate(Image(5), Video(), is_temporal, rename)
    with pytest.raises(ValueError, match=r"only `in_channels` may grow"):
        inflate(Image(), Video(5), is_temporal, rename, growing=())
    with pytest.raises(ValueError, match=r"lacks parameters of the spatial layers: \['temp_conv"):
        inflate(Image(), Video(), lambda name: False, rename)


def test_nothing_is_changed_before_an_error():
    video = Video(5)
    before = {name: weight.clone() for name, weight in video.state_dict().items()}
    with pytest.raises(ValueError, match="spatial"):
        inflate(Image(), video, lambda name: False, rename)
    assert all(torch.equal(weight, before[name]) for name, weight in video.state_dict().items())
