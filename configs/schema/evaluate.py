"""The evaluate section of a config: scores on the held-out rows."""

from __future__ import annotations

from pydantic import Field

from configs.effective.batches import MOST_EVALUATION_ROWS
from configs.effective.lengths import LONGEST_ANSWER
from configs.schema.section import Section


class EvaluateConfig(Section):
    """Scores on the held-out rows."""

    generate_rows: int = Field(
        256,
        ge=0,
        description="Held-out rows answered by greedy generation, for exact match; the loss is measured on all of "
        "them.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest generated answer in tokens; when not set, that of the longest expected answer, at most "
        f"{LONGEST_ANSWER}.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per forward pass; when not set, the most that fit by the plan, at most "
        f"{MOST_EVALUATION_ROWS}.",
    )
    num_samples: int = Field(
        8, ge=0, description="Held-out rows that the report shows with the answers before and after training."
    )

    @property
    def rows_per_pass(self) -> int:
        """Rows per forward pass: `batch_size` as set by the user or by a plan, else 32."""
        return self.batch_size or MOST_EVALUATION_ROWS
