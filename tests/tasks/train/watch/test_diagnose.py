"""What curves say: each finding on a curve made by hand and at its boundary, and on real runs that go wrong."""

from __future__ import annotations

from typing import Any

import pytest
from support.scored import scores
from support.watched_runs import numbered_rows, untied_model, watched_trainer

from configs.schema.train import TrainConfig
from configs.wire import CurvePoint, Series
from tasks.decks.findings import findings_to_show
from tasks.models.load import load_tokenizer
from tasks.train.watch.diagnose import diagnose, series_of

HEALTHY = [3.0, 2.5, 2.0, 1.8, 1.6, 1.5, 1.45, 1.42, 1.41, 1.40]


def curve(losses: list[float], every: int = 10) -> list[CurvePoint]:
    return [
        CurvePoint(step=every * (n + 1), loss=loss, learning_rate=1e-3, grad_norm=1.0) for n, loss in enumerate(losses)
    ]


def series(**values: list[float]) -> list[Series]:
    """Series over the steps 10, 20, ...; `__` in a name stands for `/`."""
    return [
        Series(name=name.replace("__", "/"), steps=[10 * (n + 1) for n in range(len(points))], values=points)
        for name, points in values.items()
    ]


def findings(
    objective: str = "sft", losses: list[float] = HEALTHY, train: Any = None, **values: list[float]
) -> list[str]:
    settings: dict[str, Any] = {"objective": objective, "epochs": 4, "batch_size": 16, **(train or {})}
    return diagnose(objective, TrainConfig(**settings), curve(losses), series(**values), num_rows=400)


def test_a_healthy_run_has_no_findings() -> None:
    assert findings() == []
    assert findings(eval_loss=[2.6, 2.0, 1.8, 1.7, 1.66, 1.65, 1.65, 1.64, 1.64, 1.64]) == []
    accuracies = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9]
    assert findings("dpo", rewards__accuracies=accuracies, rewards__margins=[0.0, 0.2, 0.4, 0.6, 0.7, 0.8]) == []
    assert (
        findings("grpo", reward=[0.1, 0.2, 0.4, 0.6, 0.8], reward_std=[0.3] * 5, frac_reward_zero_std=[0.4] * 5) == []
    )


def test_a_run_of_nothing_has_no_findings() -> None:
    for objective in ("sft", "cpt", "dpo", "kto", "reward", "rloo", "grpo"):
        assert diagnose(objective, TrainConfig(), [], [], 0) == []


def test_overfitting_names_the_steps_the_values_and_what_to_try() -> None:
    # 16 rows a step, of 400: step 40 ends epoch 1.6
    held_out = [2.0, 1.8, 1.6, 1.5, 1.52, 1.6, 1.7, 1.8, 1.9, 2.0]
    assert findings(eval_loss=held_out) == [
        "Overfitting: held-out loss was lowest at step 40 (1.500) and rose to 2.000 by step 100. The weights of "
        "step 40 were kept. Try train.epochs=1.6 (now 4), more rows than 400, train.lora.dropout=0.1 or "
        "train.lora.rank=8 (now 16)."
    ]
    kept_last = findings(eval_loss=held_out, train={"watch": {"keep": "last"}, "method": "full", "max_steps": 100})
    assert "The weights of step 100 were kept. Try train.max_steps=40 (now 100) or more rows than 400." in kept_last[0]


@pytest.mark.parametrize(("last", "is_found"), [(1.0199, False), (1.0201, True)])
def test_overfitting_begins_two_percent_above_the_lowest_loss(last: float, is_found: bool) -> None:
    assert any(f.startswith("Overfitting") for f in findings(eval_loss=[1.2, 1.0, last])) == is_found


# 10 points: the start is the larger of the first point and the first tenth, the end the last point
@pytest.mark.parametrize(
    ("end", "words"), [(1.9, ""), (1.91, "Hardly"), (2.0, "Hardly"), (2.19, "Hardly"), (2.21, "Unstable")]
)
def test_a_loss_that_hardly_falls_and_one_that_rises_are_told_apart(end: float, words: str) -> None:
    found = findings(losses=[2.0] * 9 + [end])
    assert len(found) == (1 if words else 0)
    assert not words or found[0].startswith(words)


