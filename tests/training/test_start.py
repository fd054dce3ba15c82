# SPDX-License-Identifier: Apache-2.0
"""Starting weights: a new network computes what its source did, and what is new can be trained."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel

from diffusers_show1 import TINY_PATH
from diffusers_show1.families.show1.unet import Show1UNet3DConditionModel
from diffusers_show1.training.start import start_unet

from .test_objectives import NETWORK, noise


CONFIG = {**NETWORK, "in_channels": 3}
TEXT = noise(1, 4, 16, seed=5)


@pytest.fixture(scope="module")
def keyframes(tmp_path_factory):
    """A folder with a network whose temporal layers are no longer the identity."""
    torch.manual_seed(0)
    unet = Show1UNet3DConditionModel(**CONFIG)
    for name, parameter in unet.named_parameters():
        if ".temp_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("keyframes")
    unet.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    config = {
        key: tuple(v.replace("3D", "2D") for v in value) if "block_types" in key else value
        for key, value in CONFIG.items()
    }
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("image")
    UNet2DConditionModel(
        **{**config, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "encoder_hid_dim_type": "text_proj"}
    ).save_pretrained(folder / "unet")
    return folder


def run(unet, sample, **options):
    with torch.no_grad():
        return unet(sample, 500, TEXT, **options).sample


def test_interpolation_starts_as_the_keyframe_network(keyframes):
    start = start_unet("network", keyframes, in_channels=7)
    source = Show1UNet3DConditionModel.from_pretrained(keyframes)
    video, condition = noise(1, 3, 3, 8, 8), noise(1, 4, 3, 8, 8, seed=1)
    made = run(start.unet, torch.cat([video, condition], dim=1))
    assert torch.allclose(made, run(source, video), atol=1e-5)
    assert start.extended == ("conv_in.weight",)
    assert start.fresh == ()
    assert set(start.copied) | {"conv_in.weight"} == set(source.state_dict())
    assert str(start) == f"parameters: {len(start.copied)} copied, 1 extended (conv_in), 0 fresh"
    # the condition is ignored at first, and learnt from
    start.unet(torch.cat([video, condition], dim=1), 500, TEXT).sample.square().mean().backward()
    assert start.unet.conv_in.weight.grad[:, 3:].any()


def test_superres_starts_as_the_keyframe_network_and_learns_its_noise_level(keyframes):
    start = start_unet("network", keyframes, in_channels=6, class_embed_type="timestep")
    source = Show1UNet3DConditionModel.from_pretrained(keyframes)
    video, condition = noise(1, 3, 3, 8, 8), noise(1, 3, 3, 8, 8, seed=1)
    both = torch.cat([video, condition], dim=1)
    for level in (0, 250):
        assert torch.allclose(run(start.unet, both, class_labels=torch.tensor([level])), run(source, video), atol=1e-5)
    assert {name.rsplit(".", 2)[0] for name in start.fresh} == {"class_embedding"}
    assert "4 fresh (class_embedding.linear_1, class_embedding.linear_2)" in str(start)

    optimiser = torch.optim.SGD(start.unet.parameters(), lr=1e-2)
    start.unet(both, 500, TEXT, class_labels=torch.tensor([250])).sample.square().mean().backward()
    optimiser.step()
    low, high = (run(start.unet, both, class_labels=torch.tensor([level])) for level in (0, 250))
    assert not torch.allclose(low, high, atol=1e-5)


def test_a_table_of_classes_starts_silent(keyframes):
    start = start_unet("network", keyframes, num_class_embeds=4)
    video = noise(1, 3, 3, 8, 8)
    expected = run(Show1UNet3DConditionModel.from_pretrained(keyframes), video)
    assert torch.allclose(run(start.unet, video, class_labels=torch.tensor([2])), expected, atol=1e-6)


@pytest.mark.parametrize("prefix", ["Simple", ""])
def test_attention_in_more_blocks_starts_as_the_identity(tmp_path, prefix):
    plain = ("ResnetDownsampleBlock3D", "ResnetUpsampleBlock3D") if prefix else ("DownBlock3D", "UpBlock3D")
    down, up = f"{prefix}CrossAttnDownBlock3D", f"{prefix}CrossAttnUpBlock3D"
    blocks = {"down_block_types": (plain[0], down), "up_block_types": (up, plain[1])}
    config = {**CONFIG, **blocks, "block_out_channels": (32, 32)}
    torch.manual_seed(0)
    source = Show1UNet3DConditionModel(**config).eval()
    source.save_pretrained(tmp_path)
    start = start_unet("network", tmp_path, down_block_types=(down, down), up_block_types=(up, up))
    video = noise(1, 3, 3, 8, 8)
    assert torch.equal(run(start.unet, video), run(source, video))
    assert set(start.copied) == set(source.state_dict())
    assert all(".attentions." in name or ".temp_attentions." in name for name in start.fresh)
    start.unet(video, 500, TEXT).sample.square().mean().backward()
    gradients = dict(start.unet.named_parameters())
    learning = [name for name in start.fresh if gradients[name].grad.any()]
    assert {name.split(".")[0] for name in learning} == {"down_blocks", "up_blocks"}
    assert any(".attentions." in name for name in learning)
    assert any(".temp_attentions." in name for name in learning)


def test_a_variance_can_be_added(keyframes):
    start = start_unet("network", keyframes, out_channels=6)
    video = noise(1, 3, 3, 8, 8)
    mean, variance = run(start.unet, video).chunk(2, dim=1)
    assert torch.allclose(mean, run(Show1UNet3DConditionModel.from_pretrained(keyframes), video), atol=1e-6)
    assert not variance.any()
    assert start.extended == ("conv_out.weight", "conv_out.bias")


@pytest.mark.parametrize("changes", [{}, {"in_channels": 7}])
def test_an_image_model_is_inflated(image_model, changes):
    start = start_unet("image", image_model, **changes)
    image = UNet2DConditionModel.from_pretrained(image_model, subfolder="unet")
    video = noise(1, 3, 2, 8, 8)
    condition = noise(1, start.unet.config.in_channels - 3, 2, 8, 8, seed=1)
    made = run(start.unet, torch.cat([video, condition], dim=1))
    for frame in range(2):
        assert torch.allclose(made[:, :, frame], run(image, video[:, :, frame]), atol=1e-5)
    assert all(".temp_" in name for name in start.fresh)
    assert start.extended == (("conv_in.weight",) if changes else ())
    assert set(start.copied) | set(start.extended) == set(image.state_dict())


def test_a_saved_network_is_taken_as_it_is_in_float32(tmp_path, keyframes):
    source = Show1UNet3DConditionModel.from_pretrained(keyframes)
    source.half().save_pretrained(tmp_path / "pipeline" / "unet")  # as in a pipeline's folder
    start = start_unet("network", tmp_path / "pipeline")
    assert start.unet.dtype == torch.float32
    assert (start.extended, start.fresh) == ((), ())
    weights = start.unet.state_dict()
    assert all(torch.equal(weights[name], weight.float()) for name, weight in source.state_dict().items())
    named = start_unet("network", tmp_path / "pipeline", "unet", block_out_channels=(32,))  # what it is anyway
    assert torch.equal(named.unet.conv_in.weight, start.unet.conv_in.weight)


def test_a_stock_video_network_is_read_with_its_own_meaning_of_heads(tmp_path):
    """ModelScope's, where refinement starts from: its config gives the head size."""
    torch.manual_seed(0)
    stock = UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D",),
        up_block_types=("CrossAttnUpBlock3D",),
        block_out_channels=(32,),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
    ).eval()
    stock.save_pretrained(tmp_path / "unet")
    start, latents = start_unet("network", tmp_path), noise(1, 4, 3, 8, 8)
    assert torch.allclose(run(start.unet, latents), run(stock, latents), atol=1e-5)
    assert start.fresh == ()


