"""Answers are seen beside the expected ones, word by word, as HTML with filters and as text."""

from __future__ import annotations

import random
import re
import time
from itertools import pairwise

import pytest

from tasks.decks.answers import ComparedAnswer, answers_text, render_answers, shown_first
from tasks.decks.marked_words import MOST_CHARACTERS, marked_difference, pieces


def row(number: int, before: bool | None, after: bool | None, answer: str = "It is Lyon.") -> ComparedAnswer:
    return ComparedAnswer(f"r:{number}", "Capital?", "It is Paris.", "nothing", answer, before, after)


@pytest.mark.parametrize(
    ("expected", "answer", "spans"),
    [
        ("It is Paris.", "It is Lyon, no.", "It is |-Paris|+Lyon, no|."),
        ("same", "same", "same"),
        ("", "new", "+new"),
        ("old", "", "-old"),
        # blanks stay with neither word
        ("a big house", "a house", "a |-big |house"),
        ("a b", "a, b", "a|+,| b"),
        # blanks can be the difference
        ("a  b", "a b", "a |- |b"),
        ("a", "a\n", "a|+\n"),
        ("Paris is big", "Paris", "Paris|- is big"),
        # by character without blanks between words; marks and joiners stay with what they belong to
        ("巴黎市", "巴尔市", "巴|-黎|+尔|市"),
        ("GPT東京", "GPT京", "GPT|-東|京"),
        ("नमस्ते दुनिया", "नमस्ता दुनिया", "-नमस्ते|+नमस्ता| दुनिया"),
        ("e\u0301a", "ea", "-e\u0301a|+ea"),
        ("👩\u200d👧 ok", "👩\u200d👦 ok", "-👩\u200d👧|+👩\u200d👦| ok"),
    ],
)
def test_words_that_differ_are_marked(expected: str, answer: str, spans: str) -> None:
    kinds = {"-": "removed", "+": "added"}
    wanted = [(part[1:], kinds[part[0]]) if part[0] in kinds else (part, "same") for part in spans.split("|")]
    assert marked_difference(expected, answer) == wanted


def test_pieces_add_up_to_their_text() -> None:
    for text in ("It is, no?\n\tа б 巴黎", "", "a_b c-d", " \n x", "می\u200cخواهم که", "\u200d\u0301"):
        assert "".join(pieces(text)) == text
    assert pieces("می\u200cخواهم که") == ["می\u200cخواهم ", "که"]


def test_spans_hold_both_texts() -> None:
    numbers = random.Random(0)
    for _ in range(300):
        one, other = ("".join(numbers.choices("ab ,\n京", k=numbers.randrange(12))) for _ in range(2))
        spans = marked_difference(one, other)
        if any(kind == "whole" for _, kind in spans):
            continue
        assert "".join(text for text, kind in spans if kind != "added") == one
        assert "".join(text for text, kind in spans if kind != "removed") == other
        assert all(first[1] != second[1] for first, second in pairwise(spans))


def test_texts_with_little_in_common_are_left_unmarked() -> None:
    # 10 + 5 words and stops, of which 1 is in common: 2 of 15
    expected, answer = "It is Paris in the north of France.", "I do not know."
    assert marked_difference(expected, answer) == [(answer, "whole")]
    # few words are always marked
    assert marked_difference("It is Paris.", "No.") == [("It is Paris", "removed"), ("No", "added"), (".", "same")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a b " * 1000, "b a " * 1000),
        ("a b " * 110, "b c " * 220),
        (". " * 220, "." * 440),
        ("a" * 4000, "b" * 4000),
        ("東京" * 2000, "京東" * 2000),
        ("\u0301" * 4000, "\u0302" * 4000),
        ("x" * 10**6, "y" * 10**6),
    ],
)
def test_no_pair_of_texts_takes_long(one: str, other: str) -> None:
    begin = time.process_time()
    spans = marked_difference(one, other)
    # alone it takes at most 0.2 s
    assert time.process_time() - begin < 2
    assert sum(len(text) for text, _ in spans) <= 2 * MOST_CHARACTERS


