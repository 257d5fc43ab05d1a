"""Works out the memory that a config needs on one GPU, or in one process on a CPU, and the micro-batch that fits.

A plan is for a `Target`: GPUs of one type, or CPU cores. If the config names no GPU type, the target is the smallest
type of the table on which it fits. Memory is planned for rows of the longest length that the config allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from configs.effective import kernels
from configs.effective import training as effective
from configs.effective.batches import MOST_EVALUATION_ROWS, MOST_ROWS, data_parallel_size, fitting_micro_batch
from configs.effective.device import Architecture
from configs.effective.lengths import LONGEST_ANSWER, longest_row
from configs.effective.numbers import computes_in_16_bits, loaded_format, precision, trained_base_format
from configs.errors import ConfigError
from configs.objectives import OBJECTIVES, ONLINE
from configs.schema import FineTuneConfig
from configs.schema.train import PROMPT_METHODS, TrainConfig
from configs.wire_plan import MemoryUse
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.memory.jobs import EvaluationJob, TrainingJob
from tasks.plan.memory.peak import MemoryPlan, estimate_evaluation, estimate_memory
from tasks.plan.shapes.shape import ModelShape

FRAGMENTATION = 0.05
"""Memory that PyTorch's allocator loses between tensors, as a share of theirs: an assumption."""
GPU_CONTEXT_BYTES = 10**9
"""The CUDA context, cuBLAS' workspace and NCCL's buffers: an assumption."""
CPU_PROCESS_BYTES = int(1.2e9)
"""Python, PyTorch, transformers and TRL in a CPU process, measured as resident memory after import."""

GENERAL_TEXT_TOKENS = 512
"""Tokens of a piece of general text, as in tasks/evaluate/retained.py."""


def longest_rows(config: FineTuneConfig, shape: ModelShape) -> int:
    """Return the tokens of the longest row in training, by the tokenize stage's rule."""
    return longest_row(config.tokenize.max_length, shape.positions)


def training_job(config: FineTuneConfig, shape: ModelShape, target: Target) -> TrainingJob:
    """Return the effective settings on the target on which memory and time depend.

    For a range of machines the plan uses its lower bound, at which a sharded model takes most memory per GPU and a step
    takes longest.
    """
    train, device = config.train, target.device
    num_processes = train.fewest_nodes * train.processes_per_node
    num_groups = data_parallel_size(train, num_processes)
    virtual = train.prompt.num_virtual_tokens if train.method in PROMPT_METHODS else 0
    job = TrainingJob(
        shape=shape,
        sharding=effective.sharding(train, num_processes).value,
        method=train.method,
        objective=train.objective,
        offload=train.deepspeed.offload,
        precision=precision(train, device).value,
        weights=trained_base_format(train, config.model, device),
        optimizer=effective.optimizer(train, device, num_processes).value,
        lora_rank=train.lora.rank,
        lora_targets=tuple(train.lora.target_modules),
        num_virtual_tokens=train.prompt.num_virtual_tokens,
        micro_batch=train.micro_batch,
        length=longest_rows(config, shape) + virtual,
        accumulation=_accumulation(train, num_groups),
        has_checkpointing=effective.gradient_checkpointing(train, device).value,
        num_gpus=effective.num_devices(train, num_processes, device),
        gpus_per_node=effective.num_devices(train, train.processes_per_node, device),
        num_generations=train.policy.num_generations,
        max_new_tokens=train.policy.max_new_tokens,
        has_reference=effective.has_reference(train),
        has_scores=_has_scores(config, target),
        device="cuda" if device.is_gpu else "cpu",
    )
    return replace(job, has_padding=_has_padding(job))


