# SPDX-License-Identifier: Apache-2.0
"""Captions to the embeddings of a frozen text encoder, each computed once and then read from disk."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import CLIPTextModel, T5EncoderModel

from ..sampling.text import preprocess, tokenize


logger = logging.get_logger(__name__)

# What a config says that changes with the place a model was loaded from, and not with its numbers.
_INCIDENTAL = ("_name_or_path", "architectures", "torch_dtype", "dtype", "transformers_version")


def encoder_digest(encoder: torch.nn.Module) -> str:
    """Of the encoder's class, configuration, weights and kind of device, in hexadecimal.

    Reads all weights: seconds for T5-XXL.
    """
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in _INCIDENTAL}
    about = (type(encoder).__name__, encoder.device.type, config)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, weight in encoder.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class TextEmbeddings:
    """Calls a frozen text encoder as the pipelines do: captions -> (b, tokens, width) float32 on the encoder's device.

    Every caption is encoded by itself. The numbers of a caption therefore do not depend on the others in its batch,
    nor on whether they come from the cache: they are bit-identical, on one kind of device.

    With `cache_dir` each embedding is kept in a file of its own, in the encoder's dtype (which is exact, and half the
    size of float32 for an encoder in half precision): 1.3 MB for T5-XXL in float32, 77 tokens of width 4096. The key
    is a digest of the encoder (class, configuration, weights) and of the token ids, which is all of the tokeniser and
    the cleaned caption that the encoder sees. Files appear in one step, so any number of processes may share a cache;
    one that cannot be read is written anew, with a warning.

    Args:
        tokenizer: the encoder's.
        encoder: a T5 encoder, given lower-cased captions and the mask of its padding, or a CLIP text model. It is put
            into evaluation mode.
        cache_dir: made if need be; None computes every time.
    """

    def __init__(self, tokenizer: Any, encoder: T5EncoderModel | CLIPTextModel, cache_dir: str | Path | None = None):
        self.tokenizer, self.encoder = tokenizer, encoder.eval()
        self.is_t5 = isinstance(encoder, T5EncoderModel)
        self.folder = None if cache_dir is None else Path(cache_dir) / encoder_digest(encoder)[:16]

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Encodes.

        Args:
            captions: b sentences.

        Returns:
            (b, tokens, width) float32 on the encoder's device, without gradient.
        """
        rows = {caption: self._row(caption) for caption in dict.fromkeys(captions)}
        return torch.stack([rows[caption] for caption in captions])

    def _row(self, caption: str) -> torch.Tensor:
        tokens = tokenize(self.tokenizer, preprocess([caption]) if self.is_t5 else [caption])
        if self.folder is None:
            return self._encode(tokens).float()
        # The mask belongs to the ids: it says which of them are padding.
        key = hashlib.sha256(tokens.input_ids.numpy().tobytes() + tokens.attention_mask.numpy().tobytes()).hexdigest()
        path = self.folder / key[:2] / f"{key}.safetensors"
        row = _load(path)
        if row is None:
            row = self._encode(tokens)
            _store(row, path)
        return row.to(self.encoder.device).float()

    @torch.no_grad()
    def _encode(self, tokens: Any) -> torch.Tensor:
        """(tokens, width) in the encoder's dtype."""
        device = self.encoder.device
        mask = tokens.attention_mask.to(device) if self.is_t5 else None
        return self.encoder(tokens.input_ids.to(device), attention_mask=mask)[0][0]


def _load(path: Path) -> torch.Tensor | None:
    try:
        return load(path.read_bytes())["embedding"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError) as error:
        logger.warning(f"the cached embedding {path} cannot be read ({error}) and is made anew")
        return None


def _store(row: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    with open(handle, "wb") as file:
        file.write(save({"embedding": row.cpu().contiguous()}))
    os.replace(temporary, path)
