"""Advice to train more goes where the scores of the model have nothing left to gain, and only there."""

from __future__ import annotations

from typing import Any

import pytest
from support.scored import scores

from configs.measures import Measured
from tasks.decks.findings import findings_to_show

FALLING = "Still falling: held-out loss went from 2.000 to 1.000. More training should help: try train.epochs=8."
HARDLY = "Hardly learned: training loss went from 2.000 to 2.000 in 30 steps. Try more."
OTHER = "Overfitting: so and so"


def own(**values: Any) -> Any:
    rows = {"loss_rows": 40, "loss_tokens": 400, "generated_rows": 40, "size_bytes": 1}
    return scores(**{**rows, "eval_loss": 0.5, **values})


def test_advice_to_train_more_goes_where_all_answers_are_right() -> None:
    said = "The loss still fell, but more training has little to gain: exact match is 100.0%."
    assert findings_to_show([FALLING, OTHER], "sft", own(exact_match=1.0)) == [OTHER, said]
    assert findings_to_show([HARDLY], "sft", own(exact_match=1.0)) == [said.replace("still", "hardly")]


@pytest.mark.parametrize(("share", "is_left_out"), [(0.994, False), (0.995, True)])
def test_the_limit_is_one_row_in_two_hundred(share: float, is_left_out: bool) -> None:
    assert (findings_to_show([FALLING], "sft", own(exact_match=share)) != [FALLING]) == is_left_out


def test_a_measure_of_form_at_its_limit_says_nothing_of_right_answers() -> None:
    form = own(exact_match=0.4, json_valid=1.0)
    # the user's first measure decides, as in the gate
    assert findings_to_show([FALLING], "sft", form, ["exact_match", "json_valid"]) == [FALLING]
    assert findings_to_show([FALLING], "sft", form, ["json_valid", "exact_match"]) != [FALLING]
    # without a list, json_valid is chosen for answers in JSON
    assert findings_to_show([FALLING], "sft", form) == [FALLING]
    assert findings_to_show([FALLING], "sft", own(exact_match=0.4, accuracy=1.0)) != [FALLING]
    # faults of answers, and shares of which less is better, are no right answers
    assert findings_to_show([FALLING], "sft", own(exact_match=0.4, empty=1.0)) == [FALLING]
    assert findings_to_show([FALLING], "sft", own(rouge_l=1.0, exact_match=0.4)) == [FALLING]
    # no measure tells more than that all answers are the expected ones
    assert findings_to_show([FALLING], "sft", own(rouge_l=0.9, exact_match=1.0), ["rouge_l"]) != [FALLING]
    assert findings_to_show([FALLING], "sft", own(over_refusal_rate=1.0), ["over_refusal_rate"]) == [FALLING]


@pytest.mark.parametrize(("loss", "is_left_out"), [(0.0099, True), (0.01, False), (None, False)])
def test_a_loss_near_zero_has_nothing_left_to_lose(loss: float | None, is_left_out: bool) -> None:
    shown = findings_to_show([FALLING], "cpt", own(eval_loss=loss))
    assert (shown == [FALLING]) != is_left_out
    if is_left_out:
        assert shown[0].endswith("little to gain: the held-out loss is 0.0099 nats per token.")


def test_preferences_are_judged_by_pairs_and_rewards_by_nothing_here() -> None:
    assert findings_to_show([FALLING], "dpo", own(exact_match=1.0, preference_accuracy=0.7)) == [FALLING]
    assert findings_to_show([FALLING], "dpo", own(eval_loss=0.001)) == [FALLING]
    assert "preference accuracy is 100.0%" in findings_to_show([FALLING], "dpo", own(preference_accuracy=1.0))[0]


def test_other_findings_stay_as_they_are() -> None:
    assert findings_to_show([OTHER], "sft", own(exact_match=1.0)) == [OTHER]
    assert findings_to_show([], "sft", own(exact_match=1.0)) == []


def test_a_measure_under_a_title_of_the_user_is_named_by_it() -> None:
    titled = own().model_copy(
        update={"answers": [Measured(key="right_sum", name="numeric_answer", value=1.0, rows=40)]}
    )
    assert findings_to_show([FALLING], "sft", titled)[0].endswith("little to gain: right sum is 100.0%.")
