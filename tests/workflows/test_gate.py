"""`make gate`: the verdict of a run as text, and an exit status for CI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from configs.wire_evidence import ArtifactVerdict, RuleOutcome, Verdict
from workflows.gate import main


def folder(tmp_path: Path, promote: bool) -> Path:
    outcome = RuleOutcome(rule="loss: better than base by more than noise", passed=promote, reason="it rose")
    verdict = Verdict(
        headline="Worse than the model that training began with.",
        artifacts=[
            ArtifactVerdict(model="tuned", promote=promote, outcomes=[outcome]),
            ArtifactVerdict(model="quantized_4bit", promote=not promote, outcomes=[outcome]),
        ],
    )
    (tmp_path / "metrics.json").write_text(json.dumps({"name": "x", "verdict": verdict.model_dump()}))
    return tmp_path


@pytest.mark.parametrize(("promote", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_is_the_verdict(promote: bool, status: int, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, [str(folder(tmp_path, promote))])
    assert found.exit_code == status
    assert "Worse than the model that training began with." in found.output
    copy = CliRunner().invoke(main, [str(tmp_path / "metrics.json"), "--model", "quantized_4bit"])
    assert copy.exit_code == 1 - status


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "holds no verdict"),
        ('{"verdict": {"headline": 1}}', "holds no verdict"),
    ],
)
def test_a_folder_without_a_verdict_is_an_error_of_its_own(content: str | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    found = CliRunner().invoke(main, [str(tmp_path)])
    assert found.exit_code == 2 and words in found.output
    assert len(found.output.strip().splitlines()) <= 3


def test_a_model_that_was_not_judged_is_named(tmp_path: Path) -> None:
    found = CliRunner().invoke(main, [str(folder(tmp_path, True)), "--model", "quantized_8bit"])
    assert found.exit_code == 2 and "choose tuned or quantized_4bit" in found.output


def test_the_only_model_of_an_evaluation_needs_no_name(tmp_path: Path) -> None:
    metrics = json.loads((folder(tmp_path, True) / "metrics.json").read_text())
    metrics["verdict"]["artifacts"] = [metrics["verdict"]["artifacts"][0] | {"model": "previous"}]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert CliRunner().invoke(main, [str(tmp_path)]).exit_code == 0
