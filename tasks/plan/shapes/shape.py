"""The shape of a model: the numbers that every estimate of memory, traffic and time reads.

Pure arithmetic without torch, so a plan is made before anything is loaded. `tasks.plan.shapes.architectures` works out
a shape from a model's config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from configs.errors import ConfigError
from configs.linear_weights import LinearWeights
from configs.printable import one_line


@dataclass(frozen=True)
class Linear:
    """`count` linear maps of one name and size, over all layers; `name` is the last part of the module's name.

    `is_expert`: there is one per expert, and a token passes through `ModelShape.experts_per_token` of them.
    `is_module` is False for experts stored as one parameter of three dimensions, and for routers that are not linear
    layers. `is_quantized`: bitsandbytes can store its weight in fewer bits. `targets` are the names in LoRA's
    `target_modules` that together put an adapter on it, whose rank is multiplied by their number; None: its own name.
    `is_router`: it chooses experts, or weighs a shared one; `all-linear` leaves it alone.
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
    is_router: bool = False

    @property
    def parameters(self) -> int:
        """Weights of all `count` maps, without biases."""
        return self.count * self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """The widths and counts of a model; the defaults describe a Llama (RMS norms, gated MLP without biases, grouped
    queries, rotary positions).

    `hidden` is the width of a token. `key_value_heads` is how many of `heads` hold keys and values. `is_tied`: the
    output head is the embedding. None means as in a Llama: `head_width` is hidden / heads; `linears` are q, k, v, o,
    gate, up and down, without the output head; `other_parameters` (all except linear maps, embedding and head: norms,
    biases, position embeddings) are those of the norms. `embedding_width` differs from `hidden` in a model that
    projects its embeddings. `largest_layer` is the number of parameters of the largest layer, given when layers differ
    or hold more than linear maps and norms.

    `saved_bytes` is what one layer saves per token for the backward pass, and `temporary_bytes` its gradients of
    activations at the peak of that pass, each for 16-bit weights, autocast over 32-bit weights, and float32; None: use
    the formula for a Llama in `tasks.plan.memory.activations`. `score_bytes` is saved in addition for each position of
    the row, when attention keeps its scores. `is_exact`: the parameter count is exact, which is not certain for a
    repository with its own code. `notes` are assumptions in words. `unquantized` are the linear weights that
    bitsandbytes cannot quantize, by the class of their layer, most first.
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
    unquantized: tuple[tuple[str, int], ...] = ()

    @property
    def query_width(self) -> int:
        """Width of a token's queries, over all heads."""
        return self.heads * (self.head_width or self.hidden // self.heads)

    @property
    def key_value_width(self) -> int:
        """Width of a token's keys, which is also that of its values."""
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
        """Parameters of one layer, the largest if layers differ: its linear maps and two norms."""
        if self.largest_layer is not None:
            return self.largest_layer
        return self.linear_parameters // self.layers + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding alone; an untied output head has as many."""
        return self.vocabulary * (self.embedding_width or self.hidden)

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        matrices = 1 if self.is_tied else 2
        other = self.other_parameters
        if other is None:
            other = (2 * self.layers + 1) * self.hidden
        return self.linear_parameters + matrices * self.embedding_parameters + other

    @property
    def active_parameters(self) -> int:
        """Parameters that a token passes through: all except the experts that it is not routed to.

        The whole embedding is counted, as in the figures of Mixtral (https://arxiv.org/abs/2401.04088).
        """
        return self.parameters - self._idle_share(
            sum(_parameters_with_biases(linear) for linear in self.linear_maps if linear.is_expert)
        )

    @property
    def active_linear_parameters(self) -> int:
        """Weights of the linear maps that a token passes through, without the output head."""
        experts = sum(linear.parameters for linear in self.linear_maps if linear.is_expert)
        return self.linear_parameters - self._idle_share(experts)

    @property
    def quantized_parameters(self) -> int:
        """Weights that bitsandbytes quantizes: linear layers and GPT-2's `Conv1D`, but neither the head nor experts
        stored as one parameter of three dimensions."""
        return sum(linear.parameters for linear in self.linear_maps if linear.is_quantized)

    @property
    def quantizable(self) -> LinearWeights:
        """The linear weights that bitsandbytes quantizes, and all others."""
        return LinearWeights(self.quantized_parameters, self.unquantized)

    def targeted(self, names: Sequence[str]) -> tuple[Linear, ...]:
        """Return the linear maps that get an adapter from LoRA's `target_modules` `names`, as training chooses them.

        `all-linear` is every linear layer and `Conv1D` except the output head and routers, and in families such as
        Mixtral the experts too; any other name is the end of a module's name, also that of a router. Each of the
        `count` maps has an adapter of LoRA's rank: if peft makes one of twice that rank, for two maps fused into one,
        `count` is doubled. Only the last part of a name with dots is compared, so more maps may be returned than are
        trained.

        Raises:
            ConfigError: no linear layer has one of the names.
        """
        requested = {name.rsplit(".", 1)[-1] for name in names}
        known = {linear.name for linear in self.linear_maps if linear.is_module} | {"all-linear"}
        # names of fused maps count only together
        known |= {
            name
            for linear in self.linear_maps
            if requested.issuperset(linear.targets or ())
            for name in linear.targets or ()
        }
        unknown = [name for name in names if name.rsplit(".", 1)[-1] not in known]
        if unknown:
            raise ConfigError(
                f"train.lora.target_modules: {one_line(', '.join(unknown))} matches no linear layer of {self.name}; "
                "it has " + ", ".join(sorted(known - {"all-linear"}))
            )
        targeted = []
        for linear in self.linear_maps:
            needed = (linear.name,) if linear.targets is None else linear.targets
            by_all = "all-linear" in requested and not linear.is_router
            if needed and (by_all or requested.issuperset(needed)):
                targeted.append(replace(linear, count=linear.count * len(needed)))
        return tuple(targeted)

    def _idle_share(self, parameters: int) -> int:
        if not self.experts:
            return 0
        return parameters * (self.experts - self.experts_per_token) // self.experts


def _parameters_with_biases(linear: Linear) -> int:
    return linear.parameters + (linear.count * linear.outputs if linear.has_bias else 0)
