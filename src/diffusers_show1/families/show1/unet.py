# SPDX-License-Identifier: Apache-2.0
"""The video UNet of all four Show-1 stages (paper section 3.2, figure 4a).

An image UNet in which every spatial layer is followed by a temporal one:

    ResNet block  ->  temporal convolution (four 1-D convolutions over the frames)
    attention     ->  temporal attention   (each position attends to itself in the other frames, without the text)

Spatial layers treat the frames as a batch of images; temporal layers put the frame axis back. Shape suffixes below:
B videos, F frames, N = B·F images, C channels, H W height and width, P = H·W positions, L text tokens, D text width.

The network exists in two dialects, mixed freely block by block, with the parameter names of the published checkpoints:

    pixel stages (DeepFloyd IF)   Resnet{Down,Up}sampleBlock3D, SimpleCrossAttn{Down,Up}Block3D and mid block
    latent stage (ModelScope)     {Down,Up}Block3D, CrossAttn{Down,Up}Block3D and mid block

Three facts of the published checkpoints that their configs do not show:
  * `attention_head_dim` is the head *size* in the spatial attention of the Simple blocks, and the *number* of heads in
    their temporal attention and in both attentions of the CrossAttn blocks;
  * the temporal convolutions and `transformer_in.norm` always have 32 groups, whatever `norm_num_groups` says;
  * the norms of temporal layers pool over all frames of a video, all other norms over one frame.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import FromOriginalModelMixin, PeftAdapterMixin, UNet2DConditionLoadersMixin
from diffusers.loaders.single_file_utils import load_single_file_checkpoint
from diffusers.models.activations import get_activation
from diffusers.models.embeddings import TextTimeEmbedding, TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from ...nn.added_kv import AddedKVAttention
from ...nn.attention import SlicedAttentionMixin
from ...nn.caching import FeatureCacheMixin
from ...nn.cpu import channels_last
from ...nn.freeu import FreeUBlock, FreeUMixin
from ...nn.inflation import inflate
from ...nn.temporal import TemporalConvLayer, TemporalTransformer
from ...nn.text_cache import TextCache, TextCacheMixin
from ...nn.transformer import ForwardChunkingMixin, SpatialTransformer
from .unet_config import PUBLISHED, TEMPORAL_NORM_GROUPS, check_config, per_block, translate


TRANSFORMER_IN_HEADS = 8


class _Block(nn.Module):
    """What down, middle and up blocks share: building their layers in the right dialect, and running them.

    The dialect is read off the block's published name: "Simple..." has `AddedKVAttention`, "CrossAttn..." has
    `SpatialTransformer`, the others have no attention at all; "Simple..." and "Resnet..." resample with ResNet blocks
    (and use the pixel networks' time and scale conventions), the others with plain convolutions.
    """

    gradient_checkpointing = False

    def __init__(self, block_type: str, config: dict[str, Any], time_dim: int):
        super().__init__()
        self.simple = "Simple" in block_type
        self.pixel = self.simple or block_type.startswith("Resnet")
        self.has_cross_attention = "CrossAttn" in block_type
        self._config = config
        self._time_dim = time_dim
        self.resnets = nn.ModuleList()
        self.temp_convs = nn.ModuleList()
        if self.has_cross_attention:
            self.attentions = nn.ModuleList()
            self.temp_attentions = nn.ModuleList()

    def resnet(
        self, in_channels: int, out_channels: int, scale: float | None = None, **resample: bool
    ) -> ResnetBlock2D:
        c = self._config
        return ResnetBlock2D(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=self._time_dim,
            eps=c["norm_eps"],
            groups=c["norm_num_groups"],
            time_embedding_norm=c["resnet_time_scale_shift"],
            non_linearity=c["act_fn"],
            skip_time_act=c["resnet_skip_time_act"] if self.pixel else False,
            output_scale_factor=scale or (c["resnet_out_scale_factor"] if self.pixel else 1.0),
            **resample,
        )

    def add_layer(self, in_channels: int, out_channels: int, scale: float | None = None) -> None:
        self.resnets.append(self.resnet(in_channels, out_channels, scale))
        self.temp_convs.append(TemporalConvLayer(out_channels, TEMPORAL_NORM_GROUPS))

    def add_attention(self, channels: int, head_dim: int, only_cross_attention: bool) -> None:
        c = self._config
        if self.simple:
            self.attentions.append(
                AddedKVAttention(
                    channels,
                    channels // head_dim,
                    c["cross_attention_dim"],
                    c["norm_num_groups"],
                    c["cross_attention_norm"],
                    only_cross_attention,
                )
            )
        else:
            self.attentions.append(
                SpatialTransformer(
                    channels,
                    head_dim,
                    c["cross_attention_dim"],
                    c["norm_num_groups"],
                    c["use_linear_projection"],
                    only_cross_attention,
                )
            )
        # Here `head_dim` is the number of heads in both dialects.
        self.temp_attentions.append(
            TemporalTransformer(channels, head_dim, channels // head_dim, c["norm_num_groups"])
        )

    def run(self, function, *args):
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(function, *args)
        return function(*args)

    def attend(self, i: int, x_NCHW: Tensor, text_BLD: Tensor, num_frames: int, cache: TextCache) -> Tensor:
        """Spatial and temporal attention."""
        spatial = self.attentions[i]
        text = cache.once(spatial, spatial.project_text, text_BLD)
        return self.temp_attentions[i](spatial(x_NCHW, text, num_frames), num_frames)

    def layer(
        self, i: int, x_NCHW: Tensor, time_NT: Tensor, text_BLD: Tensor, num_frames: int, cache: TextCache
    ) -> Tensor:
        """ResNet, temporal convolution, and where the block has them spatial and temporal attention."""
        x_NCHW = self.temp_convs[i](self.resnets[i](x_NCHW, time_NT), num_frames)
        return self.attend(i, x_NCHW, text_BLD, num_frames, cache) if self.has_cross_attention else x_NCHW


class DownBlock(_Block):
    """`layers` layers, then (but for the last block) a halving of height and width. Also returns every skip."""

    def __init__(
        self,
        block_type: str,
        config: dict[str, Any],
        time_dim: int,
        in_channels: int,
        out_channels: int,
        layers: int,
        head_dim: int,
        only_cross_attention: bool,
        downsample: bool,
    ):
        super().__init__(block_type, config, time_dim)
        for i in range(layers):
            self.add_layer(in_channels if i == 0 else out_channels, out_channels)
            if self.has_cross_attention:
                self.add_attention(out_channels, head_dim, only_cross_attention)
        self.downsamplers = None
        if downsample and self.pixel:
            self.downsamplers = nn.ModuleList([self.resnet(out_channels, out_channels, down=True)])
        elif downsample:
            self.downsamplers = nn.ModuleList(
                [Downsample2D(out_channels, use_conv=True, padding=config["downsample_padding"], name="op")]
            )

    def forward(
        self, x_NCHW: Tensor, time_NT: Tensor, text_BLD: Tensor, num_frames: int, cache: TextCache
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        skips: tuple[Tensor, ...] = ()
        for i in range(len(self.resnets)):
            x_NCHW = self.run(self.layer, i, x_NCHW, time_NT, text_BLD, num_frames, cache)
            skips += (x_NCHW,)
        if self.downsamplers is not None:
            down = self.downsamplers[0]
            x_NCHW = down(x_NCHW, time_NT) if self.pixel else down(x_NCHW)
            skips += (x_NCHW,)
        return x_NCHW, skips


class MidBlock(_Block):
    """One layer without attention, then attention and a second layer."""

    def __init__(
        self,
        block_type: str,
        config: dict[str, Any],
        time_dim: int,
        channels: int,
        head_dim: int,
        only_cross_attention: bool,
    ):
        super().__init__(block_type, config, time_dim)
        for _ in range(2):
            self.add_layer(channels, channels, scale=config["mid_block_scale_factor"])
        self.add_attention(channels, head_dim, only_cross_attention)

    def _forward(self, x_NCHW: Tensor, time_NT: Tensor, text_BLD: Tensor, num_frames: int, cache: TextCache) -> Tensor:
        x_NCHW = self.temp_convs[0](self.resnets[0](x_NCHW, time_NT), num_frames)
        x_NCHW = self.attend(0, x_NCHW, text_BLD, num_frames, cache)
        return self.temp_convs[1](self.resnets[1](x_NCHW, time_NT), num_frames)

    def forward(self, x_NCHW: Tensor, time_NT: Tensor, text_BLD: Tensor, num_frames: int, cache: TextCache) -> Tensor:
        return self.run(self._forward, x_NCHW, time_NT, text_BLD, num_frames, cache)


class UpBlock(_Block, FreeUBlock):
    """`layers` layers, each fed one skip of the way down, then (but for the last block) twice the height and width."""

    def __init__(
        self,
        block_type: str,
        config: dict[str, Any],
        time_dim: int,
        in_channels: int,
        prev_channels: int,
        out_channels: int,
        layers: int,
        head_dim: int,
        only_cross_attention: bool,
        upsample: bool,
    ):
        super().__init__(block_type, config, time_dim)
        for i in range(layers):
            skip_channels = in_channels if i == layers - 1 else out_channels
            self.add_layer((prev_channels if i == 0 else out_channels) + skip_channels, out_channels)
            if self.has_cross_attention:
                self.add_attention(out_channels, head_dim, only_cross_attention)
        self.upsamplers = None
        if upsample and self.pixel:
            self.upsamplers = nn.ModuleList([self.resnet(out_channels, out_channels, up=True)])
        elif upsample:
            self.upsamplers = nn.ModuleList([Upsample2D(out_channels, use_conv=True)])

    def forward(
        self,
        x_NCHW: Tensor,
        skips: tuple[Tensor, ...],
        time_NT: Tensor,
        text_BLD: Tensor,
        num_frames: int,
        cache: TextCache,
        upsample_size: tuple[int, int] | None,
    ) -> Tensor:
        for i in range(len(self.resnets)):
            x_NCHW = torch.cat(self.weigh(x_NCHW, skips[-1 - i]), dim=1)
            x_NCHW = self.run(self.layer, i, x_NCHW, time_NT, text_BLD, num_frames, cache)
        if self.upsamplers is not None:
            up = self.upsamplers[0]
            x_NCHW = up(x_NCHW, time_NT) if self.pixel else up(x_NCHW, upsample_size)
        return x_NCHW


class Show1UNet3DConditionModel(
    ModelMixin,
    SlicedAttentionMixin,
    ForwardChunkingMixin,
    FreeUMixin,
    FeatureCacheMixin,
    TextCacheMixin,
    ConfigMixin,
    UNet2DConditionLoadersMixin,
    PeftAdapterMixin,
    FromOriginalModelMixin,
):
    r"""The video UNet of Show-1 (section 3.2): loads every published Show-1 UNet, and ModelScope's and zeroscope's.

    The arguments are those of the published `unet/config.json` files, with diffusers' meaning but for
    `attention_head_dim` (see the top of this file). Keys that no published checkpoint uses are accepted only at their
    published value and raise a `ValueError` otherwise.

    Parameters:
        sample_size (`int` or `tuple[int, int]`, *optional*): Width the network was trained at; informative.
        in_channels (`int`, defaults to 4): 3 keyframes, 7 interpolation (noisy RGB, condition RGB, mask),
            6 super-resolution (noisy RGB, condition RGB), 4 latents.
        out_channels (`int`, defaults to 4): channels of the prediction; twice the image channels when the variance is
            predicted as well (6 in the published pixel networks).
        center_input_sample (`bool`): maps the sample from 0..1 to -1..1 first.
        flip_sin_to_cos (`bool`): order of the time embedding, as in diffusers.
        freq_shift (`int`): of the time embedding, as in diffusers.
        down_block_types (`tuple[str]`): block names, outermost first.
        up_block_types (`tuple[str]`): block names, innermost first.
        mid_block_type (`str`): `"UNetMidBlock3DCrossAttn"` or `"UNetMidBlock3DSimpleCrossAttn"`.
        block_out_channels (`tuple[int]`): channels a block; multiples of 32.
        layers_per_block (`int` or `tuple[int]`): layers a block on the way down; the way up has one more.
        downsample_padding (`int`): of the convolutions between latent blocks.
        act_fn (`str`): activation of the ResNet blocks and the output.
        norm_num_groups (`int`): groups of the spatial norms; temporal ones always have 32.
        norm_eps (`float`): of the spatial norms.
        cross_attention_dim (`int`): width of the text the attentions see (a multiple of 32 with
            `cross_attention_norm="group_norm"`).
        encoder_hid_dim (`int`, *optional*): width of the incoming text when it is projected first
            (`encoder_hid_dim_type="text_proj"`).
        encoder_hid_dim_type (`str`, *optional*): `"text_proj"`, which follows from `encoder_hid_dim`, or `None`.
        attention_head_dim (`int` or `tuple[int]`): see the top of this file.
        addition_embed_type (`str`, *optional*): `"text"` adds the pooled text to the time embedding.
        addition_embed_type_num_heads (`int`): heads of that pooling.
        class_embed_type (`str`, *optional*): `"timestep"` embeds `class_labels` (the noise level of the condition of
            super-resolution 1, section 3.5) as a timestep, `"identity"` adds them as they are.
        num_class_embeds (`int`, *optional*): size of a table of class embeddings.
        time_embedding_dim (`int`, *optional*): of the time embedding, by default four times the outermost block's.
        time_embedding_act_fn (`str`, *optional*): activation of all that was added up in the time embedding.
        timestep_post_act (`str`, *optional*): activation behind the timestep's own part of it.
        resnet_time_scale_shift (`str`): `"default"` or `"scale_shift"`.
        resnet_skip_time_act (`bool`): pixel blocks only, as in DeepFloyd IF.
        resnet_out_scale_factor (`float`): divides the output of ResNet blocks; pixel blocks only, as in DeepFloyd IF.
        mid_block_scale_factor (`float`): divides the middle ResNet blocks' output.
        cross_attention_norm (`str`, *optional*): `None`, `"group_norm"` or `"layer_norm"` on the text, Simple blocks.
        only_cross_attention (`bool` or `tuple[bool]`): whether a block attends to the text only.
        mid_block_only_cross_attention (`bool`, *optional*): the same for the middle block.
        use_linear_projection (`bool`): linear instead of 1x1 convolution around the CrossAttn blocks' attention.
        transfromer_in_opt (`bool`): a temporal transformer right after the first convolution (published spelling).
        transformer_in_head_dim (`int`, defaults to 64): size of that transformer's eight heads.
        dual_cross_attention (`bool`): `False` only.
        transformer_layers_per_block (`int`): 1 only.
        num_attention_heads (`int`, *optional*): `None` only.
        addition_time_embed_dim (`int`, *optional*): `None` only.
        upcast_attention (`bool`): `False` only.
        time_embedding_type (`str`): `"positional"` only.
        time_cond_proj_dim (`int`, *optional*): `None` only.
        conv_in_kernel (`int`): 3 only.
        conv_out_kernel (`int`): 3 only.
        projection_class_embeddings_input_dim (`int`, *optional*): `None` only.
        class_embeddings_concat (`bool`): `False` only.

    Raises:
        ValueError: a value that no published checkpoint uses, naming the key and what it may be.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["DownBlock", "MidBlock", "UpBlock"]
    # without ResnetBlock2D: on the way up no two are of one shape, and torch gives up at eight of a kind
    _repeated_blocks = ["TemporalConvLayer", "AddedKVAttention", "SpatialTransformer", "TemporalTransformer"]
    _skip_layerwise_casting_patterns = ["norm", "time_embedding", "class_embedding", "add_embedding"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        center_input_sample: bool = False,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock3D",
            "CrossAttnDownBlock3D",
            "CrossAttnDownBlock3D",
            "DownBlock3D",
        ),
        mid_block_type: str = "UNetMidBlock3DCrossAttn",
        up_block_types: tuple[str, ...] = (
            "UpBlock3D",
            "CrossAttnUpBlock3D",
            "CrossAttnUpBlock3D",
            "CrossAttnUpBlock3D",
        ),
        only_cross_attention: bool | tuple[bool, ...] = False,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int | tuple[int, ...] = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1280,
        transformer_layers_per_block: int = 1,
        encoder_hid_dim: int | None = None,
        encoder_hid_dim_type: str | None = None,
        attention_head_dim: int | tuple[int, ...] = 8,
        num_attention_heads: int | None = None,
        dual_cross_attention: bool = False,
        use_linear_projection: bool = False,
        class_embed_type: str | None = None,
        addition_embed_type: str | None = None,
        addition_time_embed_dim: int | None = None,
        num_class_embeds: int | None = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        resnet_skip_time_act: bool = False,
        resnet_out_scale_factor: float = 1.0,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        time_embedding_act_fn: str | None = None,
        timestep_post_act: str | None = None,
        time_cond_proj_dim: int | None = None,
        conv_in_kernel: int = 3,
        conv_out_kernel: int = 3,
        projection_class_embeddings_input_dim: int | None = None,
        class_embeddings_concat: bool = False,
        mid_block_only_cross_attention: bool | None = None,
        cross_attention_norm: str | None = None,
        addition_embed_type_num_heads: int = 64,
        transfromer_in_opt: bool = False,
        transformer_in_head_dim: int = 64,
    ):
        super().__init__()
        config = dict(self.config)
        check_config(config)
        blocks = len(block_out_channels)
        layers = per_block(layers_per_block, blocks, "layers_per_block")
        head_dims = per_block(attention_head_dim, blocks, "attention_head_dim")
        if mid_block_only_cross_attention is None:
            mid_block_only_cross_attention = only_cross_attention if isinstance(only_cross_attention, bool) else False
        only_cross = per_block(only_cross_attention, blocks, "only_cross_attention")
        if encoder_hid_dim is not None and encoder_hid_dim_type is None:
            self.register_to_config(encoder_hid_dim_type="text_proj")

        # 1. input, time, text, class
        self.conv_in = nn.Conv2d(in_channels, block_out_channels[0], conv_in_kernel, padding=conv_in_kernel // 2)
        time_dim = time_embedding_dim or 4 * block_out_channels[0]
        self.time_proj = Timesteps(block_out_channels[0], flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(
            block_out_channels[0], time_dim, act_fn=act_fn, post_act_fn=timestep_post_act
        )
        self.time_embed_act = get_activation(time_embedding_act_fn) if time_embedding_act_fn is not None else None
        self.encoder_hid_proj = nn.Linear(encoder_hid_dim, cross_attention_dim) if encoder_hid_dim else None
        if num_class_embeds is not None and class_embed_type is None:
            self.class_embedding = nn.Embedding(num_class_embeds, time_dim)
        elif class_embed_type == "timestep":
            self.class_embedding = TimestepEmbedding(block_out_channels[0], time_dim, act_fn=act_fn)
        elif class_embed_type == "identity":
            self.class_embedding = nn.Identity()
        else:
            self.class_embedding = None
        self.add_embedding = None
        if addition_embed_type == "text":
            self.add_embedding = TextTimeEmbedding(
                encoder_hid_dim or cross_attention_dim, time_dim, num_heads=addition_embed_type_num_heads
            )
        self.transformer_in = None
        if transfromer_in_opt:
            self.transformer_in = TemporalTransformer(
                block_out_channels[0], TRANSFORMER_IN_HEADS, transformer_in_head_dim, TEMPORAL_NORM_GROUPS
            )

        # 2. down
        self.down_blocks = nn.ModuleList()
        for i, block_type in enumerate(down_block_types):
            self.down_blocks.append(
                DownBlock(
                    block_type,
                    config,
                    time_dim,
                    in_channels=block_out_channels[max(i - 1, 0)],
                    out_channels=block_out_channels[i],
                    layers=layers[i],
                    head_dim=head_dims[i],
                    only_cross_attention=only_cross[i],
                    downsample=i < blocks - 1,
                )
            )

        # 3. middle
        self.mid_block = MidBlock(
            mid_block_type, config, time_dim, block_out_channels[-1], head_dims[-1], mid_block_only_cross_attention
        )

        # 4. up
        self.up_blocks = nn.ModuleList()
        channels = list(reversed(block_out_channels))
        for i, block_type in enumerate(up_block_types):
            # A list of head sizes runs downwards in the Simple up blocks too: so the published code, and diffusers' 2D
            # UNet, read it, and weights were trained.
            head_dim = head_dims[i] if block_type.startswith("Simple") else head_dims[-1 - i]
            self.up_blocks.append(
                UpBlock(
                    block_type,
                    config,
                    time_dim,
                    in_channels=channels[min(i + 1, blocks - 1)],
                    prev_channels=channels[max(i - 1, 0)],
                    out_channels=channels[i],
                    layers=layers[-1 - i] + 1,
                    head_dim=head_dim,
                    only_cross_attention=only_cross[-1 - i],
                    upsample=i < blocks - 1,
                )
            )

        # 5. output
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, block_out_channels[0], eps=norm_eps)
        self.conv_act = get_activation(act_fn)
        self.conv_out = nn.Conv2d(block_out_channels[0], out_channels, conv_out_kernel, padding=conv_out_kernel // 2)

        # Skips of ResNet upsamplers can't be matched to an odd size; convolutional upsamplers are told the size.
        exact = any(block.pixel and block.upsamplers is not None for block in self.up_blocks)
        self.size_divisor = 2 ** (blocks - 1) if exact else 1

    @classmethod
    def from_config(
        cls, config: dict[str, Any] | None = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """As in diffusers; in addition translates a stock `UNet3DConditionModel` config (ModelScope, zeroscope).

        A stock config gives the head *size* and has neither `mid_block_type` nor `transfromer_in_opt`.

        Args:
            config: the content of a `config.json`.
            return_unused_kwargs: also return the keys that the network does not have.
            kwargs: values that go over the config's.

        Returns:
            A network with fresh weights; or (network, unused keys).
        """
        if isinstance(config, dict):
            config = translate(config)
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @classmethod
    def from_single_file(
        cls, pretrained_model_link_or_path_or_dict: Any, config: str | None = None, **kwargs: Any
    ) -> Show1UNet3DConditionModel:
        """The network from one file of its weights, under the published names; as in diffusers but for `config`.

        Args:
            pretrained_model_link_or_path_or_dict: a file (`.safetensors`, or a checkpoint of tensors), a link to one
                on the Hub, or a dict of tensors.
            config: a folder or Hub id with the network's `config.json`, in `subfolder` of it if that is given. By
                default that of the published network whose parameters have these shapes.
            kwargs: `subfolder`, `dtype`, `device`, `quantization_config`, ... as in diffusers.

        Returns:
            The network with these weights.

        Raises:
            ValueError: no `config` for what is no published network (weights do not say all that a config does), or
                the file lacks parameters.
        """
        weights = pretrained_model_link_or_path_or_dict
        if config is not None:
            return super().from_single_file(weights, config=config, **kwargs)
        if not isinstance(weights, dict):
            known = inspect.signature(load_single_file_checkpoint).parameters
            weights = load_single_file_checkpoint(weights, **{k: v for k, v in kwargs.items() if k in known})
        for published in PUBLISHED.values():
            with torch.device("meta"):
                wanted = cls(**published).state_dict()
            if all(name in weights and weights[name].shape == value.shape for name, value in wanted.items()):
                with tempfile.TemporaryDirectory() as folder:
                    (Path(folder) / "config.json").write_text(json.dumps(published))
                    return super().from_single_file(weights, config=folder, **{**kwargs, "subfolder": None})
        raise ValueError(
            "`config` is required, since these are the shapes of no published network: a folder or Hub id that holds "
            "the network's config.json (in a pipeline's, pass `subfolder='unet'` too); weights alone do not tell "
            "heads from head sizes, got None."
        )

    @classmethod
    def from_2d(cls, unet: ModelMixin, **overrides: Any) -> Show1UNet3DConditionModel:
        """Inflates an image UNet (section 3.2): its weights become the spatial layers of a new video UNet.

        The new temporal layers start as the identity, so that at first every frame's prediction is the image model's.

        Args:
            unet: diffusers' `UNet2DConditionModel` with DeepFloyd-IF blocks (Resnet / SimpleCrossAttn) or
                Stable-Diffusion blocks (CrossAttn / plain).
            overrides: config values to change, such as `in_channels=7` for the interpolation stage: new input
                channels start at weight zero.

        Returns:
            A video UNet on the image UNet's device and in its number format.

        Raises:
            ValueError: a block of the image UNet has no video counterpart, or an override changes a weight's shape.
        """
        config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
        for key in ("down_block_types", "up_block_types"):
            config[key] = [name.replace("2D", "3D") for name in config[key]]
        config["mid_block_type"] = config["mid_block_type"].replace("2D", "3D")
        accepted = cls._get_init_keys(cls)
        defaults = {k: v for k, v in config.items() if k in accepted}
        if config["attention_type"] != "default":
            raise ValueError(
                f"`unet.config.attention_type` must be 'default' to be inflated, got {config['attention_type']!r}."
            )
        model = cls(**{**defaults, **overrides})
        inflate(unet, model, lambda name: ".temp_" in name or name.startswith("transformer_in."))
        return model if unet.dtype == model.dtype else model.to(unet.dtype)

    @apply_lora_scale("cross_attention_kwargs")
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        text_cache: TextCache | None = None,
    ) -> UNet3DConditionOutput | tuple[Tensor]:
        r"""Predicts, by the config of the scheduler, the noise, the velocity or the clean video.

        Args:
            sample (`torch.Tensor` of shape `(batch, in_channels, frames, height, width)`):
                Noisy video, with the stage's condition channels behind it. Height and width must be multiples of
                `size_divisor` (2^(blocks-1) for the pixel networks, 1 for the latent one).
            timestep (`torch.Tensor` of shape `()` or `(batch,)`, `int` or `float`): Diffusion timestep, 0 to 999.
            encoder_hidden_states (`torch.Tensor` of shape `(batch, tokens, encoder_hid_dim or cross_attention_dim)`):
                Encoded prompt.
            class_labels (`torch.Tensor` of shape `(batch,)`, *optional*):
                Noise level of the condition, 0 to 999; required if and only if the network has a `class_embed_type`.
            return_dict (`bool`, defaults to `True`): Return a `UNet3DConditionOutput` rather than a tuple.
            cross_attention_kwargs (`dict`, *optional*): `{"scale": number}`: how much of its adapters it uses.
            text_cache (`TextCache`, *optional*):
                From `text_cache()`, the same one for all calls with the same `encoder_hidden_states`, which are then
                projected in the first only.

        Returns:
            `UNet3DConditionOutput` with `sample` of shape `(batch, out_channels, frames, height, width)`, or a tuple
            of that tensor.

        Raises:
            ValueError: the size is no multiple of `size_divisor`, or `class_labels` are missing.
        """
        batch, _, num_frames, height, width = sample.shape
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(
                f"`sample` must have height and width that are multiples of {self.size_divisor}, got {height}x{width}."
            )
        if self.config.center_input_sample:
            sample = 2 * sample - 1.0

        cache = TextCache() if text_cache is None else text_cache

        # 1. time, class and pooled text: one embedding a video, repeated for its frames
        time = self._embed_time(timestep, batch, sample)
        if self.class_embedding is not None:
            if class_labels is None:
                raise ValueError("`class_labels` is required: this network is told the noise level of its condition.")
            time = time + self._embed_class(class_labels, batch, sample)
        if self.add_embedding is not None:
            time = time + cache.once(self.add_embedding, self.add_embedding, encoder_hidden_states)
        if self.time_embed_act is not None:
            time = self.time_embed_act(time)
        time_NT = time.repeat_interleave(num_frames, dim=0)
        text_BLD = encoder_hidden_states
        if self.encoder_hid_proj is not None:
            text_BLD = cache.once(self.encoder_hid_proj, self.encoder_hid_proj, text_BLD)

        # 2. in
        x_NCHW = sample.transpose(1, 2).flatten(0, 1)
        x_NCHW = self.conv_in(channels_last(x_NCHW))
        if self.transformer_in is not None:
            x_NCHW = self.transformer_in(x_NCHW, num_frames)

        # 3. down
        skips: tuple[Tensor, ...] = (x_NCHW,)
        for block in self.down_blocks:
            x_NCHW, block_skips = block(x_NCHW, time_NT, text_BLD, num_frames, cache)
            skips += block_skips

        # 4. middle
        x_NCHW = self.mid_block(x_NCHW, time_NT, text_BLD, num_frames, cache)

        # 5. up
        for block in self.up_blocks:
            count = len(block.resnets)
            block_skips, skips = skips[-count:], skips[:-count]
            upsample_size = tuple(skips[-1].shape[-2:]) if skips else None
            x_NCHW = block(x_NCHW, block_skips, time_NT, text_BLD, num_frames, cache, upsample_size)

        # 6. out
        x_NCHW = self.conv_out(self.conv_act(self.conv_norm_out(x_NCHW))).contiguous()
        out = x_NCHW.unflatten(0, (batch, num_frames)).transpose(1, 2)
        if not return_dict:
            return (out,)
        return UNet3DConditionOutput(sample=out)

    def _embed_time(self, timestep: Tensor | float | int, batch: int, like: Tensor) -> Tensor:
        timestep = torch.as_tensor(timestep, device=like.device).reshape(-1).expand(batch)
        return self.time_embedding(self.time_proj(timestep).to(like.dtype))

    def _embed_class(self, class_labels: Tensor, batch: int, like: Tensor) -> Tensor:
        if self.config.class_embed_type == "timestep":
            # sinusoids are computed in float32, as for the timestep
            return self.class_embedding(self.time_proj(class_labels.reshape(-1).expand(batch)).to(like.dtype))
        if self.config.class_embed_type is None:
            return self.class_embedding(class_labels.reshape(-1).expand(batch))
        return self.class_embedding(class_labels).to(like.dtype)
