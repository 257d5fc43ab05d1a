"""How much of a model is quantized: its linear weights, those that are stored in fewer bits, and the words for both.

The linear weights of a model are the numbers in the matrices that its layers multiply with: those of linear layers
(`nn.Linear` and its variants, GPT-2's `Conv1D`), and of experts and routers that are stored as parameters. Embeddings,
the output head, the head of a reward model, biases and norms do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LinearWeights:
    """Numbers of linear weights. `others` are those that are not quantized, by the class of their layer, most first."""

    quantized: int
    others: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> int:
        """All linear weights."""
        return self.quantized + sum(count for _, count in self.others)

    @property
    def share(self) -> float:
        """The share of the linear weights that is quantized; 0 for a model without any."""
        return self.quantized / self.total if self.total else 0.0

    @property
    def left_in_words(self) -> str:
        """The classes of the layers that are not quantized, each with its share of the linear weights."""
        return listed([f"{kind} ({_percent(count / self.total)})" for kind, count in self.others])

    def is_enough(self, min_share: float) -> bool:
        """Return whether anything is quantized, and `min_share` of the linear weights at least."""
        return self.quantized > 0 and self.share >= min_share

    def refusal(self, setting: str, model: str, min_share: float, fix: str) -> str:
        """Return the message for a model of which too little is quantized; `setting` asked for the quantization."""
        return (
            f"{setting}: bitsandbytes quantizes {self.share:.1%} of the linear weights of {model} (embeddings and "
            f"output head do not count), and quantize.min_share is {min_share:.1%}; layers that it does not replace: "
            f"{self.left_in_words or 'it has none that are linear'}\n{fix}"
        )


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "under 0.1%"


def listed(words: Sequence[str]) -> str:
    """Return the words joined by commas, and by `and` before the last one."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1] if words else "") if part)


def share_sentence(share: float | None) -> str:
    """Return the sentence of a model card on the share that is quantized, after a space; empty if it is unknown."""
    if share is None:
        return ""
    return (
        f" {share:.1%} of the weights of its linear layers are quantized; embeddings, output head and the rest keep "
        "their precision."
    )
