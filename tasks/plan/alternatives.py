"""Finds the nearest configs that fit when the given one does not.

The search tries one change of each kind: smaller micro-batches, fewer processes on a CPU, a model that is divided or
in 4 bits while it is scored, gradient checkpointing, sharding or offload, a larger GPU, more GPUs, an adapter, shorter
rows. Each alternative is a complete config that
passes the schema and is planned like any other. The nearest one changes the fewest settings; ties go to configs with
the same training result, then to the cheapest.
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
    evaluation_memory,
    fits_evaluation,
    fits_training,
    longest_rows,
    possible_micro_batches,
    training_job,
    training_memory,
    with_evaluation,
    with_evaluation_rows,
)
from tasks.plan.time.duration import RowFacts, estimate_duration

Changes = dict[str, Any]
_NUM_SHOWN = 3
_MICRO_BATCH = "train.micro_batch_size"
_MIN_LENGTH = 128
_GPUS = "evaluate.gpus"
_SCORING_GPUS = (2, 4, 8, 16)


@dataclass(frozen=True)
class _Candidate:
    """Changed settings by their paths, and the hardware to train on.

    `keeps_result`: training gives the same model, except for rounding.
    """

    changes: Changes
    target: Target
    keeps_result: bool


@dataclass(frozen=True)
class Search:
    """A search for alternatives to `config` on `target`, among the GPU types `types`."""

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
            _smaller_micro_batch,
            _fewer_processes,
            _divided_evaluation,
            _evaluation_in_4_bits,
            _checkpointing,
            _sharding,
            _larger_gpu,
            _more_gpus,
            _adapter,
            _shorter_rows,
        ):
            fitting = self._first_that_fits(kind(self), found)
            if fitting is not None:
                found.append(fitting)
        found.sort(key=lambda one: (len(one.changes), not one.keeps_result, _step_price(one)))
        return found[:_NUM_SHOWN]

    def _sufficient_micro_batch(self, found: Sequence[Alternative]) -> int:
        """Return the micro-batch of an alternative that changes nothing else, or 0 if there is none."""
        single_changes = [
            alternative.changes[0].partition(": ") for alternative in found if len(alternative.changes) == 1
        ]
        return next((int(value) for path, _, value in single_changes if path == _MICRO_BATCH), 0)

    def _first_that_fits(self, candidates: Iterator[_Candidate], found: Sequence[Alternative]) -> Alternative | None:
        micro_batch = self._sufficient_micro_batch(found)
        for candidate in candidates:
            add_evaluation = partial(self._with_evaluation, candidate.target)
            for changes in map(add_evaluation, self._with_smaller_micro_batches(candidate.changes)):
                # a second change must allow a larger micro-batch
                if len(changes) > 1 and changes.get(_MICRO_BATCH, micro_batch + 1) <= micro_batch:
                    continue
                config = changed(self.config, changes)
                if config is None or not _fits(config, self.shape, candidate.target):
                    continue
                fitting = self._alternative(config, changes, candidate)
                # skip an alternative if a part of its changes is enough
                if not any(set(other.changes) <= set(fitting.changes) for other in found):
                    return fitting
        return None

    def _with_evaluation(self, target: Target, changes: Changes) -> Changes:
        """Return the changes, with fewer rows for the evaluate task if it does not fit otherwise, or with more GPUs."""
        for more in ({}, *({_GPUS: gpus} for gpus in _more_scoring_gpus(self, target) if _GPUS not in changes)):
            whole = {**changes, **more}
            config = changed(self.config, whole)
            if config is None or fits_evaluation(config, self.shape, target):
                return whole
            rows = fitting_evaluation_rows(config, self.shape, target)
            if rows is not None:
                return {**whole, "evaluate.batch_size": rows}
        return changes

    def _with_smaller_micro_batches(self, changes: Changes) -> Iterator[Changes]:
        """Yield the changes alone, then with smaller micro-batches, which more GPUs may need to share a batch."""
        yield changes
        config = changed(self.config, {**changes, _MICRO_BATCH: None})
        if config is not None and _MICRO_BATCH not in changes:
            for rows in possible_micro_batches(config.train, self.config.train.micro_batch):
                if rows != self.config.train.micro_batch:
                    yield {**changes, _MICRO_BATCH: rows}

    def _alternative(self, config: FineTuneConfig, changes: Changes, candidate: _Candidate) -> Alternative:
        target = candidate.target
        config = with_evaluation(config, self.shape, target)
        job = training_job(config, self.shape, target)
        needed = training_memory(job, target).total, evaluation_memory(config, self.shape, target).total
        return Alternative(
            changes=[f"{path}: {in_yaml(value)}" for path, value in changes.items()],
            keeps_result=candidate.keeps_result,
            bytes_per_gpu=max(needed),
            gpu=target.name,
            gpus=job.num_gpus if target.is_gpu else 0,
            expectation=estimate_duration(config, job, target.gpu, self.facts),
        )


def _step_price(alternative: Alternative) -> float:
    expected = alternative.expectation
    return (expected.step_seconds or 0.0) * (expected.price_per_hour or 1.0)


def in_yaml(value: object) -> str:
    """Return a value as written in a config file, where the text `on` needs quotes."""
    return f'"{value}"' if value in ("on", "off") else str(value)


def changed(config: FineTuneConfig, changes: Changes) -> FineTuneConfig | None:
    """Return the config with the settings at these paths changed, or None if it is invalid."""
    content = config.model_dump(mode="json")
    for path, value in changes.items():
        *sections, name = path.split(".")
        settings = content
        for section in sections:
            settings = settings[section]
        settings[name] = value
    try:
        result = FineTuneConfig.model_validate(content)
    except ValidationError:
        return None
    return result if result.train.divides_batch(result.train.micro_batch) else None


def fitting_evaluation_rows(config: FineTuneConfig, shape: ModelShape, target: Target) -> int | None:
    """Return the largest power of two below the current rows with which the evaluate task fits, or None."""
    sizes = [2**power for power in range(10, -1, -1) if 2**power < config.evaluate.rows_per_pass]
    for rows in sizes:
        if fits_evaluation(with_evaluation_rows(config, rows), shape, target):
            return rows
    return None


def _fits(config: FineTuneConfig, shape: ModelShape, target: Target) -> bool:
    return fits_training(config, shape, target) and fits_evaluation(config, shape, target)


Kind = Callable[[Search], Iterator[_Candidate]]


def _smaller_evaluation(search: Search) -> Iterator[_Candidate]:
    rows = fitting_evaluation_rows(search.config, search.shape, search.target)
    if rows is not None and fits_training(search.config, search.shape, search.target):
        yield _Candidate({"evaluate.batch_size": rows}, search.target, True)


def _smaller_micro_batch(search: Search) -> Iterator[_Candidate]:
    train = search.config.train
    for rows in possible_micro_batches(train, train.micro_batch - 1):
        yield _Candidate({_MICRO_BATCH: rows}, search.target, True)


def _fewer_processes(search: Search) -> Iterator[_Candidate]:
    """Yield fewer processes on a CPU, where they share the machine's memory; the batch stays the same."""
    if not search.target.is_gpu:
        for processes in range(search.config.train.processes_per_node - 1, 0, -1):
            yield _Candidate({"train.processes_per_node": processes}, search.target, True)