def test_a_rate_too_low_is_given_three_to_ten_times_as_much_and_one_too_high_a_third() -> None:
    slow = findings(losses=[2.0] * 10, train={"learning_rate": 1e-5})
    assert "Try train.learning_rate from 3e-05 to 0.0001 (now 1e-05)" in slow[0]
    unstable = findings(losses=[2.0] * 9 + [3.0], train={"learning_rate": 3e-3})
    assert "Try train.learning_rate=0.001 (now 0.003)" in unstable[0]
    # single steps have harder rows than others: the held-out ones are the same each time
    falls = findings(losses=[2.0] * 9 + [3.0], eval_loss=[2.0] * 9 + [1.9])
    assert not [fall for fall in falls if fall.startswith("Unstable")]


def test_a_rate_that_was_not_set_is_read_off_the_curve() -> None:
    assert "(now 0.001)" in findings(losses=[2.0] * 10)[0]


def test_a_run_of_few_steps_is_told_to_take_more() -> None:
    short = diagnose("sft", TrainConfig(epochs=1), curve([2.0, 2.0], every=5), [], 100)
    assert "in 10 steps. Try more steps, train.epochs=5 (now 1)" in short[0]


def test_a_loss_with_nothing_left_to_learn_is_no_finding() -> None:
    assert findings(losses=[0.049] * 10) == []


@pytest.mark.parametrize(("last", "is_found"), [(1.941, False), (1.939, True)])
def test_a_held_out_loss_that_still_falls_asks_for_more_training(last: float, is_found: bool) -> None:
    # the evaluation at two thirds of the run had 2.0
    found = findings(eval_loss=[2.3, 2.1, 2.05, 2.0, 1.98, last])
    assert bool(found) == is_found
    if is_found:
        assert (
            "from 2.000 to 1.939 over the last third of the run. More training should help: try train.epochs=8"
            in found[0]
        )


@pytest.mark.parametrize(("last", "is_found"), [(0.0099, False), (0.01, True)])
def test_a_held_out_loss_near_zero_has_nothing_left_to_lose(last: float, is_found: bool) -> None:
    assert bool(findings(eval_loss=[2.3, 0.5, 0.2, 0.1, 0.05, last])) == is_found


def test_advice_to_train_more_goes_once_all_answers_are_right() -> None:
    rows = {"loss_rows": 40, "loss_tokens": 400, "generated_rows": 40, "size_bytes": 1}
    right = scores(exact_match=1.0, eval_loss=0.5, **rows)
    for found in (findings(eval_loss=[2.3, 2.1, 2.0, 1.5, 1.2, 1.0]), findings(losses=[2.0] * 10)):
        assert len(found) == 1
        assert "more training has little to gain" in findings_to_show(found, "sft", right)[0]


@pytest.mark.parametrize(("objective", "name"), [("dpo", "eval_rewards__accuracies"), ("reward", "eval_accuracy")])
@pytest.mark.parametrize(("accuracy", "is_found"), [(0.55, True), (0.56, False)])
def test_held_out_accuracy_near_one_half_is_not_learned(
    objective: str, name: str, accuracy: float, is_found: bool
) -> None:
    found = findings(objective, **{name: [0.5, accuracy]})
    assert bool(found) == is_found
    if is_found:
        assert found[0].startswith("Not learned: the chosen answer is preferred in 55% of the held-out pairs")


def test_kto_without_a_margin_is_not_learned() -> None:
    # 0.1 nats times beta of 0.1
    assert findings("kto", rewards__margins=[0.0, 0.01])[0].startswith("Not learned: wanted answers gained no more")
    assert findings("kto", rewards__margins=[0.0, 0.011]) == []


@pytest.mark.parametrize(("last", "is_found"), [(0.8, False), (0.79, True)])
def test_a_margin_that_falls_by_a_fifth_is_told(last: float, is_found: bool) -> None:
    found = findings("dpo", rewards__margins=[0.5, 0.5, 1.0, 1.0, last, last], rewards__accuracies=[0.9])
    assert bool(found) == is_found
    if is_found:
        assert "fell from 1 to 0.79 over the last third" in found[0]


