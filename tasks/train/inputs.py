"""What training reads from the stages before it, and which held-out rows it can be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.schema.train import ONLINE, TrainConfig
from configs.wire import HELD_OUT, Choice
from tasks.train.watch.observers import Observer

TOKENS_FILE = "tokens.parquet"


@dataclass(frozen=True)
class FitInputs:
    """What training reads: folders of the base model, of the tokens of both splits, and of the tokenizer.

    Without `test_tokens` nothing is evaluated during training. `reward_models` are folders with a tokenizer each.
    `deepspeed_json` is the text of a DeepSpeed config that runs in the place of a shipped one. `notes` go into the
    report beside the choices. `observers` look on, and change nothing.
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
    """Return the numbers of the held-out rows that a loss, or a reward, can be taken of during training."""
    if inputs.test_tokens is None:
        return []
    table = pq.read_table(inputs.test_tokens / TOKENS_FILE, columns=["dataset", "prompt_length"])
    is_own = pc.equal(table["dataset"], HELD_OUT)
    if config.objective in ONLINE:
        is_own = pc.and_(is_own, pc.greater(table["prompt_length"], 0))
    return np.flatnonzero(is_own.to_numpy()).tolist()
