"""The table of objectives: what each one learns from, which rows it takes, and how its model is judged.

Config, plan, tokenize, training, Decks and model card read it. A new objective is an entry here, and in
tasks/train the trainer that does the work (`objectives.FORMS`, and its arguments in `arguments.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

Objective = Literal["sft", "cpt", "dpo", "kto", "reward", "rloo", "grpo"]
Phase = Literal["sft", "reward", "policy"]
"""The phases of an alignment, in order."""


@dataclass(frozen=True)
class LearningRates:
    """Default peak learning rates of all weights, of an adapter, and of virtual tokens.

    A preference or a reward moves a trained model, and needs far smaller steps than a new task does.
    """

    full: float
    adapter: float
    virtual_tokens: float


@dataclass(frozen=True)
class CurveChart:
    """A chart of the training Deck. `series` is the name under which TRL logs it, for held-out rows `eval_<series>`."""

    series: str
    identifier: str
    title: str
    unit: str


@dataclass(frozen=True)
class ObjectiveRules:
    """What the project knows about one objective."""

    title: str
    """Full name, for model cards."""
    learns_from: str
    """What it learns from, for the config's schema."""
    row_kinds: tuple[str, ...]
    """Kinds of canonical rows that it takes, in any mixture."""
    judged_by: tuple[str, ...]
    """Measures that decide whether its model is better: the first on which two models differ, else the last."""
    phase: Phase
    """The phase of an alignment that may have it."""
    learning_rates: LearningRates
    step_cost: float | None
    """Time of an optimizer step as a multiple of sft's; None, not estimated, where generation takes most of it."""
    reference: Literal["never", "always", "with_kl"] = "never"
    """When it needs the model that training began with, as a reference; with_kl: if policy.kl_coefficient > 0."""
    charts: tuple[CurveChart, ...] = ()
    """What the training Deck shows beside the loss."""
    trains_each_token: bool = False
    """Whether tokens are trained one by one; all others compare or score the last answer as a whole."""
    generates_answers: bool = False
    """Whether the model generates the answers while it trains; rows give the prompts alone."""
    needs_pairs: bool = False
    """Whether each row must have a rejected answer; both answers go through the model in one forward pass."""
    learns_from_labels: bool = False
    """Whether it takes single answers, wanted or not; a pair becomes two such rows."""
    scores_answers: bool = False
    """Whether its model yields a score for an answer, and no text."""

    @property
    def learns_preferences(self) -> bool:
        """Whether its held-out rows tell a preferred answer from another."""
        return "preference_accuracy" in self.judged_by


_SUPERVISED_RATES = LearningRates(2e-5, 2e-4, 1e-2)
_PREFERENCE_RATES = LearningRates(1e-6, 1e-5, 1e-3)
_PREFERENCES = ("preference_accuracy", "preference_margin")
_DIVERGENCE = "KL divergence from the reference"
_POLICY_CHARTS = (
    CurveChart("reward", "reward", "Mean reward", "reward"),
    CurveChart("kl", "divergence", _DIVERGENCE, "nats per token"),
)

