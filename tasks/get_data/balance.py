"""Count the languages, the KTO labels and the classes of a data set, to show its balance before training.

Each counter takes rows batch by batch, in bounded memory. Its state is JSON: machines that count parts of the rows and
merge their states get the result of one machine that counts all rows, in any order and any division into parts.
Warnings hold counts, languages and row ids; only `CompletionCounts.counts` holds content of rows, for a Deck.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from tasks.get_data.dedup import normalized

NUM_LANGUAGE_ROWS = 5_000
UNKNOWN = "unknown"
MAX_CLASSES = 50
MIN_CLASS_ROWS = 200
MAX_CLASS_CHARACTERS = 100
NUM_SHOWN_CLASSES = 20

_LANGUAGE_CHARACTERS = 1_000
_MIN_LETTER_BYTES = 50
# from 0.6 on, no row of the English files in the tests is taken for another language
_MIN_PROBABILITY = 0.7
_MAIN_LANGUAGE_SHARE = 0.8
_STRAY_LANGUAGE_SHARE = 0.05
_NUM_NAMED_ROWS = 3
_NUM_NAMED_LANGUAGES = 5
_MAX_LABEL_RATIO = 4
_MAX_CLASS_SHARE = 0.9
_NO_LANGUAGE = "zxx"


class LanguageCounts:
    """Counts the languages of a sample of at most `max_rows` rows: those whose texts have the smallest hashes.

    So the sample depends on the texts alone and is a fair draw from the distinct ones, and merging the samples of all
    parts gives the sample of all rows. py3langid (BSD-3-Clause, its model is in its package; a naive Bayes classifier
    over byte n-grams, Lui and Baldwin 2012) identifies a language, as its ISO 639 code, by the first 1,000 characters.
    """

    def __init__(self, max_rows: int = NUM_LANGUAGE_ROWS) -> None:
        self._max_rows = max_rows
        # (hash and row id, text until its language is identified, then "", language from then on)
        self._sample: list[tuple[str, str, str]] = []
        self._largest = ""

    def add(self, texts: Sequence[str], row_ids: Sequence[str]) -> None:
        """Consider rows for the sample; warnings name rows by their `row_ids`."""
        for text, row_id in zip(texts, row_ids, strict=True):
            # hash the whole text: many rows may begin with the same long system prompt
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            entry = f"{digest} {row_id}"
            if self._largest and entry >= self._largest:
                continue
            self._sample.append((entry, text[:_LANGUAGE_CHARACTERS], ""))
            if len(self._sample) >= 2 * self._max_rows:
                self._trim()

    def state(self) -> dict[str, list[str]]:
        """Return the sample for `merge`: {language: rows}, each row as its hash and row id (about 40 bytes)."""
        entries_by_language: dict[str, list[str]] = {}
        for entry, _, language in self._identified_sample():
            entries_by_language.setdefault(language, []).append(entry)
        return dict(sorted(entries_by_language.items()))

    def merge(self, states: Iterable[Mapping[str, Sequence[str]]]) -> None:
        """Add the samples of other parts of the data, whose `max_rows` must be at least that of this one."""
        for state in states:
            self._sample += [(entry, "", language) for language, entries in state.items() for entry in entries]
            self._trim()

    def counts(self) -> list[tuple[str, int]]:
        """Return (language, rows of the sample), most rows first.

        `unknown` counts texts with less than 50 bytes of letters (50 letters of English, 17 of Chinese), texts in no
        language, such as numbers, and texts whose most probable language has a probability below 0.7.
        """
        return _most_rows_first(Counter(language for _, _, language in self._identified_sample()))

    @property
    def num_sampled(self) -> int:
        """The number of rows in the sample."""
        self._trim()
        return len(self._sample)

    def warnings(self) -> list[str]:
        """Return a warning when a few rows seem to be in another language by accident, else nothing.

        One language must have more than 80 % of the rows whose language is known, and another less than 5 %.
        """
        known = [(language, rows) for language, rows in self.counts() if language != UNKNOWN]
        total = sum(rows for _, rows in known)
        if not known or known[0][1] <= _MAIN_LANGUAGE_SHARE * total:
            return []
        strays = {language: rows for language, rows in known[1:] if rows < _STRAY_LANGUAGE_SHARE * total}
        if not strays:
            return []
        listing = ", ".join(f"{language} {rows}" for language, rows in list(strays.items())[:_NUM_NAMED_LANGUAGES])
        more = ", ..." if len(strays) > _NUM_NAMED_LANGUAGES else ""
        row_ids = [entry.partition(" ")[2] for entry, _, language in self._sample if language in strays]
        count = sum(strays.values())
        return [
            f"{count:,} of {self.num_sampled:,} sampled rows {'seem' if count > 1 else 'seems'} to be in another "
            f"language than {known[0][0]} ({listing}{more}), such as {', '.join(row_ids[:_NUM_NAMED_ROWS])}; "
            "remove them if they are there by accident"
        ]

    def _trim(self) -> None:
        self._sample.sort(key=itemgetter(0))
        del self._sample[self._max_rows :]
        self._largest = self._sample[-1][0] if len(self._sample) == self._max_rows else ""

    def _identified_sample(self) -> list[tuple[str, str, str]]:
        """Return the sample after identifying the languages of all its texts, which loads the library."""
        self._trim()
        self._sample = [(entry, "", language or _language_of(text)) for entry, text, language in self._sample]
        return self._sample


def _language_of(text: str) -> str:
    letters = "".join(filter(str.isalpha, text))
    # count bytes, as the model does: a Chinese character says more than a Latin letter
    if len(letters.encode("utf-8", "surrogatepass")) < _MIN_LETTER_BYTES:
        return UNKNOWN
    language, probability = _identifier().classify(text)
    return UNKNOWN if probability < _MIN_PROBABILITY or language == _NO_LANGUAGE else str(language)


@cache
def _identifier() -> Any:
    # loading takes about 0.8 seconds and 100 MiB
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class LabelCounts:
    """Counts desirable (`true`) and undesirable (`false`) KTO rows."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def add(self, labels: Iterable[str]) -> None:
        """Count labels of canonical rows: `true` and `false`; an empty label is not counted."""
        self._rows.update(label for label in labels if label)

    def state(self) -> dict[str, int]:
        """Return {label: rows}, for `merge`."""
        return dict(sorted(self._rows.items()))

    def merge(self, states: Iterable[Mapping[str, int]]) -> None:
        """Add the counts of other parts of the data."""
        for state in states:
            self._rows.update(state)

    def counts(self) -> list[tuple[str, int]]:
        """Return (label, rows), most rows first; empty for data without labels."""
        return _most_rows_first(self._rows)

    def warnings(self) -> list[str]:
        """Return a warning when one label has more than four times the rows of the other, else nothing.

        The weights that it suggests bring (desirable_weight x desirable rows) : (undesirable_weight x undesirable rows)
        to between 1:1 and 4:3, the range in TRL's documentation of KTO (Ethayarajh et al. 2024, arXiv 2402.01306).
        """
        true, false = self._rows["true"], self._rows["false"]
        if not true + false:
            return []
        if not (true and false):
            return [f"all {true + false:,} KTO labels are {'true' if true else 'false'}; KTO learns from both"]
        ratio = max(true, false) / min(true, false)
        if ratio <= _MAX_LABEL_RATIO:
            return []
        if true > false:
            counts, weights = f"{true:,} true to {false:,} false", ("undesirable_weight", "desirable_weight")
            low, high = 3 / 4 * ratio, ratio
        else:
            counts, weights = f"{false:,} false to {true:,} true", ("desirable_weight", "undesirable_weight")
            low, high = ratio, 4 / 3 * ratio
        return [
            f"KTO labels are out of balance: {counts}; "
            f"{weights[0]}={low:.3g} to {high:.3g} with {weights[1]}=1 would balance them"
        ]


