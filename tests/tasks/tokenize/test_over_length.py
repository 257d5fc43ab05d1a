"""What happens to rows that are too long, by setting and kind of row. The tiny model has one token per byte."""

from __future__ import annotations

import pytest

from configs.errors import DataError
from tasks.tokenize.over_length import is_far_too_long
from tasks.tokenize.prepare import summary_lines

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# 12 tokens each, with end token and separator: two more than `max_length`
TEXT, PAIR = "abcdefghijk", ("q", "abcdefghi")


def shown(tokens) -> list[tuple[str, str, int]]:
    rows = tokens.rows
    return [(rows.row_id[n], tokens.marked(n), int(rows.prompt_length[n])) for n in range(len(rows))]


def test_by_default_answers_are_dropped_and_plain_text_is_split(prepare) -> None:
    tokens = prepare([TEXT, PAIR], max_length=10)
    assert shown(tokens) == [("f:1#1", "«abcdefghij»", 0), ("f:1#2", "«k<eos>»", 0)]
    report = tokens.report
    assert (report.dropped_train_rows, report.dropped_test_rows, report.truncated_rows) == (1, 1, 0)
    # the text is in both splits, and makes two pieces in each
    assert (report.split_rows, report.split_pieces, report.left_out_pieces) == (2, 4, 0)


@pytest.mark.parametrize(
    ("over_length", "expected"),
    [
        ("drop", []),
        ("cut_left", [("f:1", "«cdefghijk<eos>»", 0)]),
        ("cut_right", [("f:1", "«abcdefghij»", 0)]),
        ("split", [("f:1#1", "«abcdefghij»", 0), ("f:1#2", "«k<eos>»", 0)]),
    ],
)
def test_plain_text_follows_the_setting(over_length: str, expected: list, prepare) -> None:
    tokens = prepare([TEXT, "s"], max_length=10, over_length=over_length)
    assert shown(tokens) == [*expected, ("f:2", "«s<eos>»", 0)]
    report = tokens.report
    assert report.dropped_train_rows == (over_length == "drop")
    assert report.truncated_rows == (2 if over_length.startswith("cut") else 0)
    assert report.split_rows == (2 if over_length == "split" else 0)


def test_plain_text_that_is_too_long_can_stop_the_run(prepare) -> None:
    with pytest.raises(DataError, match=r"f:2: 12 tokens, tokenize.max_length=10\n.*or split$"):
        prepare(["s", TEXT], max_length=10, over_length="error")


@pytest.mark.parametrize("over_length", ["auto", "error", "drop", "cut_left", "cut_right", "split"])
def test_a_row_that_fits_exactly_is_unchanged(over_length: str, prepare) -> None:
    rows = [TEXT[:9], ("q", "abcdefg")]
    tokens = prepare(rows, max_length=10, over_length=over_length)
    assert shown(tokens) == [("f:1", "«abcdefghi<eos>»", 0), ("f:2", "q\n«abcdefg<eos>»", 2)]


def test_cut_left_keeps_the_bos_of_a_plain_text(prepare, families) -> None:
    tokens = prepare(["abcdefghij"], None, families["mistral"].directory, max_length=8, over_length="cut_left")
    assert tokens.marked(0) == "«<s>efghij</s>»"


def test_pieces_of_a_row_with_an_answer(prepare) -> None:
    """The prompt is q and a line break; the first piece holds it and the first eight tokens of the answer."""
    tokens = prepare([("q", "abcdefghijkl")], max_length=10, over_length="split")
    assert shown(tokens) == [("f:1#1", "q\n«abcdefgh»", 2), ("f:1#2", "«ijkl<eos>»", 0)]
    assert list(tokens.rows.prompt) == ["q", ""]
    assert list(tokens.rows.expected) == ["abcdefghijkl", ""]
    # the loss does not count the first token of a piece
    assert (tokens.report.train_tokens, tokens.report.trained_tokens) == (15, 8 + 4)


