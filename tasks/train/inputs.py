"""What training reads from earlier stages, and the held-out rows whose loss or reward it can measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.objectives import ONLINE
from configs.schema.train import TrainConfig
from configs.wire import HELD_OUT, Choice
from tasks.train.watch.observers import Observer

TOKENS_FILE = "tokens.parquet"


@dataclass(frozen=True)
class FitInputs:
    """What training reads: folders with the base model, with the tokens of both splits, and with the tokenizer.

    Without `test_tokens` nothing is evaluated during training. `reward_models` are folders with a model and its
    tokenizer. `deepspeed_json` is the content of the user's own DeepSpeed file, used instead of a shipped one. `notes`
    are further lines of the report. `observers` follow the training without changing it.
    """

    model: Path
    train_tokens: Path
    tokenizer: Path
    end_token_ids: list[int]
    test_tokens: Path | None = None
    new_token_ids: list[int] = field(default_factory=list)
    reward_models: list[Path] = field(default_factory=list)
    deepspeed_json: str = ""
    notes: list[Choice] = field(default_factory=list)
    observers: Sequence[Observer] = ()


def held_out_rows(config: TrainConfig, inputs: FitInputs) -> list[int]:
    """Return the numbers of the rows of `test_tokens` that are held out and, for rloo and grpo, have a prompt."""
    if inputs.test_tokens is None:
        return []
    table = pq.read_table(inputs.test_tokens / TOKENS_FILE, columns=["dataset", "prompt_length"])
    is_usable = pc.equal(table["dataset"], HELD_OUT)
    if config.objective in ONLINE:
        is_usable = pc.and_(is_usable, pc.greater(table["prompt_length"], 0))
    return np.flatnonzero(is_usable.to_numpy()).tolist()


def answered_rows(tokens_file: Path) -> list[int]:
    """Return the numbers of the held-out rows that a model can be asked: with a prompt, and a wanted answer to it."""
    columns = ["dataset", "prompt_length"]
    # files of rows without judgements may lack it
    has_judgements = "is_wanted" in pq.read_schema(tokens_file).names
    table = pq.read_table(tokens_file, columns=[*columns, *(["is_wanted"] if has_judgements else [])])
    is_asked = pc.and_(pc.equal(table["dataset"], HELD_OUT), pc.greater(table["prompt_length"], 0))
    if has_judgements:
        is_asked = pc.and_(is_asked, table["is_wanted"])
    return np.flatnonzero(is_asked.to_numpy()).tolist()