def test_a_stage_of_the_tiny_cascade():
    start = start_unet("network", TINY_PATH, "base_unet", in_channels=7)
    assert start.unet.conv_in.weight.shape[1] == 7
    assert start.fresh == ()


def test_from_scratch(tmp_path, keyframes):
    (tmp_path / "network.json").write_text(json.dumps(CONFIG))
    sources = (CONFIG, tmp_path / "network.json", keyframes)
    starts = []
    for source in sources:
        torch.manual_seed(7)
        starts.append(start_unet("scratch", source, in_channels=7))
    assert all(start.unet.config.in_channels == 7 and not start.copied for start in starts)
    first = starts[0].unet.state_dict()
    assert all(torch.equal(first[name], w) for start in starts for name, w in start.unet.state_dict().items())
    assert first["conv_in.weight"][:, 3:].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cross_attention_dim": 64},
            r"`encoder_hid_proj.weight` is \(32, 16\) in the source and \(64, 16\) in the new network: .* "
            r"Keep the source's `cross_attention_dim` \(32\), or start from scratch",
        ),
        ({"in_channels": 2}, r"`conv_in.weight` is \(32, 3, 3, 3\) .* \(32, 2, 3, 3\) .* `in_channels` \(3\)"),
        (
            {"layers_per_block": 2, "in_channels": 7},
            r"` is absent in the source and \(.* `layers_per_block` \(1\), `in_channels` \(3\)",
        ),
        ({"addition_embed_type": None}, r"`add_embedding.* in the source and absent in the new network"),
        ({"inchannels": 7}, r"`changes` must be values of the network's config, got \['inchannels'\]; there are"),
    ],
)
def test_what_cannot_be_carried_over_is_named(keyframes, changes, message):
    with pytest.raises(ValueError, match=message):
        start_unet("network", keyframes, **changes)


def test_a_noise_level_cannot_be_dropped(tmp_path):
    Show1UNet3DConditionModel(**CONFIG, class_embed_type="timestep").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`class_embedding\.linear_1\.weight` is .* absent .* `class_embed_type`"):
        start_unet("network", tmp_path, class_embed_type=None)


def test_sources_that_hold_no_such_network_are_refused(tmp_path, keyframes, image_model):
    AutoencoderKL(block_out_channels=(32,)).save_pretrained(tmp_path / "vae")
    for arguments, message in (
        (("2d", keyframes), "`kind` must be one of .* got '2d'"),
        (("network", tmp_path), "`source` must hold a network, got .*, which has no unet/config.json"),
        (("network", keyframes, "base_unet"), "which has no base_unet/config.json"),
        (("network", tmp_path / "nothing"), "`source` must be a folder or the name of a repository on the Hub, got"),
        (("network", CONFIG), "a config has no weights"),
        (
            ("network", image_model),
            "must hold UNet3DConditionModel or Show1UNet3DConditionModel .* UNet2DConditionModel",
        ),
        (("image", keyframes), "must hold UNet2DConditionModel for 'image', got Show1UNet3DConditionModel"),
        (("network", tmp_path / "vae"), "got AutoencoderKL in"),
        (("scratch", {**CONFIG, "channels": 3}), r"`source` must hold a network's config, got \['channels'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            start_unet(*arguments)
