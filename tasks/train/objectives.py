"""The objectives: the TRL trainer of each, and what it reads of a row of token ids from the tokenize stage.

sft and cpt   SFTTrainer: cross-entropy of the labels
dpo           DPOTrainer: prompt, chosen and rejected answer, against the reference
kto           KTOTrainer: prompt, answer, and whether it is wanted, against the reference
reward        RewardTrainer: a score for each of two whole sequences
rloo, grpo    RLOOTrainer, GRPOTrainer: prompts; the answers are generated, and rewarded
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
from transformers import TrainingArguments
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.trainer.dpo_trainer import DataCollatorForPreference as DpoCollator
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference as KtoCollator
from trl.trainer.reward_trainer import DataCollatorForPreference as RewardCollator

from configs.objectives import ONLINE, Objective
from configs.schema.train import TrainConfig
from tasks.train.batches import PaddedCollator
from tasks.train.order import row_lengths
from tasks.train.seams import OVERRIDES, Ordered, TokenizedPrompts

Row = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How an objective reads a tokens file: TRL's trainer and its arguments' class, the columns it needs, and a row as
    its collator takes it."""

    trainer: type
    arguments: type[TrainingArguments]
    columns: tuple[str, ...]
    example: Callable[[Row], Row]
    collator: Callable[[int], Callable[[list[Row]], Row]] | None
    mean_over_rows: bool = False


def _supervised(row: Row) -> Row:
    return {"input_ids": row["input_ids"], "labels": row["labels"]}


def _pair(row: Row) -> Row:
    asked = row["prompt_length"]
    return {
        "prompt_ids": row["input_ids"][:asked],
        "chosen_ids": row["input_ids"][asked:],
        "rejected_ids": row["rejected_ids"],
    }


def _scored(row: Row) -> Row:
    asked = row["prompt_length"]
    return {"chosen_ids": row["input_ids"], "rejected_ids": row["input_ids"][:asked] + row["rejected_ids"]}


def _judged(row: Row) -> Row:
    asked = row["prompt_length"]
    return {
        "prompt_ids": row["input_ids"][:asked],
        "completion_ids": row["input_ids"][asked:],
        "label": row["is_wanted"],
    }


def _asked(row: Row) -> Row:
    return {
        "prompt": row["input_ids"][: row["prompt_length"]],
        "prompt_text": row["prompt"],
        "expected": row["expected"],
    }


def _kto_collator(pad_token_id: int) -> Callable[[list[Row]], Row]:
    """Return TRL's collator with each prompt paired with the answer of the row before, from which KTO estimates the KL.

    TRL makes these pairs once, from neighbouring rows of the file, and must then train in the file's order.
    """
    collate = KtoCollator(pad_token_id)

    def with_other_answers(rows: list[Row]) -> Row:
        others = [rows[number - 1]["completion_ids"] for number in range(len(rows))]
        return collate([row | {"KL_completion_ids": other} for row, other in zip(rows, others, strict=True)])

    return with_other_answers


_SFT = Form(SFTTrainer, SFTConfig, ("input_ids", "labels"), _supervised, PaddedCollator)
_COLUMNS = ("input_ids", "prompt_length")
_PAIR_COLUMNS = (*_COLUMNS, "rejected_ids")
_ONLINE_COLUMNS = (*_COLUMNS, "prompt", "expected")
FORMS: dict[Objective, Form] = {
    "sft": _SFT,
    "cpt": _SFT,
    "dpo": Form(DPOTrainer, DPOConfig, _PAIR_COLUMNS, _pair, DpoCollator, mean_over_rows=True),
    "kto": Form(KTOTrainer, KTOConfig, (*_COLUMNS, "is_wanted"), _judged, _kto_collator, mean_over_rows=True),
    "reward": Form(RewardTrainer, RewardConfig, _PAIR_COLUMNS, _scored, RewardCollator, mean_over_rows=True),
    "rloo": Form(RLOOTrainer, RLOOConfig, _ONLINE_COLUMNS, _asked, None),
    "grpo": Form(GRPOTrainer, GRPOConfig, _ONLINE_COLUMNS, _asked, None),
}


def trainer_class(objective: Objective) -> type:
    """Return TRL's trainer of `objective` with this project's overrides."""
    trainer = FORMS[objective].trainer
    rows = TokenizedPrompts if objective in ONLINE else Ordered
    return type(f"Our{trainer.__name__}", (*OVERRIDES, rows, trainer), {})


def read_examples(
    objective: Objective, tokens_file: Path, cache: Path, num_fill: int = 0, rows: list[int] | None = None
) -> datasets.Dataset:
    """Return the rows of a tokens file as `objective` needs them; they are read from the disk when used.

    Every row has its `row_number` in the file. Packed rows keep `position_ids`. `rows` selects some of them.
    `num_fill` more rows, marked `is_fill` and not trained on, are added at the end.
    """
    form = FORMS[objective]
    present = pq.read_schema(tokens_file).names
    columns = [name for name in (*form.columns, "position_ids") if name in present]
    table = datasets.Dataset.from_parquet(str(tokens_file), columns=columns, cache_dir=str(cache))
    numbers = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
    if num_fill or rows is not None:
        table = table.select(np.concatenate([numbers, np.zeros(num_fill, dtype=np.int64)]))
    num_real = len(numbers)
    numbers = np.concatenate([numbers, np.full(num_fill, -1)])

    def examples(batch: Row) -> Row:
        size = len(batch["row_number"])
        converted = []
        for position in range(size):
            row = {name: values[position] for name, values in batch.items()}
            example = form.example(row) | {"row_number": row["row_number"]}
            if "position_ids" in row:
                example["position_ids"] = row["position_ids"]
            if row["row_number"] < 0:
                example["is_fill"] = True
            converted.append(example)
        names = dict.fromkeys(name for example in converted for name in example)
        return {name: [example.get(name) for example in converted] for name in names}

    assert len(table) == num_real + num_fill
    return table.add_column("row_number", numbers).with_transform(examples)


def example_lengths(objective: Objective, tokens_file: Path) -> np.ndarray:
    """Return the number of tokens of each row of a tokens file, with both answers of a pair, [rows] int64."""
    with pq.ParquetFile(tokens_file) as file:
        names = [name for name in FORMS[objective].columns if name in ("input_ids", "rejected_ids")]
        batches = [row_lengths(batch.columns) for batch in file.iter_batches(columns=names)]
    return np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)


def longest_sequence(config: TrainConfig, tokens_file: Path) -> int:
    """Return the most tokens that the model will see in one sequence, without virtual tokens."""
    longest = 0
    with pq.ParquetFile(tokens_file) as file:
        names = [name for name in ("input_ids", "rejected_ids", "prompt_length") if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=names):
            whole = row_lengths([batch.column("input_ids")])
            if config.objective in ONLINE:
                whole = batch.column("prompt_length").to_numpy() + config.policy.max_new_tokens
            elif "rejected_ids" in names:
                other = batch.column("prompt_length").to_numpy() + row_lengths([batch.column("rejected_ids")])
                whole = np.maximum(whole, other)
            longest = max(longest, int(whole.max(initial=0)))
    return longest


def trained_tokens(examples: datasets.Dataset) -> int:
    """Return how many tokens of rows of `read_examples` have a loss; the first of a row never has."""
    return sum(label != -100 for row in examples for label in row["labels"][1:])
