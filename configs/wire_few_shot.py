"""The typed value that the few-shot stage hands on: which examples were shown, and what they cost in tokens."""

from __future__ import annotations

from pydantic import Field

from configs.wire_type import WireType


class FewShotReport(WireType):
    """What became of the held-out rows with examples before them; it holds no content of rows.

    The means are over the `rows` sequences that were kept, each with and without examples.
    """

    shots: int = Field(description="Examples before each held-out row.")
    rows: int = Field(description="Held-out sequences that fit with the examples.")
    left_out_rows: int = Field(description="Held-out sequences that were left out; `warnings` say why.")
    example_row_ids: list[str] = Field(description="Ids of the training rows shown, in their order in the prompt.")
    example_tokens: float = Field(description="Tokens that the examples add to a prompt; mean.")
    prompt_tokens_zero_shot: float = Field(description="Tokens of a prompt without examples; mean.")
    prompt_tokens_few_shot: float = Field(description="Tokens of a prompt with examples; mean.")
    warnings: list[str] = Field([], description="What to know about the comparison; never the content of rows.")

    def summary_line(self) -> str:
        """Return one line for the log."""
        examples = f"{self.shots} example{'s' if self.shots > 1 else ''}"
        return (
            f"few-shot: {self.rows} held-out rows with {examples} before each, which add {self.example_tokens:.0f} "
            f"tokens to a prompt of {self.prompt_tokens_zero_shot:.0f}; {self.left_out_rows} rows left out"
        )


class HeldOutReport(WireType):
    """What became of the held-out rows with another model's tokenizer; it holds no content of rows."""

    rows: int = Field(description="Sequences that are scored.")
    too_long_rows: int = Field(description="Rows left out as too long.")
    refused_rows: int = Field(description="Rows that the chat template refuses.")
    refusal: str = Field("", description="Why the template refuses the first of them; never its content.")
    template: str = Field(description="Where the chat template comes from; `none` for prompts and answers as text.")
    end_token_ids: list[int] = Field(description="Tokens that end answers, the most frequent first.")

    def summary_line(self) -> str:
        """Return one line for the log."""
        line = f"{self.rows} held-out rows, chat template: {self.template}"
        if self.too_long_rows:
            line += f"; {self.too_long_rows} rows are too long"
        if self.refused_rows:
            line += f"; the template refuses {self.refused_rows} rows: {self.refusal}"
        return line
