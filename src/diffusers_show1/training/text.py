# SPDX-License-Identifier: Apache-2.0
"""Tokenisers and text encoders of the synthetic world's captions, which stay frozen from then on.

As in the paper the text encoders are trained before, and frozen during, the video stages. T5-XXL and CLIP learned
language from the web; their tiny stand-ins learn it by naming the attributes of a caption.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from ..learning.options import Objective, TrainConfig, checked, number, refuse
from ..learning.task import Lesson, Source, Task
from ..tiny import world


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


def train_t5_tokenizer(vocab_size: int = 200, tokens: int = 32) -> T5Tokenizer:
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
        return T5Tokenizer.from_pretrained(folder, extra_ids=0, model_max_length=tokens)


def train_clip_tokenizer(vocab_size: int = 700, tokens: int = 32) -> CLIPTokenizer:
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
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)


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


def make_t5_encoder(tokenizer: T5Tokenizer, **config: Any) -> T5EncoderModel:
    """A T5 encoder of the tokeniser's vocabulary, without its decoder."""
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), is_encoder_decoder=False, use_cache=False, **config),
    )


def make_clip_encoder(tokenizer: CLIPTokenizer, **config: Any) -> CLIPTextModel:
    """A CLIP text encoder of the tokeniser's vocabulary and length."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **config,
        )
    )


KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "t5": (train_t5_tokenizer, make_t5_encoder),
    "clip": (train_clip_tokenizer, make_clip_encoder),
}


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

    def forward(self, captions: Sequence[str]) -> torch.Tensor:
        """Cross entropy of all attributes, ()."""
        parsed = [world.parse_caption(caption) for caption in captions]
        total = torch.zeros((), device=self.encoder.device)
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


class WorldCaptions:
    """Captions of training combinations of the world, with frames of no size: nothing is drawn."""

    def __len__(self) -> int:
        return 1_000_000

    def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A caption; it comes from `rng` alone."""
        return {"frames": torch.empty(1, 3, 0, 0), "caption": world.vary_caption(world.sample_attributes(rng), rng)}


@checked
@dataclass(kw_only=True)
class TextObjective(Objective):
    """Naming the attributes of captions.

    Args:
        encoder: its kind.
        vocab_size: most pieces of the tokeniser.
        tokens: length of a text.
    """

    caption_dropout: float = number(0.0, least=0, most=0)
    encoder: Literal["t5", "clip"]
    vocab_size: int = number(least=64, most=2**16)
    tokens: int = number(32, least=8, most=77)


class TextTask(Task):
    """Comes out as the folders `tokenizer` and `text_encoder`; `model.config` is the encoder's."""

    stage = "text"
    objective = TextObjective

    def __init__(self, config: TrainConfig, device: torch.device, source: Source):
        super().__init__(config, device, source)
        train_tokenizer, _ = KINDS[config.objective.encoder]
        self.tokenizer = train_tokenizer(config.objective.vocab_size, config.objective.tokens)
        torch.manual_seed(config.run.seed)
        self.network, self.start = self.plain(), f"a {config.objective.encoder} encoder from nothing"

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        if config.model.start != "scratch":
            refuse("model.start", config.model.start, "scratch for text")
        if config.data.kind != "world" or config.data.frames != 1:
            refuse("data.kind", config.data.kind, "world for text, with data.frames 1")
        if config.validation.prompts:
            refuse("validation.prompts", config.validation.prompts, "empty for text, which makes no videos")

    def dataset(self) -> WorldCaptions:
        return WorldCaptions()

    def loss(self, network: torch.nn.Module, lesson: Lesson) -> torch.Tensor:
        return network(lesson.captions)

    def measure(self, network: torch.nn.Module, frames: torch.Tensor, captions: Sequence[str]) -> dict[str, float]:
        """Share of captions of held-out combinations that are read right."""
        return {"validation_right": network.accuracy(world.held_out_prompts(96))}

    def plain(self) -> AttributeReader:
        _, make_encoder = KINDS[self.config.objective.encoder]
        try:
            encoder = make_encoder(self.tokenizer, **self.config.model.config)
        except (TypeError, ValueError, AttributeError) as error:
            refuse("model.config", self.config.model.config, f"the config of a text encoder ({error})")
        return AttributeReader(self.tokenizer, encoder)

    def save(self, network: torch.nn.Module, folder: Path, with_text_encoder: bool = True) -> None:
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # as set by the last call
        backend.no_padding()
        self.tokenizer.save_pretrained(folder / "tokenizer")
        network.encoder.save_pretrained(folder / "text_encoder")
