"""The shape of a model: what every estimate of memory, traffic and time reads of it.

Pure arithmetic without torch, so that a plan is made before anything is loaded. `tasks.plan.shapes.architectures` makes
a shape of a model's config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from configs.errors import ConfigError


@dataclass(frozen=True)
class Linear:
    """`count` linear maps of one name and size, over all layers; `name` is the last part of the module's name.

    `is_expert`: one for each expert, of which a token passes through `ModelShape.experts_per_token`. `is_module` is
    False for experts that are held together as one parameter of three dimensions, and for routers that are no linear
    layers. `is_quantized`: bitsandbytes holds its weight in fewer bits. `targets` are the names of LoRA's
    `target_modules` that together put an adapter on it, whose rank is multiplied by their number; None: its own name.
    """

    name: str
    inputs: int
    outputs: int
    count: int
    is_expert: bool = False
    has_bias: bool = False
    is_module: bool = True
    is_quantized: bool = True
    targets: tuple[str, ...] | None = None

    @property
    def parameters(self) -> int:
        """Weights of all of them, without biases."""
        return self.count * self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """By default a Llama: RMS norms, gated MLP without biases, grouped queries, rotary positions.

    `hidden` is the width of a token; `key_value_heads` of `heads` hold keys and values; `is_tied`: the output head is
    the embedding. What is None is as in a Llama: `head_width` is hidden / heads, `linears` are q, k, v, o, gate, up and
    down, without the output head, `other_parameters` (all but linear maps, embedding and head: norms, biases, position
    embeddings) those of the norms. `embedding_width` differs from `hidden` where a model projects its embeddings.
    `largest_layer` is the parameters of the largest layer, where layers differ or hold more than linear maps and norms.

    `saved_bytes` are what one layer saves of a token for its backward pass, and `temporary_bytes` the gradients of
    activations in it at the fullest moment of that pass, for 16-bit weights, autocast over 32-bit weights, and float32;
    None: the formula of `tasks.plan.memory.peak` for a Llama holds. `score_bytes` comes to the saved ones for each
    position of the row, where attention keeps its scores. `is_exact`: parameters are those of the model to the last
    one, which is not sure of a repository with code of its own; `notes` are assumptions in words.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    is_tied: bool = False
    family: str = "llama"
    head_width: int | None = None
    positions: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    linears: tuple[Linear, ...] | None = None
    other_parameters: int | None = None
    embedding_width: int | None = None
    largest_layer: int | None = None
    saved_bytes: tuple[float, float, float] | None = None
    temporary_bytes: tuple[float, float, float] | None = None
    score_bytes: tuple[float, float, float] | None = None
    is_exact: bool = True
    notes: tuple[str, ...] = ()

    @property
    def query_width(self) -> int:
        """Width of the queries of a token, over all heads."""
        return self.heads * (self.head_width or self.hidden // self.heads)

    @property
    def key_value_width(self) -> int:
        """Width of the keys, and of the values, of a token."""
        return self.key_value_heads * (self.head_width or self.hidden // self.heads)

    @property
    def linear_maps(self) -> tuple[Linear, ...]:
        """The linear maps of all layers, without the output head."""
        if self.linears is not None:
            return self.linears
        h, q, kv, i = self.hidden, self.query_width, self.key_value_width, self.intermediate
        sizes = {
            "q_proj": (h, q),
            "k_proj": (h, kv),
            "v_proj": (h, kv),
            "o_proj": (q, h),
            "gate_proj": (h, i),
            "up_proj": (h, i),
            "down_proj": (i, h),
        }
        return tuple(Linear(name, inputs, outputs, self.layers) for name, (inputs, outputs) in sizes.items())

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear maps of all layers and experts, without the output head."""
        return sum(linear.parameters for linear in self.linear_maps)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer, of the largest where they differ: its linear maps and two norms."""
        if self.largest_layer is not None:
            return self.largest_layer
        return self.linear_parameters // self.layers + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding; of the output head too, where it is another matrix."""
        return self.vocabulary * (self.embedding_width or self.hidden)

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        tables = 1 if self.is_tied else 2
        other = self.other_parameters
        if other is None:
            other = (2 * self.layers + 1) * self.hidden
        return self.linear_parameters + tables * self.embedding_parameters + other

    @property
    def active_parameters(self) -> int:
        """Parameters that a token passes through: all but those of the experts that it is not routed to.

        The whole embedding is counted, as in the figures of Mixtral (https://arxiv.org/abs/2401.04088).
        """
        return self.parameters - self._idle_share(
            sum(_with_biases(each) for each in self.linear_maps if each.is_expert)
        )

    @property
    def active_linear_parameters(self) -> int:
        """Weights of the linear maps that a token passes through, without the output head."""
        experts = sum(linear.parameters for linear in self.linear_maps if linear.is_expert)
        return self.linear_parameters - self._idle_share(experts)

    @property
    def quantized_parameters(self) -> int:
        """Weights that bitsandbytes quantizes: linear layers and GPT-2's `Conv1D`, neither the head nor experts that
        are one parameter of three dimensions."""
        return sum(linear.parameters for linear in self.linear_maps if linear.is_quantized)

    def targeted(self, names: Sequence[str]) -> tuple[Linear, ...]:
        """Return the linear maps that get an adapter by LoRA's `target_modules`, as peft chooses them.

        `all-linear` is every linear layer and `Conv1D` but the output head, and in families such as Mixtral the experts
        and routers too; another name is the end of a module's name. Each of the `count` of a map returned has an
        adapter of LoRA's rank: one of twice that rank, as peft makes for two maps held together, counts twice. Of a
        name with dots the last part decides, so that more may be returned than is trained.

        Raises:
            ConfigError: a name that no linear layer has.
        """
        asked = {name.rsplit(".", 1)[-1] for name in names}
        known = {linear.name for linear in self.linear_maps if linear.is_module} | {"all-linear"}
        unknown = [name for name in names if name.rsplit(".", 1)[-1] not in known]
        if unknown:
            raise ConfigError(
                f"train.lora.target_modules: {', '.join(unknown)} matches no linear layer of {self.name}; it has "
                + ", ".join(sorted(known - {"all-linear"}))
            )
        chosen = []
        for linear in self.linear_maps:
            needed = (linear.name,) if linear.targets is None else linear.targets
            if needed and ("all-linear" in asked or asked.issuperset(needed)):
                chosen.append(replace(linear, count=linear.count * len(needed)))
        return tuple(chosen)

    def _idle_share(self, parameters: int) -> int:
        if not self.experts:
            return 0
        return parameters * (self.experts - self.experts_per_token) // self.experts


def _with_biases(linear: Linear) -> int:
    return linear.parameters + (linear.count * linear.outputs if linear.has_bias else 0)
