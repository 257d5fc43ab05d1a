"""Base models that the learning tests begin with, each trained once for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from learning.tasks import make_model, tokenize, train, words

from configs.schema.train import TrainConfig


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights."""
    return make_model(tmp_path_factory.mktemp("blank"))


@pytest.fixture(scope="session")
def copier(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers a word with that word: in capitals about as often as not."""
    folder = tmp_path_factory.mktemp("copier")
    rows = [row for text in words(1200, 4, seed=1) for row in ((text, text.upper()), (text, text))]
    tokens = tokenize("sft", blank, rows, rows[:64], folder / "tokens")
    config = TrainConfig(
        method="full",
        epochs=4,
        batch_size=64,
        micro_batch_size=64,
        learning_rate=5e-3,
        group_by_length=False,
        watch={"evaluations": 0},
    )
    return train(config, blank, tokens, folder).model