def test_pieces_that_train_nothing_are_left_out_and_counted(prepare) -> None:
    """The prompt has twelve tokens: the first piece has no answer, and the second has no whole prompt."""
    tokens = prepare([("q" * 11, "abc"), ("s", "t")], max_length=8, over_length="split")
    assert shown(tokens) == [("f:1#2", "qqq\n«abc<eos>»", 0), ("f:2", "s\n«t<eos>»", 2)]
    report = tokens.report
    assert (report.split_rows, report.split_pieces, report.left_out_pieces) == (2, 2, 2)
    expected = "0 cut, 2 split into 2 pieces, 2 more without an answer left out"
    assert any(expected in line for line in summary_lines(report))


def test_a_prompt_that_fills_the_first_piece_is_left_out(prepare) -> None:
    """Seven bytes and a line break fill the first piece, so it holds no token of the answer."""
    tokens = prepare([("qqqqqqq", "abc")], max_length=8, over_length="split")
    assert shown(tokens) == [("f:1#2", "«abc<eos>»", 0)]


def test_the_last_piece_is_never_one_token(prepare) -> None:
    tokens = prepare([("q", "a" * 14)], max_length=8, over_length="split")
    # 17 tokens: 8, then 7 and 2 for 8 and 1
    assert [len(ids) for ids in tokens.rows.input_ids] == [8, 7, 2]


def test_a_conversation_is_split_at_max_length(prepare) -> None:
    row = [("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "B")]
    tokens = prepare([row], CHATML, max_length=30, over_length="split")
    # <|user|>U<eos> is 10 tokens, <|assistant|> 13, A<eos> 2, so the cut is after 5 tokens of the second <|user|>
    assert shown(tokens) == [
        ("f:1#1", "<|user|>U<eos><|assistant|>«A<eos>»<|use", 0),
        ("f:1#2", "r|>V<eos><|assistant|>«B<eos>»", 0),
    ]


def test_an_answer_without_an_end_token_is_found_in_its_last_piece(prepare) -> None:
    template = CHATML.replace("<eos>", ";")
    with pytest.raises(DataError, match=r"f:1#2: no end-of-turn token is trained \(2 such rows\)"):
        prepare([[("user", "U"), ("assistant", "a" * 20)]], template, max_length=30, over_length="split")


def test_the_deck_shows_what_was_split(prepare) -> None:
    import re

    from tasks.decks.tokens import render_tokens

    report = prepare([("q" * 11, "abc"), ("s", "t")], max_length=8, over_length="split").report
    text = re.sub(r"<[^>]+>", " ", render_tokens(report))
    for words in (r"rows split as too long\s+2\b", r"pieces they were split into\s+2\b", r"pieces left out[^0-9]*2\b"):
        assert re.search(words, text), words


@pytest.mark.timeout(120)
def test_a_row_far_too_long_is_not_rendered_or_encoded(prepare) -> None:
    # it would take minutes to render 10,000 turns, and gigabytes of memory to encode 50 MB
    turns = [(("user", "assistant")[n % 2], f"turn {n}") for n in range(10_000)]
    huge = ("q", "word " * 10_000_000)
    tokens = prepare([turns, huge, ("q", "a")], CHATML, max_length=100)
    assert [row_id for row_id, _, _ in shown(tokens)] == ["f:3"]
    assert (tokens.report.dropped_train_rows, tokens.report.dropped_test_rows) == (2, 2)


@pytest.mark.parametrize(("num_characters", "expected"), [(100_000, False), (100_001, True)])
def test_over_a_thousand_characters_per_allowed_token_are_far_too_long(num_characters: int, expected: bool) -> None:
    assert is_far_too_long(num_characters, 1, 100) is expected


@pytest.mark.parametrize(("num_answers", "expected"), [(100, False), (101, True)])
def test_more_answers_than_allowed_tokens_are_far_too_long(num_answers: int, expected: bool) -> None:
    assert is_far_too_long(0, num_answers, 100) is expected


def test_a_row_far_too_long_can_stop_the_run(prepare) -> None:
    with pytest.raises(DataError, match=r"f:2: over 10 tokens, tokenize.max_length=10\n"):
        prepare([("q", "a"), ("q", "a" * 10_000)], max_length=10, over_length="error")
