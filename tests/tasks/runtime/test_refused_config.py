"""A form with wrong settings: its first task refuses it in one readable error, and the Deck shows every fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from flyteidl.core.literals_pb2 import Binary, Literal, LiteralMap, Scalar
from rehearsal.literals import as_form
from support.pods import NON_RECOVERABLE, Pod

import tasks.plan.task as plan_task
from configs.errors import ConfigError
from tasks.runtime.refused_config import RefusedConfig, accepted


def as_sent_between_tasks(values: dict[str, Any]) -> Literal:
    return Literal(scalar=Scalar(binary=Binary(value=msgpack.dumps(values), tag="msgpack")))


def refused(home: Path, config: Literal, task: str = "make_plan") -> Pod:
    pod = Pod(getattr(plan_task, task), home, LiteralMap(literals={"config": config})).run()
    assert pod.error.kind == NON_RECOVERABLE
    # the Deck was published, and opens on the error
    assert re.search(r"<li onclick[^>]*>([^<]*)</li>", pod.deck)[1] == "error"
    return pod


BAD = [
    ({"train": {"epochs": -1}}, "train.epochs=-1 is not above 0; raise it", "train.epochs"),
    ({"train": {"batch_size": "many"}}, "train.batch_size='many' is not a whole number; write one", "train.batch_size"),
    (
        {"data": {"sources": [{}]}},
        "data.sources[0]: names no rows; give exactly one of `path` and `hub`",
        "data.sources[0]",
    ),
    ({"data": {"sources": [None]}}, "data.sources[0] is an empty entry; fill it in, or", "data.sources[0]"),
    ({"trian": {"epochs": 1}}, "trian is not a setting (did you mean train?); see configs/schema", "trian"),
]


@pytest.mark.parametrize(("changes", "message", "path"), BAD)
def test_a_wrong_form_is_refused_in_one_readable_error(
    changes: dict[str, Any], message: str, path: str, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    form = {"model": {"name": str(tiny_model)}, "data": {"sources": [{"path": str(rows_file)}]}, **changes}
    pod = refused(tmp_path, as_form(form))
    assert pod.error.message.startswith(f"Trace:\n\n    ConfigError: config: {message}")
    # within the 100 characters of the console's lists
    assert path in pod.error.message[:100]
    assert "Traceback" not in pod.error.message and len(pod.error.message) < 600
    assert f">{path}</td>" in pod.deck and "1 setting is wrong" in pod.deck


def test_an_empty_model_is_refused_by_the_plan(rows_file: Path, tmp_path: Path) -> None:
    pod = refused(tmp_path, as_form({"model": {"name": ""}, "data": {"sources": [{"path": str(rows_file)}]}}))
    assert pod.error.message.startswith("Trace:\n\n    ConfigError: config: model.name is missing")
    assert "ConfigError: config: model.name is missing" in pod.deck


FIVE_FAULTS = {"seed": 1.5, "method": "lroa", "batch_size": 0, "epochs": -1, "lora": {"rnak": 3}}


@pytest.mark.parametrize("encoding", [as_form, as_sent_between_tasks])
@pytest.mark.parametrize("task", ["resolve_data", "plan_alignment"])
def test_the_deck_shows_all_faults_of_which_the_message_names_three(encoding: Any, task: str, tmp_path: Path) -> None:
    model, data = {"name": "owner/name"}, {"sources": [{"path": "s3://b/rows.jsonl"}]}
    phase, prefix = {"data": data, "train": FIVE_FAULTS}, ""
    config: dict[str, Any] = {"model": model, **phase}
    if task == "plan_alignment":
        config, prefix = {"model": model, "sft": phase, "policy": {"data": data, "train": {"objective": "dpo"}}}, "sft."
    pod = refused(tmp_path, encoding(config), task)
    assert "(and 2 more)" in pod.error.message and "5 settings are wrong" in pod.deck
    for path in ("seed", "method", "batch_size", "epochs", "lora.rnak"):
        # lines may end within a long path
        assert f">{prefix}train.{path}</td>" in pod.deck.replace("<wbr>", "")


def test_reading_a_refused_config_raises_its_error() -> None:
    config: Any = RefusedConfig(ConfigError("config: train.epochs=-1: input should be greater than 0"))
    for read in (lambda: config.train, lambda: accepted(config)):
        with pytest.raises(ConfigError, match=r"train\.epochs=-1"):
            read()
    # flytekit logs the inputs of a task
    assert "train.epochs=-1" in repr({"config": config})