def test_wrong_answers_come_first_and_then_those_that_changed() -> None:
    rows = [row(1, True, True), row(2, False, True), row(3, False, False), row(4, None, None), row(5, True, False)]
    assert [shown.row_id for shown in shown_first(rows, 4)] == ["r:5", "r:3", "r:2", "r:1"]
    assert [shown.row_id for shown in shown_first(rows, 0)] == []
    assert len(shown_first(rows, 9)) == 5


def test_a_quarter_is_kept_for_answers_that_are_not_wrong() -> None:
    rows = [*(row(number, False, False) for number in range(20)), row(20, True, True), row(21, False, True)]
    assert [shown.row_id for shown in shown_first(rows, 8)] == [*(f"r:{number}" for number in range(6)), "r:21", "r:20"]
    assert [shown.row_id for shown in shown_first(rows[:20], 2)] == ["r:0", "r:1"]


def test_filters_count_all_rows_and_need_no_script() -> None:
    rows = [row(1, True, True), row(2, False, True), row(3, False, False)]
    page = render_answers(rows, 2)
    labels = re.findall(r'class="f-(\w+)"(?: checked)?> ([^<]+)</label>', page)
    assert labels == [
        ("all", "all (2 of 3)"),
        ("wrong", "wrong (1)"),
        ("right", "right (1 of 2)"),
        ("changed", "changed (1)"),
    ]
    assert page.count('class="card') == 2 and "<script" not in page
    assert '<div class="card k-all k-wrong">' in page
    assert "<del>Paris</del><ins>Lyon</ins>" in page
    assert render_answers([], 5) == ""
    # a filter that would show nothing is left out
    assert "f-wrong" not in render_answers([row(1, None, None)], 5)


def test_two_sections_of_a_page_have_filters_of_their_own() -> None:
    names = [re.findall(r'name="(.*?)"', render_answers([row(number, True, True)], 1)) for number in (1, 2)]
    assert set(names[0]).isdisjoint(names[1])


def test_each_filter_hides_the_other_cards() -> None:
    from tasks.decks.html import STYLE

    for name in ("wrong", "right", "changed"):
        assert f".filters:has(.f-{name}:checked) .card:not(.k-{name})" in STYLE


def test_a_card_says_which_answer_was_right() -> None:
    page = render_answers([row(1, False, True, "It is Paris.")], 1)
    assert '<div class="bad"><b>before, wrong</b>' in page
    assert '<div class="good"><b>after, right</b><span>It is Paris.</span>' in page


def test_long_texts_are_cut_with_a_note() -> None:
    long = ComparedAnswer("r:1", "p" * 5000, "e" * 4000, "b" * 4001, "", None, None)
    page = render_answers([long], 1)
    assert "p" * 4001 not in page and "<i> … the first 4,000 of 5,000 characters</i>" in page
    assert page.count("<i>") == 2 and "of 4,001 characters" in page
    assert len(answers_text([long], 1)) < 1500


def test_blanks_that_are_the_difference_are_visible() -> None:
    answer = ComparedAnswer("r:1", "?", "a b", "a  b", "a b\n", False, False)
    page = render_answers([answer], 1)
    assert "a <ins>␣</ins>b" in page and "a b<ins>↵\n</ins>" in page


def test_the_terminal_shows_the_ends_of_what_is_as_expected() -> None:
    same = "one two three four five six seven eight nine ten " * 3
    answer = ComparedAnswer("r:1", "?", f"{same}Paris", "", f"{same}Lyon", None, False)
    assert answers_text([answer], 1).splitlines() == [
        "r:1 (wrong)",
        "  prompt:   ?",
        f"  expected: {same}Paris",
        "  before:   (nothing)",
        # 24 characters at both ends
        "  after:    one two three four five … ix seven eight nine ten [-Paris-]{+Lyon+}",
    ]


def test_hostile_answers_are_escaped_and_a_terminal_gets_no_controls() -> None:
    bad = row(1, False, False, "It is <script>alert(1)</script>\x1b[31m\u202e")
    page = render_answers([bad], 1)
    assert "<script>" not in page and "\x1b" not in page and "\u202e" not in page
    text = answers_text([bad], 1)
    assert "\x1b" not in text and "\u202e" not in text
    assert len(answers_text([row(1, None, None, "a\nr:2 (right)")], 1).splitlines()) == 5
