"""The embedded base model: a whole Llama checkpoint that anything can load, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.embedded.english_to_sql import make_unlabelled_text
from tasks.get_model.embedded import make_base_model, make_tokenizer


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return make_unlabelled_text(1200, 1000)


@pytest.fixture(scope="module")
def model(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("embedded")
    make_base_model(lines, directory, seed=0, num_steps=3)
    return directory


def test_the_tokenizer_encodes_any_text_without_loss(lines: list[str]) -> None:
    tokenizer = make_tokenizer(lines)
    assert len(tokenizer) <= 1024
    for text in ("SELECT name FROM books", " two  spaces\n\ttab ", "naïve 中文 \U0001f600", "\x00\x7f"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_it_is_a_llama_of_about_a_million_parameters_in_safetensors(model: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert loaded.config.model_type == "llama"
    assert 5e5 < loaded.num_parameters() < 2e6
    assert (model / "model.safetensors").exists()
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.eos_token_id == loaded.config.eos_token_id != tokenizer.pad_token_id


def test_the_same_seed_gives_the_same_weights(lines: list[str], model: Path, tmp_path: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    for seed, same in ((0, True), (1, False)):
        make_base_model(lines, tmp_path / str(seed), seed, num_steps=3)
        assert ((tmp_path / str(seed) / "model.safetensors").read_bytes() == weights) is same


def test_pretraining_learns_the_text(lines: list[str], model: Path, tmp_path: Path) -> None:
    make_base_model(lines, tmp_path, seed=0, num_steps=20)
    tokenizer = AutoTokenizer.from_pretrained(model)
    batch = torch.tensor([tokenizer("\n".join(lines[:8]))["input_ids"][:128]])
    losses = []
    for directory in (model, tmp_path):
        with torch.no_grad():
            losses.append(AutoModelForCausalLM.from_pretrained(directory)(batch, labels=batch).loss.item())
    assert losses[1] < losses[0] - 1
