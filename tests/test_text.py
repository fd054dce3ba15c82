# SPDX-License-Identifier: Apache-2.0
"""Prompts: cleaning, cutting, encoding, checking."""

import pytest
import torch

from diffusers_show1.sampling.text import MAX_TOKENS, check_prompts, preprocess, repeat_for_videos, tokenize

from .contract.components import Calls, pipeline, seeded


@pytest.fixture(scope="module")
def t5():
    return pipeline("base")


@pytest.fixture(scope="module")
def clip():
    return pipeline("refine")


def test_preprocess_lowers_and_strips():
    assert preprocess(["  A Red CAR \n", "x"]) == ["a red car", "x"]


def test_preprocess_cleans():
    """Caption cleaning takes out addresses, markup and ids, and keeps the words."""
    dirty = "A <b>Red</b> Car &amp; see https://example.com/x.jpg @someone #12345 photo.jpg"
    (clean,) = preprocess([dirty], clean_caption=True)
    assert "red car" in clean
    assert not any(rest in clean for rest in ("<b>", "http", "example", "@someone", "#12345", "photo.jpg", "&amp;"))


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("prompt", ["日本の赤い車", "машина", "🚗🌈", "a\u200bred\u00a0car", "naïve café", "<", "'"])
def test_unicode(t5, prompt, clean):
    """No script and no sign is too strange to encode."""
    embeds, _ = t5.encode_prompt(prompt, clean_caption=clean)
    assert embeds.shape == (1, MAX_TOKENS, 32)
    assert torch.isfinite(embeds).all()


@pytest.mark.parametrize("prompt", ["日本の赤い車", "🚗🌈", "naïve café"])
def test_unicode_clip(clip, prompt):
    embeds, _ = clip.encode_prompt(prompt)
    assert embeds.shape == (1, MAX_TOKENS, 32)
    assert torch.isfinite(embeds).all()


def test_truncation_warns_with_the_lost_words(t5, diffusers_log):
    """A prompt that is too long is cut, and the warning quotes exactly what was lost."""
    words = "a red car driving on the road " * 12 + "at night"
    ids = t5.tokenizer(words).input_ids
    assert len(ids) > MAX_TOKENS
    tokens = tokenize(t5.tokenizer, ["a red car", words])
    assert tokens.input_ids.shape == (2, MAX_TOKENS)
    (record,) = diffusers_log.records
    message = record.getMessage()
    assert f"longer than the {MAX_TOKENS} tokens" in message
    lost = t5.tokenizer.decode(ids[MAX_TOKENS - 1 : -1])
    assert repr(lost) in message
    assert "night" in lost
    # what was kept and what was lost make the prompt
    assert tokens.input_ids[1, : MAX_TOKENS - 1].tolist() + ids[MAX_TOKENS - 1 :] == ids


def test_a_prompt_that_just_fits_is_not_warned_about(t5, diffusers_log):
    ids = t5.tokenizer("a red car " * 60).input_ids
    prompt = t5.tokenizer.decode(ids[: MAX_TOKENS - 1])
    while len(t5.tokenizer(prompt).input_ids) > MAX_TOKENS:
        prompt = prompt[:-1]
    tokenize(t5.tokenizer, [prompt])
    assert not diffusers_log.records


def test_padding_is_masked_for_t5_only(t5, clip):
    """T5 is given the mask of its padding, CLIP is not (paper's checkpoints were trained so)."""
    for pipe, masked in ((t5, True), (clip, False)):
        seen = []
        hook = pipe.text_encoder.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
        pipe.encode_prompt("a red car", do_classifier_free_guidance=False)
        hook.remove()
        assert (seen[0] is not None) is masked


def test_case_matters_to_neither_cleaned_nor_plain_t5(t5):
    upper, lower = t5.encode_prompt("A RED CAR")[0], t5.encode_prompt("a red car")[0]
    assert torch.equal(upper, lower)


def test_equal_negatives_are_encoded_once(t5):
    """The empty negative of many prompts is one row for the encoder, copied."""
    rows = []
    hook = t5.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append((args or tuple(kwargs.values()))[0].shape[0]), with_kwargs=True
    )
    _, negative = t5.encode_prompt(["a", "b", "c"])
    _, mixed = t5.encode_prompt(["a", "b", "c"], ["x", "y", "x"])
    hook.remove()
    assert rows == [3, 1, 3, 2]
    assert torch.equal(negative[0], negative[2])
    assert torch.equal(mixed[0], mixed[2])
    assert not torch.equal(mixed[0], mixed[1])


