"""Models of which none was trained here: each is judged against the first."""

from __future__ import annotations

from support.rated_models import loss, rated

from configs.schema import FineTuneConfig
from tasks.gate.several import decide_each, in_order, models_of_pairs, settled

N = 60
RIGHT, HALF, WRONG = [1.0] * N, [1.0, 0.0] * (N // 2), [0.0] * N


def config(*titles: str, **sections: object) -> FineTuneConfig:
    others = [{"title": title, "model": "a/b"} for title in titles]
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "me/base"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "evaluate": {"others": others},
            **sections,
        }
    )


def test_each_is_compared_with_the_first_and_has_its_own_verdict() -> None:
    models = {
        "base": rated({"exact_match": HALF}),
        "good": rated({"exact_match": RIGHT}),
        "bad": rated({"exact_match": WRONG}),
    }
    verdict = decide_each(settled(config("good", "bad"), models), "base", models_of_pairs(models))
    assert verdict.headline.startswith("good: Better than base. Exact match 50.0% -> 100.0%: +50.0 points")
    assert "bad: Worse than base." in verdict.headline
    assert (verdict.of("good").promote, verdict.of("bad").promote, verdict.is_better) == (True, False, False)
    assert {(own.model, own.versus) for own in verdict.differences} == {("good", "base"), ("bad", "base")}


def test_answers_decide_where_losses_are_over_other_tokens() -> None:
    models = {
        "base": rated({"eval_loss": loss([1.0] * N, [4] * N), "exact_match": WRONG}),
        "other": rated({"eval_loss": loss([2.0] * N, [9] * N), "exact_match": RIGHT}),
    }
    own = settled(config("other"), models)
    assert [measure.name for measure in own.evaluate.measures] == ["exact_match"]
    verdict = decide_each(own, "base", models_of_pairs(models))
    assert verdict.headline.startswith("other: Better than base. Exact match 0.0% -> 100.0%")
    assert [found.measure for found in verdict.differences] == ["exact_match"]


def test_one_model_alone_is_compared_with_nothing() -> None:
    models = {"base": rated({"exact_match": HALF})}
    verdict = decide_each(settled(config(), models), "base", models_of_pairs(models))
    assert verdict.headline == "One model was scored. Name others in evaluate.others to compare it with."
    assert verdict.artifacts == [] and verdict.differences == []


def test_the_order_is_that_of_the_config_with_endpoints_among_the_others() -> None:
    names = ("few_shot", "second", "base", "first")
    models = {name: rated({"exact_match": HALF}) for name in names}
    assert list(in_order(config("first", "second"), models)) == ["base", "few_shot", "first", "second"]
    # the base with examples is no candidate, and each candidate is compared with it
    pairs = models_of_pairs(in_order(config("first", "second"), models))
    assert {name: list(of_pair) for name, of_pair in pairs.items()} == {
        "first": ["base", "few_shot", "first"],
        "second": ["base", "few_shot", "second"],
    }
