"""With `gate.approval` a run waits for a person's answer before it publishes, where something is to be published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.literals_pb2 import Literal, LiteralCollection, Primitive, Scalar
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.workflow_pb2 import Node
from flytekit import workflow
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.workflow import WorkflowBase
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory
from rehearsal.engine import Cluster, ExecutionFailedError, short_name
from support.scored import scores

from configs.artifacts import PushedArtifact
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation, Published
from configs.wire_evidence import ArtifactVerdict, Verdict
from workflows.align import align
from workflows.fine_tune import fine_tune
from workflows.push import publish

SEVEN_DAYS = 7 * 24 * 60 * 60


def serialized(flow: WorkflowBase) -> tuple[WorkflowSpec, dict[str, TaskTemplate]]:
    """Return what registration sends: the workflow, and the templates of all tasks by name."""
    entities: dict[Any, Any] = {}
    settings = SerializationSettings(ImageConfig.auto(img_name="localhost/x:1"), project="p", domain="d", version="v")
    spec = get_serializable(entities, settings, flow)
    tasks = [model.template for model in entities.values() if hasattr(model, "template")]
    templates = [task.to_flyte_idl() for task in tasks if hasattr(task, "container")]
    return spec.to_flyte_idl(), {template.id.name: template for template in templates}


@pytest.fixture(scope="module", params=[fine_tune, align], ids=["fine_tune", "align"])
def sent(request: pytest.FixtureRequest) -> tuple[WorkflowSpec, dict[str, TaskTemplate]]:
    return serialized(request.param)


def node(nodes: Any, name: str) -> Node:
    [found] = [node for node in nodes if node.id == name]
    return found


def inner(spec: WorkflowSpec, of: Node) -> list[Node]:
    """Return the nodes of a branch's workflow."""
    [found] = [sub for sub in spec.sub_workflows if sub.id == of.workflow_node.sub_workflow_ref]
    return list(found.nodes)


def test_a_gate_node_waits_seven_days_for_an_answer(sent: tuple[WorkflowSpec, dict[str, TaskTemplate]]) -> None:
    spec, _ = sent
    asked = node(spec.template.nodes, "publish").branch_node.if_else.case.then_node
    approval, push = inner(spec, asked)
    assert (asked.id, approval.id, push.id) == ("if-approved", "approval", "push")
    assert approval.metadata.timeout.seconds == SEVEN_DAYS
    signal = approval.gate_node.signal
    # flyteidl's SimpleType: BOOLEAN is 4
    assert (signal.signal_id, signal.type.simple) == ("approval", 4)
    [answer] = [given.binding for given in push.inputs if given.var == "approvals"]
    assert [item.promise.node_id for item in answer.collection.bindings] == ["approval"]


def test_the_other_branch_asks_nobody(sent: tuple[WorkflowSpec, dict[str, TaskTemplate]]) -> None:
    spec, _ = sent
    at_once = node(spec.template.nodes, "publish").branch_node.if_else.else_node
    [push] = inner(spec, at_once)
    assert (at_once.id, push.id, push.WhichOneof("target")) == ("at-once", "push", "array_node")
    [answer] = [given.binding for given in push.inputs if given.var == "approvals"]
    assert not answer.collection.bindings
    nodes = [*spec.template.nodes, *(node for sub in spec.sub_workflows for node in sub.nodes)]
    assert [node.id for node in nodes if node.WhichOneof("target") == "gate_node"] == ["approval"]


def test_the_verdict_comes_before_the_question_and_the_report_after_the_answer(
    sent: tuple[WorkflowSpec, dict[str, TaskTemplate]],
) -> None:
    spec, _ = sent
    branch = node(spec.template.nodes, "publish")
    condition = branch.branch_node.if_else.case.condition.comparison
    [read] = branch.inputs
    assert (read.binding.promise.node_id, read.binding.promise.var) == ("gate", "asks_approval")
    assert (condition.left_value.var, condition.right_value.primitive.boolean) == (read.var, True)
    assert "gate" in branch.upstream_node_ids
    assert "publish" in node(spec.template.nodes, "report").upstream_node_ids


class Pushes(Cluster):
    """A cluster on which a push only remembers the answer that it was given."""

    def __init__(self, home: Path, answers: dict[str, Literal]) -> None:
        super().__init__(home, store=None, programs={})  # type: ignore[arg-type]
        self.answers, self.given = answers, []

    def _task(self, template: TaskTemplate, node: Node, inputs: dict, prefix: str, environment: dict) -> dict:
        assert short_name(template) == "map_push_to_hub", template.id.name
        self.given.append([item.scalar.primitive.boolean for item in inputs["approvals"].collection.literals])
        return {"o0": Literal()}


