"""The gate section of a config: what a model must show before it is published."""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.schema.section import Section

# a time limit is part of a registered workflow, so that no config can change it
APPROVAL_DAYS = 7


class GateRule(Section):
    """One rule: a measure of the model itself, or its difference to another model, has a bound."""

    measure: str = Field(
        min_length=1, description="A measure by its name or title in tables, such as exact_match or eval_loss."
    )
    set: str = Field(
        "held-out",
        min_length=1,
        description="The evaluation set: `held-out`, or the name of another set in the tables of the report.",
    )
    versus: str | None = Field(
        None,
        min_length=1,
        description="The model to compare with: `base`, `sft` in an alignment, `few_shot` (the base with examples), or "
        "the title of one of evaluate.others, such as `previous`; when not set, the bounds are for the value itself.",
    )
    at_least: float | None = Field(
        None, description="Lowest value; with `versus`, the lowest gain in the measure's own direction."
    )
    at_most: float | None = Field(None, description="Highest value of the model itself, also with `versus`.")
    at_most_drop: float | None = Field(
        None,
        ge=0.0,
        description="Largest loss in the measure's own direction against `versus`, which is base if not set.",
    )
    significant: bool = Field(
        False,
        description="The model must be better than `versus` by more than noise: the paired test, corrected by Holm "
        "over the rules of the gate, gives less than 5 %.",
    )
    required: bool = Field(True, description="Whether the model is held back; else the report has a warning.")

    @model_validator(mode="after")
    def _has_a_bound(self) -> GateRule:
        bounds = [self.at_least, self.at_most, self.at_most_drop]
        if all(bound is None for bound in bounds) and not self.significant:
            raise ValueError("has no bound; give at_least, at_most, at_most_drop or significant: true")
        if self.significant and self.versus is None:
            raise ValueError("`significant` needs `versus`, the model to compare with, such as base")
        if self.at_least is not None and self.at_most_drop is not None:
            raise ValueError("give one of `at_least` and `at_most_drop`")
        return self

    @property
    def compared_with(self) -> str | None:
        """The model to compare with; None if the bounds are for the value itself."""
        return "base" if self.versus is None and self.at_most_drop is not None else self.versus


class GateConfig(Section):
    """What a model must show before it is published."""

    approval: bool = Field(
        False,
        description="Ask a person in Flyte's console before anything is published. The run waits at its step "
        "`approval`, for at most 7 days. A run on a laptop has no console: it asks nobody, and says so.",
    )
    rules: list[GateRule] = Field(
        [],
        description="Rules over all measures; when empty, those of the objective (docs/evaluation.md).",
    )
