"""What a run's folder says about the run: its config without secrets, what tells configs apart, hashes and versions."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from tasks.files.run_record import (
    code_commit,
    differing_settings,
    file_hashes,
    identity,
    package_versions,
    public_settings,
    seeds,
)

CONFIG: dict[str, Any] = {"name": "x", "model": {"name": "a/b"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
SIGNED = "https://me:SECRET@host.example/rows.jsonl?key=SECRET"


def config(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate({**CONFIG, **changes})


def data(path: Any) -> dict[str, Any]:
    return {"sources": [{"path": path}]}


def test_addresses_are_recorded_without_user_and_query() -> None:
    settings = public_settings(config(data=data([SIGNED, "what?.jsonl", "s3://bucket/a?.jsonl"])))
    assert settings["data"]["sources"][0]["path"] == [
        "https://host.example/rows.jsonl",
        "what?.jsonl",
        "s3://bucket/a?.jsonl",
    ]
    assert "SECRET" not in str(settings) and settings["train"]["batch_size"] == config().train.batch_size


@pytest.mark.parametrize(
    "changes",
    [
        {"output_directory": "elsewhere"},
        {"output_exists": "replace"},
        {"push_to_hub": {"repository": "me/x"}},
        {"plan": {"if_too_large": "warn"}},
        {"train": {"method": FineTuneConfig.model_validate(CONFIG).train.method, "checkpoint": {"keep": 3}}},
        {"train": {"cluster": {"retries": 1}, "checkpoint": {"keep": 3}, "tracking": {"tracker": "tensorboard"}}},
    ],
    ids=str,
)
def test_settings_that_change_no_result_do_not_make_another_run(changes: dict[str, Any]) -> None:
    assert config(**changes) != config()
    assert identity(config(**changes), "fine_tune") == identity(config(), "fine_tune")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "y"},
        {"model": {"name": "a/c"}},
        {"data": data("other.jsonl")},
        {"train": {"seed": 1}},
        {"quantize": {"methods": []}},
        {"evaluate": {"generate_rows": 3}},
        {"tokenize": {"max_length": 9}},
    ],
    ids=str,
)
def test_settings_that_change_results_make_another_run(changes: dict[str, Any]) -> None:
    assert identity(config(**changes), "fine_tune") != identity(config(), "fine_tune")


def test_a_signature_that_is_new_each_day_makes_no_other_run_and_another_workflow_does() -> None:
    signed = identity(config(data=data(SIGNED)), "fine_tune")
    assert identity(config(data=data(SIGNED.replace("SECRET", "new"))), "fine_tune") == signed
    assert identity(config(data=data(SIGNED)), "prepare_data") != signed


def test_every_seed_is_listed_by_its_path() -> None:
    assert seeds(public_settings(config(train={"seed": 3}))) == {"data.seed": 0, "train.seed": 3}
    phase = {"data": data("rows.jsonl"), "train": {"objective": "dpo", "seed": 2}}
    align = AlignConfig.model_validate({"model": {"name": "a/b"}, "sft": {**phase, "train": {}}, "policy": phase})
    assert seeds(public_settings(align)) == {
        "sft.data.seed": 0,
        "sft.train.seed": 0,
        "policy.data.seed": 0,
        "policy.train.seed": 2,
    }
    phases = [
        align.model_copy(update={"policy": align.policy.model_copy(update={"train": train})})
        for train in (align.policy.train, align.policy.train.model_copy(update={"cluster": None}))
    ]
    assert len({identity(phase, "align") for phase in phases}) == 1


def test_files_are_hashed_by_their_path_within_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "report.html").write_bytes(b"")
    (tmp_path / ".fine-tune.lock").write_bytes(b"x")
    assert file_hashes(tmp_path) == {
        "model/model.safetensors": sha256(b"weights").hexdigest(),
        "report.html": sha256(b"").hexdigest(),
    }


def test_versions_are_those_of_this_environment() -> None:
    versions = package_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers", "trl", "peft", "datasets", "flytekit", "flyte-fine-tune"} <= set(versions)


def test_the_commit_is_that_of_the_project_and_of_no_repository_around_it(tmp_path: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode == 0:
        commit = code_commit(ROOT)
        assert commit is not None and commit.split(" ")[0] == head.stdout.strip()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "inside").mkdir()
    assert code_commit(tmp_path / "inside") is None
    assert code_commit(tmp_path) is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path, check=True)
    commit = code_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "new.py").write_text("")
    assert code_commit(tmp_path) == f"{commit} with changes that are not committed"


def test_settings_that_differ_are_those_that_may_change_results() -> None:
    first = public_settings(config(train={"seed": 1, "learning_rate": 0.1, "checkpoint": {"keep": 2}}))
    second = public_settings(config(name="y", output_directory="z", train={"seed": 2, "checkpoint": {"keep": 3}}))
    assert differing_settings([first, second, first]) == {
        "train.learning_rate": [0.1, config().train.learning_rate, 0.1]
    }
    of_phases = [{"sft": {"train": {"tracking": {"tracker": own}, "epochs": own}}} for own in ("a", "b")]
    assert differing_settings(of_phases) == {"sft.train.epochs": ["a", "b"]}
    assert differing_settings([{"a": 1}, {}]) == {"a": [1, None]}
