"""Tokens that every objective can read, and `fit` with little to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from configs.schema import ModelConfig, TrainConfig
from configs.wire import TrainReport
from tasks.models.load import load_tokenizer
from tasks.train.fit import FitInputs, fit

if TYPE_CHECKING:
    from support.killed_runs import Undisturbed

LOADING = ModelConfig(name="tiny")
# of uneven length, so that passes are padded: question, answer, rejected answer
ANSWERS = [
    ("1+1?", "two", "no"),
    ("what is 2+2?", "four", "eleven or so"),
    ("3?", "six", "not six but seven"),
    ("4+4?", "eight is what it is", "9"),
    ("and 5+5?", "ten", "tenfold"),
    ("6+6?", "twelve", "a dozen dozens"),
    ("seven and seven?", "14", "41"),
    ("8+8?", "sixteen", "sixty"),
    ("9+9 is?", "eighteen", "?"),
    ("10?", "twenty of them", "2"),
    ("0+0?", "none", "nothing, nil, nought"),
]
Run = Callable[..., tuple[TrainReport, Path]]


@pytest.fixture(scope="session")
def answers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven rows with prompts masked, a rejected answer each, and every second one unwanted."""
    return written(tmp_path_factory.mktemp("answers"), answer_rows(tiny_model))


@pytest.fixture(scope="session")
def texts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven plain texts, all of whose tokens are trained."""
    rows = answer_rows(tiny_model)
    for row in rows:
        row |= {"labels": row["input_ids"], "prompt_length": 0, "prompt": ""}
    return written(tmp_path_factory.mktemp("texts"), rows)


def answer_rows(model: Path) -> list[dict[str, Any]]:
    tokenizer = load_tokenizer(model)
    rows = []
    for number, (prompt, chosen, rejected) in enumerate(ANSWERS):
        asked = tokenizer(prompt)["input_ids"]
        answer, other = (tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in (chosen, rejected))
        rows.append(
            {
                "row_id": f"rows:{number}",
                "input_ids": asked + answer,
                "labels": [-100] * len(asked) + answer,
                "prompt_length": len(asked),
                "prompt": prompt,
                "expected": chosen,
                "dataset": "held-out",
                "rejected_ids": other,
                "is_wanted": number % 2 == 0,
            }
        )
    return rows


def written(directory: Path, rows: list[dict[str, Any]]) -> Path:
    pd.DataFrame(rows).to_parquet(directory / "tokens.parquet")
    return directory


@pytest.fixture
def train(tiny_model: Path, answers: Path, tmp_path: Path) -> Run:
    """Return `fit` on the tiny model and, where no other are given, the eleven rows; and where it wrote."""

    def run(name: str, /, tokens: Path | None = None, inputs: dict[str, Any] | None = None, **settings: Any):
        base = {"model": tiny_model, "train_tokens": tokens or answers, "tokenizer": tiny_model, "end_token_ids": [1]}
        defaults = {"method": "full", "batch_size": 4, "micro_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3}
        report = fit(
            TrainConfig(**{**defaults, **settings}), LOADING, FitInputs(**{**base, **(inputs or {})}), tmp_path / name
        )
        return report, tmp_path / name

    return run


@pytest.fixture
def inputs(tiny_model: Path, answers: Path) -> dict[str, Any]:
    """Return what `FitInputs` takes: the tiny model, and the eleven rows as training and held-out rows."""
    return {
        "model": tiny_model,
        "train_tokens": answers,
        "test_tokens": answers,
        "tokenizer": tiny_model,
        "end_token_ids": [1],
    }


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Returns the run of given settings that nothing disturbs."""
    from support.killed_runs import Undisturbed

    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def strange(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out rows that nobody could learn of the eleven: their loss only rises."""
    rows = answer_rows(tiny_model)
    for row in rows:
        length = len(row["input_ids"])
        row["input_ids"] = [2 + 128 + (row["prompt_length"] + 5 * place) % 120 for place in range(length)]
        row["labels"] = row["input_ids"]
    return written(tmp_path_factory.mktemp("strange"), rows)
