"""Other models are checked in the first minutes, and an evaluation alone asks for nothing that only a training has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.adapters import save_adapter

from configs.errors import ConfigError, FineTuneError, ModelError
from configs.schema import FineTuneConfig
from tasks.plan.checks.alone import data_to_score, questions_alone
from tasks.plan.checks.evaluation import check_evaluation
from tasks.plan.checks.others import check_others


def config(others: list[dict[str, Any]], model: str = "me/base", **sections: Any) -> FineTuneConfig:
    content: dict[str, Any] = {"model": {"name": model}, "data": {"sources": [{"path": "rows.jsonl"}]}}
    evaluate = {"others": others, **sections.pop("evaluate", {})}
    return FineTuneConfig.model_validate({**content, "evaluate": evaluate, **sections})


def test_a_model_and_an_adapter_have_revisions_and_an_endpoint_none(tiny_model: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_model, tmp_path / "adapter")
    others = [
        {"title": "whole", "model": str(tiny_model)},
        {"title": "adapted", "adapter": str(adapter)},
        {"title": "served", "endpoint": "https://host/v1", "endpoint_model": "m"},
    ]
    found = check_others(config(others), None)
    first, second, third = (own.revision for own in found.value)
    assert len(first) == len(second) == 64 and first != second and third == ""
    assert found.warning == ""


@pytest.mark.parametrize(
    ("setting", "damage", "words"),
    [
        ("model", None, "evaluate.others[0].model={place}: no such directory"),
        ("model", "model.safetensors", "evaluate.others[0].model={place} has no weights"),
        ("model", "config.json", "evaluate.others[0].model={place} has no config.json"),
        (
            "adapter",
            "adapter_config.json",
            "evaluate.others[0].adapter={place} is no adapter: it has no adapter_config",
        ),
        ("adapter", "adapter_model.safetensors", "is no adapter: it has no adapter_model.safetensors"),
    ],
)
def test_what_cannot_be_loaded_names_its_setting(
    setting: str, damage: str | None, words: str, tiny_model: Path, tmp_path: Path
) -> None:
    place = tmp_path / "copy"
    if damage is not None:
        source = tiny_model if setting == "model" else save_adapter(tiny_model, tmp_path / "adapter")
        place.mkdir()
        for file in source.iterdir():
            if file.name != damage:
                (place / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError) as caught:
        check_others(config([{"title": "previous", setting: str(place)}]), None)
    assert words.format(place=place) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3 and "model.name" not in str(caught.value)


def test_an_adapter_of_another_base_is_a_warning(tiny_model: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_model, tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "they/other"}))
    found = check_others(config([{"title": "adapted", "adapter": str(adapter)}]), None)
    assert found.warning == "adapted was trained on they/other, and is merged into me/base"


def test_a_rule_may_name_another_model_but_no_loss_of_an_endpoint() -> None:
    served = {"title": "served", "endpoint": "https://host/v1", "endpoint_model": "m"}
    rule = {"measure": "exact_match", "versus": "served", "significant": True}
    check_evaluation(config([served], gate={"rules": [rule]}))
    with pytest.raises(ConfigError, match=r"gate.rules\[0\].versus=served is an endpoint, which gives no losses"):
        check_evaluation(config([served], gate={"rules": [rule | {"measure": "eval_loss"}]}))
    with pytest.raises(ConfigError, match=r"versus=served is no model of this run.*name it in evaluate.others"):
        check_evaluation(config([], gate={"rules": [rule]}))


def test_a_misspelt_measure_of_a_rule_is_found_before_anything_runs() -> None:
    rule = {"measure": "exact_macth", "versus": "base", "significant": True}
    with pytest.raises(ConfigError) as caught:
        check_evaluation(config([], gate={"rules": [rule]}))
    assert "gate.rules[0].measure=exact_macth is no measure of this run; did you mean exact_match?" in str(caught.value)
    titled = {"measures": [{"name": "regex", "title": "has_unit", "pattern": "kg"}]}
    check_evaluation(config([], evaluate=titled, gate={"rules": [rule | {"measure": "has_unit"}]}))
    # what suits the answers may be taken; what is not listed, or needs settings, is not
    check_evaluation(config([], gate={"rules": [rule | {"measure": "accuracy"}]}))
    for measures, name in (([], "sql"), (["token_f1"], "accuracy")):
        with pytest.raises(ConfigError, match=rf"measure={name} is not taken in this run; add it to evaluate.measures"):
            check_evaluation(config([], evaluate={"measures": measures}, gate={"rules": [rule | {"measure": name}]}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": ""}, "name a model to score, or models in evaluate.others"),
        (
            {"model": "", "others": [{"title": "a", "adapter": "c/d"}]},
            "evaluate.others names an adapter; set model.name to the base",
        ),
        ({"evaluate": {"few_shot": 2}}, "evaluate.few_shot=2 needs training rows; give their source `role: train`"),
        ({"evaluate": {"retained": {"memorization_rows": 8}}}, "evaluate.retained.memorization_rows=8 needs training"),
        ({"data": {"sources": [{"path": "r.jsonl", "role": "train"}]}}, "so there are no rows to score"),
    ],
)
def test_an_evaluation_alone_says_what_it_lacks(content: dict[str, Any], words: str) -> None:
    from tasks.plan.checks.surroundings import Surroundings

    surroundings = Surroundings(False, None, "", {}, "", lambda address: None, Path("/tmp"), trains=False)
    with pytest.raises(FineTuneError) as caught:
        questions_alone(config(**({"others": []} | content)), surroundings)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_all_rows_are_scored_but_those_to_train_on() -> None:
    sources = [{"path": f"{role}.jsonl", "role": role} for role in ("auto", "test", "train")]
    data = config([], data={"sources": sources}).data
    assert [source.role for source in data_to_score(data).sources] == ["test", "test", "train"]
