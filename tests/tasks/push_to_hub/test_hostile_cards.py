"""READMEs of a hub that would take hours or gigabytes to read, and records in them that are none."""

from __future__ import annotations

import time

import pytest

from tasks.push_to_hub.card_file import BEGIN, END, joined_card, pushed_files

CARD = "---\ntags:\n- a\n---\nours"


def test_many_markers_without_an_end_take_no_time() -> None:
    marks = f"{BEGIN} {{}} -->\n" * 40_000
    start = time.process_time()
    assert joined_card(CARD, marks, {}).endswith(f"{marks.strip()}\n")
    assert joined_card(CARD, f"{END}\n{marks}", {}).count(END) == 2
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "record", ["[" * 100_000, '{"files": 5}', "[]", f'{{"files": {"9" * 5000}}}', '{"files": {"a": 1e400}}']
)
def test_a_record_that_is_none_names_no_files(record: str) -> None:
    assert pushed_files(f"{BEGIN} {record} -->\ntheirs\n{END}\n") == {}


def test_what_stands_around_the_part_of_a_push_is_kept() -> None:
    first = joined_card(CARD, "before\n", {"LICENSE": "abc"})
    assert pushed_files(first) == {"LICENSE": "abc"}
    second = joined_card(CARD.replace("ours", "newer"), f"{first}after\n", {})
    assert "before" in second and "after" in second and "newer" in second and "\nours\n" not in second
    assert second.count(BEGIN) == second.count(END) == 1
