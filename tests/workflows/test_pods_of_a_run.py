"""How many pods a run takes, counted over what registration sends and what its pods make of the demo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.workflow_pb2 import Node
from flytekit import FlyteContextManager
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset
from support.blank_reports import token_report
from support.pods import Pod

from configs.load import PRESETS, load_config
from configs.schema import FineTuneConfig
from tasks.plan.task import make_plan
from workflows.fine_tune import fine_tune
from workflows.tune import tune


class Step(NamedTuple):
    """One pod: the names of its node within those of the nodes around it, and whether its task is cached."""

    name: str
    is_cached: bool


def serialized() -> tuple[WorkflowSpec, dict[str, TaskTemplate]]:
    """Return the workflow, and the templates of all its tasks by name."""
    entities: dict[Any, Any] = {}
    settings = SerializationSettings(ImageConfig.auto(img_name="localhost/x:1"), project="p", domain="d", version="v")
    spec = get_serializable(entities, settings, fine_tune)
    tasks = [model.template for model in entities.values() if hasattr(model, "template")]
    templates = [task.to_flyte_idl() for task in tasks if hasattr(task, "container")]
    return spec.to_flyte_idl(), {template.id.name: template for template in templates}


def pods(
    nodes: list[Node], spec: WorkflowSpec, templates: dict[str, TaskTemplate], mapped: dict[str, int]
) -> Iterator[Step]:
    """Yield the pods of the nodes; `mapped` is the number of entries of each map."""
    for node in nodes:
        if node.HasField("task_node"):
            yield Step(node.id, templates[node.task_node.reference_id.name].metadata.discoverable)
        elif node.HasField("array_node"):
            task = templates[node.array_node.node.task_node.reference_id.name]
            yield from [Step(node.id, task.metadata.discoverable)] * mapped[node.id]
        elif node.HasField("branch_node"):
            # nobody is asked before the demo publishes
            yield from pods([node.branch_node.if_else.else_node], spec, templates, mapped)
        elif node.HasField("workflow_node"):
            name = node.workflow_node.sub_workflow_ref.name
            [inner] = [workflow for workflow in spec.sub_workflows if workflow.id.name == name]
            yield from pods(list(inner.nodes), spec, templates, mapped)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The pods of the demo: those of the workflow, and those that its dynamic task makes."""
    home = tmp_path_factory.mktemp("demo")
    planning = Pod(make_plan, home / "plan", {"config": load_config(PRESETS / "demo.yaml")}).run()
    planned = planning.outputs
    mapped = {
        node: len(planned[name].collection.literals)
        for node, name in (
            ("scan-shards", "mapped_shards"),
            ("tokenize-parts", "mapped_parts"),
            ("push", "artifacts"),
            ("evaluate-base-parts", "scored_parts"),
        )
    }
    spec, templates = serialized()
    steps = list(pods(list(spec.template.nodes), spec, templates, mapped))
    context = FlyteContextManager.current_context()
    config = TypeEngine.to_python_value(context, Literal.from_flyte_idl(planned["config"]), FineTuneConfig)
    tuning = Pod(tune, home / "tune", {"config": config, **placeholders(home)}).run()
    job = DynamicJobSpec.FromString((tuning.output / "futures.pb").read_bytes())
    inner = {template.id.name: template for template in job.tasks}
    return [*steps, *pods(list(job.nodes), spec, inner, {})]


def placeholders(home: Path) -> dict[str, Any]:
    """Return inputs of `tune` that only its tasks read."""
    folders = dict.fromkeys(
        ("base", "base_tokenizer", "train_tokens", "test_tokens", "tokenizer"), FlyteDirectory(str(home))
    )
    return {
        **folders,
        "deepspeed_json": "",
        "rewards_version": "",
        "scores_version": "",
        "token_report": token_report(),
        "train_rows": StructuredDataset(uri=str(home)),
        "test_rows": StructuredDataset(uri=str(home)),
        "chat_template": None,
        "other_revisions": [],
    }


def test_the_demo_takes_14_pods(demo: list[Step]) -> None:
    assert [step.name for step in demo] == [
        *("plan", "model", "rows", "tokens", "evaluate-base", "tune", "gate", "report"),
        *("train", "evaluate-tuned"),
        *("quantize-8bit", "evaluate-8bit", "quantize-4bit", "evaluate-4bit"),
    ]


def test_a_second_run_whose_steps_are_cached_takes_4_pods(demo: list[Step]) -> None:
    assert [step.name for step in demo if not step.is_cached] == ["plan", "tune", "gate", "report"]