def test_groups_of_one_reward_are_nothing_to_learn_from() -> None:
    # four of five groups, all wrong
    found = findings("grpo", reward=[0.0] * 10, reward_std=[0.0] * 10, frac_reward_zero_std=[0.8] * 10)
    assert len(found) == 1
    assert found[0].startswith("In 80% of the groups all answers to a prompt get the same reward (mean 0): nothing to")
    # all right in the end, after some that were not
    rose = findings(
        "grpo", reward=[0.2, 1.0, 1.0, 1.0, 1.0], reward_std=[0.4, 0, 0, 0, 0], frac_reward_zero_std=[0.9] * 5
    )
    assert rose == []


def test_groups_of_one_reward_are_told_of_a_reward_that_rose_to_less_than_its_top() -> None:
    same = [0.7] * 6
    # of 1 that an exact match gives, and of 0.9 that was seen
    rewards = {"policy": {"rewards": [{"kind": "exact_match"}]}}
    found = findings("grpo", reward=[0.1, 0.1, 0.9, 0.5, 0.5, 0.5], frac_reward_zero_std=same, train=rewards)
    assert [f[:14] for f in found] == ["In 70% of the "]
    assert findings("grpo", reward=[0.96] * 6, frac_reward_zero_std=same, train=rewards) == []
    assert findings("grpo", reward=[0.94] * 6, frac_reward_zero_std=same, train=rewards) != []
    # what a project's function gives at most is not known
    rewards = {"policy": {"rewards": [{"kind": "python", "function": "a.b:c"}]}}
    assert findings("grpo", reward=[0.96] * 6, frac_reward_zero_std=same, train=rewards) != []


def test_one_lucky_answer_is_no_rise() -> None:
    # one answer in each of the last two steps: over the last third 0.0625, with a standard error of
    # sqrt(4 x 0.0625^2 / 3 / 4) = 0.036
    lucky = [0.0] * 10 + [0.125] * 2
    found = findings("grpo", reward=lucky, reward_std=[0.0] * 12, frac_reward_zero_std=[1.0] * 10 + [0.5] * 2)
    assert [f[:14] for f in found] == ["In 92% of the "]
    found = findings("rloo", reward=lucky)
    assert found[0].startswith(
        "Mean reward did not rise: 0 over the first third of the 100 steps, 0.0625 over the last"
    )
    assert "(a change counts above 0.072). Try train.learning_rate from " in found[0]
    assert findings("rloo", reward=[0.0] * 8 + [0.125] * 4) == []


# 20 steps of 0.4 and 0.6: the range is 0.2 and 5 % of it 0.01; of six steps each the variance is 6 x 0.1^2 / 5 = 0.012
# and the standard error of the difference sqrt(2 x 0.012 / 6) = 0.0632
@pytest.mark.parametrize(("rise", "is_found"), [(0.126, True), (0.127, False)])
def test_a_mean_reward_that_does_not_rise_by_two_standard_errors_is_told(rise: float, is_found: bool) -> None:
    reward = [0.4, 0.6] * 7 + [0.4 + rise, 0.6 + rise] * 3
    found = findings("rloo", reward=reward)
    assert [f.startswith("Mean reward did not rise: 0.5 over the first third") for f in found] == [True] * is_found


@pytest.mark.parametrize(("last", "is_found"), [(0.519, True), (0.521, False)])
def test_a_mean_reward_that_does_not_rise_by_a_twentieth_of_its_range_is_told(last: float, is_found: bool) -> None:
    # without noise in either third, and a range of 0.4
    found = findings("rloo", reward=[0.5] * 3 + [0.3, 0.7, 0.5] + [last] * 3)
    assert [f.startswith("Mean reward did not rise: 0.5 over the first third") for f in found] == [True] * is_found


