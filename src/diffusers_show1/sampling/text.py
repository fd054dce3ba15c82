# SPDX-License-Identifier: Apache-2.0
"""Prompts: cleaning, tokenising, encoding. T5 for the pixel stages, CLIP for the latent one (paper section 4.4)."""

from __future__ import annotations

import threading
from typing import Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.utils import logging
from torch import Tensor

from ..clips.words import is_text, shorten


logger = logging.get_logger(__name__)

MAX_TOKENS = 77  # DeepFloyd IF's and CLIP's prompt length
# Far beyond what the encoders read; the regular expressions of the caption cleaning take the square of it in time.
MAX_CHARACTERS = 10_000
# Padding and truncation are a state of the tokenizer, which pipelines in several threads may share.
_TOKENIZING = threading.Lock()


def preprocess(prompts: list[str], clean_caption: bool = False) -> list[str]:
    """Lower-cases and strips; with `clean_caption` DeepFloyd IF's caption cleaning (HTML, URLs, ids, odd quotes)."""
    if not clean_caption:
        return [prompt.lower().strip() for prompt in prompts]
    from bs4.builder import ParserRejectedMarkup
    from diffusers import IFPipeline

    class Cleaner:  # the cleaning is a method that needs this one attribute of a pipeline
        bad_punct_regex = IFPipeline.bad_punct_regex
        clean = IFPipeline._clean_caption

    cleaner = Cleaner()

    def clean(prompt: str) -> str:
        try:
            return cleaner.clean(prompt)
        except ParserRejectedMarkup:  # "<![x" begins a declaration, of a kind that Python's parser doesn't know
            return cleaner.clean(prompt.replace("<!", "< "))

    return [clean(clean(prompt)) for prompt in prompts]  # twice, as IF does


def check_prompts(
    prompt: Any,
    negative_prompt: Any,
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
    width: int | None = None,
    prefix: str = "",
) -> int:
    """Checks the prompt arguments of a call against each other; returns the number of prompts.

    Args:
        prompt: one prompt or a list.
        negative_prompt: one, a list of one a prompt, or None.
        prompt_embeds: (prompts, tokens, width) in place of `prompt`.
        negative_prompt_embeds: likewise, in place of `negative_prompt`.
        width: of the embeddings that the network reads, where it is known.
        prefix: what stands before the embeddings' names in the caller's arguments.

    Raises:
        ValueError, TypeError: naming the argument, its value and what is allowed.
    """
    names = f"{prefix}prompt_embeds", f"{prefix}negative_prompt_embeds"
    if (prompt is None) == (prompt_embeds is None):
        given = "both" if prompt is not None else "neither"
        raise ValueError(f"Pass either `prompt` or `{names[0]}`, got {given}.")
    if prompt_embeds is not None:
        _check_embeds(prompt_embeds, names[0], width)
        count = prompt_embeds.shape[0]
    else:
        count = _check_strings(prompt, "prompt")
    if negative_prompt_embeds is not None:
        if negative_prompt is not None:
            raise ValueError(f"Pass `negative_prompt` or `{names[1]}`, got both.")
        _check_embeds(negative_prompt_embeds, names[1], width)
        if prompt_embeds is not None and negative_prompt_embeds.shape != prompt_embeds.shape:
            raise ValueError(
                f"`{names[1]}` must have the shape of `{names[0]}`, {tuple(prompt_embeds.shape)}, "
                f"got {tuple(negative_prompt_embeds.shape)}."
            )
        if negative_prompt_embeds.shape[0] != count:
            raise ValueError(
                f"`{names[1]}` must hold {count} rows, one a prompt, got {negative_prompt_embeds.shape[0]}."
            )
    if negative_prompt is not None:
        negatives = _check_strings(negative_prompt, "negative_prompt")
        if isinstance(negative_prompt, (list, tuple)) and negatives != count:
            raise ValueError(f"`negative_prompt` must be one string or {count} (one a prompt), got {negatives}.")
    return count


def _check_embeds(value: Any, name: str, width: int | None) -> None:
    if not isinstance(value, Tensor) or value.ndim != 3 or 0 in value.shape or width not in (None, value.shape[2]):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"`{name}` must be a tensor (batch, tokens, {width or 'width'}), got {got}.")


def text_width(unet: Any) -> int:
    """Width of the text embeddings that a network reads."""
    return getattr(unet.config, "encoder_hid_dim", None) or unet.config.cross_attention_dim


def _check_strings(value: Any, name: str) -> int:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise TypeError(f"`{name}` must be a string or a list of strings, got {shorten(repr(value))}.")
    if not values:
        raise ValueError(f"`{name}` must hold at least one prompt, got an empty list.")
    if any(v and not v.strip() for v in values):
        raise ValueError(f"`{name}` must not be empty but as '', got {value!r}.")
    for text in values:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"`{name}` must have at most {MAX_CHARACTERS} characters, got {len(text)}.")
        if not is_text(text):
            raise ValueError(f"`{name}` must be Unicode text, got {shorten(repr(text))} with half a character in it.")
    return len(values)


def token_count(tokenizer: Any, max_length: int = MAX_TOKENS) -> int:
    """How many tokens every prompt is padded or cut to."""
    return min(max_length, tokenizer.model_max_length)


