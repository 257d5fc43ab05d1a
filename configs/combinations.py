"""Which objectives and methods do not go together, and why: read by the config, by the docs, and by the test that
trains all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema_train import Method, Objective

REFUSED: dict[tuple[Objective, Method], str] = {
    ("reward", "prompt_tuning"): "behind trained embeddings a scoring model is given no token ids, and reads its score "
    "at the padding; use prefix_tuning, lora or full",
}
"""The reason, with what to use instead, for each pair that `TrainConfig` refuses."""