OBJECTIVES: dict[Objective, ObjectiveRules] = {
    "sft": ObjectiveRules(
        title="supervised fine-tuning",
        learns_from="answers",
        row_kinds=("pair", "messages", "text"),
        judged_by=("eval_loss",),
        phase="sft",
        learning_rates=_SUPERVISED_RATES,
        step_cost=1.0,
        trains_each_token=True,
    ),
    "cpt": ObjectiveRules(
        title="continued pre-training",
        learns_from="plain text",
        row_kinds=("text",),
        judged_by=("eval_loss",),
        phase="sft",
        learning_rates=_SUPERVISED_RATES,
        step_cost=1.0,
        trains_each_token=True,
    ),
    "dpo": ObjectiveRules(
        title="direct preference optimization",
        learns_from="preferences",
        row_kinds=("preference",),
        judged_by=_PREFERENCES,
        phase="policy",
        learning_rates=_PREFERENCE_RATES,
        # two answers, and a forward pass of the reference over each, which takes a third of forward and backward
        step_cost=2 * (1 + 1 / 3),
        reference="always",
        charts=(
            CurveChart("rewards/margins", "margin", "Margin of chosen over rejected", "implicit reward"),
            CurveChart("rewards/accuracies", "accuracy", "Pairs whose chosen answer is preferred", "share of pairs"),
        ),
        needs_pairs=True,
    ),
    "kto": ObjectiveRules(
        title="Kahneman-Tversky optimization",
        learns_from="answers with a label",
        row_kinds=("kto", "preference"),
        judged_by=_PREFERENCES,
        phase="policy",
        learning_rates=_PREFERENCE_RATES,
        # one answer, and the reference's forward pass over it; comparing rows costs more (tasks/plan/time/duration.py)
        step_cost=1 + 1 / 3,
        reference="always",
        charts=(
            CurveChart("rewards/margins", "margin", "Margin of wanted over unwanted", "implicit reward"),
            CurveChart("kl", "divergence", _DIVERGENCE, "nats"),
        ),
        learns_from_labels=True,
    ),
    "reward": ObjectiveRules(
        title="reward model (Bradley-Terry)",
        learns_from="preferences",
        row_kinds=("preference",),
        judged_by=_PREFERENCES,
        phase="reward",
        learning_rates=LearningRates(1e-5, 1e-4, 1e-2),
        step_cost=2.0,
        charts=(
            CurveChart("margin", "margin", "Margin of chosen over rejected", "score"),
            CurveChart("accuracy", "accuracy", "Pairs whose chosen answer scores higher", "share of pairs"),
        ),
        needs_pairs=True,
        scores_answers=True,
    ),
    "rloo": ObjectiveRules(
        title="reinforcement learning (RLOO)",
        learns_from="rewards of generated answers",
        row_kinds=("pair", "messages", "preference"),
        judged_by=("mean_reward",),
        phase="policy",
        learning_rates=_PREFERENCE_RATES,
        step_cost=None,
        reference="with_kl",
        charts=_POLICY_CHARTS,
        generates_answers=True,
    ),
    "grpo": ObjectiveRules(
        title="reinforcement learning (GRPO)",
        learns_from="rewards of generated answers",
        row_kinds=("pair", "messages", "preference"),
        judged_by=("mean_reward",),
        phase="policy",
        learning_rates=_PREFERENCE_RATES,
        step_cost=None,
        reference="with_kl",
        charts=_POLICY_CHARTS,
        generates_answers=True,
    ),
}


def rules_of(objective: str) -> ObjectiveRules:
    """Return the rules of an objective whose name comes from a report, where it is text."""
    return OBJECTIVES[cast(Objective, objective)]


ONLINE: tuple[Objective, ...] = tuple(name for name, rules in OBJECTIVES.items() if rules.generates_answers)
"""Objectives whose answers the model itself generates while it trains."""
WHOLE_TEXT: tuple[Objective, ...] = tuple(name for name, rules in OBJECTIVES.items() if rules.trains_each_token)
"""Objectives that train tokens one by one; all others compare or score the last answer as a whole."""
SCORING: tuple[Objective, ...] = tuple(name for name, rules in OBJECTIVES.items() if rules.scores_answers)
"""Objectives whose model is a reward model: it yields a score for an answer, and no text."""


def objectives_of(phase: Phase) -> tuple[Objective, ...]:
    """Return the objectives that a phase of an alignment may have."""
    return tuple(name for name, rules in OBJECTIVES.items() if rules.phase == phase)


def described_objectives() -> str:
    """Return what all objectives learn from, for the config's schema; those that learn from the same share an entry."""
    names: dict[str, list[str]] = {}
    for name, rules in OBJECTIVES.items():
        names.setdefault(rules.learns_from, []).append(name)
    return "; ".join(f"{', '.join(of_one)}: {what}" for what, of_one in names.items())


def fault_of_few_shot(shots: int, objective: Objective) -> str | None:
    """Return why the rows of an objective cannot have examples before them, with the fix; None where they can."""
    rules = OBJECTIVES[objective]
    if not shots:
        return None
    if rules.scores_answers:
        reason = "trains a reward model, which scores answers and is not prompted"
    elif rules.row_kinds == ("text",):
        reason = "takes plain texts, which have no prompt to put examples before"
    else:
        return None
    return f"evaluate.few_shot={shots}: train.objective={objective} {reason}\nset evaluate.few_shot to 0"
