"""How the rows of an optimizer step are shared among processes and forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.errors import ConfigError

if TYPE_CHECKING:
    from configs.schema.train import TrainConfig

MOST_ROWS = 8
"""Largest micro-batch that is chosen if the config sets none: larger forward passes are hardly faster."""
MOST_EVALUATION_ROWS = 32
"""Most rows in a forward pass of the evaluation, if the config sets none."""


def data_parallel_size(train: TrainConfig, num_processes: int) -> int:
    """Return how many of `num_processes`, or how many groups of them, work on different rows.

    Under tensor parallelism the processes of a machine are one model, and work on the same rows.
    """
    if train.sharding == "tensor_parallel":
        return max(1, num_processes // train.processes_per_node)
    return num_processes


def compares_rows(train: TrainConfig) -> bool:
    """Return whether each row is scored a second time with the answer of another row of the forward pass. KTO's
    own loss estimates the KL divergence from these scores."""
    return train.objective == "kto" and train.kto.loss == "kto"


def fewest_rows(train: TrainConfig) -> int:
    """Return the fewest rows of a forward pass that the objective can learn from."""
    return 2 if compares_rows(train) else 1


def divides_batch(train: TrainConfig, rows: int, num_processes: int) -> bool:
    """Return whether forward passes of `rows` rows make up the batch exactly, and are enough for the objective."""
    return rows >= fewest_rows(train) and train.batch_size % (rows * data_parallel_size(train, num_processes)) == 0


def default_micro_batch(train: TrainConfig, num_processes: int) -> int:
    """Return the micro-batch if neither the user nor a plan sets one: the most rows, up to 8, that divide the batch."""
    dividing = (rows for rows in range(MOST_ROWS, 0, -1) if divides_batch(train, rows, num_processes))
    return next(dividing, MOST_ROWS)


def fitting_micro_batch(train: TrainConfig, num_groups: int) -> int:
    """Return the largest micro-batch, of at most `train.micro_batch` rows, that divides the batch evenly.

    `num_groups` is the result of `data_parallel_size`.

    Raises:
        ConfigError: the batch does not divide evenly among so many processes.
    """
    for rows in range(train.micro_batch, fewest_rows(train) - 1, -1):
        if train.batch_size % (rows * num_groups) == 0:
            return rows
    raise ConfigError(
        f"train.batch_size={train.batch_size} does not divide among {num_groups} processes\n"
        f"set it to a multiple of {num_groups * fewest_rows(train)}"
    )


def accumulation(train: TrainConfig, num_groups: int) -> int:
    """Return the forward passes per optimizer step and process: batch / (micro-batch x processes).

    `num_groups` is the result of `data_parallel_size`.

    Raises:
        ConfigError: the batch does not divide evenly, for example with another number of processes than planned.
    """
    rows_per_pass = train.micro_batch * num_groups
    if train.batch_size % rows_per_pass:
        raise ConfigError(
            f"train.batch_size={train.batch_size} is not a multiple of micro_batch_size x processes = {rows_per_pass}"
        )
    return train.batch_size // rows_per_pass
