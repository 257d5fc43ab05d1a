"""The plan of a run on the wire: what was checked, what it needs of machines, how long it takes and what it costs."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from pydantic import Field

from configs.wire import WireType


class PlanFor(Enum):
    """Which machines a plan is for."""

    CLUSTER = "cluster"
    HERE = "here"


CheckResult = Literal["ok", "warning", "failed", "not checked"]


class Check(WireType):
    """One check made before anything runs. Neither `found` nor `fix` holds content of rows, or a token."""

    name: str = Field(description="What was looked at, such as `model files`.")
    result: CheckResult
    found: str = Field(description="What was found, in one or two lines.")
    fix: str = Field("", description="What to do, where something is to be done.")


class ModelFacts(WireType):
    """What the model's settings say of it."""

    name: str
    family: str = Field(description="transformers' model_type, such as `llama`.")
    license: str = Field(description="As its page says; `not stated` or `not checked` otherwise.")
    parameters: int
    active_parameters: int = Field(description="Those that a token passes through: fewer in a mixture of experts.")
    experts: int = Field(0, description="Experts of a layer; 0 for a dense model.")
    is_tied: bool = Field(description="Whether the output head is the embedding.")
    positions: int | None = Field(description="Longest sequence in tokens; None where the settings do not say.")
    source: str = Field(description="Where the shape is from.")


class MemoryUse(WireType):
    """Bytes of one GPU, or of one process on a CPU, at the fullest moment of `moment`; `total` is their sum."""

    moment: Literal["training", "evaluation"]
    fullest: str = Field(description="When it is fullest, in words.")
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    fragmentation: int = Field(description="Allowance for what the allocator cannot use.")
    context: int = Field(description="Allowance for the CUDA context and libraries, or the process itself.")

    @property
    def total(self) -> int:
        """Sum of all parts, in bytes."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations + self.logits + self.buffers + self.fragmentation + self.context


class Machines(WireType):
    """What training asks the cluster for; all but `nodes` are of one machine."""

    nodes: int = Field(description="The fewest of `train.nodes`, for which memory and time are planned.")
    gpus: int = Field(description="0 where the processes run on CPU cores.")
    gpu: str = Field(description="GPU type of the table, or `CPU`.")
    memory_bytes: int = Field(description="Of one GPU, or of the host on a CPU.")
    processes: int
    cpus: int
    memory_gib: int = Field(description="Host memory.")
    shared_memory_gib: int = Field(description="/dev/shm.")
    disk_gib: int = Field(description="Ephemeral storage.")


class Expectation(WireType):
    """How long training takes, and what it costs; None where something it depends on is not known."""

    step_seconds: float | None
    steps: int | None
    hours: float | None
    tokens_per_second: float | None
    price_per_hour: float | None = Field(description="Of all GPUs, in US dollars.")
    cost: float | None = Field(description="In US dollars, of training alone.")


class Alternative(WireType):
    """A change of the config with which it fits."""

    changes: list[str] = Field(description="Settings as a config file has them, such as `train.method: lora`.")
    keeps_result: bool = Field(description="Whether the same is trained, apart from rounding.")
    bytes_per_gpu: int = Field(description="Of training or evaluation, whichever is more.")
    gpu: str
    gpus: int = Field(description="Over all machines.")
    expectation: Expectation


class GpuFit(WireType):
    """How the config would do on one GPU type of the table."""

    gpu: str
    memory_bytes: int
    needed_bytes: int = Field(description="At the micro-batch given, or at one row where none fits.")
    fits: bool
    micro_batch_size: int | None
    step_seconds: float | None = None
    hours: float | None
    cost: float | None


class StagePlan(WireType):
    """The plan of one training."""

    name: str = Field(description="`train`, or the stage of an alignment.")
    objective: str
    method: str
    trainable_parameters: int
    batch_size: int
    micro_batch_size: int
    accumulation: int = Field(description="Passes for each optimizer step.")
    evaluation_rows: int = Field(32, description="Rows of a forward pass of the evaluate task.")
    max_length: int = Field(description="Longest sequence in tokens, for which memory is planned.")
    memory: list[MemoryUse]
    machines: Machines
    expectation: Expectation
    fits: bool
    alternatives: list[Alternative] = Field([], description="The nearest configs that fit, where this one does not.")
    gpus: list[GpuFit] = Field([], description="The same on other GPU types.")


class Plan(WireType):
    """What was resolved and checked before any work started, and what the work needs."""

    model_revision: str = Field(description="Commit of the hub model, or a hash of the directory's or maker's content.")
    chat_template: str | None = Field(description="Content of the chat template file that the config names.")
    rewards_version: str = Field("", description="Hash of the project's reward functions that the config names.")
    deepspeed_json: str = Field("", description="Content of the DeepSpeed file that the config names, checked.")
    warnings: list[str] = Field(description="What the user should know, one line each.")
    model: ModelFacts | None = None
    data_revisions: list[str] = Field([], description="`<source>: <commit or hash>` of each source of rows.")
    checks: list[Check] = Field([], description="All that was looked at.")
    stages: list[StagePlan] = Field([], description="One, or those of an alignment.")
    assumptions: list[str] = Field([], description="What the numbers rest on that nobody has measured here.")