class CompletionCounts:
    """Counts rows by completion, to recognise classification data: few, short completions over many rows.

    Completions are compared after `normalized` (case and white space). At the 51st distinct completion, or the first
    of more than 100 characters, the data are no classification: the counts are dropped and counting stops.
    """

    def __init__(self) -> None:
        self._rows: Counter[str] | None = Counter()

    @property
    def num_distinct(self) -> int:
        """The number of distinct completions; 0 when there are too many, or one is too long, for classes."""
        return len(self._rows or ())

    def add(self, completions: Iterable[str]) -> None:
        """Count completions."""
        for completion in completions:
            if self._rows is None:
                return
            self._count(normalized(completion), 1)

    def state(self) -> dict[str, int] | None:
        """Return {normalized completion: rows}, for `merge`; None when there are too many, or one is too long."""
        return None if self._rows is None else dict(sorted(self._rows.items()))

    def merge(self, states: Iterable[Mapping[str, int] | None]) -> None:
        """Add the counts of other parts of the data."""
        for state in states:
            if state is None:
                self._rows = None
            for completion, rows in (state or {}).items():
                self._count(completion, rows)

    def counts(self) -> list[tuple[str, int]]:
        """Return the 20 most frequent (normalized completion, rows); empty unless the data are a classification.

        A classification has at most 50 distinct completions, of at most 100 characters, in at least 200 rows.
        """
        if self._rows is None or self._rows.total() < MIN_CLASS_ROWS:
            return []
        return _most_rows_first(self._rows)[:NUM_SHOWN_CLASSES]

    def warnings(self) -> list[str]:
        """Return a warning when over 90 % of a classification's rows have the same completion; it is not named."""
        classes = self.counts()
        total = self._rows.total() if self._rows else 0
        if not classes or classes[0][1] <= _MAX_CLASS_SHARE * total:
            return []
        return [
            f"{classes[0][1]:,} of {total:,} rows have the same completion ({self.num_distinct} distinct ones in all); "
            "a model that always gave it would score as high; add rows of the others"
        ]

    def _count(self, completion: str, rows: int) -> None:
        if self._rows is None:
            return
        self._rows[completion] += rows
        if len(completion) > MAX_CLASS_CHARACTERS or len(self._rows) > MAX_CLASSES:
            self._rows = None


def _most_rows_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda count: (-count[1], count[0]))
