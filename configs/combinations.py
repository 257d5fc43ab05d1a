"""Which objectives and methods do not go together, and why: read by the config, by the docs, and by the test that
trains all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema_cluster import Sharding
    from configs.schema_train import Method, Objective

_LEFT_PADDED = (
    "prompts of one batch are padded on the left, where peft counts the padding as positions: a short prompt would "
    "stand further from the virtual tokens than when it is asked alone; use prefix_tuning, lora or full"
)

REFUSED: dict[tuple[Objective, Method], str] = {
    ("reward", "prompt_tuning"): "behind trained embeddings a scoring model is given no token ids, and reads its score "
    "at the padding; use prefix_tuning, lora or full",
    ("rloo", "prompt_tuning"): _LEFT_PADDED,
    ("grpo", "prompt_tuning"): _LEFT_PADDED,
}
"""The reason, with what to use instead, for each pair that `TrainConfig` refuses."""

REFUSED_SHARDING: dict[tuple[Method | Objective, Sharding], str] = {
    **{
        (method, sharding): "its 4- and 8-bit weights are not divided correctly; use none, zero1 or zero2"
        for method in ("qlora", "lora_8bit")
        for sharding in ("zero3", "fsdp_full_shard", "fsdp_shard_grad_op", "fsdp_hybrid_shard", "tensor_parallel")
    },
}
"""The reason for each method, and each objective, that `TrainConfig` refuses under a way to divide the model."""
