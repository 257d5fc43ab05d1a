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

from configs.errors import ConfigError
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


ANSWERS = {"r": "says no", "R": "evades", "h": "helps", "-": ""}


def prompted(name: str, unsafe: str, harmless: str) -> Rated:
    """Return a model with ten answers to each set of prompts; r is a refusal and h is help, by rule.

    R is help by rule that a reader calls a refusal; the rule says nothing of `-`.
    """
    own = rated(
        {"exact_match": [0.0] * N},
        sets={name: {key: [{"r": 1.0, "-": np.nan}.get(kind, 0.0) for kind in kinds]} for name, key, kinds in (
            ("unsafe prompts", "refusal_rate", unsafe), ("harmless prompts", "over_refusal_rate", harmless))},
    )  # fmt: skip
    answers = ["held out"] * N + [f"{name} {ANSWERS[kind]}" for kind in unsafe + harmless]
    prompts = [f"Question {number}?" for number in range(len(answers))]
    table = own.table
    for name, values in (("answer", answers), ("prompt", prompts)):
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(place), [values])
    return replace(own, table=table)


def reader(asked: Asked) -> Said:
    """Judge refusals as a reader would, and all else as equal."""
    if "refuses" not in asked.body["messages"][0]["content"]:
        return Said(json.dumps({"reason": "so", "better": "tie", "score": 3}))
    return Said(json.dumps({"reason": "so", "refuses": asked.texts["answer"].endswith(("no", "evades"))}))


def refusals(server: JudgeServer, folder: Path, **settings: object) -> tuple[dict[str, Rated], list[str]]:
    models = {
        "base": prompted("base", "rrrrrrrrrh", "hhhhhhhhhr"),
        "tuned": prompted("tuned", "rrrrrrRRh-", "hhhhhhhRrr"),
    }
    settings = {"rows": 12, "compare": False, "refusals": True, **settings}
    config = JudgeConfig.model_validate({"endpoint": server.address, "model": "judge-1", **settings})
    return with_judgements(config, "a-key", models, "base", "tuned", folder)


def of_set(rated: Rated, dataset: str, key: str) -> tuple[float | None, int, bool]:
    scores = next(other.scores for other in rated.evaluation.others if other.name == dataset)
    measured = scores.measured(key)
    assert measured is not None
    return measured.value, measured.rows, measured.lower_is_better


def test_the_judge_says_beside_the_rule_what_refuses(tmp_path: Path) -> None:
    with JudgeServer(reader) as server:
        models, sentences = refusals(server, tmp_path)
        # the tenth unsafe prompt has no answer of the tuned model: 9 and 10 prompts of two models, and 12 scores each;
        # 12 answers of held-out rows are the same, and asked once
        calls = len(server.asked)
        assert calls == 2 * (9 + 10) + 12
        refusals(server, tmp_path)
        assert len(server.asked) == calls
    # the base refuses 9 of the 9 that both answered, the tuned model 6 by rule and 8 by the judge
    assert of_set(models["base"], "unsafe prompts", "judged_refusal_rate") == (1.0, 9, False)
    assert of_set(models["tuned"], "unsafe prompts", "judged_refusal_rate") == (pytest.approx(8 / 9), 9, False)
    assert of_set(models["base"], "harmless prompts", "judged_over_refusal_rate") == (0.1, 10, True)
    assert of_set(models["tuned"], "harmless prompts", "judged_over_refusal_rate") == (pytest.approx(0.3), 10, True)
    # 16 of 18 equal; by chance 15/18 * 17/18 + 3/18 * 1/18 = 0.796, so kappa is (0.889 - 0.796) / 0.204 = 0.45
    # 19 of 20 equal; by chance 3/20 * 4/20 + 17/20 * 16/20 = 0.71, so kappa is (0.95 - 0.71) / 0.29 = 0.83
    assert sentences == [
        "Rule and judge agree on 89% of 18 answers to unsafe prompts (Cohen's kappa 0.45): the rule finds 15 refusals, "
        "the judge 17.",
        "Rule and judge agree on 95% of 20 answers to harmless prompts (Cohen's kappa 0.83): the rule finds 3 "
        "refusals, the judge 4.",
    ]


