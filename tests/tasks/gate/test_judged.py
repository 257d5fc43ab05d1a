"""A judge's scores and preferences become measures of rows, by a real server on loopback."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.judge_server import Asked, JudgeServer, Said
from support.rated_models import rated

from configs.schema import FineTuneConfig
from configs.schema.evaluate import JudgeConfig
from tasks.evidence.table import values_of
from tasks.gate.compare import Pair, Rated, Run, find
from tasks.gate.decide import decide
from tasks.gate.judged import with_judgements

N = 20


def answering(text: str) -> Rated:
    """Return a model that gives every row this answer."""
    own = rated({"exact_match": [0.0] * N})
    table = own.table
    # the judge is asked once for equal questions
    for name, values in (("answer", [text] * N), ("prompt", [f"Question {number}?" for number in range(N)])):
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(place), [values])
    return replace(own, table=table)


def honest(asked: Asked) -> Said:
    """Judge by the number in an answer."""

    def quality(name: str) -> int:
        return int(re.findall(r"quality (\d)", asked.texts[name])[0])

    if "answer" in asked.texts:
        return Said(json.dumps({"reason": "so", "score": quality("answer")}))
    better = "A" if quality("answer A") > quality("answer B") else "B"
    return Said(json.dumps({"reason": "so", "better": better}))


def judged(server: JudgeServer, folder: Path, **settings: object) -> tuple[dict[str, Rated], list[str]]:
    models = {"base": answering("quality 2"), "tuned": answering("quality 4")}
    config = JudgeConfig.model_validate({"endpoint": server.address, "model": "judge-1", "rows": 12, **settings})
    return with_judgements(config, "a-key", models, "base", "tuned", folder)


def test_an_honest_judges_word_is_a_measure_with_an_interval(tmp_path: Path) -> None:
    with JudgeServer(honest) as server:
        models, sentences = judged(server, tmp_path)
        calls = len(server.asked)
        # 12 rows: two orders, and a score of each of two models; nothing is asked again
        assert calls == 12 * 4
        judged(server, tmp_path)
        assert len(server.asked) == calls
    assert sentences == []
    tuned, base = models["tuned"].evaluation.scores, models["base"].evaluation.scores
    assert (tuned.value("judge_preference"), tuned.value("judge_score"), base.value("judge_score")) == (1.0, 4.0, 2.0)
    assert np.isfinite(values_of(models["tuned"].table, "judge_score").values).sum() == 12
    content = {"model": {"name": "me/base"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
    rules = [
        {"measure": "judge_preference", "versus": "chance", "significant": True},
        {"measure": "judge_score", "at_least": 3},
    ]
    verdict = decide(Run(FineTuneConfig.model_validate({**content, "gate": {"rules": rules}}), models), [])
    assert verdict.of("tuned").promote
    found = find(verdict.differences, Pair("tuned", "chance", "held-out", "judge_preference"))
    assert found is not None and (found.before, found.after, found.rows) == (0.5, 1.0, 12)


def test_a_judge_that_follows_the_order_prefers_nobody_and_is_distrusted(tmp_path: Path) -> None:
    def first(asked: Asked) -> Said:
        return Said(json.dumps({"reason": "so", "better": "A", "score": 3}))

    with JudgeServer(first) as server:
        models, sentences = judged(server, tmp_path)
    assert models["tuned"].evaluation.scores.value("judge_preference") == 0.5
    assert any("order" in sentence for sentence in sentences)


def test_judgements_that_are_none_do_not_count(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Said("I would rather not say.")) as server:
        models, sentences = judged(server, tmp_path)
    measured = models["tuned"].evaluation.scores.measured("judge_score")
    assert measured is not None and (measured.value, measured.rows) == (None, 0)
    assert sum(count.rows for count in measured.not_counted) == 12
    assert sentences


@pytest.mark.parametrize("compare", [True, False])
def test_the_budget_holds_for_all_questions_together(compare: bool, tmp_path: Path) -> None:
    with JudgeServer(honest) as server:
        judged(server, tmp_path, max_calls=7, compare=compare)
        assert len(server.asked) == 7


def test_without_an_endpoint_nothing_changes(tmp_path: Path) -> None:
    models = {"base": answering("a"), "tuned": answering("b")}
    assert with_judgements(JudgeConfig(), None, models, "base", "tuned", tmp_path) == (models, [])
    assert not list(tmp_path.iterdir())
