# SPDX-License-Identifier: Apache-2.0
"""Prompt cleaning, tokens and embeddings against the official code's."""

import logging

import pytest
import torch

from diffusers_show1 import Show1KeyframePipeline, Show1RefinementPipeline
from diffusers_show1.sampling.text import preprocess, tokenize

from . import cases


TOLERANCE = 1e-4
META = cases.meta("text")
OUTPUTS = cases.arrays("text", "outputs")
CAPTIONS = META["captions"]


@pytest.fixture(scope="module")
def t5():
    return Show1KeyframePipeline.from_pretrained(cases.MODELS / "show-1-base", variant="fp16", dtype=torch.float32)


@pytest.fixture(scope="module")
def clip():
    return Show1RefinementPipeline.from_pretrained(cases.MODELS / "show-1-sr2", dtype=torch.float32)


@pytest.mark.parametrize("clean", [False, True])
def test_preprocessing(clean):
    assert preprocess(CAPTIONS, clean) == META[f"preprocessed_clean_caption_{str(clean).lower()}"]


@pytest.mark.parametrize("i", [0, 1, 2])
def test_t5(t5, i):
    tokens = tokenize(t5.tokenizer, preprocess([CAPTIONS[i]]))
    assert torch.equal(tokens.input_ids, OUTPUTS[f"t5_{i}.input_ids"])
    assert torch.equal(tokens.attention_mask, OUTPUTS[f"t5_{i}.attention_mask"])
    embeds, negative = t5.encode_prompt(CAPTIONS[i])
    assert cases.max_difference(embeds, OUTPUTS[f"t5_{i}.prompt_embeds"]) < TOLERANCE
    assert cases.max_difference(negative, OUTPUTS[f"t5_{i}.negative_embeds"]) < TOLERANCE


def test_t5_batch_of_two_prompts_and_two_videos(t5):
    embeds, negative = t5.encode_prompt(CAPTIONS[:2], negative_prompt=[CAPTIONS[1], ""], num_videos_per_prompt=2)
    assert cases.max_difference(embeds, OUTPUTS["t5_batch.prompt_embeds"]) < TOLERANCE
    assert cases.max_difference(negative, OUTPUTS["t5_batch.negative_embeds"]) < TOLERANCE


def test_t5_cleaned(t5):
    embeds, _ = t5.encode_prompt(CAPTIONS[3], clean_caption=True)
    assert cases.max_difference(embeds, OUTPUTS["t5_clean.prompt_embeds"]) < TOLERANCE


def test_t5_cuts_a_long_prompt_and_says_what(t5, caplog):
    logger = logging.getLogger("diffusers")
    logger.propagate = True
    try:
        with caplog.at_level(logging.WARNING, logger="diffusers"):
            embeds, _ = t5.encode_prompt(META["long_prompt"])
    finally:
        logger.propagate = False
    assert cases.max_difference(embeds, OUTPUTS["t5_long.prompt_embeds"]) < TOLERANCE
    assert "longer than the 77 tokens" in caplog.text
    assert "night rain!" in caplog.text  # the prompt's last words are among those cut


def test_clip(clip):
    tokens = tokenize(clip.tokenizer, [META["clip_negative"], META["clip_prompt"]])
    ids = OUTPUTS["clip.input_ids"]
    assert torch.equal(tokens.input_ids.sort(dim=0).values, ids.sort(dim=0).values)
    embeds, negative = clip.encode_prompt(META["clip_prompt"], META["clip_negative"])
    assert cases.max_difference(torch.cat([negative, embeds]), OUTPUTS["clip.uncond_then_cond"]) < TOLERANCE


def test_clip_batch_with_the_default_negative(clip):
    embeds, negative = clip.encode_prompt(CAPTIONS[:2])
    recorded = OUTPUTS["clip_batch_default_negative.uncond_then_cond"]
    assert cases.max_difference(torch.cat([negative, embeds]), recorded) < TOLERANCE
