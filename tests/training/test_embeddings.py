# SPDX-License-Identifier: Apache-2.0
"""Text embeddings: the pipelines' numbers, the same with and without the cache, whatever becomes of its files."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from diffusers_show1 import TINY_PATH, Show1CascadePipeline
from diffusers_show1.training.embeddings import TextEmbeddings, encoder_digest
from diffusers_show1.training.text import encode


CAPTIONS = [
    "a red circle moving right",
    "",
    "A Small blue cross growing on a white background ",
    "a red circle moving right",
]


def load(kind: str, dtype: torch.dtype = torch.float32):
    prefix, model = {"t5": ("", T5EncoderModel), "clip": ("refine_", CLIPTextModel)}[kind]
    encoder = model.from_pretrained(TINY_PATH, subfolder=f"{prefix}text_encoder", dtype=dtype)
    return AutoTokenizer.from_pretrained(TINY_PATH, subfolder=f"{prefix}tokenizer"), encoder


@pytest.fixture(scope="module", params=["t5", "clip"])
def models(request):
    return load(request.param)


@pytest.fixture(scope="module")
def t5():
    return load("t5")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_numbers_are_the_pipelines(models):
    found = TextEmbeddings(*models)(CAPTIONS)
    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
    stage = pipe.base if isinstance(models[1], T5EncoderModel) else pipe.refine
    embeds, _ = stage.encode_prompt(CAPTIONS, do_classifier_free_guidance=False)
    torch.testing.assert_close(found, embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, encode(*models, CAPTIONS), rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32
    assert not found.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cached_numbers_are_bit_identical_and_the_same_in_any_batch(tmp_path, dtype):
    tokenizer, encoder = load("t5", dtype)
    plain, cached = TextEmbeddings(tokenizer, encoder), TextEmbeddings(tokenizer, encoder, tmp_path)
    expected = plain(CAPTIONS)
    assert torch.equal(cached(CAPTIONS), expected)
    assert len(files(tmp_path)) == 3
    written = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert torch.equal(cached(CAPTIONS), expected)
    assert torch.equal(TextEmbeddings(tokenizer, encoder, tmp_path)(CAPTIONS[2:]), expected[2:])
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == written
    assert torch.equal(plain(CAPTIONS[::-1]), expected.flip(0))


def test_the_cache_is_what_is_read(tmp_path, t5):
    """A changed file changes the answer: the second call does not compute."""
    from safetensors.torch import load_file, save_file

    embeddings = TextEmbeddings(*t5, tmp_path)
    first = embeddings(["a red circle"])
    (path,) = files(tmp_path)
    save_file({"embedding": load_file(path)["embedding"] + 1}, path)
    assert torch.equal(embeddings(["A red circle "]), first + 1)


def test_other_weights_have_a_cache_of_their_own(tmp_path, t5):
    tokenizer, other = t5[0], load("t5")[1]
    assert encoder_digest(other) == encoder_digest(t5[1])
    with torch.no_grad():
        other.encoder.final_layer_norm.weight[3] += 1e-3
    assert encoder_digest(other) != encoder_digest(t5[1])
    before, after = (TextEmbeddings(tokenizer, encoder, tmp_path)(["x"]) for encoder in (t5[1], other))
    assert not torch.equal(before, after)
    assert torch.equal(after, TextEmbeddings(tokenizer, other)(["x"]))


def test_the_same_weights_under_another_configuration_are_another_encoder(t5):
    other = load("t5")[1]
    other.config.layer_norm_epsilon *= 2
    assert encoder_digest(other) != encoder_digest(t5[1])


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_is_cut_short_is_made_anew_with_a_warning(tmp_path, t5, diffusers_log, keep):
    embeddings = TextEmbeddings(*t5, tmp_path)
    expected = embeddings(["a red circle"])
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert torch.equal(embeddings(["a red circle"]), expected)
    assert path.read_bytes() == whole
    assert files(tmp_path) == [path]
    assert f"the cached embedding {path} cannot be read" in diffusers_log.text


def _fill(embeddings: TextEmbeddings, barrier) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    for number in range(40):
        embeddings([f"a red circle {number % 20}"])


def test_several_processes_write_at_once(tmp_path, t5):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    embeddings = TextEmbeddings(*t5, tmp_path)
    processes = [context.Process(target=_fill, args=(embeddings, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(files(tmp_path)) == 20
    captions = [f"a red circle {number}" for number in range(20)]
    assert torch.equal(embeddings(captions), TextEmbeddings(*t5)(captions))


def test_dropout_is_off(t5):
    encoder = load("t5")[1].train()
    encoder.config.dropout_rate = 0.5
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert torch.equal(TextEmbeddings(t5[0], encoder)(["a red circle"]), TextEmbeddings(*t5)(["a red circle"]))
