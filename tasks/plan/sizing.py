"""What a config asks of one GPU, or of one process on a CPU, and the micro-batch with which it fits.

A plan is for a `Target`: GPUs of one type, or CPU cores. Without a GPU type named, it is the smallest of the table on
which the config fits. Memory is planned for rows of the longest length that the config allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import FineTuneConfig
from configs.schema.cluster import DEEPSPEED, FSDP, Sharding, effective_sharding
from configs.schema.train import PROMPT_METHODS, TrainConfig
from configs.wire_plan import MemoryUse
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.memory.jobs import EvaluationJob, Optimizer, TrainingJob
from tasks.plan.memory.peak import MemoryPlan, estimate_evaluation, estimate_memory
from tasks.plan.shapes.shape import ModelShape

LONGEST_DEFAULT = 2048
"""`tokenize.max_length` where neither the config nor the model's positions are shorter."""
MOST_ROWS = 8
"""Largest micro-batch that a plan chooses by itself: longer passes are hardly faster."""
FRAGMENTATION = 0.05
"""Share of a GPU's tensors that PyTorch's allocator loses between them: an assumption."""
GPU_CONTEXT_BYTES = 10**9
"""The CUDA context, cuBLAS' workspace and NCCL's buffers: an assumption."""
CPU_PROCESS_BYTES = int(1.2e9)
"""Python, PyTorch, transformers and TRL in a process on a CPU: measured as resident memory after import."""
GREEDY_TOKENS = 512
"""The longest answer that the evaluation generates, where the config does not say."""


@dataclass(frozen=True)
class Target:
    """What trains: GPUs of one type, or processes on CPU cores that share the host's memory."""

    name: str
    memory_bytes: float
    gpu: GpuType | None = None
    """Its row of the table, which time and cost are reckoned from; None where it has none."""
    is_gpu: bool = False
    computes_bfloat16: bool = False
    """Whether `auto` means bfloat16 here."""


def gpu_target(gpu: GpuType) -> Target:
    """Return GPUs of a type as the target of a plan."""
    return Target(gpu.name, gpu.memory_bytes, gpu, is_gpu=True, computes_bfloat16=gpu.has_bfloat16)


def longest_rows(config: FineTuneConfig, shape: ModelShape) -> int:
    """Return the tokens of the longest row that may be trained, as the tokenize stage decides it."""
    if config.tokenize.max_length is not None:
        return config.tokenize.max_length
    return min(shape.positions or LONGEST_DEFAULT, LONGEST_DEFAULT)


def training_job(config: FineTuneConfig, shape: ModelShape, target: Target) -> TrainingJob:
    """Return the settings that decide memory and time, with what `auto` means on the target."""
    train, efficiency = config.train, config.train.efficiency
    # of a range the fewest: a divided model takes most memory there, and a step most time
    processes = train.fewest_nodes * train.processes_per_node
    num_gpus = processes * train.cluster.gpus_per_process
    word = effective_sharding(train.sharding, train.processes_per_node, processes)
    wants_checkpointing = efficiency.gradient_checkpointing == "on" or (
        efficiency.gradient_checkpointing == "auto" and target.is_gpu
    )
    virtual = train.prompt.num_virtual_tokens if train.method in PROMPT_METHODS else 0
    return TrainingJob(
        shape=shape,
        sharding=word,
        method=train.method,
        objective=train.objective,
        offload=train.deepspeed.offload,
        precision="bfloat16" if target.computes_bfloat16 and efficiency.precision != "float32" else "float32",
        optimizer=_optimizer(train, word),
        lora_rank=train.lora.rank,
        lora_targets=tuple(train.lora.target_modules),
        num_virtual_tokens=train.prompt.num_virtual_tokens,
        micro_batch=train.micro_batch,
        length=longest_rows(config, shape) + virtual,
        accumulation=_accumulation(train),
        has_checkpointing=wants_checkpointing and train.method != "prefix_tuning",
        num_gpus=num_gpus,
        gpus_per_node=train.processes_per_node * train.cluster.gpus_per_process,
        num_generations=train.policy.num_generations,
        max_new_tokens=train.policy.max_new_tokens,
        has_reference=_has_reference(train),
        # rows of a pass are of unlike length, and are padded; packed ones too, a little
        has_padding=train.micro_batch > 1,
        device="cuda" if target.is_gpu else "cpu",
    )


def _optimizer(train: TrainConfig, word: Sharding) -> Optimizer:
    """Return the optimizer in effect: 8-bit states are not had where the weights are divided by PyTorch."""
    wish = train.efficiency.optimizer
    cannot = word in (*FSDP, "tensor_parallel") or (word in DEEPSPEED and train.deepspeed.offload != "none")
    return "adamw" if wish == "auto" or cannot else wish