def _accumulation(train: TrainConfig, num_groups: int) -> int:
    """Return the micro-batches per optimizer step.

    With a range's fewest machines the given micro-batch may not divide the batch; training then lowers it. If no
    micro-batch divides the batch, which another check reports, the result is at least 1.
    """
    try:
        rows = fitting_micro_batch(train, num_groups)
    except ConfigError:
        rows = train.micro_batch
    return max(1, train.batch_size // (rows * num_groups))


def _has_scores(config: FineTuneConfig, target: Target) -> bool:
    """Return whether attention is eager where the architecture has other kernels too; where it has none, the count of
    its activations has the scores."""
    in_16_bits = computes_in_16_bits(config.train, config.model, target.device)
    return kernels.attention(config.model, target.device, Architecture("any"), in_16_bits).value == "eager"


def _has_padding(job: TrainingJob) -> bool:
    """Return whether sequences of different lengths are padded to one: rows of a micro-batch (packed ones a little),
    both answers of a pair, or prompts whose answers are generated together."""
    if job.objective in ONLINE:
        return job.micro_batch * job.accumulation > 1
    return job.num_sequences > 1


def training_memory(job: TrainingJob, target: Target) -> MemoryUse:
    """Return the peak memory of one GPU, or of one process, in training."""
    return _memory_use("training", estimate_memory(job), target)


def evaluation_job(config: FineTuneConfig, shape: ModelShape, target: Target) -> EvaluationJob:
    """Return the effective settings on the target on which the memory of the evaluate task depends."""
    return EvaluationJob(
        shape=shape,
        batch_size=config.evaluate.rows_per_pass,
        length=longest_rows(config, shape),
        new_tokens=(config.evaluate.max_new_tokens or LONGEST_ANSWER) if config.evaluate.generate_rows else 0,
        loss_length=_loss_length(config, longest_rows(config, shape)),
        precision=loaded_format(config.model, target.device),
        has_scores=_has_scores(config, target),
        linear_bits=_linear_bits(config),
        # without GPUs the model is loaded whole
        gpus=config.evaluate.gpus if target.is_gpu else 1,
    )


def _linear_bits(config: FineTuneConfig) -> Literal[4, 8] | None:
    """Return the most bits in which a model is scored, None for those as saved: 8-bit copies are scored as they are."""
    if config.evaluate.load_in == "as_saved":
        return None
    return 8 if "8bit" in config.quantize.methods else 4


def _loss_length(config: FineTuneConfig, longest: int) -> int:
    """Return the tokens of the longest sequence whose log-probabilities the evaluate task measures, 0 if none.

    Preferences are log-probabilities of both answers, also without the held-out loss.
    """
    objective = config.train.objective
    if config.evaluate.loss == "measure" or OBJECTIVES[objective].needs_pairs or objective == "kto":
        return longest
    return min(longest, GENERAL_TEXT_TOKENS) if config.evaluate.retained.general_text != "none" else 0


def evaluation_memory(config: FineTuneConfig, shape: ModelShape, target: Target) -> MemoryUse:
    """Return the peak memory of the GPU on which the evaluate task scores the tuned model, the fullest of several."""
    return _memory_use("evaluation", estimate_evaluation(evaluation_job(config, shape, target)), target)


def _memory_use(moment: str, plan: MemoryPlan, target: Target) -> MemoryUse:
    return MemoryUse(
        moment=moment,  # type: ignore[arg-type]
        fullest=plan.moment,
        weights=round(plan.weights),
        gradients=round(plan.gradients),
        optimizer=round(plan.optimizer),
        activations=round(plan.activations),
        logits=round(plan.logits),
        buffers=round(plan.buffers),
        fragmentation=round(FRAGMENTATION * plan.total) if target.is_gpu else 0,
        context=GPU_CONTEXT_BYTES if target.is_gpu else CPU_PROCESS_BYTES,
    )


def fits_training(config: FineTuneConfig, shape: ModelShape, target: Target) -> bool:
    """Return whether training fits: each process on its GPU, or all processes of a machine in the host's memory."""
    needed = training_memory(training_job(config, shape, target), target).total
    if not target.is_gpu:
        needed *= config.train.processes_per_node
    return needed <= target.memory_bytes


def fits_evaluation(config: FineTuneConfig, shape: ModelShape, target: Target) -> bool:
    """Return whether the tuned model can be scored on its GPUs, or in the host's memory, if need be row by row."""
    smallest = config if config.evaluate.batch_size is not None else with_evaluation_rows(config, 1)
    return evaluation_memory(smallest, shape, target).total <= target.memory_bytes


def with_evaluation_rows(config: FineTuneConfig, rows: int) -> FineTuneConfig:
    """Return the config with `rows` rows in a forward pass of the evaluate task."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch_size": rows})})


def with_evaluation(config: FineTuneConfig, shape: ModelShape, target: Target) -> FineTuneConfig:
    """Return the config with the rows per forward pass of evaluation that the user set, or else the most that fit."""
    if config.evaluate.batch_size is not None:
        return config
    powers = range(MOST_EVALUATION_ROWS.bit_length() - 1, -1, -1)
    sizes = [2**power for power in powers]
    candidates = (with_evaluation_rows(config, rows) for rows in sizes)
    fitting = (candidate for candidate in candidates if fits_evaluation(candidate, shape, target))
    return next(fitting, with_evaluation_rows(config, 1))


def with_train(config: FineTuneConfig, **changes: object) -> FineTuneConfig:
    """Return the config with settings of `train` replaced, without validation."""
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def possible_micro_batches(train: TrainConfig, most: int = MOST_ROWS) -> list[int]:
    """Return the micro-batches of at most `most` rows that divide the batch on all processes, largest first."""
    return [rows for rows in range(min(most, train.batch_size), 0, -1) if train.divides_batch(rows)]


def with_micro_batch(config: FineTuneConfig, shape: ModelShape, target: Target) -> FineTuneConfig:
    """Return the config with the micro-batch that the user set, or else with the largest that fits; if none fits, with
    the smallest that divides the batch."""
    if config.train.micro_batch_size is not None:
        return config
    sizes = possible_micro_batches(config.train)
    if not sizes:
        return with_train(config, micro_batch_size=config.train.micro_batch)
    for rows in sizes:
        candidate = with_train(config, micro_batch_size=rows)
        if fits_training(candidate, shape, target):
            return candidate
    return with_train(config, micro_batch_size=sizes[-1])


def smallest_target(config: FineTuneConfig, shape: ModelShape, types: Sequence[GpuType]) -> Target:
    """Return the smallest GPU type on which training and evaluation fit; the largest type if none has enough memory.

    `types` are sorted by memory. If the user sets no micro-batch, the largest one that fits on any type decides: a GPU
    that takes large micro-batches is preferred to a smaller one that takes one row at a time.
    """
    is_fixed = config.train.micro_batch_size is not None or not possible_micro_batches(config.train)
    for rows in [config.train.micro_batch] if is_fixed else possible_micro_batches(config.train):
        candidate = with_train(config, micro_batch_size=rows)
        for target in map(gpu_target, types):
            if fits_training(candidate, shape, target) and fits_evaluation(candidate, shape, target):
                return target
    return gpu_target(types[-1])
