"""Stops a run whose loss is not a number, explodes, leaps or climbs, before that step changes weights or is saved.

transformers looks at the loss only when it logs, after the weights have changed, and does not know the rows of a batch.
Here every optimizer step is judged, over all processes, and batches carry the numbers of their rows, so that the error
can name the rows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from configs.errors import DivergedError
from configs.objectives import ONLINE
from configs.printable import print_line
from configs.schema.train import TrainConfig
from tasks.train.collectives import broadcast, rank
from tasks.train.row_numbers import RowIds, as_list

Verdict = Literal["ok", "not a number", "explosion", "spike", "climb"]

_WINDOW = 50
_STEPS_BEFORE_SPIKES = 20
_FIRST, _LAST = 3, 10
_SHOWN_ROWS = 8


class LossWatch:
    """Judges the mean loss of each optimizer step, in order.

    `not a number`: NaN or infinite.

    `explosion`, from the second step on: loss - highest so far > 10 + 4 x |highest so far|. The other two rules need
    earlier steps to compare with, but a learning rate far too high ruins a model within one step. Token losses of
    single rows reach about 12 nats (ln of a vocabulary of 160,000), and means over a step are lower: the limit is 15
    nats after a loss of 1, and 70 after one of 12.

    `spike`, from the 21st step on: loss - median > threshold x max(1.4826 MAD, 0.1 |median|, 0.05), over the last 50
    steps. Outliers, which the rule must find, do not move the median or the MAD (the median distance from the median;
    1.4826 times it is one standard deviation of a normal distribution). The two floors are for curves so smooth that
    noise would be many deviations: with a threshold of 20, a spike is above the median by more than 1 nat and by more
    than twice the median.

    `climb`: all of the last 10 losses are above 1.5 x the mean of the first 3, + 1: a learning rate so high that the
    model unlearns, without a leap. Their mean is not used: in small batches a single row can lift it that far.

    With a threshold of None, or `has_scale` False, only `not a number` is looked for: a policy gradient's loss
    is about 0 whatever the model does.
    """

    def __init__(self, threshold: float | None, has_scale: bool = True) -> None:
        self._threshold = threshold if has_scale else None
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._first: list[float] = []
        self._highest: float | None = None
        self._num_seen = 0

    def verdict(self, loss: float) -> Verdict:
        """Judge the loss of the next step, and remember it, unless it is not a number or an explosion."""
        if not math.isfinite(loss):
            return "not a number"
        if self._is_explosion(loss):
            return "explosion"
        is_spike = self._is_spike(loss)
        self._highest = loss if self._highest is None else max(self._highest, loss)
        self._num_seen += 1
        self._recent.append(loss)
        if len(self._first) < _FIRST:
            self._first.append(loss)
        if is_spike:
            return "spike"
        return "climb" if self._is_climb() else "ok"

    @property
    def median_loss(self) -> float:
        """The median of the last 50 losses."""
        return median(self._recent)

    @property
    def first_loss(self) -> float:
        """The mean of the first 3 losses."""
        return mean(self._first)

    @property
    def highest_loss(self) -> float:
        """The highest loss so far, except an explosion; NaN before the first."""
        return math.nan if self._highest is None else self._highest

    def state(self) -> dict[str, Any]:
        """Return what a resumed run must know of the losses so far."""
        return {
            "recent": list(self._recent),
            "first": self._first,
            "highest": self._highest,
            "num_seen": self._num_seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._recent = deque(state["recent"], maxlen=_WINDOW)
        self._first, self._highest = list(state["first"]), state["highest"]
        self._num_seen = state["num_seen"]

    def _is_explosion(self, loss: float) -> bool:
        if self._threshold is None or self._highest is None:
            return False
        return loss - self._highest > 10.0 + 4.0 * abs(self._highest)

    def _is_spike(self, loss: float) -> bool:
        if self._threshold is None or self._num_seen < _STEPS_BEFORE_SPIKES:
            return False
        middle = median(self._recent)
        deviation = 1.4826 * median(abs(recent - middle) for recent in self._recent)
        return loss - middle > self._threshold * max(deviation, 0.1 * abs(middle), 0.05)

    def _is_climb(self) -> bool:
        if self._threshold is None or self._num_seen < _FIRST + _LAST:
            return False
        return min(list(self._recent)[-_LAST:]) > 1.5 * self.first_loss + 1.0


@dataclass
class WatchedStep:
    """What is known of the current optimizer step."""

    passes: list[tuple[torch.Tensor, Any]] = field(default_factory=list)
    """For each forward pass its loss, a tensor without dimensions, and the numbers of its rows."""
    grad_norm: Any = None


def start_watch(trainer: Any, config: TrainConfig, row_ids: RowIds) -> None:
    """Make `trainer` stop at a bad step, as `config.watch` says. `row_ids` turns numbers of rows into ids."""
    trainer.watched_step = WatchedStep()
    trainer.add_callback(_StopsBadSteps(trainer, config, row_ids))


class _StopsBadSteps(TrainerCallback):
    """Judges a step when its gradient is complete and no weight has changed.

    DeepSpeed changes weights in the last backward pass: there the step is judged just after, before it is saved.
    """

    def __init__(self, trainer: Any, config: TrainConfig, row_ids: RowIds) -> None:
        self._trainer, self._row_ids = trainer, row_ids
        self._is_online = config.objective in ONLINE
        self._watch = LossWatch(config.watch.largest_deviation, has_scale=not self._is_online)
        self._threshold = config.watch.largest_deviation

    def resume_state(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return self._watch.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `resume_state` returned."""
        self._watch.restore(state)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        passes, norm = self._trainer.watched_step.passes, self._trainer.watched_step.grad_norm
        self._trainer.watched_step.passes = []
        loss, grad_norm = _mean_over_processes(
            [torch.stack([loss for loss, _ in passes]).sum(), 0.0 if norm is None else norm], args.device
        )
        verdict = self._watch.verdict(loss)
        step = state.global_step + 1
        if verdict == "not a number":
            what = f"training loss is {loss} at step {step}"
        elif not math.isfinite(grad_norm):
            what = f"the gradient's norm is {grad_norm} at step {step}, with a training loss of {loss:.4g}"
        elif verdict == "explosion":
            what = f"training loss exploded from {self._watch.highest_loss:.4g} to {loss:.4g} at step {step}"
        elif verdict == "spike":
            what = f"training loss leapt from about {self._watch.median_loss:.4g} to {loss:.4g} at step {step}"
        elif verdict == "climb":
            first = f"{self._watch.first_loss:.4g}, the mean of the first {_FIRST},"
            what = f"training loss climbed from {first} to {loss:.4g} by step {step}"
        else:
            return
        fix = (
            f"lower train.learning_rate (now {args.learning_rate:g}) or raise train.warmup_fraction"
            if state.global_step
            else "no weight has changed yet: these rows or the model's own weights are the cause, or its precision"
        )
        if verdict == "spike":
            fix += f", or raise train.watch.spike_threshold (now {self._threshold:g})"
        names = self._names_of_rows(passes)
        where = _last_good_weights(args.output_dir) if rank() == 0 else ""
        raise DivergedError(broadcast("\n".join([f"{what}; {fix}", names, where])))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = float((kwargs.get("metrics") or {}).get("eval_loss", 0.0))
        if math.isfinite(loss) or self._is_online:
            return
        self._stop_at_bad_weights(args, state)
        if state.is_world_process_zero:
            cannot = "; its weights cannot be the best" if args.metric_for_best_model == "eval_loss" else ""
            print_line(f"train: held-out loss is {loss} at step {state.global_step}{cannot}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_at_bad_weights(args, state)

    def _stop_at_bad_weights(self, args: Any, state: Any) -> None:
        """Stop if trained weights are not numbers: after the last step, no loss shows it."""
        finite = [
            _own_shard(parameter.detach()).isfinite().all().float()
            for parameter in self._trainer.model.parameters()
            if parameter.requires_grad
        ]
        share = _mean_over_processes([torch.stack(finite).min() if finite else 1.0], args.device)[0]
        if share < 1.0:
            where = _last_good_weights(args.output_dir) if rank() == 0 else ""
            raise DivergedError(
                f"trained weights are not numbers after step {state.global_step}; "
                f"lower train.learning_rate (now {args.learning_rate:g}) or raise train.warmup_fraction\n"
                + broadcast(where)
            )

    def _names_of_rows(self, passes: Sequence[tuple[torch.Tensor, Any]]) -> str:
        """Return the line that names the step's rows, those of the forward pass with the worst loss first."""
        local = [(float(loss), as_list(numbers)) for loss, numbers in passes]
        processes: list[Any] = [local]
        if dist.is_initialized():
            processes = [None] * dist.get_world_size()
            dist.all_gather_object(processes, local)
        worst_first = sorted((found for process in processes for found in process), key=_badness, reverse=True)
        bad = [(loss, numbers) for loss, numbers in worst_first if not math.isfinite(loss)]
        rows = list(dict.fromkeys(row for _, numbers in bad or worst_first for row in numbers if row >= 0))
        if rank() != 0 or not rows:
            return "its rows are not known"
        ids = self._row_ids(rows[:_SHOWN_ROWS])
        more = f", and {len(rows) - len(ids)} more" if len(rows) > len(ids) else ""
        return f"{'rows of that loss' if bad else 'rows of the step'}: {', '.join(ids)}{more}"


def _badness(seen: tuple[float, list[int]]) -> float:
    loss, _ = seen
    return loss if math.isfinite(loss) else math.inf


def _mean_over_processes(values: Sequence[Any], device: torch.device) -> list[float]:
    """Return the mean of each value over all processes, with one wait for the device; NaN if any process has NaN."""
    whole = [value.full_tensor() if isinstance(value, DTensor) else value for value in values]
    total = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device).reshape(()) for value in whole])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
        total /= dist.get_world_size()
    return [float(value) for value in total.tolist()]


def _own_shard(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's shard of a tensor that FSDP or tensor parallelism shards."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _last_good_weights(directory: str) -> str:
    checkpoint = get_last_checkpoint(directory) if Path(directory).is_dir() else None
    if checkpoint is None:
        return "no checkpoint was saved before"
    return f"the last weights saved before it are of step {checkpoint.rpartition('-')[2]}, in {checkpoint}"
