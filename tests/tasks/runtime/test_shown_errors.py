"""What the console shows of a failed pod: the message first, and a Deck that says what failed. All pods are real."""

from __future__ import annotations

import importlib
import re
import traceback
from pathlib import Path

import pytest
from conftest import ROOT
from flytekit import PythonFunctionTask
from support.failing_tasks import starting_others, unmarked, with_decks, with_lost_deck, without_decks
from support.pods import NON_RECOVERABLE, RECOVERABLE, Pod

from configs.errors import DataError
from tasks.runtime.elastic import ConfiguredElasticTask
from tasks.runtime.shown_errors import shows_errors

# the console's lists of runs show so many
SHOWN_CHARACTERS = 100

SHELLS = sorted(path.relative_to(ROOT) for path in (ROOT / "tasks").glob("*/task.py"))


def is_task(value: object) -> bool:
    return isinstance(value, PythonFunctionTask)


def failed(task: PythonFunctionTask, home: Path, how: str) -> Pod:
    return Pod(task, home, {"how": how}).run()


def tabs(deck: str) -> list[str]:
    """Return the names of the Decks in their order; the console opens the first."""
    return re.findall(r"<li onclick[^>]*>([^<]*)</li>", deck)


def test_a_refusal_is_the_first_thing_in_the_error_and_in_the_decks(tmp_path: Path) -> None:
    pod = failed(with_decks, tmp_path, "refused")
    assert pod.error.kind == NON_RECOVERABLE
    message = "ConfigError: train.batch_size=30 is <not> a multiple of 8\n    set train.batch_size=32"
    # flytekit repeats the message; there is nothing else
    assert pod.error.message == f"Trace:\n\n    {message}\n\nMessage:\n\n    {message}"
    assert tabs(pod.deck) == ["error", "rows", "progress"]
    assert "ConfigError: train.batch_size=30 is &lt;not&gt; a multiple of 8" in pod.deck
    assert "<p>half of it</p>" in pod.deck


@pytest.mark.parametrize("how", ["caused", "meanwhile"])
@pytest.mark.parametrize("task", [without_decks, starting_others, unmarked], ids=lambda task: task.name.split(".")[-1])
def test_the_error_that_led_to_ours_is_not_printed_before_it(
    task: PythonFunctionTask, how: str, tmp_path: Path
) -> None:
    error = failed(task, tmp_path, how).error
    if task is unmarked:
        # the control: what flytekit does by itself
        assert "DataError" not in error.message[:SHOWN_CHARACTERS]
    else:
        assert error.message.startswith("Trace:\n\n    DataError: rows.jsonl has no column prompt\n")


def test_the_deck_of_a_dynamic_task_says_what_failed(tmp_path: Path) -> None:
    pod = failed(starting_others, tmp_path, "refused")
    assert tabs(pod.deck) == ["error"] and "ConfigError: train.batch_size=30" in pod.deck


def test_an_entry_of_a_map_fails_with_the_same_words(tmp_path: Path) -> None:
    first = {"BATCH_JOB_ARRAY_INDEX_VAR_NAME": "INDEX", "INDEX": "0"}
    pod = Pod(without_decks, tmp_path, {"how": ["caused", "not at all"]}, environment=first, is_mapped=True).run()
    assert pod.error.message.startswith("Trace:\n\n    DataError: rows.jsonl has no column prompt\n")


def test_an_error_of_the_deck_does_not_hide_the_tasks(tmp_path: Path) -> None:
    pod = failed(with_lost_deck, tmp_path, "caused")
    assert pod.error.message.startswith("Trace:\n\n    DataError: rows.jsonl has no column prompt\n")
    assert "the Deck of the error below is not shown: OSError('the store cannot be reached')" in pod.log


def test_another_attempt_follows_an_error_that_may_not_happen_again(tmp_path: Path) -> None:
    error = failed(without_decks, tmp_path, "retry").error
    assert error.kind == RECOVERABLE
    assert error.message.startswith("Trace:\n\n    RetryError: the store went away\n")


def test_a_defect_keeps_its_trace_and_its_deck_shows_no_content(tmp_path: Path) -> None:
    pod = failed(with_decks, tmp_path, "defect")
    assert 'raise KeyError("content of a row")' in pod.error.message
    assert tabs(pod.deck)[0] == "error" and "KeyError: a defect" in pod.deck
    assert "content of a row" not in pod.deck


def test_a_task_that_succeeds_shows_its_own_decks_only(tmp_path: Path) -> None:
    pod = failed(with_decks, tmp_path, "not at all")
    assert tabs(pod.deck) == ["rows", "progress"]
    assert pod.outputs["o0"].scalar.primitive.string_value == "not at all"


def test_on_a_laptop_an_error_stays_as_it_is() -> None:
    with pytest.raises(DataError, match="has no column prompt"):
        without_decks(how="caused")


def test_an_error_that_nobody_foresaw_hides_nothing() -> None:
    def reads() -> None:
        try:
            raise ValueError("unknown \x1b[2Jname\u202e\nsecond line", 7)
        except ValueError as error:
            raise FileNotFoundError(2, "No such file", "rows\x1b\n.jsonl") from error

    with pytest.raises(FileNotFoundError) as raised:
        shows_errors(reads)()
    shown = "".join(traceback.format_exception(raised.value))
    assert r"[Errno 2] No such file: 'rows\\x1b\\n.jsonl'" in shown
    assert r"('unknown \\x1b[2Jname\\u202e\nsecond line', 7)" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def test_every_task_shows_its_errors_and_none_opens_on_flytekits_own_decks() -> None:
    modules = [importlib.import_module(".".join(path.with_suffix("").parts)) for path in SHELLS]
    tasks = {entity.name: entity for module in modules for entity in vars(module).values() if is_task(entity)}
    assert len(tasks) > 15
    for name, entity in tasks.items():
        shows = isinstance(entity, ConfiguredElasticTask) or hasattr(entity.task_function, "__wrapped__")
        assert shows, f"{name} has no @shows_errors"
        assert entity.deck_fields == [], name
