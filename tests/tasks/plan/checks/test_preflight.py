"""Questions are asked in parallel, none holds up the run, and a few lines show what they found."""

from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
import threading
import time

import pytest

from configs.errors import ConfigError, DataError, FineTuneError, HubError, UnreachableError, UnreachableHubError
from configs.wire_plan import Check
from tasks.plan.checks.preflight import (
    Answer,
    Finding,
    NotCheckedError,
    Question,
    Shared,
    answer,
    fail_together,
    text_table,
    value_of,
)


def raising(error: Exception):
    def ask() -> Finding:
        raise error

    return ask


def answers_to(*errors: Exception) -> list[Answer]:
    return answer([Question(f"check {number}", raising(error)) for number, error in enumerate(errors)])


def test_questions_run_in_parallel_and_keep_their_order() -> None:
    # each question waits for all three: asked in turn, they would never end
    together = threading.Barrier(3)

    def ask(number: int):
        def inner() -> Finding:
            together.wait(timeout=10)
            return Finding(f"found {number}", number)

        return inner

    answers = answer([Question(str(number), ask(number)) for number in range(3)])
    assert [(given.check.name, given.check.found, given.value) for given in answers] == [
        ("0", "found 0", 0),
        ("1", "found 1", 1),
        ("2", "found 2", 2),
    ]
    assert value_of(answers, "1") == 1 and value_of(answers, "none", "default") == "default"


def test_each_thread_sees_the_callers_context() -> None:
    place = contextvars.ContextVar("place", default="nowhere")
    place.set("here")
    [found] = answer([Question("context", lambda: Finding(place.get()))])
    assert found.check.found == "here"


def test_every_outcome_has_its_own_result() -> None:
    failed, two, unreachable, skipped, warned, fine = answer(
        [
            Question("failed", raising(DataError("rows.jsonl is empty; add rows"))),
            Question("two lines", raising(ConfigError("a=1 is wrong\nset a=2"))),
            Question("unreachable", raising(UnreachableHubError("hub cannot be reached; connect"))),
            Question("skipped", raising(NotCheckedError("needs `failed`"))),
            Question("warned", lambda: Finding("all", warning="half", fix="do")),
            Question("fine", lambda: Finding("all")),
        ]
    )
    assert failed.check == Check(name="failed", result="failed", found="rows.jsonl is empty", fix="add rows")
    assert two.check == Check(name="two lines", result="failed", found="a=1 is wrong", fix="set a=2")
    assert unreachable.check.result == "not checked"
    assert unreachable.check.found == "not checked: no network: hub cannot be reached"
    assert skipped.check.found == "not checked: needs `failed`" and skipped.error is None
    assert (warned.check.result, warned.check.found, warned.check.fix) == ("warning", "half", "do")
    assert (fine.check.result, fine.check.found) == ("ok", "all")


def test_an_internal_error_is_named_and_its_traceback_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        [found] = answers_to(ZeroDivisionError("content of a row"))
    assert found.check.result == "failed" and "itself failed (ZeroDivisionError)" in found.check.found
    assert "content of a row" not in found.check.found and "Traceback" in caplog.text
    with pytest.raises(FineTuneError, match="itself failed"):
        fail_together([found], needs_network=False)


def test_a_question_that_hangs_is_given_up() -> None:
    began = time.monotonic()
    stop = threading.Event()
    late, fine = answer(
        [
            Question("hangs", lambda: Finding(str(stop.wait(30))), limit_seconds=0.3),
            Question("fine", lambda: Finding("all")),
        ]
    )
    stop.set()
    assert time.monotonic() - began < 5
    assert late.check.result == "not checked" and "no answer within 0.3 s" in late.check.found
    assert fine.check.result == "ok"
    fail_together([late, fine], needs_network=False)
    with pytest.raises(UnreachableError, match="hangs: no answer within"):
        fail_together([late, fine], needs_network=True)


def test_a_question_that_hangs_does_not_hold_the_process() -> None:
    script = (
        "import time; from tasks.plan.checks.preflight import *; "
        "print(answer([Question('q', lambda: time.sleep(60), 0.2)])[0].check.result)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (process.returncode, process.stdout.strip()) == (0, "not checked"), process.stderr


def test_a_shared_value_is_worked_out_once_and_fails_once() -> None:
    calls = []

    def work() -> int:
        calls.append(1)
        raise HubError("refused; do something")

    shared = Shared("model files", work)
    own, one, two = answer(
        [
            Question("model files", lambda: Finding("", shared.value())),
            Question("license", lambda: Finding(str(shared.needed()))),
            Question("tokenizer", lambda: Finding(str(shared.needed()))),
        ]
    )
    assert len(calls) == 1 and own.check.result == "failed"
    assert {one.check.found, two.check.found} == {"not checked: needs `model files`"}
    with pytest.raises(HubError, match=r"^refused; do something$"):
        fail_together([own, one, two], needs_network=True)


def test_without_a_network_questions_that_need_the_answer_say_so_too() -> None:
    shared = Shared("model files", raising(UnreachableHubError("no route")))
    inner = Shared("tokenizer", lambda: shared.needed())
    [found] = answer([Question("template", lambda: Finding(str(inner.needed())))])
    assert found.check.found == "not checked: no network (needs `model files`)"


def test_one_failure_is_raised_as_it_is_and_several_in_one() -> None:
    fail_together(answers_to(), needs_network=True)
    first = DataError("a is empty\nadd rows")
    with pytest.raises(DataError) as one:
        fail_together(answers_to(first), needs_network=True)
    assert one.value is first
    with pytest.raises(ConfigError) as several:
        fail_together(answers_to(first, ConfigError("b\nfix"), HubError("c"), HubError("d"), HubError("e")), False)
    assert str(several.value).splitlines() == [
        "check 0: a is empty; add rows",
        "check 1: b; fix",
        "check 2: c",
        "5 checks failed before anything was started (2 more than these)",
    ]


def test_an_unreachable_hub_stops_only_a_run_that_needs_the_network() -> None:
    answers = answers_to(UnreachableHubError("hub cannot be reached"))
    fail_together(answers, needs_network=False)
    with pytest.raises(UnreachableHubError):
        fail_together(answers, needs_network=True)


def test_the_table_is_aligned_and_narrow() -> None:
    checks = [
        Check(name="model files", result="ok", found="2 files", fix="not shown"),
        Check(name="tracker", result="failed", found="word " * 40, fix="set another"),
        Check(name="hub", result="not checked", found="not checked: no network"),
    ]
    lines = text_table(checks).splitlines()
    assert lines[:2] == ["check        result       found", "model files  ok           2 files"]
    # the columns take 26 of 110 characters; 17 words and the blanks between them are the other 84
    assert lines[2] == "tracker      failed       " + " ".join(["word"] * 17)
    assert lines[5] == " " * 28 + "-> set another"
    assert lines[6] == "hub          not checked  not checked: no network"
    assert max(map(len, lines)) <= 110