def test_a_reward_that_fell_is_told_to_go_slower() -> None:
    found = findings("rloo", reward=[0.5] * 4 + [0.1], reward_std=[0.4] * 5, train={"learning_rate": 3e-6})
    assert "Try train.learning_rate=1e-06 (now 3e-06)" in found[0]


@pytest.mark.parametrize(("kl", "is_found"), [(0.1, False), (0.11, True)])
def test_a_divergence_is_large_above_ten_nats_for_an_answer(kl: float, is_found: bool) -> None:
    # per token, in answers of 100 tokens
    found = findings("grpo", reward=[0.1, 0.9], kl=[kl] * 3, completions__mean_length=[100.0] * 3)
    assert bool(found) == is_found
    if is_found:
        assert "a KL divergence of 11 nats for an answer" in found[0]
        assert "train.policy.kl_coefficient=0.2 (now 0.05)" in found[0]


def test_answers_that_are_cut_ask_for_more_room() -> None:
    found = findings("grpo", reward=[0.1, 0.9], completions__clipped_ratio=[0.9, 0.9])
    assert found == [
        "90% of the answers are cut off before they end. Try train.policy.max_new_tokens=512 (now 256), or fine-tune "
        "on answers that end first."
    ]


def test_there_are_at_most_three_findings() -> None:
    values: dict[str, list[float]] = {
        "reward": [0.0] * 5,
        "frac_reward_zero_std": [0.9] * 5,
        "kl": [1.0] * 5,
        "completions__mean_length": [100.0] * 5,
        "completions__clipped_ratio": [1.0] * 5,
    }
    assert len(findings("grpo", **values)) == 3


def test_series_are_read_off_the_log_without_what_is_no_number() -> None:
    log = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1, "rewards/margins": 0.5, "num_tokens": 9},
        {"step": 2, "loss": 1.0, "rewards/margins": float("nan"), "kl": None},
        {"step": 2, "eval_loss": 1.5, "eval_runtime": 3.0, "eval_rewards/margins": 1},
        {"step": 3, "loss": 1.0, "rewards/margins": 0.75},
        {"step": 3, "train_runtime": 9.0, "train_loss": 1.0, "rewards/margins": 9.0},
    ]
    assert series_of(log) == [
        Series(name="rewards/margins", steps=[1, 3], values=[0.5, 0.75]),
        Series(name="eval_loss", steps=[2], values=[1.5]),
        Series(name="eval_rewards/margins", steps=[2], values=[1.0]),
    ]


def run_and_diagnose(tiny_model: Any, directory: Any, **settings: Any) -> list[str]:
    """Train on eight rows, with other held-out rows, and return what is said of it."""
    import datasets

    config = TrainConfig(method="full", batch_size=8, micro_batch_size=8, max_steps=60, **settings)
    # the training rows all end in 20, 30
    held_out = [{"input_ids": [t, 20, 31], "labels": [-100, 20, 31]} for t in (50, 51, 52)]
    rows = numbered_rows(list(range(10, 18)))
    trainer = watched_trainer(
        untied_model(), rows, config, directory, load_tokenizer(tiny_model), datasets.Dataset.from_list(held_out)
    )
    trainer.train()
    log = trainer.state.log_history
    points = [
        CurvePoint(step=e["step"], loss=e["loss"], learning_rate=e["learning_rate"], grad_norm=0.0)
        for e in log
        if "loss" in e
    ]
    return diagnose("sft", config, points, series_of(log), num_rows=8)


def test_a_real_run_over_few_rows_is_said_to_overfit(tiny_model: Any, tmp_path: Any) -> None:
    found = run_and_diagnose(tiny_model, tmp_path, learning_rate=3e-2)
    assert len(found) == 1 and found[0].startswith("Overfitting: held-out loss was lowest at step ")


def test_a_real_run_at_a_rate_of_1e_7_is_said_to_have_hardly_learned(tiny_model: Any, tmp_path: Any) -> None:
    found = run_and_diagnose(tiny_model, tmp_path, learning_rate=1e-7)
    assert len(found) == 1 and found[0].startswith("Hardly learned: training loss went from 5.")
    assert "train.learning_rate from 3e-07 to 1e-06 (now 1e-07)" in found[0]
