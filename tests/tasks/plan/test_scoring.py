"""The memory of scoring models that are not trained here: what does not fit is refused, with ways that were tried."""

from __future__ import annotations

from typing import Any

import pytest

from configs.schema import FineTuneConfig
from tasks.plan.hardware.target import Target
from tasks.plan.scoring import plan_scoring
from tasks.plan.shapes.architectures import known_shape

GB = 10**9
LARGE, MIDDLE, SMALL = "meta-llama/Llama-3.1-70B", "Qwen/Qwen2.5-32B", "meta-llama/Llama-3.1-8B"


def settings(name: str) -> dict[str, Any]:
    known = known_shape(name)
    assert known is not None
    return known.settings


def config(gpu: str | None = "H100-SXM", max_length: int = 1024, **evaluate: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "me/base"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "tokenize": {"max_length": max_length},
            "train": {"cluster": {"gpu": gpu} if gpu else {}},
            "evaluate": evaluate,
        }
    )


def test_a_model_that_no_gpu_of_the_type_holds_names_ways_that_fit() -> None:
    found = plan_scoring(config(), {"larger": settings(LARGE)})
    [answer] = found.answers
    assert answer.check.result == "failed" and answer.error is not None
    # 70.6 billion weights of 2 bytes are 141.1 GB; with 5 % more, 1 GB of context, and what a row takes
    assert answer.check.found.startswith("scoring takes 151") and "GB of H100-SXM, 1 rows" in answer.check.found
    ways = answer.check.fix.removeprefix("it would fit with ").split(" | ")
    assert ways == ["evaluate.load_in=4bit", "evaluate.gpus=2"]
    lines = str(answer.error).splitlines()
    assert len(lines) == 3 and lines[0].startswith("memory of larger: scoring takes")
    # each way is one
    for changes in ({"load_in": "4bit"}, {"gpus": 2}):
        [answer] = plan_scoring(config(**changes), {"larger": settings(LARGE)}).answers
        assert answer.check.result == "ok", changes


def test_the_rows_are_the_fewest_that_any_model_needs_unless_the_user_sets_them() -> None:
    both = {"small": settings(SMALL), "large": settings(LARGE)}
    alone = plan_scoring(config(max_length=8192, load_in="4bit"), {"small": settings(SMALL)})
    found = plan_scoring(config(max_length=8192, load_in="4bit"), both)
    assert alone.rows is not None and found.rows is not None and found.rows < alone.rows
    assert found.settled(config(load_in="4bit")).evaluate.batch_size == found.rows
    assert found.settled(config(batch_size=1)).evaluate.batch_size == 1


def test_without_a_named_type_each_model_is_planned_for_the_smallest_that_holds_it() -> None:
    small, large = plan_scoring(config(None), {"small": settings(SMALL), "large": settings(MIDDLE)}).answers
    assert small.check.result == large.check.result == "ok"
    assert "of 23.6 GB" in small.check.found and "of 23.6 GB" not in large.check.found


def test_a_machine_without_gpus_is_asked_for_its_own_memory() -> None:
    here = Target("this machine's 2 CPU cores", 16 * GB)
    [answer] = plan_scoring(config(None), {"small": settings(SMALL)}, here).answers
    # 8 billion weights of 4 bytes
    assert answer.check.result == "failed" and "of 16 GB of this machine's" in answer.check.found
    assert "gpus" not in answer.check.fix


def test_what_is_not_known_is_said_and_what_may_not_fit_only_warns() -> None:
    [answer] = plan_scoring(config(), {"odd": {"model_type": "no-such-family"}}).answers
    assert answer.check.result == "not checked" and answer.error is None
    warned = FineTuneConfig.model_validate({**config().model_dump(), "plan": {"if_too_large": "warn"}})
    [answer] = plan_scoring(warned, {"larger": settings(LARGE)}).answers
    assert answer.check.result == "warning" and answer.error is None


@pytest.mark.parametrize("models", [{}, {"odd": {"model_type": "no-such-family"}}])
def test_without_a_known_shape_the_config_stays(models: dict[str, dict[str, Any]]) -> None:
    assert plan_scoring(config(), models).settled(config()) == config()