def test_given_embeddings_are_kept(t5):
    """Embeddings pass through, in the network's type, once a video."""
    given = torch.randn(2, 5, 32, dtype=torch.float64)
    embeds, negative = t5.encode_prompt(prompt_embeds=given, negative_prompt_embeds=-given, num_videos_per_prompt=2)
    assert embeds.dtype == torch.float32
    assert torch.equal(embeds, repeat_for_videos(given.float(), 2))
    assert torch.equal(negative, -embeds)


EMBEDS = torch.zeros(2, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("a", None, None, None), 1),
        ((["a", "b"], None, None, None), 2),
        ((("a", "b"), ["", "x"], None, None), 2),
        (("a", "", None, None), 1),
        ((None, None, EMBEDS, None), 2),
        ((None, None, EMBEDS, EMBEDS), 2),
        ((None, "x", EMBEDS, None), 2),
        (("", None, None, None), 1),  # what caption dropout trains on
        ((["a", ""], None, None, None), 2),
    ],
)
def test_check_prompts(arguments, count):
    assert check_prompts(*arguments) == count


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None, None, None, None), ValueError, ["`prompt`", "neither"]),
        (("a", None, EMBEDS, None), ValueError, ["`prompt_embeds`", "both"]),
        (("  \n", None, None, None), ValueError, ["`prompt`", "empty"]),
        ((["a", " "], None, None, None), ValueError, ["`prompt`", "['a', ' ']"]),
        (([], None, None, None), ValueError, ["`prompt`", "empty list"]),
        ((7, None, None, None), TypeError, ["`prompt`", "7"]),
        (([7], None, None, None), TypeError, ["`prompt`", "[7]"]),
        (({"a": 1}, None, None, None), TypeError, ["`prompt`", "{'a': 1}"]),
        (("a", 7, None, None), TypeError, ["`negative_prompt`", "7"]),
        ((["a", "b"], ["x"], None, None), ValueError, ["`negative_prompt`", "2", "1"]),
        (("a", "x", None, EMBEDS), ValueError, ["`negative_prompt`", "both"]),
        ((None, None, EMBEDS[0], None), ValueError, ["`prompt_embeds`", "(4, 8)"]),
        ((None, None, "a", None), ValueError, ["`prompt_embeds`", "str"]),
        ((None, None, EMBEDS, EMBEDS[:1]), ValueError, ["`negative_prompt_embeds`", "(1, 4, 8)"]),
        ((None, None, EMBEDS, [1]), ValueError, ["`negative_prompt_embeds`", "list"]),
    ],
)
def test_check_prompts_refuses(arguments, error, words):
    with pytest.raises(error) as caught:
        check_prompts(*arguments)
    assert all(word in str(caught.value) for word in words)


def test_no_encoder(t5):
    """Without an encoder the message says which embeddings to pass."""
    bare = pipeline("base", text_encoder=None)
    with pytest.raises(ValueError, match="`prompt_embeds` is required"):
        bare.encode_prompt("a")
    with pytest.raises(ValueError, match="`negative_prompt_embeds` is required"):
        bare.encode_prompt(prompt_embeds=EMBEDS)


@pytest.mark.parametrize("prompt", ["a red car", "A Red Car -- on a road! (4K) https://a.b/c.png"])
def test_encode_prompt_alone_gives_the_embeddings_of_the_call(prompt):
    """Cleaned as the call cleans, and without the encoder's graph."""
    pipe = pipeline("base")
    embeds, negative = pipe.encode_prompt(prompt)
    assert not embeds.requires_grad
    call = {"height": 8, "width": 12, "num_frames": 2, "num_inference_steps": 1, "output_type": "latent"}
    by_text = pipe(prompt, generator=seeded(), **call).frames
    by_embeds = pipe(prompt_embeds=embeds, negative_prompt_embeds=negative, generator=seeded(), **call).frames
    assert torch.equal(by_text, by_embeds)


@pytest.mark.parametrize("given", ["prompt_embeds", "negative_prompt_embeds"])
def test_embeddings_of_another_length_than_the_encoded_ones(given):
    """Told before the encoder runs: the two branches of guidance are one batch."""
    pipe = pipeline("base")
    embeds = pipe.encode_prompt("a red car")[0][:, :5]
    text = {} if given == "prompt_embeds" else {"prompt": "a red car"}
    with Calls(pipe.text_encoder) as calls, pytest.raises(ValueError, match=f"`{given}` must have 77 tokens.* got 5"):
        pipe(**text, **{given: embeds}, height=8, width=12, num_inference_steps=1)
    assert calls == []
