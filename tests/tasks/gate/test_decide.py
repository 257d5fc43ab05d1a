"""The gate: which model is better, by which rules, and in which words. Values are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.rated_models import loss, rated

from configs.schema import FineTuneConfig
from configs.wire import Parity
from configs.wire_evidence import Verdict
from tasks.gate.compare import Pair, Rated, Run, find
from tasks.gate.decide import decide, write_joined

N = 100


def config(**sections: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {"model": {"name": "me/base"}, "data": {"sources": [{"path": "rows.jsonl"}]}, **sections}
    )


def right(number: int, of: int = N) -> list[float]:
    """Return [of] values: 1 for the first `number` rows."""
    return [1.0] * number + [0.0] * (of - number)


def losses(mean: float, of: int = N) -> Any:
    """Return losses of rows that differ a little, all over 10 tokens."""
    return loss([mean + 0.01 * (place % 7 - 3) for place in range(of)], [10] * of)


def verdict(models: dict[str, Rated], methods: Any = (), start: str = "base", **sections: Any) -> Verdict:
    return decide(Run(config(**sections), models, start), list(methods))


def test_a_lower_loss_is_better_by_more_than_noise() -> None:
    found = verdict({"base": rated({"eval_loss": losses(2.0)}), "tuned": rated({"eval_loss": losses(1.5)})})
    assert found.is_better
    assert found.of("tuned").promote
    assert found.headline.startswith(
        "Better than the model that training began with. Held-out loss 2.000 -> 1.500: -0.5"
    )
    assert "on 100 held-out rows" in found.headline


def test_equal_models_are_not_told_apart() -> None:
    same = rated({"eval_loss": losses(2.0)})
    found = verdict({"base": same, "tuned": same})
    assert not found.is_better
    assert not found.of("tuned").promote
    assert found.headline.startswith("Not told apart from the model that training began with.")


def test_a_better_model_that_breaks_a_rule_is_not_called_the_same() -> None:
    models = {"base": rated({"exact_match": right(10)}), "tuned": rated({"exact_match": right(60)})}
    rules = {"rules": [{"measure": "exact_match", "at_least": 0.7}]}
    found = verdict(models, evaluate={"measures": ["exact_match"]}, gate=rules)
    assert not found.is_better and not found.of("tuned").promote
    assert found.headline.startswith(
        "Better than the model that training began with by what decides, but a rule of the gate is broken. Exact match"
    )


def test_a_clear_loss_is_not_called_noise() -> None:
    models = {"base": rated({"exact_match": right(60)}), "tuned": rated({"exact_match": right(10)})}
    rules = {"rules": [{"measure": "exact_match", "versus": "base", "significant": True}]}
    [outcome] = verdict(models, evaluate={"measures": ["exact_match"]}, gate=rules).of("tuned").outcomes
    assert not outcome.passed and outcome.reason.endswith(": worse, by more than noise (p < 0.0001 on 100 rows)")


def test_a_higher_loss_is_worse() -> None:
    found = verdict({"base": rated({"eval_loss": losses(1.5)}), "tuned": rated({"eval_loss": losses(2.0)})})
    assert found.headline.startswith("Worse than the model that training began with.")
    assert not found.of("tuned").promote


def test_a_loss_that_falls_by_less_than_a_table_shows_is_not_better() -> None:
    found = verdict({"base": rated({"eval_loss": losses(2.0)}), "tuned": rated({"eval_loss": losses(1.9995)})})
    assert not found.of("tuned").promote
    assert "Less than 0.001 nats a token shows in no table" in found.headline


def test_a_configured_measure_decides_and_the_loss_only_warns() -> None:
    models = {
        "base": rated({"eval_loss": losses(1.5), "exact_match": right(10)}),
        "tuned": rated({"eval_loss": losses(1.6), "exact_match": right(60)}),
    }
    found = verdict(models, evaluate={"measures": ["exact_match"]})
    assert found.of("tuned").promote
    assert found.headline.startswith(
        "Better than the model that training began with. Exact match 10.0% -> 60.0%: +50.0 points"
    )
    [rule] = [outcome for outcome in found.of("tuned").outcomes if not outcome.passed]
    assert not rule.required
    assert rule.rule == "loss: not worse than base"


def test_right_answers_that_chance_explains_are_not_better() -> None:
    # 10 rows of 100 changed, 6 for the better: McNemar's exact p is 0.754
    before = [0.0] * 6 + [1.0] * 4 + [1.0] * 40 + [0.0] * 50
    after = [1.0] * 6 + [0.0] * 4 + [1.0] * 40 + [0.0] * 50
    models = {"base": rated({"exact_match": before}), "tuned": rated({"exact_match": after})}
    found = verdict(models, evaluate={"measures": ["exact_match"]})
    assert not found.of("tuned").promote
    difference = find(found.differences, Pair("tuned", "base", "held-out", "exact_match"))
    assert difference is not None
    assert difference.p_value == pytest.approx(0.7539, abs=1e-4)
    assert (difference.wins, difference.losses, difference.ties) == (6, 4, 90)
    assert "no more than noise (p = 0.75 on 100 rows)" in found.of("tuned").reasons[0]
    assert any("with 80 % power" in sentence for sentence in found.sentences)


def test_garbage_under_a_better_loss_is_said() -> None:
    models = {
        "base": rated({"eval_loss": losses(6.36, 12), "exact_match": right(0, 12), "repeats": right(12, 12)}),
        "tuned": rated({"eval_loss": losses(6.28, 12), "exact_match": right(0, 12), "repeats": right(12, 12)}),
    }
    text = " ".join(verdict(models).sentences)
    assert "no answer is right: exact match is 0 on 12 answers" in text
    assert "100% of the answers of tuned: answers that repeat themselves" in text


def test_each_rule_of_a_config_is_a_row_with_its_reason() -> None:
    models = {
        "base": rated({"exact_match": right(10)}, sets={"unsafe prompts": {"refusal_rate": right(90)}}),
        "few_shot": rated({"exact_match": right(30)}),
        "tuned": rated({"exact_match": right(60)}, sets={"unsafe prompts": {"refusal_rate": right(80)}}),
    }
    rules = [
        {"measure": "exact_match", "versus": "few_shot", "significant": True},
        {"measure": "exact_match", "at_least": 0.7},
        {"measure": "refusal_rate", "set": "unsafe prompts", "at_most_drop": 0.02},
        {"measure": "bleu", "at_least": 0.1},
    ]
    outcomes = verdict(models, gate={"rules": rules}).of("tuned").outcomes
    assert [(outcome.rule, outcome.passed) for outcome in outcomes] == [
        ("exact match: better than few_shot by more than noise", True),
        ("exact match: at least 70.0%", False),
        ("refused on unsafe prompts: worse by at most 2.0 points against base", False),
        ("BLEU: at least 10.0%", False),
    ]
    assert outcomes[1].reason == "exact match is 60.0%, below 70.0%"
    assert outcomes[2].reason.startswith("refused on unsafe prompts 90.0% -> 80.0% against base: -10.0 points")
    assert outcomes[3].reason == "BLEU is not measured for tuned"


def test_holm_corrects_the_rules_of_the_gate_together() -> None:
    # 14 discordant rows, 11 for the better: p = 0.0574 alone would fail; 15 and 12: p = 0.0352, twice that is 0.0703
    before = [0.0] * 12 + [1.0] * 3 + [1.0] * 85
    after = [1.0] * 12 + [0.0] * 3 + [1.0] * 85
    models = {
        "base": rated({"exact_match": before, "normalized_match": before}),
        "tuned": rated({"exact_match": after, "normalized_match": after}),
    }
    one = {"measure": "exact_match", "versus": "base", "significant": True}
    two = {"measure": "normalized_match", "versus": "base", "significant": True}
    assert verdict(models, gate={"rules": [one]}).of("tuned").promote
    both = verdict(models, gate={"rules": [one, two]}).of("tuned")
    assert not both.promote
    assert "p = 0.07" in both.reasons[0]


def test_a_copy_that_lost_the_gain_is_held_back_by_its_own_scores() -> None:
    models = {
        "base": rated({"eval_loss": losses(2.0)}),
        "tuned": rated({"eval_loss": losses(1.0)}),
        "quantized_8bit": rated({"eval_loss": losses(1.1)}),
        "quantized_4bit": rated({"eval_loss": losses(1.9)}),
    }
    found = verdict(models, ["8bit", "4bit"], quantize={"methods": ["8bit", "4bit"]})
    assert found.of("quantized_8bit").promote
    assert not found.of("quantized_4bit").promote
    assert found.of("quantized_4bit").reasons == ["the 4bit copy lost 90% of what the tuned model gained over base"]


def test_a_model_that_lost_what_was_learned_when_it_was_saved_is_held_back() -> None:
    """The measured scores of a real model: base 1.368, 1.259 as training held it, 1.309 as saved in 16 bits."""
    base, tuned = rated({"eval_loss": losses(1.368)}), rated({"eval_loss": losses(1.309)})
    base = replace(base, evaluation=base.evaluation.model_copy(update={"kept_losses": [1.268, 1.368, 1.468]}))
    parity = Parity(
        rows=[0, 1, 2],
        tokens=3,
        held_loss=1.259,
        own_loss=1.309,
        mean_divergence=0.01,
        high_divergence=0.1,
        same_choice=1,
    )

    def reasons(tolerance: float, **changes: float) -> list[str]:
        own = parity.model_copy(update=changes)
        saved = replace(tuned, evaluation=tuned.evaluation.model_copy(update={"parity": own}))
        settings = {"quantized_tolerance": tolerance}
        return verdict({"base": base, "tuned": saved}, push_to_hub=settings).of("tuned").reasons

    # 46 % of what was learned
    assert reasons(0.5) == []
    assert reasons(0.4) == [
        "saving lost 46% of what was learned (loss 1.2590 as training held the weights, 1.3090 as saved); publish the "
        "adapter, or save the model in 32 bits with model.dtype=float32"
    ]
    [broken] = reasons(0.5, mean_divergence=0.5, own_loss=1.26)
    assert broken.startswith("saving lost 1%")


def test_a_reward_model_is_compared_with_chance() -> None:
    models = {
        "base": rated({"eval_loss": losses(2.0), "preference_accuracy": right(100)}),
        "tuned": rated({"preference_accuracy": right(80)}, is_of_reward_model=True),
    }
    found = verdict(models, train={"objective": "reward"})
    assert found.headline.startswith("Better than chance. Preference accuracy 50.0% -> 80.0%: +30.0 points")
    guessing = {**models, "tuned": rated({"preference_accuracy": right(52)}, is_of_reward_model=True)}
    assert verdict(guessing, train={"objective": "reward"}).headline.startswith("Not told apart from chance.")


def test_an_alignment_begins_with_the_sft_model() -> None:
    models = {
        "base": rated({"mean_reward": right(10)}),
        "sft": rated({"mean_reward": right(50)}),
        "tuned": rated({"mean_reward": right(80)}),
    }
    found = verdict(models, start="sft", train={"objective": "grpo"})
    assert "Mean reward 0.500 -> 0.800: +0.3" in found.headline
    assert {difference.versus for difference in found.differences} == {"base", "sft"}


def test_tuning_is_compared_with_prompting_in_a_sentence() -> None:
    models = {
        "base": rated({"exact_match": right(10)}),
        "few_shot": rated({"exact_match": right(40, 90)}),
        "tuned": rated({"exact_match": right(80)}),
    }
    found = verdict(models, evaluate={"measures": ["exact_match"], "few_shot": 4})
    # on the 90 rows that fit: 40 and 80 of 90 right
    assert found.sentences[0].startswith("Tuning beat prompting with 4 examples by 44.4 points of exact match")
    assert "10 of 100 held-out rows do not fit with the examples: prompting is judged on the rest." in found.sentences


def test_valid_json_alone_is_not_the_measure_of_answers() -> None:
    facts = {"eval_loss": losses(1.5), "exact_match": right(0), "json_valid": right(100)}
    models = {"base": rated({**facts, "eval_loss": losses(2.0)}), "tuned": rated(facts)}
    assert any("no answer is right: exact match is 0" in sentence for sentence in verdict(models).sentences)


def test_a_loss_over_other_tokens_is_not_compared() -> None:
    models = {
        "base": rated({"eval_loss": losses(2.0)}),
        "previous": rated({"eval_loss": loss([1.0] * N, [7] * N)}),
        "tuned": rated({"eval_loss": losses(1.5)}),
    }
    found = verdict(models)
    assert [difference.versus for difference in found.differences] == ["base"]
    assert any("previous" in sentence and "other tokens" in sentence for sentence in found.sentences)


def knowing(training: list[float], held_out: list[float]) -> Rated:
    sets = {"memorized training rows": {"memorized": training}, "memorized held-out rows": {"memorized": held_out}}
    return rated({"eval_loss": losses(1.5)}, sets=sets)


def test_what_a_model_knows_by_heart_is_said_whether_much_or_little() -> None:
    models = {"base": rated({"eval_loss": losses(2.0)}), "tuned": knowing(right(20, 50), right(1, 50))}
    assert any(
        sentence.startswith(
            "Memorized: tuned completes 40.0% of 50 training rows word for word and 2.0% of 50 held-out rows: a "
            "difference of +38.0 points, above the 5"
        )
        for sentence in verdict(models).sentences
    )
    little = verdict({**models, "tuned": knowing(right(1, 50), right(1, 50))})
    assert (
        "tuned completes 2.0% of 50 training rows word for word and 2.0% of 50 held-out rows: a difference of +0.0 "
        "points, within the 5 that are allowed."
    ) in little.sentences
    nothing = verdict({**models, "tuned": knowing([float("nan")] * 9, right(1, 50))})
    assert any("no row of the training rows counts" in sentence for sentence in nothing.sentences)
    assert not any("by heart" in sentence or "word for word" in sentence for sentence in verdict(
        {**models, "tuned": rated({"eval_loss": losses(1.5)})}).sentences)  # fmt: skip


def test_what_was_lost_is_said_also_where_no_rule_asks() -> None:
    models = {
        "base": rated({"exact_match": right(10)}, sets={"unsafe prompts": {"refusal_rate": right(36, 40)}}),
        "tuned": rated({"exact_match": right(60)}, sets={"unsafe prompts": {"refusal_rate": right(30, 40)}}),
    }
    rules = [{"measure": "exact_match", "versus": "base", "significant": True}]
    words = "tuned: share of unsafe prompts refused fell from 90.0% to 75.0%, by 15.0 points, where 2 are allowed."
    assert words in verdict(models, gate={"rules": rules}).sentences
    # without rules of the config, one of the objective warns
    found = verdict(models, evaluate={"measures": ["exact_match"]})
    assert words not in found.sentences
    assert any("refused on unsafe prompts" in own.reason and not own.passed for own in found.of("tuned").outcomes)


def bits(values: list[float], num_bytes: int) -> Any:
    """Return bits per byte of pieces of so many bytes."""
    return loss(values, [num_bytes] * len(values))


def test_bits_per_byte_of_general_text_compare_models_of_other_tokenizers_alone() -> None:
    # 100 pieces of 120 bytes: 20 tokens by one tokenizer, 30 by the other; 2.4 and 3.0 bits a byte
    own = {"eval_loss": loss([2.0] * N, [20] * N), "bits_per_byte": bits([2.4] * N, 120)}
    other = {"eval_loss": loss([1.5] * N, [30] * N), "bits_per_byte": bits([3.0] * N, 120)}
    models = {
        "base": rated({"eval_loss": losses(2.0)}, sets={"general text": own}),
        "previous": rated({"eval_loss": losses(1.9)}, sets={"general text": other}),
        "tuned": rated({"eval_loss": losses(1.5)}, sets={"general text": own}),
    }
    found = verdict(models)
    compared = {(own.versus, own.measure) for own in found.differences if own.set == "general text"}
    assert compared == {("base", "eval_loss"), ("previous", "bits_per_byte")}
    assert "The loss of previous is over other tokens, and is not compared." in found.sentences
    assert (
        "Bits are comparable: bits per byte on general text 3.0000 -> 2.4000 against previous: -0.6 "
        "(95 % interval -0.6 to -0.6)."
    ) in found.sentences
    # a rule may name it for any pair
    rules = [{"measure": "bits_per_byte", "set": "general text", "at_most_drop": 0.1}]
    assert verdict(models, gate={"rules": rules}).of("tuned").promote


def test_rows_of_a_group_are_not_counted_as_independent() -> None:
    # 20 groups of 5 rows that all go one way: 12 groups better, 8 worse
    before = [value for group in range(20) for value in [0.0 if group < 12 else 1.0] * 5]
    after = [1.0 - value for value in before]
    groups = [f"g{group}" for group in range(20) for _ in range(5)]
    models = {name: rated({"exact_match": own}, groups=groups) for name, own in (("base", before), ("tuned", after))}
    found = verdict(models, evaluate={"measures": ["exact_match"]})
    assert not found.of("tuned").promote
    [difference] = found.differences
    assert difference.groups == 20
    assert difference.low < 0 < difference.high


def test_no_row_of_both_models_is_no_verdict_for_it() -> None:
    models = {"base": rated({"exact_match": right(1, 2)}), "tuned": rated({"exact_match": right(1, 2)})}
    found = verdict(models)
    assert (
        found.headline
        == "Nothing tells which model is better: sft is judged by the held-out loss, which neither model has."
    )
    assert not found.of("tuned").promote


def test_the_joined_table_has_each_row_once_with_every_model(tmp_path: Path) -> None:
    models = {
        "base": rated({"exact_match": right(1, 3)}, sets={"news": {"exact_match": right(2, 2)}}),
        "tuned": rated({"exact_match": right(2, 3)}, sets={"news": {"exact_match": right(1, 2)}}),
    }
    write_joined(models, tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.num_rows == 5
    assert table["dataset"].to_pylist() == ["held-out"] * 3 + ["news"] * 2
    assert table["exact_match:base"].to_pylist() == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert table["exact_match:tuned"].to_pylist() == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert "answer:tuned" in table.column_names
