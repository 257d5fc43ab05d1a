"""Scores that are no means of the rows' values: macro-F1, BLEU and chrF, from sums over rows.

Each function takes sums [..., k] and returns scores [...], so that thousands of resamples of the rows cost one call.
"""

from __future__ import annotations

import numpy as np

BLEU_ORDER = 4
CHRF_ORDER = 6
_CHRF_BETA = 2


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Return the mean over labels of F1 = 2 tp / (2 tp + fp + fn).

    `sums` [..., 3 * labels] holds the true positives of all labels, then their false positives, then their false
    negatives. A label that no row expects or answers is not in the mean; NaN where no row counts.
    """
    hits, wrong, missed = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, sums.shape[-1] // 3), -2, 0)
    total = 2 * hits + wrong + missed
    occurs = total > 0
    f1 = np.divide(2 * hits, total, out=np.zeros(total.shape), where=occurs)
    return _divided(f1.sum(-1), occurs.sum(-1))


def bleu(sums: np.ndarray) -> np.ndarray:
    """Return the corpus BLEU of Papineni et al. 2002 (https://aclanthology.org/P02-1040), from 0 to 1.

    `sums` [..., 10] holds the words of the answers, those of the expected texts, the matched n-grams of order 1 to 4
    and the n-grams of the answers of order 1 to 4, as sacrebleu counts them. The n-th order without a match gets the
    precision 1 / (2^m total), m counting such orders (sacrebleu's `exp`); without any match the score is 0. NaN where
    no row counts.
    """
    answered, expected = sums[..., 0], sums[..., 1]
    matched, total = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    halvings = np.cumsum(matched == 0, axis=-1)
    precision = _divided(np.where(matched > 0, matched, 0.5**halvings), total)
    has_score = (total > 0).all(-1) & (matched > 0).any(-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        geometric_mean = np.exp(np.log(precision).mean(-1))
        brevity = np.exp(np.minimum(1 - expected / answered, 0.0))
        scores = np.where(has_score, brevity * geometric_mean, 0.0)
    return np.where(expected > 0, scores, np.nan)


def chrf(sums: np.ndarray) -> np.ndarray:
    """Return the chrF of Popovic 2015 (https://aclanthology.org/W15-3049), from 0 to 1: F2 of character n-grams.

    `sums` [..., 18] holds for each order 1 to 6 the n-grams of the answers, of the expected texts, and those matched.
    Precision and recall are means over the orders that both sides have. NaN where no row counts.
    """
    answered, expected, matched = np.moveaxis(sums.reshape(*sums.shape[:-1], CHRF_ORDER, 3), -1, 0)
    has_both = (answered > 0) & (expected > 0)
    orders = np.maximum(has_both.sum(-1), 1)
    precision = np.where(has_both, matched / np.maximum(answered, 1), 0.0).sum(-1) / orders
    recall = np.where(has_both, matched / np.maximum(expected, 1), 0.0).sum(-1) / orders
    weight = _CHRF_BETA**2
    below = weight * precision + recall
    scores = np.divide((1 + weight) * precision * recall, below, out=np.zeros(below.shape), where=below > 0)
    return np.where(expected[..., 0] > 0, scores, np.nan)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)