def _has_reference(train: TrainConfig) -> bool:
    """Return whether the objective compares with the model that training began with."""
    if train.objective in ("rloo", "grpo"):
        return train.policy.kl_coefficient > 0
    return train.objective in ("dpo", "kto")


def _accumulation(train: TrainConfig) -> int:
    """Return the passes of an optimizer step; 1 where the batch does not divide, which is an error of its own."""
    groups = 1 if train.sharding == "tensor_parallel" else train.processes_per_node
    return max(1, train.batch_size // (train.micro_batch * train.fewest_nodes * groups))


def training_memory(job: TrainingJob, target: Target) -> MemoryUse:
    """Return the bytes of one GPU, or of one process, at the fullest moment of training."""
    return _memory_use("training", estimate_memory(job), target)


def evaluation_memory(config: FineTuneConfig, shape: ModelShape, target: Target) -> MemoryUse:
    """Return the bytes of the GPU on which the evaluate task scores the tuned model."""
    length = longest_rows(config, shape)
    job = EvaluationJob(
        shape=shape,
        batch_size=config.evaluate.rows_per_pass,
        length=length,
        new_tokens=(config.evaluate.max_new_tokens or GREEDY_TOKENS) if config.evaluate.generate_rows else 0,
        precision="bfloat16" if target.computes_bfloat16 and config.model.dtype in ("auto", "bfloat16") else "float32",
    )
    return _memory_use("evaluation", estimate_evaluation(job), target)


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
    """Return whether training fits: a GPU for each process, or all processes of a machine in the host's memory."""
    needed = training_memory(training_job(config, shape, target), target).total
    if not target.is_gpu:
        needed *= config.train.processes_per_node
    return needed <= target.memory_bytes


def fits_evaluation(config: FineTuneConfig, shape: ModelShape, target: Target) -> bool:
    """Return whether the tuned model can be scored on one GPU, or in the host's memory; row by row if need be."""
    least = config if config.evaluate.batch_size is not None else with_evaluation_rows(config, 1)
    return evaluation_memory(least, shape, target).total <= target.memory_bytes


def with_evaluation_rows(config: FineTuneConfig, rows: int) -> FineTuneConfig:
    """Return the config with so many rows in a pass of the evaluate task."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch_size": rows})})


def with_evaluation(config: FineTuneConfig, shape: ModelShape, target: Target) -> FineTuneConfig:
    """Return the config with the rows of the evaluate task that the user set, or else the most that fit."""
    if config.evaluate.batch_size is not None:
        return config
    sizes = [2**power for power in range(5, -1, -1)]
    chosen = (with_evaluation_rows(config, rows) for rows in sizes)
    return next((each for each in chosen if fits_evaluation(each, shape, target)), with_evaluation_rows(config, 1))


def with_train(config: FineTuneConfig, **changes: object) -> FineTuneConfig:
    """Return the config with settings of `train` replaced, unchecked."""
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def candidates(train: TrainConfig, most: int = MOST_ROWS) -> list[int]:
    """Return the micro-batches, of at most `most` rows, that make up the batch on all processes, largest first."""
    return [rows for rows in range(min(most, train.batch_size), 0, -1) if train.divides_batch(rows)]


def with_micro_batch(config: FineTuneConfig, shape: ModelShape, target: Target) -> FineTuneConfig:
    """Return the config with the micro-batch that the user set, or else the largest that fits; the smallest that
    divides the batch where none fits."""
    if config.train.micro_batch_size is not None:
        return config
    sizes = candidates(config.train)
    if not sizes:
        return with_train(config, micro_batch_size=config.train.micro_batch)
    for rows in sizes:
        chosen = with_train(config, micro_batch_size=rows)
        if fits_training(chosen, shape, target):
            return chosen
    return with_train(config, micro_batch_size=sizes[-1])


def smallest_target(config: FineTuneConfig, shape: ModelShape, types: Sequence[GpuType]) -> Target:
    """Return the GPU type with the least memory for training and evaluation; the largest where none has enough.

    `types` are sorted by memory. Without a micro-batch of the user's, one at which accumulation is no more than needed
    comes first: what fits with many rows is preferred to a smaller GPU on which each row is a pass.
    """
    fixed = config.train.micro_batch_size is not None or not candidates(config.train)
    for rows in [config.train.micro_batch] if fixed else candidates(config.train):
        chosen = with_train(config, micro_batch_size=rows)
        for target in map(gpu_target, types):
            if fits_training(chosen, shape, target) and fits_evaluation(chosen, shape, target):
                return target
    return gpu_target(types[-1])
