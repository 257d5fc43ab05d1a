"""What a data set is made of: its languages, its KTO labels, its classes; shown before anything is trained on it.

Each count is fed batch by batch, holds a bounded amount, and can be sent on as JSON: machines that each count a part
of the rows and merge their states get what one machine gets from all of them, in whatever order and however divided.
Warnings hold counts, languages and row ids; the content of rows is only in `CompletionCounts.counts`, for a Deck.
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
# of whole rows of English files (see the tests) none is taken for another language from 0.6 on
_MIN_PROBABILITY = 0.7
_OWN_LANGUAGE_SHARE = 0.8
_ACCIDENTAL_SHARE = 0.05
_NUM_NAMED_ROWS = 3
_NUM_NAMED_LANGUAGES = 5
_MAX_LABEL_RATIO = 4
_MAX_CLASS_SHARE = 0.9
_NO_LANGUAGE = "zxx"


class LanguageCounts:
    """The languages of a sample of at most `max_rows` rows: those whose texts have the smallest hashes.

    So the sample depends on the texts alone, is a fair draw from distinct ones, and is that of all rows when the
    samples of parts are merged. Languages are told by py3langid (BSD-3-Clause, its model is in its package; a naive
    Bayes classifier over byte n-grams, Lui and Baldwin 2012) as ISO 639 codes, from the first 1,000 characters.
    """

    def __init__(self, max_rows: int = NUM_LANGUAGE_ROWS) -> None:
        self._max_rows = max_rows
        # (hash and row id, text that is still to be looked at or nothing, language once it is known)
        self._sample: list[tuple[str, str, str]] = []
        self._largest = ""

    def add(self, texts: Sequence[str], row_ids: Sequence[str]) -> None:
        """Consider rows for the sample; `row_ids` say where a warning may send the reader."""
        for text, row_id in zip(texts, row_ids, strict=True):
            # the whole text, since rows may share a long system prompt
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            entry = f"{digest} {row_id}"
            if self._largest and entry >= self._largest:
                continue
            self._sample.append((entry, text[:_LANGUAGE_CHARACTERS], ""))
            if len(self._sample) >= 2 * self._max_rows:
                self._cut()

    def state(self) -> dict[str, list[str]]:
        """Return the sample for `merge`: for each language its rows, as hash and row id (about 40 bytes each)."""
        found: dict[str, list[str]] = {}
        for entry, _, language in self._looked_at():
            found.setdefault(language, []).append(entry)
        return dict(sorted(found.items()))

    def merge(self, states: Iterable[Mapping[str, Sequence[str]]]) -> None:
        """Add the samples of other parts of the data; each must be of at least as many rows as this one may hold."""
        for state in states:
            self._sample += [(entry, "", language) for language, entries in state.items() for entry in entries]
            self._cut()

    def counts(self) -> list[tuple[str, int]]:
        """Return (language, rows of the sample) by falling count.

        `unknown` are texts of less than 50 bytes of letters (50 letters of English, 17 of Chinese), those that are no
        language, such as numbers, and those whose most probable language has a probability below 0.7.
        """
        return _descending(Counter(language for _, _, language in self._looked_at()))

    @property
    def num_looked_at(self) -> int:
        """The number of rows in the sample."""
        self._cut()
        return len(self._sample)

    def warnings(self) -> list[str]:
        """Return a line when rows are in another language by accident.

        That is: one language has more than 80 % of the rows whose language is known, and others less than 5 % each.
        """
        known = [(language, rows) for language, rows in self.counts() if language != UNKNOWN]
        total = sum(rows for _, rows in known)
        if not known or known[0][1] <= _OWN_LANGUAGE_SHARE * total:
            return []
        strays = {language: rows for language, rows in known[1:] if rows < _ACCIDENTAL_SHARE * total}
        if not strays:
            return []
        said = ", ".join(f"{language} {rows}" for language, rows in list(strays.items())[:_NUM_NAMED_LANGUAGES])
        more = ", ..." if len(strays) > _NUM_NAMED_LANGUAGES else ""
        named = [entry.partition(" ")[2] for entry, _, language in self._sample if language in strays]
        count = sum(strays.values())
        return [
            f"{count:,} of {self.num_looked_at:,} rows looked at {'seem' if count > 1 else 'seems'} to be in another "
            f"language than {known[0][0]} ({said}{more}), such as {', '.join(named[:_NUM_NAMED_ROWS])}; "
            "remove them if they are there by accident"
        ]

    def _cut(self) -> None:
        self._sample.sort(key=itemgetter(0))
        del self._sample[self._max_rows :]
        self._largest = self._sample[-1][0] if len(self._sample) == self._max_rows else ""

    def _looked_at(self) -> list[tuple[str, str, str]]:
        """Return the sample after the languages of all its texts are told; only then the library is loaded."""
        self._cut()
        self._sample = [(entry, "", language or _language_of(text)) for entry, text, language in self._sample]
        return self._sample


def _language_of(text: str) -> str:
    letters = "".join(filter(str.isalpha, text))
    # bytes, as the model reads them: a Chinese character says more than a Latin letter
    if len(letters.encode("utf-8", "surrogatepass")) < _MIN_LETTER_BYTES:
        return UNKNOWN
    language, probability = _identifier().classify(text)
    return UNKNOWN if probability < _MIN_PROBABILITY or language == _NO_LANGUAGE else str(language)


@cache
def _identifier() -> Any:
    # about 0.8 seconds and 100 MiB
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class LabelCounts:
    """How many KTO rows are desirable (`true`) and undesirable (`false`)."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def add(self, labels: Iterable[str]) -> None:
        """Count labels as canonical rows have them: `true`, `false`, or nothing, which is not counted."""
        self._rows.update(label for label in labels if label)

    def state(self) -> dict[str, int]:
        """Return rows by label, for `merge`."""
        return dict(sorted(self._rows.items()))

    def merge(self, states: Iterable[Mapping[str, int]]) -> None:
        """Add the counts of other parts of the data."""
        for state in states:
            self._rows.update(state)

    def counts(self) -> list[tuple[str, int]]:
        """Return (label, rows) by falling count; empty for data without labels."""
        return _descending(self._rows)

    def warnings(self) -> list[str]:
        """Return a line when one label has more than four times the rows of the other.

        The weights in it bring (desirable_weight x desirable rows) : (undesirable_weight x undesirable rows) into
        1:1 to 4:3, the range that TRL's documentation of KTO gives (after Ethayarajh et al. 2024, arXiv 2402.01306).
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
            counted, weights = f"{true:,} true to {false:,} false", ("undesirable_weight", "desirable_weight")
            low, high = 3 / 4 * ratio, ratio
        else:
            counted, weights = f"{false:,} false to {true:,} true", ("desirable_weight", "undesirable_weight")
            low, high = ratio, 4 / 3 * ratio
        return [
            f"KTO labels are out of balance: {counted}; "
            f"{weights[0]}={low:.3g} to {high:.3g} with {weights[1]}=1 would make up for it"
        ]


class CompletionCounts:
    """Rows by completion, for data that are a classification: few and short distinct completions over many rows.

    Completions are compared after `normalized` (case and white space). From the 51st distinct one, or the first of
    more than 100 characters, the data are no classification and nothing more is held.
    """

    def __init__(self) -> None:
        self._rows: Counter[str] | None = Counter()

    @property
    def num_distinct(self) -> int:
        """The number of distinct completions; 0 when there are too many, or one is too long, to be classes."""
        return len(self._rows or ())

    def add(self, completions: Iterable[str]) -> None:
        """Count completions."""
        for completion in completions:
            if self._rows is None:
                return
            self._count(normalized(completion), 1)

    def state(self) -> dict[str, int] | None:
        """Return rows by normalized completion, for `merge`; None when there are too many, or one is too long."""
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

        They are: at most 50 distinct completions of at most 100 characters each, in at least 200 rows.
        """
        if self._rows is None or self._rows.total() < MIN_CLASS_ROWS:
            return []
        return _descending(self._rows)[:NUM_SHOWN_CLASSES]

    def warnings(self) -> list[str]:
        """Return a line, without the completion, when more than 90 % of the rows of a classification have the same."""
        found = self.counts()
        total = self._rows.total() if self._rows else 0
        if not found or found[0][1] <= _MAX_CLASS_SHARE * total:
            return []
        return [
            f"{found[0][1]:,} of {total:,} rows have the same completion ({self.num_distinct} distinct ones in all); "
            "a model that always says it scores as high: add rows of the others"
        ]

    def _count(self, completion: str, rows: int) -> None:
        if self._rows is None:
            return
        self._rows[completion] += rows
        if len(completion) > MAX_CLASS_CHARACTERS or len(self._rows) > MAX_CLASSES:
            self._rows = None


def _descending(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda count: (-count[1], count[0]))