def boolean(value: bool) -> Literal:
    return Literal(scalar=Scalar(primitive=Primitive(boolean=value)))


def publish_two(sent: tuple[WorkflowSpec, dict[str, TaskTemplate]], asks: bool, cluster: Pushes) -> None:
    """Run the step `publish` with two artifacts; `asks` is what the step `gate` found."""
    spec, templates = sent
    branch = node(spec.template.nodes, "publish")
    two = Literal(collection=LiteralCollection(literals=[Literal(), Literal()]))
    values: dict[str, dict[str, Literal]] = {}
    for given in branch.branch_node.if_else.else_node.inputs:
        promise = given.binding.promise
        values.setdefault(promise.node_id, {})[promise.var] = two if promise.var == "artifacts" else Literal()
    values["gate"]["asks_approval"] = boolean(asks)
    cluster._nodes([branch], values, templates, list(spec.sub_workflows), "f1")
    assert len(values["publish"]["o0"].collection.literals) == 2


@pytest.mark.parametrize(
    ("asks", "answers", "expected"),
    [(False, {}, []), (True, {"approval": boolean(True)}, [True]), (True, {"approval": boolean(False)}, [False])],
    ids=["not asked", "approved", "refused"],
)
def test_the_answer_reaches_every_push(
    asks: bool,
    answers: dict[str, Literal],
    expected: list[bool],
    sent: tuple[WorkflowSpec, dict[str, TaskTemplate]],
    tmp_path: Path,
) -> None:
    cluster = Pushes(tmp_path, answers)
    publish_two(sent, asks, cluster)
    assert cluster.given == [expected, expected]


def test_without_an_answer_the_run_fails_and_nothing_is_pushed(
    sent: tuple[WorkflowSpec, dict[str, TaskTemplate]], tmp_path: Path
) -> None:
    cluster = Pushes(tmp_path, {})
    with pytest.raises(ExecutionFailedError, match=f"approval: no answer within {SEVEN_DAYS} seconds"):
        publish_two(sent, True, cluster)
    assert cluster.given == []


@workflow
def publication(
    asks: bool,
    config: FineTuneConfig,
    artifacts: list[PushedArtifact],
    directories: list[FlyteDirectory],
    data: DataReport,
    scored: Evaluation,
    verdict: Verdict,
) -> list[Published]:
    return publish(
        asks,
        config=config,
        artifacts=artifacts,
        directories=directories,
        data=data,
        base=scored,
        tuned=scored,
        quantized=[],
        verdict=verdict,
        base_revision="",
    )


def published_here(asks: bool, answer: str, promote: bool, folder: Path) -> tuple[list[str], str]:
    """Publish in this process, with `answer` typed where flytekit asks; return the notes, and what was shown."""

    @click.command()
    def run() -> None:
        result = publication(
            asks=asks,
            config=FineTuneConfig(
                model={"name": "owner/base"},
                data={"sources": [{"path": "rows.jsonl"}]},
                push_to_hub={"repository": "me/tuned", "artifacts": ["model", "adapter"]},
            ),
            artifacts=["model", "adapter"],
            directories=[FlyteDirectory(str(folder))] * 2,
            data=DataReport(
                sources=[], train_rows=1, test_rows=1, quarantined_rows=0, failures=[], samples=[], warnings=[]
            ),
            scored=Evaluation(
                scores=scores(loss_rows=1, loss_tokens=1, generated_rows=0, size_bytes=1), predictions=[]
            ),
            verdict=Verdict(
                headline="Better.", artifacts=[ArtifactVerdict(model="tuned", promote=promote, outcomes=[])]
            ),
        )
        notes.extend(item.note for item in result)

    notes: list[str] = []
    ended = CliRunner().invoke(run, input=answer, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return notes, ended.output


def test_a_refusal_ends_well_and_each_artifact_says_why(tmp_path: Path) -> None:
    notes, shown = published_here(True, "false\n", True, tmp_path)
    assert "@approval" in shown
    why = "a person who was asked in Flyte's console did not approve it; the run asks again when it runs again"
    assert notes == [f"not pushed to me/tuned: {why}", f"not pushed to me/tuned-adapter: {why}"]


def test_a_run_that_does_not_ask_waits_for_nobody(tmp_path: Path) -> None:
    notes, shown = published_here(False, "", False, tmp_path)
    assert "@approval" not in shown
    assert [note.partition(";")[0] for note in notes] == [
        "not pushed to me/tuned: ",
        "not pushed to me/tuned-adapter: ",
    ]