def _more_scoring_gpus(search: Search, target: Target) -> list[int]:
    """Return the numbers of GPUs of one machine over which a model could be divided while it is scored."""
    most = target.gpu.gpus_per_node if target.gpu is not None else 1
    return [gpus for gpus in _SCORING_GPUS if search.config.evaluate.gpus < gpus <= most]


def _divided_evaluation(search: Search) -> Iterator[_Candidate]:
    for gpus in _more_scoring_gpus(search, search.target):
        yield _Candidate({_GPUS: gpus}, search.target, True)


def _evaluation_in_4_bits(search: Search) -> Iterator[_Candidate]:
    """Yield scores in 4 bits, without copies in 8 bits where these are too large, and over several GPUs; training stays
    as it is."""
    can_quantize = search.shape.quantizable.is_enough(search.config.quantize.min_share)
    if search.config.evaluate.load_in == "4bit" or not can_quantize:
        return
    in_4_bits: Changes = {"evaluate.load_in": "4bit"}
    yield _Candidate(in_4_bits, search.target, True)
    methods = search.config.quantize.methods
    if "8bit" in methods:
        others = [method for method in methods if method != "8bit"]
        yield _Candidate({**in_4_bits, "quantize.methods": others}, search.target, True)
    for gpus in _more_scoring_gpus(search, search.target):
        yield _Candidate({**in_4_bits, _GPUS: gpus}, search.target, True)


