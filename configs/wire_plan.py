"""The typed plan of a run: what was checked, which machines it needs, how long it takes and what it costs."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from pydantic import Field

from configs.wire import WireType


class PlanFor(Enum):
    """Whether a plan is for a cluster or for this machine."""

    CLUSTER = "cluster"
    HERE = "here"


CheckResult = Literal["ok", "warning", "failed", "not checked"]


class Check(WireType):
    """One check made before anything runs. Neither `found` nor `fix` holds content of rows or a token."""

    name: str = Field(description="What was checked, such as `model files`.")
    result: CheckResult
    found: str = Field(description="What was found, in one or two lines.")
    fix: str = Field("", description="What the user should do; empty if there is nothing to do.")


class ModelFacts(WireType):
    """Facts about the base model, from its settings and its page."""

    name: str
    family: str = Field(description="transformers' model_type, such as `llama`.")
    license: str = Field(description="License on the model's page, else `not stated` or `not checked`.")
    parameters: int
    active_parameters: int = Field(description="Parameters used for each token: fewer in a mixture of experts.")
    experts: int = Field(0, description="Experts per layer; 0 for a dense model.")
    is_tied: bool = Field(description="Whether the output head shares the embedding's weights.")
    positions: int | None = Field(description="Longest sequence in tokens; None if the settings do not say.")
    source: str = Field(description="Where the shape was read.")


class MemoryUse(WireType):
    """Peak memory per GPU, or per process on a CPU, in bytes; `total` is the sum of the parts."""

    moment: Literal["training", "evaluation"]
    fullest: str = Field(description="When memory peaks, in words.")
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    fragmentation: int = Field(description="Allowance for memory that the allocator cannot use.")
    context: int = Field(description="Allowance for the CUDA context and libraries, or for the process on a CPU.")

    @property
    def total(self) -> int:
        """Sum of all parts, in bytes."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations + self.logits + self.buffers + self.fragmentation + self.context


class Machines(WireType):
    """What training requests from the cluster. All numbers but `nodes` are per machine."""

    nodes: int = Field(description="Lower bound of `train.nodes`; memory and time are planned for it.")
    gpus: int = Field(description="0 if the processes run on CPU cores.")
    gpu: str = Field(description="GPU type from gpus.yaml, or `CPU`.")
    memory_bytes: int = Field(description="Memory of one GPU, or of the host on a CPU.")
    processes: int
    cpus: int
    memory_gib: int = Field(description="Host memory.")
    shared_memory_gib: int = Field(description="Size of /dev/shm.")
    disk_gib: int = Field(description="Ephemeral storage.")


class Expectation(WireType):
    """How long training takes and what it costs; a value is None if something that it depends on is unknown."""

    step_seconds: float | None
    steps: int | None
    hours: float | None
    tokens_per_second: float | None
    price_per_hour: float | None = Field(description="Price of all GPUs, in US dollars.")
    cost: float | None = Field(description="Cost of training alone, in US dollars.")


class Alternative(WireType):
    """A change to the config that makes it fit."""

    changes: list[str] = Field(description="Settings as in a config file, such as `train.method: lora`.")
    keeps_result: bool = Field(description="Whether training gives the same result, apart from rounding.")
    bytes_per_gpu: int = Field(description="Peak of training or evaluation, whichever is larger.")
    gpu: str
    gpus: int = Field(description="GPUs on all machines together.")
    expectation: Expectation


class GpuFit(WireType):
    """Whether the config fits one GPU type of gpus.yaml, and how long it would train there."""

    gpu: str
    memory_bytes: int
    needed_bytes: int = Field(description="Memory needed with `micro_batch_size`, or with one row if none fits.")
    fits: bool
    micro_batch_size: int | None
    step_seconds: float | None = None
    hours: float | None
    cost: float | None


class PhasePlan(WireType):
    """The plan of one training phase."""

    name: str = Field(description="`train`, or the name of the phase in an alignment.")
    objective: str
    method: str
    trainable_parameters: int
    batch_size: int
    micro_batch_size: int
    accumulation: int = Field(description="Micro-batches per optimizer step.")
    evaluation_rows: int = Field(32, description="Rows per forward pass in the evaluate task.")
    evaluation_gpus: int = Field(1, description="GPUs that each pod of the evaluate task asks for; 1 on a CPU.")
    evaluation_load_in: Literal["as_saved", "4bit"] = Field("as_saved", description="How models are scored.")
    max_length: int = Field(description="Longest sequence in tokens; memory is planned for it.")
    memory: list[MemoryUse]
    machines: Machines
    expectation: Expectation
    fits: bool
    alternatives: list[Alternative] = Field([], description="The nearest configs that fit, if this one does not.")
    gpus: list[GpuFit] = Field([], description="How the same config fits other GPU types.")

    @property
    def scored_on(self) -> str:
        """What holds a model while it is scored, as half a sentence."""
        bits = " in 4 bits" if self.evaluation_load_in == "4bit" else ""
        if self.evaluation_gpus > 1:
            return f"the model{bits} divided over {self.evaluation_gpus} GPUs"
        return f"the whole model{bits} on one {'GPU' if self.machines.gpus else 'process'}"


class Plan(WireType):
    """What was resolved and checked before any work starts, and what the work needs."""

    model_revision: str = Field(
        description="Commit of a hub model; else a hash of the folder's content, or of the embedded model's code."
    )
    chat_template: str | None = Field(description="Content of the config's chat template file.")
    rewards_version: str = Field("", description="Hash of the project's functions on which training depends.")
    scores_version: str = Field("", description="Hash of the functions and files on which scores depend.")
    other_revisions: list[str] = Field([], description="Revisions of evaluate.others, empty for an endpoint.")
    deepspeed_json: str = Field("", description="Checked content of the config's DeepSpeed file.")
    warnings: list[str] = Field(description="What the user should know, one line each.")
    model: ModelFacts | None = None
    data_revisions: list[str] = Field([], description="`<source>: <commit or hash>` of each source of rows.")
    checks: list[Check] = Field([], description="All checks.")
    stages: list[PhasePlan] = Field([], description="One training phase, or all of an alignment.")
    assumptions: list[str] = Field([], description="Assumptions behind the numbers that nobody has measured here.")
