"""The order of rows and their weight in the loss, however a batch is split over processes and forward passes.

transformers weighs all forward passes of a batch alike, and accelerate fills up the last batch of several processes
with rows that were trained already. Where a loss is a mean over rows, a last batch of 11 rows in forward passes of 4
would weigh its last 3 rows more than the others, and a filled-in row would be trained twice. Here every row counts
once, whatever the number of forward passes and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

_MEGA_BATCHES = 50


def epoch_order(num_rows: int, lengths: np.ndarray | None, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return all row numbers in the order of an epoch, [num_rows] int64: a pure function of its arguments.

    With `lengths`, [num_rows], the rows of a batch have similar lengths: rows are shuffled, sorted by length within
    groups of up to 50 batches, and the batches are shuffled. The batch with the longest row comes first, so that a run
    that needs too much memory fails at once; an incomplete batch comes last.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(num_rows)
    if lengths is None:
        return order
    group = batch_size * min(max(1, num_rows // (4 * batch_size)), _MEGA_BATCHES)
    for start in range(0, num_rows, group):
        rows = order[start : start + group]
        order[start : start + group] = rows[np.argsort(lengths[rows], kind="stable")]
    num_full = num_rows // batch_size
    batches = order[: num_full * batch_size].reshape(num_full, batch_size)[generator.permutation(num_full)]
    if num_full:
        longest = int(lengths[batches].max(axis=1).argmax())
        batches[[0, longest]] = batches[[longest, 0]]
    return np.concatenate([batches.reshape(-1), order[num_full * batch_size :]])


class EpochOrder(Sampler[int]):
    """Yields `epoch_order`, then the numbers of the rows that fill the last forward pass of all processes."""

    def __init__(self, num_rows: int, num_fill: int, lengths: np.ndarray | None, batch_size: int, seed: int) -> None:
        self._arguments = (num_rows, lengths, batch_size, seed)
        self._num_rows, self._num_fill = num_rows, num_fill
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch. The trainer calls this before each one."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_rows + self._num_fill

    def __iter__(self) -> Iterator[int]:
        yield from epoch_order(*self._arguments, self._epoch).tolist()
        yield from range(self._num_rows, self._num_rows + self._num_fill)


def num_fill_rows(num_rows: int, rows_per_pass: int, world_size: int) -> int:
    """Return how many rows without weight fill up the last forward pass of all processes; 0 for one process."""
    return -num_rows % rows_per_pass if world_size > 1 else 0


def without_fill(collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a collator that leaves out rows with `is_fill` set, and counts the others as `num_rows`, [1] int64.

    A forward pass of such rows alone keeps one of them, with all labels -100 and a count of 0: every process must take
    part in every forward pass.
    """

    def collate_real_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
        real = [row for row in rows if not row.get("is_fill")]
        batch = collate([{key: row[key] for key in row if key != "is_fill"} for row in real or rows[:1]])
        if not real and "labels" in batch:
            batch["labels"] = torch.full_like(batch["labels"], -100)
        batch["num_rows"] = torch.tensor([len(real)])
        return batch

    return collate_real_rows


class RowWeights:
    """Makes all rows of an optimizer step weigh the same, whatever forward passes and processes they are split over.

    `mean_over_rows` says that the loss of a forward pass is the mean over its rows. `held_out_tokens_per_row`, the mean
    of trained tokens in a held-out row, is given where the loss is a mean over tokens.
    """

    def __init__(self, mean_over_rows: bool, held_out_tokens_per_row: float | None = None) -> None:
        self._mean_over_rows = mean_over_rows
        self._held_out_tokens_per_row = held_out_tokens_per_row
        self._step_rows = 0.0
        self._has_fill = False

    def count_step(self, trainer: Any, batches: list[Any]) -> None:
        """Count the rows of one optimizer step over all processes; `batches` are those of this process."""
        if not self._mean_over_rows or not batches:
            return
        processes = trainer.accelerator.num_processes
        count = torch.stack([batch["num_rows"].sum() for batch in batches]).sum().to(trainer.args.device)
        self._step_rows = float(trainer.accelerator.gather(count.reshape(1)).sum())
        # the same on all processes, so that they gather in the same way
        full = len(batches) * trainer.args.per_device_train_batch_size * processes
        self._has_fill = processes > 1 and self._step_rows < full

    def loss(self, trainer: Any, model: Any, inputs: Any, compute: Callable[[], Any]) -> Any:
        """Return the loss of `inputs` that `compute` returns; in training, its share of the mean over the step's rows.

        `num_rows` is taken out of `inputs` before `compute` is called.
        """
        num_rows = inputs.pop("num_rows", None)
        share = self._held_out_share(model, inputs)
        is_uneven = self._has_fill and num_rows is not None and model.training
        with _rows_gathered(trainer.accelerator, int(num_rows.sum())) if is_uneven else nullcontext():
            loss = compute()
        if share is not None and torch.is_tensor(loss):
            return loss * share
        if num_rows is None or not self._mean_over_rows or not model.training:
            return loss
        # transformers divides by the forward passes of the step, and DDP by the processes
        passes = trainer.current_gradient_accumulation_steps * trainer.accelerator.num_processes
        return loss * (num_rows.sum() * passes / self._step_rows)

    def _held_out_share(self, model: Any, inputs: Any) -> Any:
        """Return the factor that turns transformers' mean over held-out rows into a mean over tokens."""
        if model.training or self._held_out_tokens_per_row is None or "labels" not in inputs:
            return None
        labels = inputs["labels"]
        return (labels[:, 1:] != -100).sum() / (len(labels) * self._held_out_tokens_per_row)


@contextmanager
def _rows_gathered(accelerator: Any, num_rows: int) -> Iterator[None]:
    """Within the block, `accelerator.gather` accepts another number of rows from each process, none if `num_rows` is 0.

    TRL gathers scores for its log; without this, processes with unequal numbers of rows would crash or wait for ever.
    """
    gather = accelerator.gather

    def gather_rows(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0:
            return gather(tensor)
        own = tensor if num_rows else torch.full_like(tensor, torch.nan)
        rows = gather(accelerator.pad_across_processes(own, dim=0, pad_index=torch.nan))
        return rows[~rows.reshape(len(rows), -1).isnan().any(dim=1)]

    accelerator.gather = gather_rows
    try:
        yield
    finally:
        del accelerator.gather


def row_lengths(columns: Sequence[Any]) -> np.ndarray:
    """Return the number of tokens of each row, [rows] int64, summed over some list columns of a table."""
    import pyarrow.compute as pc

    return np.sum([pc.list_value_length(column).to_numpy() for column in columns], axis=0).astype(np.int64)