def _checkpointing(search: Search) -> Iterator[_Candidate]:
    if not training_job(search.config, search.shape, search.target).has_checkpointing:
        yield _Candidate({"train.efficiency.gradient_checkpointing": "on"}, search.target, True)


_SHARDINGS: list[Changes] = [
    {"train.sharding": "zero2"},
    {"train.sharding": "fsdp_full_shard"},
    {"train.sharding": "zero3"},
    {"train.sharding": "zero2", "train.deepspeed.offload": "optimizer"},
    {"train.sharding": "zero3", "train.deepspeed.offload": "optimizer"},
    {"train.sharding": "zero3", "train.deepspeed.offload": "optimizer_and_parameters"},
]


def _not_in_effect(changes: Changes, config: FineTuneConfig) -> Changes:
    """Drop changes that are in effect already, and return the others."""
    content = config.model_dump(mode="json")

    def current(path: str) -> Any:
        value: Any = content
        for name in path.split("."):
            value = value[name]
        return value

    return {path: value for path, value in changes.items() if current(path) != value}


def _sharding(search: Search) -> Iterator[_Candidate]:
    if not search.target.is_gpu:
        return
    for sharding in _SHARDINGS:
        changes = _not_in_effect(sharding, search.config)
        if changes:
            yield _Candidate(changes, search.target, True)


def _larger_gpu(search: Search) -> Iterator[_Candidate]:
    gpu = search.target.gpu
    for other in search.types if gpu is not None else []:
        if other.memory_bytes > search.target.memory_bytes:
            label = other.labels[0] if other.labels else other.name
            yield _Candidate({"train.cluster.gpu": label}, gpu_target(other), True)


def _more_gpus(search: Search) -> Iterator[_Candidate]:
    train, gpu = search.config.train, search.target.gpu
    if gpu is None:
        return
    machines = [int(name) for name in TOPOLOGIES if name.isdecimal() and int(name) >= train.most_nodes]
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
        for sharding in ({}, *_SHARDINGS[:3]):
            yield _Candidate(_not_in_effect({**more, **sharding}, search.config), search.target, True)


def _adapter(search: Search) -> Iterator[_Candidate]:
    """Yield an adapter, then one over a quantized base if that can be quantized."""
    methods = {"full": ("lora", "qlora"), "lora": ("qlora",), "lora_8bit": ("qlora",)}
    can_quantize = search.shape.quantizable.is_enough(search.config.quantize.min_share)
    for method in methods.get(search.config.train.method, ()):
        if method == "qlora" and not can_quantize:
            continue
        yield _Candidate({"train.method": method}, search.target, False)


def _shorter_rows(search: Search) -> Iterator[_Candidate]:
    length = longest_rows(search.config, search.shape) // 2
    while length >= _MIN_LENGTH:
        yield _Candidate({"tokenize.max_length": length}, search.target, False)
        length //= 2
