"""What a person's answer does to a push, and what of it stands in the card."""

from __future__ import annotations

from pathlib import Path

from flyteidl.core.literals_pb2 import Literal
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal as FlytekitLiteral
from flytekit.types.directory import FlyteDirectory
from support.hub_server import HubServer
from support.pods import Pod
from support.scored import scores

from configs.schema import FineTuneConfig, PushConfig
from configs.wire import DataReport, Evaluation, Published
from configs.wire_evidence import ArtifactVerdict, RuleOutcome, Verdict
from tasks.push_to_hub.gate import why_not_pushed, with_approval
from tasks.push_to_hub.task import push_to_hub

TOKEN = "hf_write_secret"
REFUSED = "a person who was asked in Flyte's console did not approve it; the run asks again when it runs again"
APPROVED = "A person approved the publication in Flyte's console."


def verdict(promote: bool) -> Verdict:
    rule = RuleOutcome(rule="a rule", passed=promote, reason="the loss rose")
    return Verdict(
        headline="Better.",
        sentences=["Prompting is worse."],
        artifacts=[ArtifactVerdict(model="tuned", promote=promote, outcomes=[rule])],
    )


def test_a_refusal_holds_back_what_the_gate_promotes_and_what_has_a_reason() -> None:
    passed, held = verdict(True).of("tuned"), verdict(False).of("tuned")
    assert why_not_pushed(PushConfig(), passed, [True]) == ""
    assert why_not_pushed(PushConfig(), passed, [False]) == REFUSED
    assert why_not_pushed(PushConfig(reason="a trial"), held, [False]) == REFUSED
    # an approval of what passed is none of what did not
    assert why_not_pushed(PushConfig(), held, [True]).startswith("the loss rose; ")


def test_only_an_approval_stands_in_the_card() -> None:
    assert with_approval(verdict(True), []) == verdict(True)
    assert with_approval(verdict(True), [True]).sentences == ["Prompting is worse.", APPROVED]


def test_an_approved_push_says_so_in_the_card_and_in_the_report(tiny_model: Path, tmp_path: Path) -> None:
    scored = Evaluation(scores=scores(loss_rows=1, loss_tokens=1, generated_rows=0, size_bytes=1), predictions=[])
    with HubServer(tokens={TOKEN: "write"}, user="me") as server:
        inputs = {
            "config": FineTuneConfig(
                model={"name": "owner/base"},
                data={"sources": [{"path": "rows.jsonl"}]},
                quantize={"methods": []},
                push_to_hub={"repository": "me/tuned"},
            ),
            "artifact": "model",
            "directory": FlyteDirectory(str(tiny_model)),
            "data": DataReport(
                sources=[], train_rows=1, test_rows=1, quarantined_rows=0, failures=[], samples=[], warnings=[]
            ),
            "base": scored,
            "tuned": scored,
            "quantized": [],
            "verdict": verdict(True),
            "base_revision": "",
            "approvals": [True],
        }
        hub = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        pod = Pod(push_to_hub, tmp_path, inputs, environment=hub).run()
        assert (pod.output / "outputs.pb").exists(), pod.log[-3000:]
        card = server.files("me/tuned")["README.md"].decode()
    assert f"- {APPROVED}" in card
    result = read(pod.outputs["o0"])
    assert result.note == f"pushed model, approved in Flyte's console: {result.commit_url}"


def read(literal: Literal) -> Published:
    context = FlyteContextManager.current_context()
    result: Published = TypeEngine.to_python_value(context, FlytekitLiteral.from_flyte_idl(literal), Published)
    return result
