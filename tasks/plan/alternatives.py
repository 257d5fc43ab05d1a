"""The nearest configs that fit, where the one that was given does not.

One change of each kind is looked for: fewer rows in a pass, fewer processes on a CPU, activations computed again, the
model divided or offloaded, a larger GPU, more GPUs, an adapter, shorter rows. Every one is a whole config that passes
the schema and is planned anew. Nearest is what changes fewest settings; of these, what trains the same; then what is
cheapest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from configs.schema import FineTuneConfig
from configs.topologies import TOPOLOGIES
from configs.wire_plan import Alternative
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import (
    candidates,
    evaluation_memory,
    fits_evaluation,
    fits_training,
    longest_rows,
    training_job,
    training_memory,
    with_evaluation,
    with_evaluation_rows,
)
from tasks.plan.time.duration import RowFacts, estimate_duration

Changes = dict[str, Any]
_NUM_SHOWN = 3
_ROWS = "train.micro_batch_size"
_SHORTEST_ROWS = 128


@dataclass(frozen=True)
class _Try:
    """A change of settings, by their paths, and where it would train; `keeps_result`: apart from rounding."""

    changes: Changes
    target: Target
    keeps_result: bool


@dataclass(frozen=True)
class Search:
    """What alternatives are looked for: a config on a target, among the GPU types of the table."""

    config: FineTuneConfig
    shape: ModelShape
    target: Target
    types: Sequence[GpuType]
    facts: RowFacts = field(default_factory=RowFacts)

    def nearest(self) -> list[Alternative]:
        """Return up to three alternatives of different kinds that fit, nearest first."""
        found: list[Alternative] = []
        for kind in (
            _smaller_evaluation,
            _fewer_rows,
            _fewer_processes,
            _recompute,
            _divide,
            _larger_gpu,
            _more_gpus,
            _adapter,
            _shorter_rows,
        ):
            fitting = self._first_that_fits(kind(self), found)
            if fitting is not None:
                found.append(fitting)
        found.sort(key=lambda each: (len(each.changes), not each.keeps_result, _step_price(each)))
        return found[:_NUM_SHOWN]

    def _rows_of(self, found: Sequence[Alternative]) -> int:
        """Return the rows of a pass with which it fits without any other change, or 0."""
        names = [line.partition(": ") for each in found for line in each.changes if len(each.changes) == 1]
        return next((int(value) for path, _, value in names if path == _ROWS), 0)

    def _first_that_fits(self, tries: Iterator[_Try], found: Sequence[Alternative]) -> Alternative | None:
        rows = self._rows_of(found)
        for each in tries:
            for changes in map(partial(self._with_evaluation, each.target), self._with_fitting_rows(each.changes)):
                # another change is worth it for more rows only
                if len(changes) > 1 and changes.get(_ROWS, rows + 1) <= rows:
                    continue
                config = changed(self.config, changes)
                if config is None or not _fits(config, self.shape, each.target):
                    continue
                fitting = self._alternative(config, changes, each)
                # what fits with less changed, needs no more
                if not any(set(other.changes) <= set(fitting.changes) for other in found):
                    return fitting
        return None

    def _with_evaluation(self, target: Target, changes: Changes) -> Changes:
        """Return the changes, and fewer rows for the evaluate task where what is given does not fit it."""
        config = changed(self.config, changes)
        if config is None or fits_evaluation(config, self.shape, target):
            return changes
        rows = smaller_evaluation(config, self.shape, target)
        return changes if rows is None else {**changes, "evaluate.batch_size": rows}

    def _with_fitting_rows(self, changes: Changes) -> Iterator[Changes]:
        """Yield the changes, and then with fewer rows in a pass: more GPUs may need that to share a batch."""
        yield changes
        config = changed(self.config, {**changes, _ROWS: None})
        if config is not None and _ROWS not in changes:
            for rows in candidates(config.train, self.config.train.micro_batch):
                if rows != self.config.train.micro_batch:
                    yield {**changes, _ROWS: rows}

    def _alternative(self, config: FineTuneConfig, changes: Changes, each: _Try) -> Alternative:
        config = with_evaluation(config, self.shape, each.target)
        job = training_job(config, self.shape, each.target)
        needed = training_memory(job, each.target).total, evaluation_memory(config, self.shape, each.target).total
        return Alternative(
            changes=[f"{path}: {in_yaml(value)}" for path, value in changes.items()],
            keeps_result=each.keeps_result,
            bytes_per_gpu=max(needed),
            gpu=each.target.name,
            gpus=job.num_gpus if each.target.is_gpu else 0,
            expectation=estimate_duration(config, job, each.target.gpu, self.facts),
        )


def _step_price(alternative: Alternative) -> float:
    expected = alternative.expectation
    return (expected.step_seconds or 0.0) * (expected.price_per_hour or 1.0)


def in_yaml(value: object) -> str:
    """Return a value as a config file has it: `on` is a text there in quotes alone."""
    return f'"{value}"' if value in ("on", "off") else str(value)


def changed(config: FineTuneConfig, changes: Changes) -> FineTuneConfig | None:
    """Return the config with settings changed, by their paths, or None where the schema refuses it."""
    content = config.model_dump(mode="json")
    for path, value in changes.items():
        *sections, name = path.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[name] = value
    try:
        found = FineTuneConfig.model_validate(content)
    except ValidationError:
        return None
    return found if found.train.divides_batch(found.train.micro_batch) else None


def smaller_evaluation(config: FineTuneConfig, shape: ModelShape, target: Target) -> int | None:
    """Return the largest power of two of rows with which the evaluate task fits, or None."""
    sizes = [2**power for power in range(10, -1, -1) if 2**power < config.evaluate.rows_per_pass]
    for rows in sizes:
        if fits_evaluation(with_evaluation_rows(config, rows), shape, target):
            return rows
    return None


def _fits(config: FineTuneConfig, shape: ModelShape, target: Target) -> bool:
    return fits_training(config, shape, target) and fits_evaluation(config, shape, target)


Kind = Callable[[Search], Iterator[_Try]]


def _smaller_evaluation(search: Search) -> Iterator[_Try]:
    rows = smaller_evaluation(search.config, search.shape, search.target)
    if rows is not None and fits_training(search.config, search.shape, search.target):
        yield _Try({"evaluate.batch_size": rows}, search.target, True)


def _fewer_rows(search: Search) -> Iterator[_Try]:
    train = search.config.train
    for rows in candidates(train, train.micro_batch - 1):
        yield _Try({_ROWS: rows}, search.target, True)


def _fewer_processes(search: Search) -> Iterator[_Try]:
    """Yield fewer processes where they share a machine's memory; the batch is the same."""
    if not search.target.is_gpu:
        for processes in range(search.config.train.processes_per_node - 1, 0, -1):
            yield _Try({"train.processes_per_node": processes}, search.target, True)


