"""Measures of texts, against values worked out by hand and the libraries that define them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema.measures import MeasureConfig, MeasureName
from tasks.measures.measured import REDUCTIONS, AnsweredRow, RowValues, score
from tasks.measures.table import OF_ANSWERS

ANSWERS = [
    "The cat sat on the mat.",
    "A quick brown fox jumps over the lazy dog today",
    "no",
    "",
    "Über die Brücke gehen wir, nicht wahr?",
    "the the the the",
]
EXPECTED = [
    "The cat is sitting on the mat.",
    "The quick brown fox jumped over the lazy dog yesterday.",
    "yes, of course",
    "something was expected here",
    "Über die Brücke gehen sie nicht.",
    "the cat",
]


def measured(name: MeasureName, pairs: list[tuple[str, str]]) -> RowValues:
    rows = [AnsweredRow(str(n), "", expected, answer) for n, (answer, expected) in enumerate(pairs)]
    return OF_ANSWERS[name].compute(MeasureConfig(name=name), rows)


def value(name: MeasureName, answer: str, expected: str) -> float:
    return float(measured(name, [(answer, expected)]).values[0])


def of_all(measure: RowValues) -> float | None:
    return score(measure.sums.sum(0), measure.reduction)


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "normalized"),
    [
        ("Paris", "Paris", 1, 1),
        (" Paris\n", "Paris", 1, 1),
        ("paris.", "Paris", 0, 1),
        ("The  Eiffel Tower!", "an Eiffel tower", 0, 1),
        ("Theatre", "atre", 0, 0),
        ("Paris, France", "Paris", 0, 0),
        ("", "Paris", 0, 0),
        # normalizing leaves nothing of these, and they are different answers
        ("?", "!", 0, 0),
        ("the", "a", 0, 0),
        ("!", "!", 1, 1),
        ("", "", 1, 1),
    ],
)
def test_equal_texts(answer: str, expected: str, exact: int, normalized: int) -> None:
    assert (value("exact_match", answer, expected), value("normalized_match", answer, expected)) == (exact, normalized)


@pytest.mark.parametrize(
    ("answer", "expected", "f1"),
    [
        ("the cat sat", "a cat sat", 1.0),
        # cat, sat of (cat, sat, down) and (cat, sat): 2 * 2 / 5
        ("the cat sat down", "the cat sat", 0.8),
        # one of the two "no" is matched: 2 * 1 / 3
        ("no no", "no", 2 / 3),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("cat", "the", 0.0),
    ],
)
def test_token_f1_counts_each_word_as_often_as_it_occurs(answer: str, expected: str, f1: float) -> None:
    assert value("token_f1", answer, expected) == pytest.approx(f1)


def test_rouge_l_is_that_of_rouge_score() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    for answer, expected in zip(ANSWERS, EXPECTED, strict=True):
        # rouge_score knows ASCII letters only
        if (answer + expected).isascii():
            assert value("rouge_l", answer, expected) == pytest.approx(
                scorer.score(expected, answer)["rougeL"].fmeasure
            )
    # common subsequence "police the gunman" of 4 and 4 words
    assert value("rouge_l", "police kill the gunman", "police ended the gunman") == pytest.approx(0.75)
    assert value("rouge_l", "über die Brücke", "Über die brücke") == 1.0


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_corpus_scores_are_sacrebleus(name: MeasureName) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    library = BLEU() if name == "bleu" else CHRF()
    of_sentences = BLEU(effective_order=True) if name == "bleu" else CHRF()
    measure = measured(name, list(zip(ANSWERS, EXPECTED, strict=True)))
    assert of_all(measure) == pytest.approx(library.corpus_score(ANSWERS, [EXPECTED]).score / 100, abs=1e-12)
    for row, (answer, expected) in enumerate(zip(ANSWERS, EXPECTED, strict=True)):
        wanted = of_sentences.sentence_score(answer, [expected]).score / 100
        assert measure.values[row] == pytest.approx(wanted, abs=1e-12)
    # the score is of the corpus, and no mean of the rows
    assert of_all(measure) != pytest.approx(measure.values.mean(), abs=1e-3)


WORDS = st.lists(st.sampled_from(["cat", "dog", "a", "the", "sat,", "7", "ü"]), max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=4))
def test_corpus_scores_are_sacrebleus_for_any_texts(pairs: list[tuple[str, str]]) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    answers, expected = [answer for answer, _ in pairs], [text for _, text in pairs]
    for name, library in (("bleu", BLEU()), ("chrf", CHRF())):
        measure = measured(name, pairs)  # type: ignore[arg-type]
        wanted = library.corpus_score(answers, [expected]).score / 100
        assert of_all(measure) == pytest.approx(wanted, abs=1e-9)
        assert np.all((measure.values >= 0) & (measure.values <= 1 + 1e-12))


@pytest.mark.parametrize("name", ["bleu", "chrf", "macro_f1"])
def test_reductions_of_many_resamples_are_those_of_each(name: MeasureName) -> None:
    measure = measured(name, list(zip(ANSWERS, EXPECTED, strict=True)))
    chosen = np.random.default_rng(0).integers(0, len(ANSWERS), (7, 3, len(ANSWERS)))
    sums = measure.sums[chosen].sum(2)
    together = REDUCTIONS[measure.reduction](sums)
    assert together.shape == (7, 3)
    for place in np.ndindex(7, 3):
        assert together[place] == pytest.approx(REDUCTIONS[measure.reduction](sums[place]))


@pytest.mark.parametrize("name", ["rouge_l", "bleu", "chrf"])
def test_an_expected_text_without_words_does_not_count(name: MeasureName) -> None:
    measure = measured(name, [("some words", ""), ("a cat sat on the mat", "a cat sat on the mat")])
    assert np.isnan(measure.values[0]) and measure.values[1] == pytest.approx(1.0)
    assert measure.not_counted == {"the expected answer has no word": 1} and not measure.sums[0].any()
    assert of_all(measure) == pytest.approx(1.0)
    assert of_all(measured(name, [("some words", "")])) is None
    assert of_all(measured(name, [])) is None


def test_an_empty_answer_counts_as_zero() -> None:
    for name in ("rouge_l", "bleu", "chrf", "token_f1", "exact_match"):
        measure = measured(name, [("", "a cat")])  # type: ignore[arg-type]
        assert (measure.values[0], of_all(measure)) == (0.0, 0.0)
