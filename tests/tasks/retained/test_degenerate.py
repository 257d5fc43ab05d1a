"""Empty, unfinished and repeating answers, by values worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tasks.retained.degenerate import degenerate_values, repeated_share, repeats_itself

PROSE = (
    "The old bridge was closed to cars in March, after engineers had found cracks in two of its pillars. Since then "
    "cyclists share it with people on foot, and buses take the longer way along the river and past the harbour."
)


def words(number: int, start: int = 0) -> str:
    return " ".join(f"w{place}" for place in range(start, start + number))


def test_the_share_counts_4_grams_that_occurred_before() -> None:
    # 16 words twice: 29 n-grams, of which 16 are distinct
    assert repeated_share(f"{words(16)} {words(16)}") == pytest.approx(13 / 29)
    assert repeated_share(words(40)) == 0.0


def test_more_than_half_repeats_and_half_does_not() -> None:
    # 40 words: 37 n-grams, 10 of them distinct
    assert repeats_itself(" ".join([words(10)] * 4))
    # 35 words: 32 n-grams, 16 of them distinct
    half = f"{words(16)} {words(16)} {words(3)}"
    assert repeated_share(half) == 0.5 and not repeats_itself(half)


def test_thirty_one_units_are_too_few_and_thirty_two_enough() -> None:
    assert repeated_share(" ".join(["no"] * 31)) == 0.0
    assert repeated_share(" ".join(["no"] * 32)) == pytest.approx(28 / 29)


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "| name | age |\n|------|-----|\n| Ann | 31 |\n| Bob | 27 |",
        "SELECT a, b, c FROM t WHERE a = 1 AND b = 2 AND c = 3",
        "na na na na",
        "x" * 63,
        "水在零度结冰,在一百度沸腾。山越高,气压越低,水沸腾的温度也就越低。今天早上下了小雨,街上的人都打着伞。",
        "",
    ],
)
def test_ordinary_text_does_not_repeat(text: str) -> None:
    assert not repeats_itself(text)


@pytest.mark.parametrize(
    "text",
    [
        "我不知道。" * 10,
        "ไม่ทราบ" * 10,
        "x" * 64,
        "ab-" * 40,
        PROSE + "\n" + "and again " * 26 + "and ag",
        "Account Holder: " * 12,
    ],
)
def test_loops_are_found_in_any_script(text: str) -> None:
    assert repeats_itself(text)


def test_a_long_answer_is_read_at_its_end() -> None:
    assert repeats_itself(words(2000) + " !?" * 6000)
    # a loop of less than half is a rule or an indentation
    assert not repeats_itself(PROSE + "-" * 100)


def table(rows: list[tuple[str | None, bool | None, str]]) -> pa.Table:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return pa.table(
        {"answer": columns[0], "ended": columns[1], "expected": columns[2], "answer_tokens": [3] * len(rows)}
    )


def test_each_row_has_its_values_and_its_reason() -> None:
    found = degenerate_values(
        table(
            [
                ("fine", True, "fine"),
                (" \n", True, "x"),
                ("cut of", False, "x"),
                ("no " * 40, False, "x"),
                ("no " * 40, True, "no " * 40),
                (None, None, "x"),
                ("fine", None, "x"),
            ]
        )
    )
    nan = np.nan
    assert list(found) == ["empty", "unfinished", "repeats"]
    np.testing.assert_array_equal(found["empty"].values, [0, 1, 0, 0, 0, nan, 0])
    np.testing.assert_array_equal(found["unfinished"].values, [0, 0, 1, 1, 0, nan, nan])
    np.testing.assert_array_equal(found["repeats"].values, [0, 0, 0, 1, nan, nan, 0])
    assert found["empty"].not_counted == {"not answered": 1}
    assert found["unfinished"].not_counted == {"not answered": 1, "how the answer ended is not known": 1}
    assert found["repeats"].not_counted == {"not answered": 1, "the expected answer repeats itself too": 1}