def _recompute(search: Search) -> Iterator[_Try]:
    if not training_job(search.config, search.shape, search.target).has_checkpointing:
        yield _Try({"train.efficiency.gradient_checkpointing": "on"}, search.target, True)


_DIVISIONS: list[Changes] = [
    {"train.sharding": "zero2"},
    {"train.sharding": "fsdp_full_shard"},
    {"train.sharding": "zero3"},
    {"train.sharding": "zero2", "train.deepspeed.offload": "optimizer"},
    {"train.sharding": "zero3", "train.deepspeed.offload": "optimizer"},
    {"train.sharding": "zero3", "train.deepspeed.offload": "optimizer_and_parameters"},
]


def _news(changes: Changes, config: FineTuneConfig) -> Changes:
    """Return those of the changes that are none yet."""
    content = config.model_dump(mode="json")

    def now(path: str) -> Any:
        place: Any = content
        for name in path.split("."):
            place = place[name]
        return place

    return {path: value for path, value in changes.items() if now(path) != value}


def _divide(search: Search) -> Iterator[_Try]:
    if not search.target.is_gpu:
        return
    for division in _DIVISIONS:
        news = _news(division, search.config)
        if news:
            yield _Try(news, search.target, True)


def _larger_gpu(search: Search) -> Iterator[_Try]:
    gpu = search.target.gpu
    for other in search.types if gpu is not None else []:
        if other.memory_bytes > search.target.memory_bytes:
            label = other.labels[0] if other.labels else other.name
            yield _Try({"train.cluster.gpu": label}, gpu_target(other), True)


def _more_gpus(search: Search) -> Iterator[_Try]:
    train, gpu = search.config.train, search.target.gpu
    if gpu is None:
        return
    machines = [int(each) for each in TOPOLOGIES if each.isdecimal() and int(each) >= train.most_nodes]
    sizes = sorted(
        (nodes * processes, nodes, processes)
        for nodes in machines
        for processes in (1, 2, 4, 8)
        if train.processes_per_node <= processes <= gpu.gpus_per_node
        and nodes * processes > train.most_nodes * train.processes_per_node
        and (nodes == 1 or processes == gpu.gpus_per_node)
    )
    for _, nodes, processes in sizes:
        more = {"train.nodes": nodes, "train.processes_per_node": processes}
        for division in ({}, *_DIVISIONS[:3]):
            yield _Try(_news({**more, **division}, search.config), search.target, True)


def _adapter(search: Search) -> Iterator[_Try]:
    """Yield an adapter, and where even that does not fit, one over a quantized base."""
    methods = {"full": ("lora", "qlora"), "lora": ("qlora",), "lora_8bit": ("qlora",)}
    for method in methods.get(search.config.train.method, ()):
        yield _Try({"train.method": method}, search.target, False)


def _shorter_rows(search: Search) -> Iterator[_Try]:
    length = longest_rows(search.config, search.shape) // 2
    while length >= _SHORTEST_ROWS:
        yield _Try({"tokenize.max_length": length}, search.target, False)
        length //= 2
