"""Combinations of objective, method and sharding that do not work, with the reasons. The config refuses them, the docs
show them, and a test trains all other pairs of objective and method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.objectives import ONLINE, SCORING, Objective

if TYPE_CHECKING:
    from configs.schema.cluster import Sharding
    from configs.schema.train import Method

_LEFT_PADDED = (
    "prompts of a batch are padded on the left, and peft counts the padding as positions: a short prompt would be "
    "further from the virtual tokens in a batch than alone; use prefix_tuning, lora or full"
)

_NO_TOKEN_IDS = (
    "prompt tuning gives a reward model embeddings but no token ids, so it would read its score at the padding; use "
    "prefix_tuning, lora or full"
)
REFUSED: dict[tuple[Objective, Method], str] = {
    **{(objective, "prompt_tuning"): _NO_TOKEN_IDS for objective in SCORING},
    **{(objective, "prompt_tuning"): _LEFT_PADDED for objective in ONLINE},
}
"""For each pair that `TrainConfig` refuses: the reason, and what to use instead."""

_PACKED_WEIGHTS = (
    "bitsandbytes packs weights into bytes, and sharding would part them from the scales that unpack them; use none, "
    "zero1 or zero2, or train.method=lora"
)
_VIRTUAL_TOKENS = (
    "peft recomputes virtual tokens to save a checkpoint, and cannot do so while FSDP shards them; use zero3, or "
    "train.method=lora"
)
_ONE_POLICY = (
    "TRL samples different answers in each process, but under tensor parallelism all processes are one model; use "
    "fsdp_full_shard or zero3"
)

REFUSED_SHARDING: dict[tuple[Method | Objective, Sharding], str] = {
    **{
        (method, sharding): _PACKED_WEIGHTS
        for method in ("qlora", "lora_8bit")
        for sharding in ("zero3", "fsdp_full_shard", "fsdp_shard_grad_op", "fsdp_hybrid_shard", "tensor_parallel")
    },
    **{
        (method, sharding): _VIRTUAL_TOKENS
        for method in ("prompt_tuning", "prefix_tuning")
        for sharding in ("fsdp_full_shard", "fsdp_shard_grad_op", "fsdp_hybrid_shard")
    },
    ("lora", "tensor_parallel"): "peft makes the adapter of a sharded layer as wide as one process's shard, and the "
    "first forward pass fails; use fsdp_full_shard or zero3",
    ("prefix_tuning", "tensor_parallel"): "a prefix holds the keys and values of all heads, but each process has only "
    "some of the heads; use zero3, or train.method=prompt_tuning",
    **{(objective, "tensor_parallel"): _ONE_POLICY for objective in ONLINE},
}
"""For each method or objective that `TrainConfig` refuses under a sharding: the reason, and what to use instead. Except
for quantized methods, all were tried with two processes, with peft 0.21, TRL 1.16 and transformers 5.23."""


def fault_of_heads(processes: int, model: dict[str, Any]) -> str | None:
    """Return why tensor parallelism cannot split a model's attention heads over `processes`, with the fix, or None.

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
