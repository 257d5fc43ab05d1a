"""What is published: each artifact is judged by its own scores."""

from __future__ import annotations

import pytest
from support.scored import scores

from configs.errors import ArtifactError
from configs.schema import PushConfig
from configs.wire import Evaluation
from configs.wire_evidence import ArtifactVerdict, RuleOutcome
from tasks.push_to_hub.gate import check_scored, why_not_pushed


def verdict(promote: bool, *reasons: str) -> ArtifactVerdict:
    outcomes = [RuleOutcome(rule="a rule", passed=False, reason=reason) for reason in reasons]
    return ArtifactVerdict(model="tuned", promote=promote, outcomes=outcomes)


def test_what_the_gate_promotes_is_pushed() -> None:
    assert why_not_pushed(PushConfig(), verdict(True)) == ""


def test_what_the_gate_holds_back_is_not_pushed_without_a_reason() -> None:
    held = verdict(False, "the loss rose", "8 % are refused")
    assert why_not_pushed(PushConfig(), held) == (
        "the loss rose; 8 % are refused; to publish it anyway, give push_to_hub.reason, which its card will show"
    )
    assert why_not_pushed(PushConfig(reason="  "), held) != ""
    assert why_not_pushed(PushConfig(reason="a trial with two customers"), held) == ""


def test_only_the_model_that_was_scored_is_pushed_under_its_scores() -> None:
    digest, other = "0" * 32, "1" * 32
    scored = Evaluation(
        scores=scores(loss_rows=1, loss_tokens=1, generated_rows=0, size_bytes=1), predictions=[], model_digest=digest
    )
    check_scored("model", scored, f"s3://b/1/model.xxh3-{digest}")
    with pytest.raises(ArtifactError) as error:
        check_scored("8bit", scored, f"s3://b/1/quantized-8bit.xxh3-{other}")
    assert str(error.value) == (
        f"the 8bit at s3://b/1/quantized-8bit.xxh3-{other} is not the one that was scored (digest 000000000000...)\n"
        "publish the model that its evaluation read"
    )
    # it has the scores of the model that it was merged into
    check_scored("adapter", scored, f"s3://b/1/trained.xxh3-{other}")
