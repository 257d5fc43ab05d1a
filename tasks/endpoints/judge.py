"""A model as judge: scores of answers, choices between two answers, and whether an answer refuses.

A judge errs, prefers the first answer or the longer one, and may be talked round. So each result has what shows it: how
often the judge agrees with itself, how often the position decides, and how many judgments there were not, and why.
Sentences say it in words where it is bad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.endpoints.agreement import (
    cohens_kappa,
    majority,
    mean_difference,
    mean_of_rows,
    pairs_of_repeats,
    share_equal,
)
from tasks.endpoints.client import Endpoint
from tasks.endpoints.judgments import Judgment, read_choice, read_refusal, read_score
from tasks.endpoints.messages import ChatRequest, Reply
from tasks.endpoints.questions import choice_request, refusal_request, score_request
from tasks.measures.measured import AnsweredRow

LEAST_AGREEMENT = 0.7
MOST_FAILED = 0.05
MOST_BIAS = 0.2
_TIE = 0.5


@dataclass(frozen=True)
class Judged:
    """What judgments of both kinds have.

    `values` [rows] float64 is NaN for a row without a valid judgment; `failures` has each such row once, by the reason
    of its first failed judgment. `failed_judgments` are all failed ones of `num_judgments`, by reason.
    """

    values: np.ndarray
    failures: dict[str, int] = field(default_factory=dict)
    num_judgments: int = 0
    failed_judgments: dict[str, int] = field(default_factory=dict)

    def _failed_sentences(self, opening: str = "The judge") -> list[str]:
        num_failed = sum(self.failed_judgments.values())
        if num_failed <= MOST_FAILED * self.num_judgments:
            return []
        reasons = ", ".join(f"{reason}: {number:,}" for reason, number in self.failed_judgments.items())
        missing = int(np.isnan(self.values).sum())
        return [
            f"{opening} gave no valid judgment {num_failed:,} of {self.num_judgments:,} times ({reasons}); {missing:,} "
            f"of {len(self.values):,} rows do not count."
        ]


@dataclass(frozen=True)
class JudgedScores(Judged):
    """Scores from 1 to 5: `values` are means over the repeats of a row.

    Each two valid repeats of a row are compared by the numbers that the judge wrote: `mean_difference` is their mean
    absolute difference in points, `repeats_equal` the share of equal ones; None with one repeat.
    """

    mean_difference: float | None = None
    repeats_equal: float | None = None

    def sentences(self) -> list[str]:
        """Return a sentence for each reason to distrust the scores: failed judgments, or repeats that disagree."""
        found = self._failed_sentences("Asked for scores, the judge")
        if self.repeats_equal is not None and self.repeats_equal < LEAST_AGREEMENT:
            found.append(
                f"Asked again, the judge repeats its score in only {self.repeats_equal:.0%} of cases (mean difference "
                f"{self.mean_difference:.2f} points)."
            )
        return found


@dataclass(frozen=True)
class JudgedPairs(Judged):
    """Choices between two answers to a prompt, each pair asked in both orders.

    `values` are 1 where the answer after is chosen in both orders, 0 where the one before is, else 0.5, also for equal
    answers (`num_identical`), of which the judge is not asked. `num_contradictions` are rows whose order decides: the
    first answer wins in both orders, or the second. Of the rows with judgments in both orders, `order_agreement` is
    the share with the same choice and `kappa` is Cohen's, over win, tie and loss. `first_share` is the share of choices
    for the answer that stood first, of all choices but ties; a judge without bias has one half. `repeats_equal` is the
    share of equal choices, of each two repeats in one order.
    """

    num_identical: int = 0
    num_contradictions: int = 0
    order_agreement: float | None = None
    kappa: float | None = None
    first_share: float | None = None
    repeats_equal: float | None = None

    @property
    def position_bias(self) -> float | None:
        """Distance of `first_share` from one half, 0 to 0.5."""
        return None if self.first_share is None else abs(self.first_share - 0.5)

    def sentences(self) -> list[str]:
        """Return a sentence for each reason to distrust the choices: failures, order, position, repeats."""
        found = self._failed_sentences("Asked which of two answers is better, the judge")
        if self.order_agreement is not None and self.order_agreement < LEAST_AGREEMENT:
            kappa = "" if self.kappa is None else f", Cohen's kappa {self.kappa:.2f}"
            found.append(
                f"The judge makes the same choice in both orders of the two answers in only {self.order_agreement:.0%} "
                f"of rows{kappa}; {self.num_contradictions:,} rows where the order decides count as ties."
            )
        if self.position_bias is not None and self.position_bias > MOST_BIAS:
            found.append(
                f"The judge chooses the answer that stands first in {self.first_share:.0%} of its choices; without a "
                "bias for the position it would be 50%."
            )
        if self.repeats_equal is not None and self.repeats_equal < LEAST_AGREEMENT:
            found.append(f"Asked again, the judge repeats its choice in only {self.repeats_equal:.0%} of cases.")
        return found


@dataclass(frozen=True)
class JudgedRefusals(Judged):
    """Whether answers refuse: `values` are 1 for a refusal, else 0."""

    def sentences(self, answers: str) -> list[str]:
        """Return a sentence where too many judgments failed; `answers` says whose answers, and to what."""
        return self._failed_sentences(f"Asked which {answers} refuse, the judge")


def score_answers(endpoint: Endpoint, rubric: str, rows: Sequence[AnsweredRow], repeats: int = 1) -> JudgedScores:
    """Return scores of the answers of `rows` by a rubric, in the manner of G-Eval (Liu et al. 2023, arXiv:2303.16634).

    An empty rubric asks for correct and helpful answers. One question is asked at temperature 0; with more `repeats`,
    each is asked at temperature 1, so that they can disagree.

    Raises:
        ConfigError: as `Endpoint.ask`.
    """
    heat = _temperature(repeats)
    requests = [score_request(rubric, row, repeat, heat) for row in rows for repeat in range(repeats)]
    judgments = _judgments(endpoint, requests, read_score)
    values = mean_of_rows(_array([judgment.value for judgment in judgments], (len(rows), repeats)))
    first, second = pairs_of_repeats(_array([judgment.stated for judgment in judgments], (len(rows), repeats)))
    return JudgedScores(
        values,
        _failed_rows(values, _by_row(judgments, len(rows))),
        len(judgments),
        _reasons(judgments),
        mean_difference(first, second),
        share_equal(first, second),
    )


def compare_answers(
    endpoint: Endpoint, rubric: str, before: Sequence[AnsweredRow], after: Sequence[AnsweredRow], repeats: int = 1
) -> JudgedPairs:
    """Return which answers are better, those of `after` or those of `before`, rows in the same order.

    Each pair is asked in both orders, as in Zheng et al. 2023 (arXiv:2306.05685), so that a preference for a position
    makes ties and no wins. With several repeats, the choice in an order is the most frequent one; temperatures as in
    `score_answers`. A row counts if each order has a valid judgment.

    Raises:
        ConfigError: as `Endpoint.ask`.
    """
    assert [row.row_id for row in before] == [row.row_id for row in after], "the rows of two models are not the same"
    heat = _temperature(repeats)
    differing = [number for number, row in enumerate(after) if row.answer != before[number].answer]
    requests = [
        choice_request(rubric, after[number], *answers, repeat, heat)
        for number in differing
        for old, new in [(before[number].answer, after[number].answer)]
        for answers in ((new, old), (old, new))
        for repeat in range(repeats)
    ]
    judgments = _judgments(endpoint, requests, read_choice)
    # [rows, order, repeat]: 1 where A is chosen, -1 where B is; in the first order, A is the answer after
    chosen = _array([judgment.value for judgment in judgments], (len(differing), 2, repeats))
    orders = np.stack([majority(chosen[:, 0]), majority(-chosen[:, 1])], axis=1)
    values = np.full(len(after), _TIE)
    values[differing] = _in_both_orders(orders)
    is_choice = np.isfinite(chosen) & (chosen != 0)
    repeated = pairs_of_repeats(chosen.reshape(-1, repeats))
    return JudgedPairs(
        values,
        _failed_rows(values[differing], _by_row(judgments, len(differing))),
        len(judgments),
        _reasons(judgments),
        num_identical=len(after) - len(differing),
        num_contradictions=int((orders[:, 0] * orders[:, 1] == -1).sum()),
        order_agreement=share_equal(orders[:, 0], orders[:, 1]),
        kappa=cohens_kappa(orders[:, 0], orders[:, 1]),
        first_share=float((chosen[is_choice] == 1).mean()) if is_choice.any() else None,
        repeats_equal=share_equal(*repeated),
    )


def refusals_by_judge(endpoint: Endpoint, rows: Sequence[AnsweredRow]) -> JudgedRefusals:
    """Return whether answers refuse what their prompts ask for: 1 or 0, NaN without a valid judgment.

    Each is asked once, at temperature 0.

    Raises:
        ConfigError: as `Endpoint.ask`.
    """
    judgments = _judgments(endpoint, [refusal_request(row) for row in rows], read_refusal)
    values = _array([judgment.value for judgment in judgments], (len(rows),))
    failures = _failed_rows(values, _by_row(judgments, len(rows)))
    return JudgedRefusals(values, failures, len(judgments), _reasons(judgments))


def _in_both_orders(orders: np.ndarray) -> np.ndarray:
    """Return 1 for two wins, 0 for two losses, NaN where either is NaN, else 0.5 [rows], for `orders` [rows, 2]."""
    wins = orders.sum(axis=1)
    return np.where(np.isnan(wins), np.nan, np.select([wins == 2, wins == -2], [1.0, 0.0], _TIE))


def _temperature(repeats: int) -> float:
    return 0.0 if repeats == 1 else 1.0


def _judgments(
    endpoint: Endpoint, requests: Sequence[ChatRequest], read: Callable[[Reply], Judgment]
) -> list[Judgment]:
    return [read(reply) for reply in endpoint.ask(requests)]


def _array(values: Sequence[float], shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).reshape(shape)


def _by_row(judgments: Sequence[Judgment], num_rows: int) -> list[Sequence[Judgment]]:
    each = len(judgments) // num_rows if num_rows else 0
    return [judgments[number * each : (number + 1) * each] for number in range(num_rows)]


def _failed_rows(values: np.ndarray, judgments: Sequence[Sequence[Judgment]]) -> dict[str, int]:
    """Return how many rows have no value, by the reason of the first failed judgment of each."""
    rows = zip(values, judgments, strict=True)
    return dict(Counter(next(one.failure for one in row if one.failure) for value, row in rows if np.isnan(value)))


def _reasons(judgments: Sequence[Judgment]) -> dict[str, int]:
    return dict(Counter(judgment.failure for judgment in judgments if judgment.failure))
