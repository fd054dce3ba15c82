# SPDX-License-Identifier: Apache-2.0
"""Where the toy's networks are, and when; its smallest portions; the safety checker's slot."""

import pytest
import torch
from torch import nn

from ..contract.components import seeded
from ..contract.standin import StandInDevice, is_there
from ..golden.cases import max_difference
from ..stages.test_safety import black, feature_extractor, if_checker
from .make import pipeline


PROMPT = "a red car"


def run(pipe, **changes):
    return pipe(**{"prompt": PROMPT, "generator": seeded(), "output_type": "pt", **changes}).frames


def networks(pipe):
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


@pytest.fixture(scope="module")
def expected():
    return run(pipeline())


def test_each_network_comes_for_its_stage_and_leaves(expected):
    """The shared network comes twice; at most one is there beside the autoencoder."""
    pipe, seen = pipeline(), []
    for name, network in {**networks(pipe), "frames_vae": pipe.frames_vae.decoder}.items():

        def look(*_, name=name):
            there = {n for n, part in networks(pipe).items() if is_there(part)}
            if (name, there) not in seen[-1:]:
                seen.append((name, there))

        network.register_forward_hook(look)
    with StandInDevice():
        pipe.enable_model_cpu_offload(device="meta")
        frames = run(pipe)
        assert max_difference(frames.held, expected) < 1e-4
        assert [name for name, part in networks(pipe).items() if is_there(part)] == []
    order = ("text_encoder", "frames_unet", "frames_vae", "between_unet", "upscale_unet")
    assert seen == [(name, {name}) for name in order]


@pytest.mark.parametrize("options", [{"offload_type": "leaf_level"}, {"offload_type": "block_level"}], ids=str)
def test_group_offload(expected, options):
    pipe = pipeline()
    pipe.enable_group_offload(
        torch.device("cpu"), **options, **({} if "leaf" in options["offload_type"] else {"num_blocks_per_group": 1})
    )
    assert max_difference(run(pipe), expected) < 1e-5


def test_enable_low_memory(expected):
    """What the stages say: guidance branch by branch, frames decoded one by one."""
    pipe, rows, decoded = pipeline(), [], []
    pipe.frames_unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    pipe.frames_vae.decoder.register_forward_pre_hook(lambda _, args: decoded.append(len(args[0])))
    pipe.enable_low_memory("cpu")
    assert max_difference(run(pipe), expected) < 1e-4
    assert rows == [1] * 4
    assert decoded == [1, 1]


def test_a_safety_checker_sees_every_stage(expected):
    """Nothing unchecked is handed out; what is flagged is black, in the stages too."""
    seen = []
    for nsfw, flagged in ((-9.0, False), (9.0, True)):
        pipe = pipeline(safety_checker=if_checker(nsfw), feature_extractor=feature_extractor())
        output = pipe(
            PROMPT,
            generator=seeded(),
            output_type="pt",
            return_stages=True,
            callback_on_stage_end=lambda pipe, name, frames: seen.append((name, black(frames))),
        )
        assert output.nsfw_detected == [flagged]
        assert {name: black(frames) for name, frames in output.stages.items()} == dict.fromkeys(
            pipe.stage_names, flagged
        )
        assert seen == [(name, flagged) for name in pipe.stage_names]
        seen.clear()
        assert flagged or max_difference(output.frames, expected) == 0
    pipe = pipeline(safety_checker=if_checker())
    with pytest.raises(ValueError, match="`feature_extractor` must be the one of the `safety_checker`"):
        run(pipe)
