"""The shape of a model: what every estimate of memory, traffic and time reads of it.

Pure arithmetic without torch, so that a plan is made before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """A Llama: RMS norms, gated MLP without biases, grouped queries, rotary positions.

    `hidden` is the width of a token; `key_value_heads` of `heads` hold keys and values; `is_tied`: the output head is
    the embedding.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    is_tied: bool = False

    @property
    def key_value_width(self) -> int:
        """Width of the keys, and of the values, of a token."""
        return self.hidden // self.heads * self.key_value_heads

    @property
    def linear_sizes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear maps of one layer: q, k, v, o, gate, up, down."""
        h, kv, i = self.hidden, self.key_value_width, self.intermediate
        return [(h, h), (h, kv), (h, kv), (h, h), (h, i), (h, i), (i, h)]

    @property
    def linear_parameters(self) -> int:
        """Parameters of the linear maps of all layers, without the output head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_sizes)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: its linear maps and two norms."""
        return self.linear_parameters // self.layers + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding; of the output head too, where it is another matrix."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        tables = 1 if self.is_tied else 2
        return self.layers * self.layer_parameters + tables * self.embedding_parameters + self.hidden


LLAMA_2_7B = ModelShape("Llama-2-7B", 4096, 32, 32, 32, 11008, 32000)
LLAMA_2_13B = ModelShape("Llama-2-13B", 5120, 40, 40, 40, 13824, 32000)
LLAMA_2_70B = ModelShape("Llama-2-70B", 8192, 80, 64, 8, 28672, 32000)
LLAMA_3_8B = ModelShape("Llama-3.1-8B", 4096, 32, 32, 8, 14336, 128256)
LLAMA_3_70B = ModelShape("Llama-3.1-70B", 8192, 80, 64, 8, 28672, 128256)
LLAMA_3_405B = ModelShape("Llama-3.1-405B", 16384, 126, 128, 8, 53248, 128256)
