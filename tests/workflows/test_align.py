"""SFT and what follows it, as a user starts it: two stages, or three with a reward model, in one command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import PyFlyte, error_lines

from configs.errors import ConfigError
from configs.schema.align import AlignConfig


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pairs, and preferences for short answers."""
    directory = tmp_path_factory.mktemp("rows")
    pairs = [{"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(40)]
    preferences = [
        {"prompt": f"What is {n} and {n}?", "chosen": str(2 * n), "rejected": f"it is {2 * n}, I think"}
        for n in range(40)
    ]
    return {
        "pairs": write_rows(directory / "pairs.jsonl", pairs),
        "preferences": write_rows(directory / "preferences.jsonl", preferences),
    }


def config(model: Path, files: dict[str, str], **changes: object) -> dict:
    steps = {"method": "full", "max_steps": 4, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3}
    return {
        "name": "aligned",
        "model": {"name": str(model)},
        "sft": {"data": {"sources": [{"path": files["pairs"]}]}, "train": steps},
        "policy": {
            "data": {"sources": [{"path": files["preferences"]}]},
            "train": {**steps, "objective": "dpo", "method": "lora"},
        },
        "evaluate": {"generate_rows": 2, "max_new_tokens": 4},
        "quantize": {"methods": []},
        **changes,
    }


def run(flyte: PyFlyte, settings: dict):
    path = flyte.home / "align.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"output_directory": str(flyte.home / "outputs"), **settings}), encoding="utf-8")
    return flyte("run", "workflows/align.py", "align", "--config", str(path))


@pytest.mark.slow
def test_sft_then_dpo_ends_with_the_table_of_three_models(pyflyte: PyFlyte, tiny_model: Path, files: dict) -> None:
    result = run(pyflyte, config(tiny_model, files))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.strip().splitlines()
    header = next(place for place, line in enumerate(lines) if line.startswith("model "))
    assert [line.split()[0] for line in lines[header + 1 : header + 4]] == ["base", "sft", "tuned"]
    directory = pyflyte.home / "outputs" / "aligned"
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["stages"]["sft"]["objective"] == "sft" and metrics["stages"]["policy"]["objective"] == "dpo"
    assert metrics["tuned"]["preference_margin"] > metrics["sft"]["preference_margin"]
    assert {path.name for path in directory.iterdir()} >= {"model", "sft", "adapter", "report.html"}
    # rows of both stages are read before the first training begins
    first_step = next(number for number, line in enumerate(lines) if line.startswith("train: step"))
    assert sum(line.startswith("data: ") for line in lines[:first_step]) == 2


@pytest.mark.slow
def test_sft_then_a_reward_model_then_rloo(pyflyte: PyFlyte, tiny_model: Path, files: dict) -> None:
    steps = {"max_steps": 3, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3, "method": "lora"}
    settings = config(
        tiny_model,
        files,
        reward={
            "data": {"sources": [{"path": files["preferences"]}]},
            "train": {**steps, "objective": "reward", "max_steps": 20},
        },
        policy={
            "data": {"sources": [{"path": files["pairs"]}]},
            "train": {**steps, "objective": "rloo", "policy": {"max_new_tokens": 6}},
        },
    )
    result = run(pyflyte, settings)
    assert result.returncode == 0, result.stderr
    directory = pyflyte.home / "outputs" / "aligned"
    metrics = json.loads((directory / "metrics.json").read_text())
    assert list(metrics["stages"]) == ["sft", "reward", "policy"]
    assert metrics["reward_model"]["preference_accuracy"] > 0.8
    # the reward model scores the answers of the SFT model and of the aligned one alike
    assert isinstance(metrics["sft"]["mean_reward"], float) and isinstance(metrics["tuned"]["mean_reward"], float)
    assert (directory / "reward_model" / "config.json").exists()
    assert re.search(r"Phase: reward model", (directory / "report.html").read_text())


def test_rows_of_a_later_stage_are_refused_before_the_first_trains(
    started_pyflyte: PyFlyte, tiny_model: Path, files: dict
) -> None:
    settings = config(tiny_model, files)
    settings["policy"]["data"] = {"sources": [{"path": files["pairs"]}]}
    result = run(started_pyflyte, settings)
    assert result.returncode == 1
    lines = error_lines(result)
    assert len(lines) <= 3 and "train.objective=dpo" in lines[0], result.stderr
    assert "train: step" not in result.stdout


STAGE = {"data": {"sources": [{"path": "rows.jsonl"}]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": {**STAGE, "train": {"objective": "sft"}}}, "policy.train.objective=sft: the last phase must be"),
        ({"sft": {**STAGE, "train": {"objective": "dpo"}}}, "sft.train.objective=dpo: the first phase must be sft"),
        ({"policy": {**STAGE, "train": {"objective": "rloo"}}}, "needs a reward for its answers"),
        ({"reward": {**STAGE, "train": {"objective": "reward"}}}, "does not use a reward model; remove it"),
        ({"reward": {**STAGE, "train": {"objective": "sft"}}}, "this phase trains a reward model"),
        ({"sft": {**STAGE, "train": {"method": "prompt_tuning"}}}, "changes no weights, so the next phase"),
        (
            {"tokenize": {"over_length": "split"}},
            "policy: tokenize.over_length=split is for train.objective sft and cpt",
        ),
        ({"polcy": {}}, "polcy is not a setting (did you mean policy?)"),
    ],
)
def test_stages_that_do_not_fit_are_refused(changes: dict, words: str) -> None:
    whole = {
        "model": {"name": "owner/name"},
        "sft": {**STAGE, "train": {}},
        "policy": {**STAGE, "train": {"objective": "dpo"}},
        **changes,
    }
    with pytest.raises(ConfigError) as caught:
        AlignConfig.model_validate_json(json.dumps(whole))
    assert words in str(caught.value)
