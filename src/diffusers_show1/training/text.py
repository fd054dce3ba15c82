# SPDX-License-Identifier: Apache-2.0
"""Tokenisers and frozen text encoders of the tiny cascade.

As in the paper the text encoders are trained before, and frozen during, the video stages. T5-XXL and CLIP learned
language from the web; their tiny stand-ins learn it by naming the attributes of a caption.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from ..tiny import world
from .data import step_rng


T5_TOKENS = 32
CLIP_TOKENS = 32
ATTRIBUTE_WORDS = {
    "colour": tuple(world.COLOURS),
    "shape": world.SHAPES,
    "motion": world.MOTIONS,
    "background": tuple(world.BACKGROUNDS),
    "size": tuple(world.SIZES),
}


def clean(text: str) -> str:
    """What the pipelines do to a prompt before tokenisation."""
    return text.lower().strip()


def _corpus(count: int = 4000, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [clean(world.vary_caption(world.sample_attributes(rng), rng)) for _ in range(count)]


WORDS = sorted(
    {word for words in ATTRIBUTE_WORDS.values() for phrase in words for word in phrase.split()}
    | {"a", "on", "background", "grey"}
)


def train_t5_tokenizer(vocab_size: int = 200) -> T5Tokenizer:
    """A sentencepiece unigram model: every world word is one piece, and smaller pieces spell the rest of ASCII."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_corpus()),
            model_prefix=str(Path(folder) / "spiece"),
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            required_chars="".join(chr(code) for code in range(33, 127)),
            user_defined_symbols=["\u2581" + word for word in WORDS],  # pieces with score 0: always preferred
            normalization_rule_name="nmt_nfkc",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
        return T5Tokenizer.from_pretrained(folder, extra_ids=0, model_max_length=T5_TOKENS)


def train_clip_tokenizer(vocab_size: int = 700) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format, with merges learned from captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.model.save(folder)
        merges = [tuple(line.split()) for line in (Path(folder) / "merges.txt").read_text().splitlines()[1:]]
    # CLIP's order: bytes, bytes that end a word, merges, the two special tokens.
    pieces = alphabet + [byte + "</w>" for byte in alphabet] + ["".join(pair) for pair in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_TOKENS)


def encode(
    tokenizer: T5Tokenizer | CLIPTokenizer, encoder: T5EncoderModel | CLIPTextModel, captions: Sequence[str]
) -> torch.Tensor:
    """Last hidden states (b, tokens, width), padded to the tokeniser's length, exactly as the pipelines encode."""
    tokens = tokenizer(
        [clean(caption) for caption in captions],
        padding="max_length",
        max_length=min(77, tokenizer.model_max_length),
        truncation=True,
        return_tensors="pt",
    )
    ids = tokens.input_ids.to(encoder.device)
    if isinstance(encoder, T5EncoderModel):  # T5 masks its padding, CLIP does not
        return encoder(ids, attention_mask=tokens.attention_mask.to(encoder.device)).last_hidden_state
    return encoder(ids).last_hidden_state


def make_t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A T5 encoder of width 64."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def make_clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder of width 32."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CLIP_TOKENS,
            projection_dim=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class AttributeReader(torch.nn.Module):
    """A text encoder with one linear head per attribute, over its mean token.

    The heads are discarded after training; the video networks pool the text and attend to it token by token.
    """

    def __init__(self, tokenizer: T5Tokenizer | CLIPTokenizer, encoder: T5EncoderModel | CLIPTextModel):
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder
        width = encoder.config.hidden_size
        # one class more than there are words: the caption does not say
        self.heads = torch.nn.ModuleDict(
            {name: torch.nn.Linear(width, len(words) + 1) for name, words in ATTRIBUTE_WORDS.items()}
        )

    def logits(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Per attribute (b, words + 1)."""
        pooled = encode(self.tokenizer, self.encoder, captions).mean(dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    def loss_at(self, step: int, seed: int = 11, batch_size: int = 64) -> torch.Tensor:
        """Cross entropy of all attributes on training captions."""
        rng, _ = step_rng(seed, step)
        scenes = [world.sample_attributes(rng) for _ in range(batch_size)]
        captions = [world.vary_caption(attributes, rng) for attributes in scenes]
        parsed = [world.parse_caption(caption) for caption in captions]
        total = torch.zeros(())
        for name, logits in self.logits(captions).items():
            words = ATTRIBUTE_WORDS[name]
            target = [len(words) if getattr(p, name) is None else words.index(getattr(p, name)) for p in parsed]
            total = total + F.cross_entropy(logits, torch.tensor(target, device=logits.device))
        return total

    @torch.no_grad()
    def accuracy(self, captions: Sequence[str]) -> float:
        """Share of captions of which every attribute is read right."""
        right = torch.ones(len(captions), dtype=torch.bool)
        parsed = [world.parse_caption(caption) for caption in captions]
        for name, logits in self.logits(captions).items():
            words = ATTRIBUTE_WORDS[name] + (None,)
            answers = [words[index] for index in logits.argmax(dim=-1)]
            right &= torch.tensor([answer == getattr(p, name) for answer, p in zip(answers, parsed, strict=True)])
        return right.float().mean().item()
