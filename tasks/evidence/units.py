"""The sums of two models over what is resampled: rows, or whole groups where rows share one.

Rows of a group (turns of a dialogue, questions about one document, answers to one prompt) are not independent. So a
group moves as one everywhere: in the bootstrap, in the randomization test, and in the number of observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.measures.measured import REDUCTIONS


@dataclass(frozen=True)
class Units:
    """Paired sums of rows or groups.

    `before` and `after` [distinct, k] float64 are what is added up over the rows of a unit; `counts` [distinct] int64
    says how many units have exactly these sums. `reduction` makes a score of sums (`tasks.measures.measured`).
    """

    before: np.ndarray
    after: np.ndarray
    counts: np.ndarray
    reduction: str

    @property
    def number(self) -> int:
        """The number of rows or groups."""
        return int(self.counts.sum())

    def scores(self, sums: np.ndarray) -> np.ndarray:
        """Return the scores [...] of sums [..., k]; NaN where nothing counts."""
        return np.asarray(REDUCTIONS[self.reduction](sums))

    def difference(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return the score of sums `after` [..., k] less that of sums `before` [..., k]; NaN where nothing counts."""
        return self.scores(after) - self.scores(before)

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums [k] before and after, over all units."""
        return self.counts @ self.before, self.counts @ self.after

    def influences(self) -> np.ndarray:
        """Return [distinct] how far a unit of each kind moves the difference of the scores, times the units: jackknife.

        The pseudo-value of a unit less their mean, (n - 1) * (mean of the differences without one unit - difference
        without this unit); for a mean it is the unit's difference less the mean difference (Efron and Tibshirani,
        An Introduction to the Bootstrap, 1993, chapter 11). A unit without which nothing counts has no influence.
        """
        before, after = self.totals()
        without = self.difference(before - self.before, after - self.after)
        without = np.where(np.isfinite(without), without, self.difference(before, after))
        return np.asarray((self.number - 1) * (self.counts @ without / self.number - without))

    def standard_error(self) -> float:
        """Return the jackknife's standard error of the difference, in its own unit; 0 where all units are alike.

        Raises:
            ValueError: there are fewer than two units.
        """
        if self.number < 2:
            raise ValueError(f"{self.number} rows or groups have no standard error; it needs 2 or more")
        influences = self.influences()
        before, after = self.totals()
        largest = max(abs(float(self.scores(before))), abs(float(self.scores(after))))
        # rounding leaves about 1e-16 of a score in each influence, times the units, where they are all alike
        if np.abs(influences).max() <= 1e-13 * self.number * largest:
            return 0.0
        return float(np.sqrt(self.counts @ influences**2 / (self.number * (self.number - 1))))


@dataclass(frozen=True)
class UnitsOfRuns(Units):
    """The same rows or groups scored in several runs: `before` and `after` [distinct, runs * k] hold the sums of all.

    Scores are means over the runs of the score of each. So the score may be one of the corpus, and rows and groups are
    drawn together for all runs.
    """

    runs: int = 1

    def scores(self, sums: np.ndarray) -> np.ndarray:
        """Return the mean over runs of the scores [...] of sums [..., runs * k]; NaN where nothing counts."""
        return super().scores(sums.reshape(*sums.shape[:-1], self.runs, -1)).mean(axis=-1)


def paired_units(before: np.ndarray, after: np.ndarray, reduction: str, groups: np.ndarray | None = None) -> Units:
    """Return the units of rows with the sums `before` and `after` [rows, k].

    `groups` [rows] int has the number of each row's group, from 0; without it each row is a unit. Units with equal sums
    are counted together where that saves most of the work, as for measures of 0 and 1.
    """
    sums = np.concatenate([before, after], axis=1).astype(np.float64)
    if groups is not None:
        of_groups = np.zeros((int(groups.max()) + 1, sums.shape[1]))
        np.add.at(of_groups, groups, sums)
        sums = of_groups
    distinct, counts = np.unique(sums, axis=0, return_counts=True)
    if len(distinct) > 64 and 20 * len(distinct) > len(sums):
        distinct, counts = sums, np.ones(len(sums), dtype=np.int64)
    width = before.shape[1]
    return Units(distinct[:, :width], distinct[:, width:], counts.astype(np.int64), reduction)


def group_numbers(groups: np.ndarray) -> np.ndarray | None:
    """Return [rows] int the number of each row's group; None where no two rows share one.

    `groups` [rows] are names; rows with an empty name are groups of their own.
    """
    names = np.asarray(groups, dtype=str)
    alone = names == ""
    _, numbers = np.unique(names, return_inverse=True)
    numbers = np.where(alone, numbers.max(initial=0) + 1 + np.arange(len(names)), numbers)
    _, numbers = np.unique(numbers, return_inverse=True)
    return None if len(np.unique(numbers)) == len(names) else numbers