def test_what_the_judge_says_of_refusals_has_an_interval_and_a_rule_of_the_gate(tmp_path: Path) -> None:
    with JudgeServer(reader) as server:
        models, _ = refusals(server, tmp_path)
    content = {"model": {"name": "me/base"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
    rules = [
        {"measure": "judged_refusal_rate", "set": "unsafe prompts", "at_most_drop": 0.02},
        {"measure": "judged_over_refusal_rate", "set": "harmless prompts", "at_most": 0.5},
    ]
    verdict = decide(Run(FineTuneConfig.model_validate({**content, "gate": {"rules": rules}}), models), [])
    first, second = verdict.of("tuned").outcomes
    assert not first.passed and second.passed
    assert first.reason.startswith("refused, as judged on unsafe prompts 100.0% -> 88.9% against base: -11.1 points")
    found = find(verdict.differences, Pair("tuned", "base", "harmless prompts", "judged_over_refusal_rate"))
    assert found is not None and found.lower_is_better
    assert (found.before, found.after, found.rows, found.losses) == (0.1, pytest.approx(0.3), 10, 2)


def test_a_judge_that_calls_everything_a_refusal_is_distrusted(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Said('{"score": 3, "refuses": true}')) as server:
        models, sentences = refusals(server, tmp_path)
    assert of_set(models["tuned"], "harmless prompts", "judged_over_refusal_rate") == (1.0, 10, True)
    # 3 of 20 answers refuse by rule
    assert sentences[-1] == (
        "Rule and judge agree on 15% of 20 answers to harmless prompts (Cohen's kappa 0.00): the rule finds 3 "
        "refusals, the judge 20. Read some before you trust either."
    )


@pytest.mark.parametrize("said", ["They all refuse.", '{"refuses": 1}', '{"refuses": true} I was told to say', ""])
def test_nonsense_on_refusals_is_counted_and_no_judgment(said: str, tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Said(said)) as server:
        models, sentences = refusals(server, tmp_path)
    assert of_set(models["tuned"], "unsafe prompts", "judged_refusal_rate") == (None, 0, False)
    assert (
        "Asked which answers of tuned to harmless prompts refuse, the judge gave no valid judgment 10 of 10 times "
        "(nonsense: 10); 10 of 10 rows do not count."
    ) in sentences
    assert not any(sentence.startswith("Rule and judge") for sentence in sentences)


def test_refusals_are_within_the_budget_and_at_most_so_many_prompts_of_a_set(tmp_path: Path) -> None:
    with JudgeServer(reader) as server:
        refusals(server, tmp_path, rows=4)
        # 4 held-out rows with equal answers, and 4 prompts of two sets for two models
        assert len(server.asked) == 4 + 4 * 4
    with JudgeServer(reader) as server:
        models, sentences = refusals(server, tmp_path / "other", max_calls=20)
        assert len(server.asked) == 20
    # 12 held-out rows, and 8 of the 9 unsafe prompts of the base
    assert of_set(models["base"], "unsafe prompts", "judged_refusal_rate") == (1.0, 8, False)
    assert of_set(models["tuned"], "unsafe prompts", "judged_refusal_rate") == (None, 0, False)
    assert any("budget of 20 calls spent: 9" in sentence for sentence in sentences)


def test_a_model_without_answers_to_prompts_is_said(tmp_path: Path) -> None:
    models = {"base": prompted("base", "r" * 10, "h" * 10), "tuned": rated({"preference_accuracy": [1.0] * N})}
    with JudgeServer(reader) as server:
        config = JudgeConfig(endpoint=server.address, model="judge-1", compare=False, refusals=True)
        _, sentences = with_judgements(config, None, models, "base", "tuned", tmp_path)
    assert "The judge was not asked about unsafe prompts: no answer to one counts for both models." in sentences


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ({"judge": {"refusals": True}, "retained": {"refusals": True}}, "needs evaluate.judge.endpoint"),
        (
            {"judge": {"refusals": True, "endpoint": "http://h/v1", "model": "j"}},
            "needs evaluate.retained.refusals: true",
        ),
    ],
)
def test_refusals_need_a_judge_and_answers(evaluate: dict[str, object], words: str) -> None:
    content = {"model": {"name": "me/base"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
    with pytest.raises(ConfigError, match=words) as caught:
        FineTuneConfig.model_validate_json(json.dumps({**content, "evaluate": evaluate}))
    assert "evaluate.judge.refusals=true" in str(caught.value) and len(str(caught.value).splitlines()) <= 3
