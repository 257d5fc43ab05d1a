"""Contamination: n-grams shared with an evaluation set, counted by hand and by a plain search, in any script."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.get_data import contamination, hashed_texts
from tasks.get_data.contamination import EvaluationTexts, Hit, words_of

WORDS = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


def contaminated(rows: Iterable[str], evaluation: Iterable[tuple[str, str]], n: int = 13) -> list[Hit]:
    return EvaluationTexts(evaluation, n).hits(rows)


def words(count: int, prefix: str = "w") -> str:
    return " ".join(f"{prefix}{number}" for number in range(count))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The CAT, sat; on-the mat!", ["the", "cat", "sat", "on", "the", "mat"]),
        ("2 + 2 = 4", ["2", "2", "4"]),
        ("你好，world 世", ["你", "好", "world", "世"]),
        ("हिन्दी में।", ["हिन्दी", "में"]),
        ("«Да» — нет…", ["да", "нет"]),
        ("🚀 go 🎉", ["go"]),
        ("", []),
    ],
)
def test_words_ignore_case_punctuation_and_symbols(text: str, expected: list[str]) -> None:
    assert words_of(text) == expected


def test_a_hit_names_row_evaluation_row_and_share() -> None:
    # n-grams of the row: (a quick brown), (quick brown fox), (brown fox sleeps); only the second is known
    rows = ["nothing to see here", "A quick, brown fox sleeps."]
    assert contaminated(rows, [("q0", "who let it out"), ("q1", "The quick brown fox jumps")], n=3) == [
        Hit(row=1, evaluation_id="q1", share=1 / 3)
    ]


@pytest.mark.parametrize(("shared", "hits"), [(13, [Hit(0, "q", 1 / 3)]), (12, [])])
def test_thirteen_words_in_sequence_are_needed(shared: int, hits: list[Hit]) -> None:
    row = f"before {words(shared)} after"
    assert contaminated([row + " and" * (13 - shared)], [("q", f"{words(shared)} other words of the question")]) == hits


def test_a_row_equal_to_an_evaluation_text_has_a_share_of_one() -> None:
    assert contaminated(iter([words(20)]), iter([("q", words(20).upper())])) == [Hit(0, "q", 1.0)]


def test_a_short_evaluation_text_is_found_whole_from_five_words_on() -> None:
    five, four = "what is two plus two", "is two plus two"
    row = f"tell me {five}"
    assert contaminated([row], [("five", five)]) == [Hit(0, "five", 1 / 3)]
    assert contaminated([row], [("four", four)]) == []
    assert contaminated(["what is two plus three", "what is it two plus two"], [("five", five)]) == []
    assert contaminated([words(12)], [("twelve", words(12))]) == [Hit(0, "twelve", 1.0)]


def test_a_row_has_one_hit_for_the_length_with_the_highest_share() -> None:
    long, short = words(13), "x1 x2 x3 x4 x5"
    # 19 words: 1 of 7 windows of 13 words is known, and 1 of 15 windows of 5 words
    assert contaminated([f"{long} and {short}"], [("short", short), ("long", long)]) == [Hit(0, "long", 1 / 7)]


def test_a_hit_names_the_row_of_the_rarest_n_grams_not_of_a_shared_template() -> None:
    template = "answer the question with one letter"
    evaluation = [("q1", f"{template} why is the sky blue"), ("q2", f"{template} how do magnets work at all")]
    assert contaminated([f"{template} how do magnets work"], evaluation, n=3) == [Hit(0, "q2", 1.0)]


def test_n_grams_do_not_cross_from_one_text_into_the_next() -> None:
    assert contaminated(["a b", "c d"], [("q", "a b c d")], n=3) == []
    assert contaminated(["a b c d"], [("q1", "a b"), ("q2", "c d")], n=3) == []


def test_empty_sets_and_empty_texts_have_no_hits() -> None:
    assert contaminated([], [("q", words(20))]) == []
    assert contaminated(["", words(20)], []) == []
    assert contaminated(["", "\n"], [("q", ""), ("r", words(20))]) == []


def test_chinese_and_arabic_rows_are_compared_too() -> None:
    chinese = "天地玄黄宇宙洪荒日月盈昃辰宿列张"  # 16 characters: 4 n-grams, all in the row of 17
    arabic = "كان يا ما كان في قديم الزمان رجل يعيش في بيت صغير قرب النهر"
    rows = [f"{chinese}寒", f"قال: {arabic}!", "👍" * 30]
    hits = contaminated(rows, [("zh", chinese), ("ar", arabic), ("emoji", "👍" * 20)])
    assert hits == [Hit(0, "zh", 4 / 5), Hit(1, "ar", 2 / 3)]


def test_a_giant_row_is_searched_like_any_other() -> None:
    row = f"{words(200_000)} {words(13, 'q')} {words(200_000)}"
    assert contaminated([row], [("q", words(13, "q"))]) == [Hit(0, "q", 1 / 400_001)]


@pytest.mark.parametrize("chunk", [1, 20, 2**20])
def test_rows_keep_their_numbers_in_chunks_of_any_size(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "CHUNK_CHARACTERS", chunk)
    rows = ["a b c", "x y z", "", "d e f", "c d e"]
    hits = contaminated(rows, [("q1", "a b c d"), ("q2", "d e f g")], n=3)
    assert hits == [Hit(0, "q1", 1.0), Hit(3, "q2", 1.0)]


@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=5), st.integers(1, 7))
def test_hits_are_those_of_a_plain_search(rows: list[str], evaluation: list[str], n: int) -> None:
    def windows(text: str, size: int) -> list[tuple[str, ...]]:
        parts = text.split()
        return [tuple(parts[i : i + size]) for i in range(len(parts) - size + 1)]

    known: dict[int, set[tuple[str, ...]]] = {}
    for text in evaluation:
        size = min(len(text.split()), n)
        if size >= min(5, n):
            known.setdefault(size, set()).update(windows(text, size))
    expected = {}
    for index, row in enumerate(rows):
        shares = [sum(w in known[size] for w in windows(row, size)) / max(1, len(windows(row, size))) for size in known]
        if max(shares, default=0):
            expected[index] = max(shares)
    hits = contaminated(rows, list(zip(map(str, range(9)), evaluation, strict=False)), n)
    assert {hit.row: hit.share for hit in hits} == expected
    assert [hit.row for hit in hits] == sorted(expected)
    for hit in hits:
        text = f" {evaluation[int(hit.evaluation_id)]} "
        assert any(f" {' '.join(w)} " in text for size in known for w in windows(rows[hit.row], size))


def test_equal_hashes_of_different_words_are_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashed_texts, "splitmix64", lambda values: np.zeros_like(values))
    assert contaminated(["x y z"], [("q", "a b c")], n=3) == []
    assert contaminated(["a b c"], [("q", "a b c")], n=3) == [Hit(0, "q", 1.0)]


def test_n_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0 is below 1"):
        contaminated([], [], n=0)