def tokenize(tokenizer: Any, prompts: list[str], max_length: int = MAX_TOKENS) -> dict[str, Tensor]:
    """Pads or cuts to the same length, and warns with the words that a too long prompt loses."""
    max_length = token_count(tokenizer, max_length)
    with _TOKENIZING:
        tokens = tokenizer(
            prompts,
            padding="max_length",
            max_length=max_length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        uncut = [tokenizer(prompt, padding=False, truncation=False).input_ids for prompt in prompts]
    for whole in uncut:
        if len(whole) > max_length:
            # the last kept position is the end token, so the cut begins one earlier
            cut = tokenizer.decode(whole[max_length - 1 : -1])
            logger.warning(
                f"The prompt is longer than the {max_length} tokens that the text encoder reads; "
                f"cut from its end: {shorten(repr(cut), 2000)}"
            )
    return tokens


def repeat_for_videos(embeds: Tensor, num_videos_per_prompt: int) -> Tensor:
    """(b, l, d) -> (b·n, l, d), the videos of one prompt side by side."""
    return embeds.repeat_interleave(num_videos_per_prompt, dim=0)


class PromptMixin:
    """`encode_prompt` for stages with a `tokenizer` and a `text_encoder` (T5 or CLIP)."""

    # T5 is given the padding mask; CLIP, causal and trained with padding, is not.
    _mask_padding = True
    cleans_captions = False
    """Whether its call cleans captions as DeepFloyd IF does, unless told otherwise."""

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        device: torch.device | str | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clean_caption: bool | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Prompts, or embeddings made earlier, to embeddings ready for `prompt_embeds`.

        Args:
            prompt: one prompt or a list; not with `prompt_embeds`.
            negative_prompt: what guidance leads away from, one or one a prompt; `None` is the empty prompt.
            num_videos_per_prompt: copies of each row.
            do_classifier_free_guidance: whether negative embeddings are needed.
            clean_caption: DeepFloyd IF's caption cleaning (T5 stages only); by default what the stage's call does.

        Returns:
            `(prompt_embeds, negative_prompt_embeds)`, each (prompts · videos, tokens, width); the second is `None`
            without guidance.

        Raises:
            ValueError, TypeError: a prompt that is no text, too long, or without an encoder for it.
        """
        self.check_encoder(
            prompt if prompt_embeds is None else None,
            prompt_embeds,
            negative_prompt_embeds,
            do_classifier_free_guidance,
        )
        clean_caption = self.cleans_captions if clean_caption is None else clean_caption
        device = device or self._execution_device
        for name, given in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if given is not None:
                _check_strings(given, name)
        if prompt_embeds is None:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt)
            prompt_embeds = self._encode(prompts, device, clean_caption)
        dtype = self._network_dtype()
        count = prompt_embeds.shape[0]
        prompt_embeds = repeat_for_videos(prompt_embeds.to(device, dtype), num_videos_per_prompt)
        if not do_classifier_free_guidance:
            negative_prompt_embeds = None
        elif negative_prompt_embeds is None:
            negatives = "" if negative_prompt is None else negative_prompt
            negatives = [negatives] * count if isinstance(negatives, str) else list(negatives)
            # equal prompts are encoded once
            unique = list(dict.fromkeys(negatives))
            rows = self._encode(unique, device, clean_caption)
            negative_prompt_embeds = torch.stack([rows[unique.index(n)] for n in negatives])
        if negative_prompt_embeds is not None:
            negative_prompt_embeds = repeat_for_videos(negative_prompt_embeds.to(device, dtype), num_videos_per_prompt)
        # the only `return`: diffusers reads the names off it that a call takes these by
        return prompt_embeds, negative_prompt_embeds

    def check_encoder(
        self,
        prompt: Any,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        guided: bool,
        prefix: str = "",
    ) -> None:
        """Checks that what a call has to encode can be encoded, and will fit what it was given.

        Args:
            prompt: the prompt to encode; None where embeddings stand for it.
            prompt_embeds: (prompts, tokens, width), or None.
            negative_prompt_embeds: likewise.
            guided: whether the negative prompt is needed.
            prefix: what stands before the arguments' names.

        Raises:
            ValueError: the text encoder is missing, or makes embeddings of another length than those that were given.
        """
        if self.text_encoder is None or self.tokenizer is None:
            if prompt is not None:
                raise ValueError(
                    f"`{prefix}prompt_embeds` is required: this pipeline was made without `{prefix}text_encoder` or "
                    f"`{prefix}tokenizer`, got `prompt`={prompt!r}."
                )
            if guided and negative_prompt_embeds is None:
                raise ValueError(
                    f"`{prefix}negative_prompt_embeds` is required with guidance: this pipeline was made without "
                    f"`{prefix}text_encoder` or `{prefix}tokenizer` to encode the negative prompt with, got None."
                )
            return
        if not guided or (prompt_embeds is None) == (negative_prompt_embeds is None):
            return  # both are given, and were compared, or both are encoded
        name, given = (
            ("prompt_embeds", prompt_embeds) if prompt is None else ("negative_prompt_embeds", negative_prompt_embeds)
        )
        length = token_count(self.tokenizer)
        if given.shape[1] != length:
            raise ValueError(
                f"`{prefix}{name}` must have {length} tokens, as many as the other text will be encoded to, "
                f"got {given.shape[1]}."
            )

    def _encode(self, prompts: list[str], device: torch.device | str, clean_caption: bool) -> Tensor:
        if self._mask_padding:
            tokens = tokenize(self.tokenizer, preprocess(prompts, clean_caption))
            mask = tokens.attention_mask.to(device)
        else:
            if isinstance(self, TextualInversionLoaderMixin):  # a learned token of several vectors is several tokens
                prompts = self.maybe_convert_prompt(prompts, self.tokenizer)
            tokens = tokenize(self.tokenizer, prompts)
            mask = None
        return self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]

    def _network_dtype(self) -> torch.dtype:
        """The dtype the embeddings are needed in; a stage that only encodes has just its encoder's."""
        module = self.unet if getattr(self, "unet", None) is not None else self.text_encoder
        return module.dtype
