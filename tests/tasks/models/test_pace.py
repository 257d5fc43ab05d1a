"""What a pod's log says of long work, with times that are worked out by hand."""

from __future__ import annotations

import time

import pytest

from tasks.models import pace


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (725, "12 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (86_399, "23 h 59 min"),
        (187_200, "2 d 4 h"),
        (-3, "0 s"),
    ],
)
def test_times_are_in_units_that_people_read(seconds: float, words: str) -> None:
    assert pace.duration(seconds) == words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr("tasks.models.pace.time.monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_work_and_not_the_rows(clock: list[float]) -> None:
    count = pace.Count("loss", 10, "rows", total_work=1000)
    assert count.line() == "loss 0/10 rows  for 0 s"
    clock[0] += 60
    # half of the rows, the short ones: a quarter of the tokens
    count.add(5, work=250, num_tokens=250)
    count.facts["loss"] = "1.5000"
    # 60 s for a quarter: 180 s for the rest; 250 tokens in 60 s
    assert count.line() == "loss 5/10 rows  4 tokens/s  loss 1.5000  3 min left"
    clock[0] += 180
    count.add(5, work=750, num_tokens=750)
    assert count.line() == "loss 10 rows in 4 min  4 tokens/s  loss 1.5000"


def test_rows_are_the_speed_where_no_tokens_are_counted(clock: list[float]) -> None:
    count = pace.Count("layers", 4, "weights")
    clock[0] += 8
    count.add(1)
    # 1 in 8 s, 3 to go
    assert count.line() == "layers 1/4 weights  0.12 weights/s  24 s left"


def test_a_long_silence_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PROGRESS_SECONDS", "0.1")
    with pace.heartbeat("quantize"), pace.doing("loading"):
        time.sleep(0.35)
    time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 4, lines
    assert set(lines) == {"quantize: loading, 0 s so far"}


def test_what_talks_by_itself_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROGRESS_SECONDS", "0.4")
    with pace.heartbeat("train") as heart, pace.doing("idle"):
        for number in range(6):
            heart.say(f"step {number}")
            time.sleep(0.1)
    assert capsys.readouterr().out.splitlines() == [f"train: step {number}" for number in range(6)]


def test_fast_work_does_not_flood_the_log(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    heart = pace.Heartbeat("train")
    for number in range(200):
        clock[0] += 0.5
        heart.say(f"step {number}", always=False)
    lines = capsys.readouterr().out.splitlines()
    # 50 at once, and 1 for each 2 of the 100 seconds
    assert len(lines) == pytest.approx(100, abs=2)
    assert lines[:20] == [f"train: step {number}" for number in range(20)]
    for number in range(200, 260):
        heart.say(f"step {number}", always=True)
    assert len(capsys.readouterr().out.splitlines()) == 60


def test_at_zero_every_line_is_printed_and_none_besides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROGRESS_SECONDS", "0")
    with pace.heartbeat("train") as heart, pace.doing("idle"):
        for number in range(70):
            heart.say(f"step {number}", always=False)
        time.sleep(0.1)
    assert len(capsys.readouterr().out.splitlines()) == 70


def test_the_end_of_a_count_is_said_and_an_empty_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pace.counting("generate", 2, "rows") as silent:
        silent.add(2)
    assert capsys.readouterr().out == ""
    with pace.heartbeat("evaluate tuned"):
        with pace.counting("generate", 0, "rows"):
            pass
        with pace.counting("generate", 2, "rows") as count:
            count.add(2)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("evaluate tuned: generate 2 rows in 0 s")
