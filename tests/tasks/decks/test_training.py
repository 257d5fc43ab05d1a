"""The training section: findings first, curves of both splits, choices in a table, and everything escaped."""

from __future__ import annotations

import html as markup
import re

import pytest

from configs.wire import Choice, CurvePoint, Series, TrainReport
from tasks.decks.charts import lines
from tasks.decks.training import render_training

EVIL = "<script>alert('x')</script>&"


def report(objective: str = "sft", **changes: object) -> TrainReport:
    steps = [1, 10, 20, 30]
    return TrainReport(
        **{
            "objective": objective,
            "method": "lora",
            "curve": [CurvePoint(step=n, loss=3.0 / n, learning_rate=1e-3, grad_norm=1.0) for n in steps],
            "steps": 30,
            "epochs": 1.0,
            "seconds": 3.0,
            "parameters": 10,
            "trainable_parameters": 5,
            "world_size": 1,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "device": "cpu",
            "precision": "float32",
            **changes,
        }
    )


def words(page: str) -> str:
    return " ".join(markup.unescape(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", ""))).split())


def series(*names: str) -> list[Series]:
    return [Series(name=name, steps=[10, 20, 30], values=[1.0, 0.5, 0.7]) for name in names]


def test_findings_stand_above_the_charts() -> None:
    page = render_training(report(findings=["Overfitting: so and so"]))
    assert page.index('<p class="warn">Overfitting: so and so</p>') < page.index("<svg")


def test_held_out_loss_shares_the_axes_of_the_training_loss_with_a_legend() -> None:
    with_both, alone = render_training(report(series=series("eval_loss"))), render_training(report())
    assert with_both.count("<svg") == alone.count("<svg") == 2
    assert "held-out" in words(with_both) and "held-out" not in words(alone)


@pytest.mark.parametrize(
    ("objective", "names", "titles"),
    [
        ("dpo", ["rewards/margins", "eval_rewards/accuracies"], ["Margin of chosen", "Pairs whose chosen answer"]),
        ("kto", ["rewards/margins", "kl"], ["Margin of wanted", "KL divergence"]),
        ("reward", ["margin", "accuracy", "eval_accuracy"], ["Margin of chosen", "chosen answer scores higher"]),
        ("rloo", ["reward", "eval_reward", "kl"], ["Mean reward", "KL divergence"]),
        ("grpo", ["reward", "kl"], ["Mean reward", "KL divergence"]),
    ],
)
def test_each_objective_has_the_charts_that_say_whether_it_worked(
    objective: str, names: list[str], titles: list[str]
) -> None:
    page = render_training(report(objective, series=series(*names)))
    assert page.count("<svg") == (3 if objective in ("rloo", "grpo") else 4)
    assert all(title in words(page) for title in titles)
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_series_that_was_not_logged_has_no_chart() -> None:
    assert render_training(report("grpo", series=series("reward"))).count("<svg") == 2


@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_a_policy_gradient_is_shown_by_its_reward_and_its_loss_in_one_note(objective: str) -> None:
    page = render_training(report(objective, series=series("eval_loss", "reward")))
    assert 'id="loss-' not in page and page.index('id="reward-') < page.index('id="rate-')
    assert "The loss of a policy gradient stays around 0" in words(page)
    assert "answers per step 8, over 1 process" in words(page) and "rows per step" not in words(page)
    supervised = words(render_training(report("dpo")))
    assert "rows per step 8, over 1 process" in supervised and "policy gradient" not in supervised


def test_choices_are_a_table_of_name_value_and_why() -> None:
    page = render_training(report(choices=[Choice(name="kernels", value="off", reason="no GPU")]))
    assert "How it ran" in page
    assert re.search(r"choice value why .*kernels off no GPU", words(page))
    assert "How it ran" not in render_training(report())


@pytest.mark.parametrize(("values", "is_low"), [([0.1, 0.9, 1.0], True), ([1.0, 0.2, 0.1], False)])
def test_the_mark_of_the_kept_weights_stands_apart_from_the_line(values: list[float], is_low: bool) -> None:
    page = lines({"held-out": ([10, 20, 30], values)}, "drawn", "Drawn", "value", marked_step=20)
    [(_, y)] = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>\s*kept\s*</text>', page)
    [height] = re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', page)
    # y grows downwards
    assert (float(y) > float(height) / 2) == is_low


def test_the_weights_kept_are_told_with_their_loss() -> None:
    page = render_training(report(series=series("eval_loss"), best_step=20))
    assert "weights kept of step 20, lowest held-out loss: 0.5000" in words(page)
    assert "kept</text>" in page.replace(" </text>", "</text>")
    online = render_training(report("grpo", series=series("eval_reward"), best_step=10))
    assert "of step 10, highest held-out reward: 1.0000" in words(online)
    assert "weights kept of the last step" in words(render_training(report()))


def test_no_value_becomes_markup() -> None:
    page = render_training(
        report(findings=[EVIL], choices=[Choice(name=EVIL, value=EVIL, reason=EVIL)], device=EVIL, method=EVIL)
    )
    assert "<script" not in page
    assert words(page).count(EVIL) == 6


def test_a_loss_that_is_no_number_leaves_a_gap() -> None:
    curve = [CurvePoint(step=n, loss=float("nan"), learning_rate=0.0, grad_norm=0.0) for n in (1, 2)]
    assert "<svg" in render_training(report(curve=curve))
