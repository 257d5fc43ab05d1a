"""Which objectives and methods do not go together, and why: read by the config, by the docs, and by the test that
trains all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.objectives import ONLINE, SCORING, Objective

if TYPE_CHECKING:
    from configs.schema.cluster import Sharding
    from configs.schema.train import Method

_LEFT_PADDED = (
    "prompts of one batch are padded on the left, where peft counts the padding as positions: a short prompt would "
    "stand further from the virtual tokens than when it is asked alone; use prefix_tuning, lora or full"
)
_READ_AT_PADDING = (
    "behind trained embeddings a scoring model is given no token ids, and reads its score at the padding; use "
    "prefix_tuning, lora or full"
)

REFUSED: dict[tuple[Objective, Method], str] = {
    **{(objective, "prompt_tuning"): _READ_AT_PADDING for objective in SCORING},
    **{(objective, "prompt_tuning"): _LEFT_PADDED for objective in ONLINE},
}
"""The reason, with what to use instead, for each pair that `TrainConfig` refuses."""

_PACKED = (
    "bitsandbytes packs several weights into one byte, and what divides tensors would part them from what unpacks "
    "them; use none, zero1 or zero2, or train.method=lora"
)
_VIRTUAL_TOKENS = (
    "peft computes virtual tokens anew when a checkpoint is saved, which it cannot while FSDP divides them; use zero3, "
    "or train.method=lora"
)
_ONE_POLICY = (
    "TRL samples other answers in each process, and under tensor parallelism all processes are one model; use "
    "fsdp_full_shard or zero3"
)

REFUSED_SHARDING: dict[tuple[Method | Objective, Sharding], str] = {
    **{
        (method, sharding): _PACKED
        for method in ("qlora", "lora_8bit")
        for sharding in ("zero3", "fsdp_full_shard", "fsdp_shard_grad_op", "fsdp_hybrid_shard", "tensor_parallel")
    },
    **{
        (method, sharding): _VIRTUAL_TOKENS
        for method in ("prompt_tuning", "prefix_tuning")
        for sharding in ("fsdp_full_shard", "fsdp_shard_grad_op", "fsdp_hybrid_shard")
    },
    ("lora", "tensor_parallel"): "peft gives the adapter of a divided layer the width of one process's part, and its "
    "first forward pass fails; use fsdp_full_shard or zero3",
    ("prefix_tuning", "tensor_parallel"): "a prefix has the keys and values of all heads, and each process has some "
    "of them; use zero3, or train.method=prompt_tuning",
    **{(objective, "tensor_parallel"): _ONE_POLICY for objective in ONLINE},
}
"""The reason for each method, and each objective, that `TrainConfig` refuses under a way to divide the model. All but
the quantized ones were tried with two processes, with peft 0.21, TRL 1.16 and transformers 5.23."""


def fault_of_heads(processes: int, model: dict[str, Any]) -> str | None:
    """Return why tensor parallelism cannot divide a model's attention among `processes`, with the fix, or None.

    `model` is the content of its config.json.
    """
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = model.get(name)
        if isinstance(heads, int) and heads % processes:
            return (
                f"train.processes_per_node={processes} does not divide the model's {name}={heads} "
                "(train.sharding=tensor_parallel); use a divisor of it, or fsdp_full_shard"
            )
    return None
