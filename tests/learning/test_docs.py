"""What docs/methods.md says is so: its configs are accepted, its defaults are those of the code, its links exist."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest
import yaml
from conftest import ROOT

from configs.objectives import Objective
from configs.schema import FineTuneConfig
from configs.schema.train import Method, TrainConfig
from tasks.rewards.functions import check_rewards
from tasks.train.arguments import learning_rate

DOCS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
SMALLEST = {"model": {"name": "x"}, "data": {"sources": [{"path": "rows.jsonl"}]}}


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```", DOCS, re.S | re.M))
def test_each_config_is_accepted(block: str) -> None:
    config = FineTuneConfig.model_validate_json(json.dumps({**SMALLEST, **yaml.safe_load(block)}))
    check_rewards(config.train.policy.rewards)


def test_the_learning_rates_are_the_defaults_of_the_code() -> None:
    head, _, *lines = re.findall(
        r"^\| ?(.*?) ?\|$", DOCS.partition("Peak learning rates")[2].partition("They suit")[0], re.M
    )
    groups = [group.split(", ") for group in head.removeprefix("| ").split(" | ")]
    seen = set()
    for line in lines:
        objectives, *rates = line.split(" | ")
        for objective in objectives.split(", "):
            for methods, rate in zip(groups, rates, strict=True):
                for method in methods:
                    config = TrainConfig.model_construct(objective=objective, method=method, learning_rate=None)
                    assert learning_rate(config) == float(rate), (objective, method)
                    seen.add((objective, method))
    assert seen == {(objective, method) for objective in get_args(Objective) for method in get_args(Method)}


def test_each_objective_and_method_is_explained() -> None:
    for name in (*get_args(Objective), *get_args(Method)):
        assert re.search(rf"^\| `{name}` \|", DOCS, re.M), name


def test_each_file_it_names_exists() -> None:
    names = re.findall(r"\b(?:workflows|configs)/[\w./-]+\.(?:py|yaml)", DOCS)
    assert names
    for name in names:
        assert (ROOT / name).is_file(), name
