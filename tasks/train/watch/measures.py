"""Measures of generated answers to some held-out rows, taken whenever the held-out loss is.

transformers' `compute_metrics` sees the logits of the expected answers, and cannot generate. Here the model answers
with the weights that it has at that step, and training goes on as if it had not.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.effective.lengths import LONGEST_ANSWER
from configs.errors import ConfigError, DataError, FineTuneError
from configs.objectives import ONLINE
from configs.printable import one_line
from configs.schema import EvaluateConfig
from configs.schema.train import TrainConfig
from configs.wire import Choice
from tasks.decks.training import KEPT_BY
from tasks.measures.functions import try_function
from tasks.measures.measured import AnsweredRow, score
from tasks.measures.table import OF_ANSWERS, in_setting, measure_rows
from tasks.models.generation import generate_answers
from tasks.models.pace import say
from tasks.train.collectives import all_values, broadcast, num_processes, rank
from tasks.train.watch.held_out import held_out_sample, is_lower_better

SETTING = "train.watch.measures"
COLUMNS = ["row_id", "input_ids", "prompt_length", "prompt", "expected"]
"""Columns of a tokens file that measures read."""


class AnswerMeasures:
    """Answers held-out rows greedily and scores the answers, as the evaluation does after training.

    `rows` has `COLUMNS`, one row each, and the index 0, 1, ... All processes make one, with the same rows.
    """

    def __init__(
        self, config: TrainConfig, rows: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, end_token_ids: list[int]
    ) -> None:
        self._config, self._rows = config, rows
        self._tokenizer, self._end_token_ids = tokenizer, end_token_ids

    def metrics(self, model: PreTrainedModel, autocast: AbstractContextManager[Any], step: int) -> dict[str, float]:
        """Return the score of each measure as `eval_<key>`, the same in every process. All processes call this.

        `model` has whole weights in each process; its mode, its settings and all random numbers are left as they were.
        A measure that counts no row has no score, and is left out.

        Raises:
            ConfigError: a function of the project fails.
            DataError: the measure of `train.watch.best_by` counts no row.
        """
        with unchanged(model), autocast:
            answers = self._answers(model)
        # one process scores: functions of the project and queries need not give the same twice
        outcome = json.loads(broadcast(json.dumps(self._outcome(answers) if rank() == 0 else {})))
        if "error" in outcome:
            raise ConfigError(outcome["error"])
        scores: dict[str, float] = outcome["scores"]
        best_by = self._config.watch.best_by
        if best_by and best_by not in scores:
            raise DataError(
                f"train.watch.best_by={best_by} has no value at step {step}: none of the {len(self._rows)} held-out "
                "rows that are measured counts; raise train.watch.measured_rows, or choose another measure"
            )
        return {f"eval_{key}": value for key, value in scores.items()}

    def _answers(self, model: PreTrainedModel) -> dict[int, tuple[str, str]]:
        """Return (answer, answer with its reasoning) of each row by its number, from all processes."""
        mine = own_rows(self._rows, self._config.micro_batch, rank(), num_processes())
        settings = EvaluateConfig(
            max_new_tokens=longest_answer(self._config, self._rows), batch_size=self._config.micro_batch
        )
        given = generate_answers(model, self._tokenizer, mine, settings, self._end_token_ids, counts_right=False)
        texts = [(int(row), answer.text, answer.whole_text) for row, answer in zip(mine.index, given, strict=True)]
        gathered = [found for part in all_values(json.dumps(texts)) for found in json.loads(part)]
        return {row: (text, whole) for row, text, whole in gathered}

    def _outcome(self, answers: dict[int, tuple[str, str]]) -> dict[str, Any]:
        """Return the scores, or the message of the error that ended scoring, so that all processes end with it."""
        rows = [
            AnsweredRow(row.row_id, row.prompt, row.expected, *answers[number])
            for number, row in zip(self._rows.index, self._rows.itertuples(index=False), strict=True)
        ]
        try:
            with in_setting(SETTING):
                measured = measure_rows(self._config.watch.measures, rows)
        except FineTuneError as error:
            return {"error": error.message}
        for key, values in measured.items():
            for reason, number in values.failed.items():
                say(f"{key}: {number} of {len(rows)} answers count as 0: {one_line(reason)}", "train")
        scores = {key: score(values.sums.sum(axis=0), values.reduction) for key, values in measured.items()}
        return {"scores": {key: value for key, value in scores.items() if value is not None}}


def measured_rows(config: TrainConfig, rows: pd.DataFrame) -> pd.DataFrame:
    """Return `train.watch.measured_rows` of the held-out `rows` with a prompt, evenly spread, numbered from 0."""
    return rows.iloc[held_out_sample(len(rows), config.watch.measured_rows)].reset_index(drop=True)


def counted_rows(config: TrainConfig, rows: pd.DataFrame, num_held_out: int) -> dict[str, int]:
    """Return for each measure, by its key, how many of the expected answers of `rows` it counts.

    Functions of the project are called with a few rows as a trial. `num_held_out` is the number of all held-out rows,
    for the message.

    Raises:
        ConfigError: there is no row with a prompt, or a measure counts none of them, or one of its settings is wrong,
            or a function fails.
    """
    prompts, expected = rows.prompt.tolist(), rows.expected.tolist()
    if not expected:
        raise ConfigError(
            f"train.watch.measures: none of {num_held_out:,} held-out rows has a prompt to answer; "
            "set train.watch.measures to [], or hold out rows with a prompt"
        )
    counted = {}
    for measure in config.watch.measures:
        known = OF_ANSWERS[measure.name]
        with in_setting(SETTING):
            counted[measure.key] = known.fitting(measure, expected)
            if measure.name == "function":
                try_function(measure, prompts, expected)
        if not counted[measure.key]:
            more = "raise train.watch.measured_rows" if len(expected) >= config.watch.measured_rows else ""
            named, fixes = one_line(measure.key), filter(None, [more, known.fix])
            raise ConfigError(
                f"train.watch.measures: {named} needs {known.needs}; of {len(expected)} held-out rows that are "
                "measured 0 fit\n" + "; ".join(["take it out of train.watch.measures", *fixes])
            )
    return counted


def measure_choices(config: TrainConfig, counted: dict[str, int], num_measured: int, num_prompts: int) -> list[Choice]:
    """Return the report's lines on the measures, their denominators, and the one that decides which weights are kept.

    `counted` is what `counted_rows` returned; `num_prompts` the number of held-out rows with a prompt.
    """
    reasons = ["evenly spread"] if num_measured < num_prompts else []
    reasons += [f"{key} counts {number} of them" for key, number in counted.items() if number < num_measured]
    share = f"{num_measured:,} of {num_prompts:,}"
    value = f"{', '.join(counted)}, of the answers to {share} rows with a prompt"
    lines = [Choice(name="held-out measures", value=value, reason="; ".join(reasons))]
    return lines + best_by_choices(config)


def best_by_choices(config: TrainConfig) -> list[Choice]:
    """Return the line that names the measure by which weights are kept and training stops early; none for the loss."""
    best_by = config.watch.best_by
    if not best_by:
        return []
    side = "lowest" if is_lower_better(config) else "highest"
    return [Choice(name=KEPT_BY, value=best_by, reason=f"the {side} value; of equal ones the earliest")]


def longest_answer(config: TrainConfig, rows: pd.DataFrame) -> int:
    """Return the most tokens of an answer: those of the longest expected one; for rloo and grpo those of training."""
    if config.objective in ONLINE:
        return config.policy.max_new_tokens
    return max(1, min(LONGEST_ANSWER, int((rows.input_ids.map(len) - rows.prompt_length).max())))


def own_rows(rows: pd.DataFrame, batch_size: int, process: int, processes: int) -> pd.DataFrame:
    """Return the rows that one process answers: every so many of the batches of prompts of similar length.

    Batches are the same for any number of processes, so that answers are the same but for rounding: rows that join a
    running batch are padded differently.
    """
    by_length = rows.sort_values("prompt_length", kind="stable")
    starts = list(range(0, len(rows), batch_size))[process::processes]
    return by_length.iloc[[place for start in starts for place in range(start, min(start + batch_size, len(rows)))]]


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model generates; after it modes, settings and random numbers are those of before.

    Training switches the cache of keys and values off, without which each token costs a pass over the whole answer.
    """
    modes = [(module, module.training) for module in model.modules()]
    configs = [config for config in (model.config, getattr(model, "generation_config", None)) if config is not None]
    caches = [(config, config.use_cache) for config in configs if hasattr(config, "use_cache")]
    devices = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    model.eval()
    for config, _ in caches:
        config.use_cache = True
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for config, use_cache in caches:
            config.use_cache = use_cache
        for module, was_training in modes:
            module.training = was_training
