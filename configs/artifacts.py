"""The table of artifacts: what a run makes that can be published, and how each quantization is made and named.

A new method of bitsandbytes is its name in `BitsAndBytesMethod`, an entry in `QUANTIZATIONS`, and its settings in
tasks/quantize/bitsandbytes.py. A method of another library also needs a task with its own image, as gptq has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BitsAndBytesMethod = Literal["8bit", "4bit"]
QuantizationMethod = Literal[BitsAndBytesMethod, "gptq"]
PushedArtifact = Literal["model", "adapter", QuantizationMethod]


@dataclass(frozen=True)
class Quantization:
    """What the project knows about one quantization method."""

    meaning: str
    """Description of the method, for the config's schema."""
    on_card: str
    """Description of the quantized model, for its card."""
    library: Literal["bitsandbytes", "gptqmodel"]
    compute_capability: tuple[int, int] = (0, 0)
    """Lowest compute capability of a GPU for it (README of bitsandbytes, features by hardware); CPUs have none."""
    takes_reward_models: bool = True


QUANTIZATIONS: dict[QuantizationMethod, Quantization] = {
    "8bit": Quantization(
        meaning="LLM.int8()",
        on_card="quantized to 8 bits (LLM.int8(), bitsandbytes)",
        library="bitsandbytes",
        compute_capability=(7, 5),
    ),
    "4bit": Quantization(
        meaning="NF4 with double quantization",
        on_card="quantized to 4 bits (NF4, bitsandbytes)",
        library="bitsandbytes",
        compute_capability=(6, 0),
    ),
    "gptq": Quantization(
        meaning="4-bit GPTQ, which needs a cluster",
        on_card="quantized to 4 bits (GPTQ, calibrated on training rows)",
        library="gptqmodel",
        takes_reward_models=False,
    ),
}


def methods_of(library: str) -> list[QuantizationMethod]:
    """Return the methods by which a library quantizes."""
    return [name for name, quantization in QUANTIZATIONS.items() if quantization.library == library]


def described_quantizations() -> str:
    """Return a description of all methods, for the config's schema."""

    def meanings(library: str) -> str:
        return ", ".join(f"{name} is {QUANTIZATIONS[name].meaning}" for name in methods_of(library))

    return f"{meanings('bitsandbytes')} (bitsandbytes); {meanings('gptqmodel')}"


def scores_name(artifact: PushedArtifact) -> str:
    """Return the name of an artifact's scores in tables, cards and metrics.json; an adapter has the tuned model's."""
    return f"quantized_{artifact}" if artifact in QUANTIZATIONS else "tuned"


def repository_of(repository: str, artifact: PushedArtifact) -> str:
    """Return where an artifact goes: `repository` as configured, with `-<artifact>` for all but the model."""
    return repository if artifact == "model" else f"{repository}-{artifact}"
