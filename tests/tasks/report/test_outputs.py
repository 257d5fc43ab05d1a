"""What a run writes of its scores, word for word: metrics.json, the model card, the table, the report, the log.

Others read and parse what is in golden/. Edit these files when a wording changes on purpose; any other difference is a
fault. Charts and style sheets are left out: their bytes are those of matplotlib and flytekit.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.scored import scores

from configs.schema import FineTuneConfig
from configs.wire import (
    DataReport,
    Evaluation,
    Prediction,
    Published,
    Scores,
    SetScores,
    SourceCount,
    TokenReport,
    TrainReport,
)
from configs.wire_evidence import ArtifactVerdict, Difference, RuleOutcome, Verdict
from configs.wire_plan import Plan
from tasks.decks.card import model_card
from tasks.decks.card_evidence import evidence_section
from tasks.decks.scores import render_scores, text_table
from tasks.evaluate.scores import score_line
from tasks.report.write import RunResults, metrics

_RULE = RuleOutcome(rule="loss: better than base by more than noise", passed=True, reason="it fell")
_DIFFERENCE = Difference(
    measure="exact_match",
    name="exact_match",
    set="held-out",
    model="tuned",
    versus="base",
    before=0.0,
    after=0.9,
    difference=0.9,
    low=0.75,
    high=0.95,
    p_value=1e-8,
    test="exact McNemar test",
    rows=30,
    wins=27,
    losses=0,
    ties=3,
)
VERDICT = Verdict(
    headline="Better than the model that training began with.",
    is_better=True,
    sentences=["Only 30 rows."],
    differences=[_DIFFERENCE],
    artifacts=[
        ArtifactVerdict(model=name, promote=name == "tuned", outcomes=[_RULE]) for name in ("tuned", "quantized_4bit")
    ],
)
GOLDEN = Path(__file__).parent / "golden"
COUNTS = {"loss_rows": 40, "loss_tokens": 1234, "generated_rows": 30}
BASE = scores(
    eval_loss=2.5,
    perplexity=12.182493960703473,
    exact_match=0.0,
    rouge_l=0.25,
    preference_accuracy=0.5,
    preference_margin=-0.125,
    mean_reward=0.1,
    size_bytes=3 * 2**20,
    **COUNTS,
)
TUNED = scores(
    eval_loss=0.75,
    perplexity=2.117000016612675,
    exact_match=0.9,
    rouge_l=0.95,
    preference_accuracy=0.75,
    preference_margin=1.5,
    mean_reward=0.8,
    size_bytes=3 * 2**20,
    **COUNTS,
)
# of no preferences and without a reward
QUANTIZED = scores(
    eval_loss=0.875, perplexity=2.4, exact_match=None, rouge_l=None, size_bytes=2**20, **COUNTS | {"generated_rows": 0}
)
REWARD_MODEL = scores(
    is_of_reward_model=True,
    eval_loss=None,
    perplexity=None,
    exact_match=None,
    rouge_l=None,
    preference_accuracy=0.875,
    preference_margin=2.0,
    loss_rows=0,
    loss_tokens=0,
    generated_rows=0,
    size_bytes=2**20,
)


def results(objective: str) -> RunResults:
    config = FineTuneConfig.model_validate(
        {
            "name": "golden",
            "model": {"name": "owner/base"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "train": {"objective": objective},
            "quantize": {"methods": ["4bit"]},
            "push_to_hub": {"repository": "me/tuned", "artifacts": ["model", "4bit", "adapter"]},
        }
    )
    data = DataReport(
        sources=[SourceCount(source="rows.jsonl", format="text", read=62, kept=60, quarantined=2)],
        train_rows=20,
        test_rows=40,
        quarantined_rows=2,
        failures=[],
        samples=[],
        warnings=[],
    )
    tokens = TokenReport(
        objective=objective,
        max_length=64,
        template="none",
        template_hash="",
        train_rows=19,
        test_rows=40,
        dropped_train_rows=1,
        dropped_test_rows=0,
        truncated_rows=0,
        split_rows=0,
        train_tokens=100,
        trained_tokens=40,
        end_token_ids=[1],
        lengths=[16, 32],
        length_counts=[9, 10],
        samples=[],
    )
    training = TrainReport(
        objective=objective,
        method="lora",
        curve=[],
        steps=2,
        epochs=1.0,
        seconds=3.0,
        parameters=10,
        trainable_parameters=5,
        world_size=1,
        batch_size=8,
        learning_rate=0.1,
        device="cpu",
        precision="float32",
    )
    predictions = [Prediction(row_id="1", prompt="p", expected="e", answer="e")]
    evaluations = {
        "base": Evaluation(scores=BASE, predictions=predictions, others=[SetScores(name="books", scores=TUNED)]),
        "tuned": Evaluation(scores=TUNED, predictions=predictions, others=[SetScores(name="books", scores=BASE)]),
        "quantized_4bit": Evaluation(
            scores=QUANTIZED, predictions=[], others=[SetScores(name="books", scores=QUANTIZED)]
        ),
    }
    published = [Published(artifact="4bit", repository="me/tuned-4bit", commit_url=None, note="not pushed")]
    plan = Plan(model_revision="r", chat_template=None, warnings=[])
    return RunResults(config, plan, data, tokens, training, evaluations, VERDICT, published)


def card(artifact: str, objective: str = "sft", own: Scores = TUNED) -> str:
    run = results(objective)
    by_name = {"base": BASE, "tuned": own, "quantized_4bit": QUANTIZED, "base, on books": BASE}
    evidence = evidence_section(run.config, artifact, VERDICT)
    # what follows is the whole config
    return model_card(run.config, artifact, run.data, by_name, evidence=evidence).split("## Configuration")[0]


def scores_section() -> str:
    page = render_scores(results("sft").evaluations, 1)
    return re.sub(r"<(svg|style).*?</\1>", "", page, flags=re.DOTALL) + "\n"


def metrics_file() -> str:
    """Return metrics.json without the nulls of measures and quantizations that the golden file does not know."""
    golden = json.loads((GOLDEN / "metrics.json").read_text(encoding="utf-8"))
    return json.dumps(known_keys(metrics(results("sft")), golden), indent=2) + "\n"


def known_keys(values: Any, golden: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(golden, dict):
        return values
    return {
        name: known_keys(value, golden.get(name))
        for name, value in values.items()
        if name in golden or value is not None
    }


def log() -> str:
    lines = [score_line(own) for own in (BASE, TUNED, QUANTIZED, REWARD_MODEL)]
    return "\n".join(lines) + "\n"


OUTPUTS = {
    "metrics.json": metrics_file,
    "table.txt": lambda: text_table(results("sft").evaluations) + "\n",
    "scores.html": scores_section,
    "log.txt": log,
    "card_model.md": lambda: card("model"),
    "card_4bit.md": lambda: card("4bit"),
    "card_adapter.md": lambda: card("adapter", "dpo"),
    "card_reward.md": lambda: card("model", "reward", REWARD_MODEL),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_is_word_for_word_what_it_was(name: str) -> None:
    assert OUTPUTS[name]() == (GOLDEN / name).read_text(encoding="utf-8")
