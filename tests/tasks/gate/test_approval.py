"""Who is asked before anything is published, and what the run says about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from flytekit.types.structured import StructuredDataset
from support.pods import Pod
from support.rated_models import Rated, rated

from configs.schema import FineTuneConfig
from configs.wire_evidence import ArtifactVerdict, Verdict
from tasks.gate.approval import approval_words, to_be_approved
from tasks.gate.task import compare_models

ROWS = 40


def config(approval: bool = True, methods: Sequence[str] = ("8bit",), **push: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "owner/base"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "quantize": {"methods": list(methods)},
            "gate": {"approval": approval, "rules": [{"measure": "exact_match", "versus": "base", "at_least": 0.1}]},
            "push_to_hub": {"repository": "me/tuned", "artifacts": ["model", "adapter", "8bit"], **push},
        }
    )


def verdict(tuned: bool, copy: bool) -> Verdict:
    found = {"tuned": tuned, "quantized_8bit": copy}
    artifacts = [ArtifactVerdict(model=name, promote=promote, outcomes=[]) for name, promote in found.items()]
    return Verdict(headline="Better.", artifacts=artifacts)


@pytest.mark.parametrize(
    ("own", "tuned", "copy", "expected"),
    [
        (config(), True, True, ["model", "adapter", "8bit"]),
        # the copy lost what was learned, and the push says so: nobody has to
        (config(), True, False, ["model", "adapter"]),
        (config(), False, False, []),
        (config(reason="a trial"), False, False, ["model", "adapter", "8bit"]),
        (config(repository=None), True, True, []),
        (config(approval=False), True, True, []),
    ],
    ids=["all pass", "a copy fails", "none passes", "a reason", "no repository", "off"],
)
def test_only_what_would_be_published_is_to_be_approved(
    own: FineTuneConfig, tuned: bool, copy: bool, expected: list[str]
) -> None:
    assert to_be_approved(own, verdict(tuned, copy)) == expected


def test_approval_is_off_unless_it_is_asked_for() -> None:
    own = config().model_dump()
    del own["gate"]
    assert not FineTuneConfig.model_validate(own).gate.approval


def test_the_sentence_says_who_is_asked() -> None:
    assert approval_words(["model", "8bit"], is_laptop=False) == (
        "A person must approve model, 8bit at the step `approval` in Flyte's console, within 7 days; until then "
        "nothing is published."
    )
    assert approval_words(["model"], is_laptop=True) == (
        "Nobody is asked to approve model (gate.approval): a run on a laptop has no console."
    )
    assert approval_words([], is_laptop=False) == ""


def inputs(folder: Path, gains: int) -> dict[str, Any]:
    """Return what the step `gate` reads of a run whose tuned model answers `gains` more rows than its base."""

    def stored(name: str, model: Rated) -> StructuredDataset:
        pq.write_table(model.table, folder / f"{name}.parquet")
        return StructuredDataset(uri=str(folder / f"{name}.parquet"), file_format="parquet")

    base = rated({"exact_match": [0.0] * ROWS})
    tuned = rated({"exact_match": [1.0] * gains + [0.0] * (ROWS - gains)})
    empty = {key: [] for key in ("quantized", "quantized_rows", "base", "base_rows", "rivals")}
    return {
        **empty,
        "config": config(methods=[], artifacts=["model"]),
        "start": "base",
        "start_evaluation": base.evaluation,
        "start_rows": stored("base", base),
        "tuned": tuned.evaluation,
        "tuned_rows": stored("tuned", tuned),
        "rival_evaluations": [],
        "rival_rows": [],
    }


@pytest.mark.parametrize(("gains", "asks"), [(30, True), (0, False)], ids=["passes", "is held back"])
def test_a_pod_asks_where_the_gate_lets_something_pass(gains: int, asks: bool, tmp_path: Path) -> None:
    pod = Pod(compare_models, tmp_path, inputs(tmp_path, gains)).run()
    assert pod.outputs["asks_approval"].scalar.primitive.boolean is asks
    words = "A person must approve model at the step"
    assert (words in pod.deck, words in pod.log) == (asks, asks)


def test_a_laptop_asks_nobody_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decided = compare_models(**inputs(tmp_path, gains=30))
    assert decided.verdict.of("tuned").promote and not decided.asks_approval
    said = "approval: Nobody is asked to approve model (gate.approval): a run on a laptop has no console.\n"
    assert said in capsys.readouterr().out
