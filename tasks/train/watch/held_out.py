"""Held-out loss during training: when and on which rows it is measured, and which weights are kept for it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Literal

from transformers import EarlyStoppingCallback, TrainerCallback

from configs.effective import training as effective
from configs.effective.device import Setting
from configs.measures import OF_ANSWERS
from configs.objectives import ONLINE
from configs.schema.train import TrainConfig
from configs.wire import Choice
from tasks.train.sharding import world_size

_MOST_ROWS = 512
_FEWEST_ROWS = 64
_FEWEST_PROMPTS = 16
_COST_SHARE = 0.1
# a held-out row costs a forward pass, a trained one a forward and a backward pass: a third
_ROWS_PER_TRAINED_ROW = 3.0


def evaluation_steps(num_steps: int, evaluations: int) -> list[int]:
    """Return the steps after which held-out loss is measured: `evaluations` of them, or all if there are fewer.

    They are evenly spaced, and the last one is `num_steps`.
    """
    return sorted({math.ceil(number * num_steps / evaluations) for number in range(1, evaluations + 1)})


def kept_weights(config: TrainConfig, has_held_out: bool) -> Setting[Literal["best", "last"]]:
    """Return which weights a run keeps, and the reason if `train.watch.keep` cannot be followed."""
    return effective.kept_weights(config, has_held_out, world_size())


def best_metric(config: TrainConfig) -> str:
    """Return the name, in transformers' log, of what decides which weights are kept and when training stops early."""
    if config.watch.best_by:
        return f"eval_{config.watch.best_by}"
    return "eval_reward" if config.objective in ONLINE else "eval_loss"


def keys_of(config: TrainConfig) -> list[str]:
    """Return the names of the measures of generated answers."""
    return [measure.key for measure in config.watch.measures]


def is_lower_better(config: TrainConfig) -> bool:
    """Return whether lower values of `best_metric` are better."""
    for measure in config.watch.measures:
        if measure.key == config.watch.best_by:
            return measure.lower_is_better or OF_ANSWERS[measure.name].lower_is_better
    return config.objective not in ONLINE


def evaluation_arguments(config: TrainConfig, num_steps: int, has_held_out: bool) -> dict[str, Any]:
    """Return transformers' arguments to measure held-out loss and keep the best weights in a run of `num_steps`.

    They work together with the callbacks of `watch_callbacks`. Weights are saved when they are the best so far, and
    replace those saved before; DeepSpeed and FSDP save a whole state, since they cannot load weights alone. The best
    weights are those with the lowest held-out loss, for rloo and grpo with the highest mean reward, or with the best
    value of `train.watch.best_by`. Of equal values the earliest is the best.
    """
    if not has_held_out or not config.watch.evaluations:
        return {"eval_strategy": "no", "save_strategy": "no"}
    arguments: dict[str, Any] = {
        "eval_strategy": "steps",
        # the last step only; `EvenEvaluations` adds the others
        "eval_steps": num_steps,
        "metric_for_best_model": best_metric(config),
        "greater_is_better": not is_lower_better(config),
        "save_strategy": "no",
    }
    if kept_weights(config, has_held_out)[0] == "best":
        arguments |= {
            "save_strategy": "best",
            "save_total_limit": 1,
            "load_best_model_at_end": True,
            "save_only_model": not effective.saves_whole_state(config, world_size()),
        }
    return arguments


class EvenEvaluations(TrainerCallback):
    """Measures held-out loss at `evaluation_steps`, and logs the training loss at the same steps."""

    def __init__(self, evaluations: int) -> None:
        self._evaluations = evaluations
        self._steps: set[int] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.eval_strategy != "no":
            self._steps = set(evaluation_steps(state.max_steps, self._evaluations))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self._steps:
            control.should_evaluate = control.should_log = True


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping, without its check of the arguments."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check nothing: a run that measures no held-out loss never stops early, and its report says so."""

    def resume_state(self) -> int:
        """Return how many evaluations in a row were no better than the best."""
        return int(self.early_stopping_patience_counter)

    def restore(self, state: int) -> None:
        """Restore what `resume_state` returned."""
        self.early_stopping_patience_counter = state


def watch_callbacks(config: TrainConfig) -> list[TrainerCallback]:
    """Return the callbacks that evaluate, and that end a run whose held-out loss no longer falls.

    They do nothing when `evaluation_arguments` switched evaluation off.
    """
    if not config.watch.evaluations:
        return []
    callbacks: list[TrainerCallback] = [EvenEvaluations(config.watch.evaluations)]
    if config.watch.early_stopping is not None:
        callbacks.append(EarlyStopping(config.watch.early_stopping))
    return callbacks


def evaluated_rows(config: TrainConfig, num_steps: int) -> int:
    """Return how many held-out rows to evaluate: all evaluations together take about a tenth of the training time.

    At least 64 and at most 512 rows. Evaluating a row takes about a third of the time of training it. For rloo and grpo
    generating takes the time, so a held-out prompt costs as much as a trained answer; there at least 16 prompts.
    """
    is_online = config.objective in ONLINE
    share = _COST_SHARE * num_steps * config.batch_size / max(1, config.watch.evaluations)
    wanted = share if is_online else share * _ROWS_PER_TRAINED_ROW
    return min(_MOST_ROWS, max(_FEWEST_PROMPTS if is_online else _FEWEST_ROWS, int(wanted)))


def held_out_sample(num_rows: int, at_most: int = _MOST_ROWS) -> list[int]:
    """Return the numbers of the held-out rows to evaluate during training: all, or `at_most`, evenly spread."""
    if num_rows <= at_most:
        return list(range(num_rows))
    return [number * num_rows // at_most for number in range(at_most)]


def watch_choices(config: TrainConfig, num_held_out: int, num_evaluated: int) -> list[Choice]:
    """Return the report's lines on held-out loss or reward, early stopping, and the weights that are kept."""
    kept, reason = kept_weights(config, num_held_out > 0)
    is_online = config.objective in ONLINE
    name = "held-out reward" if is_online else "held-out loss"
    if not num_held_out or not config.watch.evaluations:
        why = "train.watch.evaluations is 0" if num_held_out else "there are no held-out rows"
        return [Choice(name=name, value="not taken", reason=why), _kept(kept, reason)]
    share = f"{num_evaluated:,} of {num_held_out:,}"
    of = f"one sampled answer to each of {share} prompts" if is_online else f"of {share} rows"
    reasons = ["the evaluation at the end takes the likeliest answers instead"] if is_online else []
    if num_evaluated < num_held_out:
        reasons.append("evenly spread; more would take too much of the training time")
    patience = config.watch.early_stopping
    stopping = "never" if patience is None else f"after {patience} evaluations without a better one"
    return [
        Choice(name=name, value=f"{config.watch.evaluations} times, {of}", reason="; ".join(reasons)),
        Choice(name="early stopping", value=stopping),
        _kept(kept, reason),
    ]


def _kept(kept: str, reason: str) -> Choice:
    return Choice(name="weights kept", value=kept, reason=reason)


def remove_checkpoints(directory: Path) -> None:
    """Remove a run's checkpoint folders from the directory of its model."""
    for folder in directory.glob("checkpoint-*"):
        if folder.is_dir():
            shutil.rmtree(folder)
