"""Why a step runs: what of its inputs, or of the code, has changed since the last run of that name."""

from __future__ import annotations

from typing import Any

from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal

from configs.schema import TokenizeConfig
from tasks.runtime.cached_steps import input_hashes, why_it_runs


def literal(value: Any) -> Literal:
    kind = type(value)
    context = FlyteContextManager.current_context()
    return TypeEngine.to_literal(context, value, kind, TypeEngine.to_literal_type(kind))


def note(config: TokenizeConfig, version: str = "1", finished: bool = True, **inputs: str) -> dict[str, Any]:
    literals = {"config": literal(config), **{name: literal(value) for name, value in inputs.items()}}
    return {"version": version, "inputs": input_hashes(literals), "finished": finished}


USUAL = TokenizeConfig()


def test_a_setting_that_changed_is_named_by_its_path() -> None:
    assert why_it_runs(None, note(USUAL)) == "first time"
    changed = note(TokenizeConfig(max_length=77, new_special_tokens=["<a>"]), rows="a")
    why = why_it_runs(note(USUAL, rows="a"), changed)
    assert why == "changed since the last run: config.max_length, config.new_special_tokens"
    assert why_it_runs(note(USUAL, rows="a"), note(USUAL, rows="b")) == "changed since the last run: rows"


def test_code_that_changed_and_lost_results_are_named() -> None:
    assert why_it_runs(note(USUAL), note(USUAL, version="2")) == "the code changed"
    both = why_it_runs(note(USUAL, rows="a"), note(USUAL, version="2", rows="b"))
    assert both == "the code changed; changed since the last run: rows"
    assert why_it_runs(note(USUAL), note(USUAL, finished=False)) == "its result is no longer in the cache"
    assert why_it_runs(note(USUAL, finished=False), note(USUAL)) == "it did not finish in the last run"


def test_of_many_changes_four_are_named() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    why = why_it_runs(note(USUAL, **dict.fromkeys(names, "x")), note(USUAL, **dict.fromkeys(names, "y")))
    assert why == "changed since the last run: a, b, c, d and 2 more"


def test_an_input_that_is_new_or_gone_has_changed() -> None:
    assert why_it_runs(note(USUAL), note(USUAL, rows="a")) == "changed since the last run: rows"
    assert why_it_runs(note(USUAL, rows="a"), note(USUAL)) == "changed since the last run: rows"
