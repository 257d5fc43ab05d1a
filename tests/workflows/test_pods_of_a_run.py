"""How many pods a run takes, counted over what registration sends and what its pods make of the demo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.condition_pb2 import ComparisonExpression
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.tasks_pb2 import Resources, TaskTemplate
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
from configs.schema import EvaluateConfig, FineTuneConfig
from tasks.plan.outputs import base_parts
from tasks.plan.task import make_plan
from workflows.align import align
from workflows.evaluate import evaluate as evaluate_alone
from workflows.fine_tune import fine_tune
from workflows.score import score_base
from workflows.tune import tune


class Step(NamedTuple):
    """One pod: the names of its node within those of the nodes around it, and whether its task is cached."""

    name: str
    is_cached: bool


def serialized(workflow: Any = fine_tune) -> tuple[WorkflowSpec, dict[str, TaskTemplate]]:
    """Return the workflow, and the templates of all its tasks by name."""
    entities: dict[Any, Any] = {}
    settings = SerializationSettings(ImageConfig.auto(img_name="localhost/x:1"), project="p", domain="d", version="v")
    spec = get_serializable(entities, settings, workflow)
    tasks = [model.template for model in entities.values() if hasattr(model, "template")]
    templates = [task.to_flyte_idl() for task in tasks if hasattr(task, "container")]
    return spec.to_flyte_idl(), {template.id.name: template for template in templates}


def taken(node: Node, gpus: int) -> Node:
    """Return the node of a branch that is run with so many GPUs to score on; nobody is asked before the demo publishes.

    The condition is that a variable has a value.
    """
    branch = node.branch_node.if_else
    comparison = branch.case.condition.comparison
    assert {comparison.left_value.var} == {entry.var for entry in node.inputs if "." in entry.var}
    assert comparison.operator == ComparisonExpression.EQ
    wanted = comparison.right_value.primitive
    is_taken = {"plan.evaluate_gpus": wanted.integer == gpus, "gate.asks_approval": not wanted.boolean}
    return branch.case.then_node if is_taken[comparison.left_value.var] else branch.else_node


def pods(
    nodes: list[Node], spec: WorkflowSpec, templates: dict[str, TaskTemplate], mapped: dict[str, int], gpus: int = 1
) -> Iterator[Step]:
    """Yield the pods of the nodes; `mapped` is the number of entries of each map, `gpus` those that score a model."""
    for node in nodes:
        if node.HasField("branch_node"):
            node = taken(node, gpus)
        if node.HasField("task_node"):
            yield Step(node.id, templates[node.task_node.reference_id.name].metadata.discoverable)
        elif node.HasField("array_node"):
            task = templates[node.array_node.node.task_node.reference_id.name]
            yield from [Step(node.id, task.metadata.discoverable)] * mapped[node.id]
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
        "model_gib": 1,
    }


def gpus_of(node: Node, templates: dict[str, TaskTemplate]) -> str:
    """Return how many GPUs the pods of a node ask for: as it overrides the task, or else as the task declares."""
    inner = node.array_node.node if node.HasField("array_node") else node
    declared = templates[inner.task_node.reference_id.name].container.resources
    asked = inner.task_node.overrides.resources.requests or declared.requests
    return {entry.name: entry.value for entry in asked}[Resources.GPU]


@pytest.fixture(params=[fine_tune, align], ids=["fine_tune", "align"], scope="module")
def workflow(request: pytest.FixtureRequest) -> tuple[WorkflowSpec, dict[str, TaskTemplate]]:
    return serialized(request.param)


def test_the_base_is_scored_on_one_gpu_by_a_node_of_the_workflow(
    workflow: tuple[WorkflowSpec, dict[str, TaskTemplate]],
) -> None:
    spec, templates = workflow
    [branch] = [node for node in spec.template.nodes if node.id == "base-scores"]
    alone, several = taken(branch, 1), taken(branch, 2)
    assert (alone.id, several.id) == ("evaluate-base", "score-base")
    # whose image is registered with it; a dynamic task has a small one
    assert alone.task_node.reference_id.name == "tasks.evaluate.task.evaluate"
    assert gpus_of(alone, templates) == "1"
    assert "fine-tune-gpu" in templates["tasks.evaluate.task.evaluate"].container.image
    assert "fine-tune-cpu" in templates["workflows.score.score_base"].container.image
    # both wait for what they read, and what follows waits for the branch
    assert {"plan", "model"} <= set(alone.upstream_node_ids) & set(several.upstream_node_ids)
    [gate] = [node for node in spec.template.nodes if node.id == "gate"]
    assert branch.id in gate.upstream_node_ids


@pytest.mark.parametrize("shards", [1, 3])
def test_pods_that_score_the_base_on_several_gpus_ask_for_them(shards: int, tmp_path: Path) -> None:
    config = load_config(PRESETS / "demo.yaml")
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"gpus": 4, "shards": shards})})
    inputs = {
        name: value for name, value in placeholders(tmp_path).items() if name in score_base.python_interface.inputs
    }
    scoring = Pod(score_base, tmp_path / "pod", {"config": config, **inputs}).run()
    job = DynamicJobSpec.FromString((scoring.output / "futures.pb").read_bytes())
    templates = {template.id.name: template for template in job.tasks}
    asked = {node.id: gpus_of(node, templates) for node in job.nodes if node.WhichOneof("target")}
    # parts are only joined by the other pod
    parts = {"evaluate-base-parts": "4", "evaluate-base": "1"}
    assert asked == (parts if shards > 1 else {"evaluate-base": "4"})
    [scored] = [node for node in job.nodes if node.id == "evaluate-base"]
    values = {entry.var: entry.binding for entry in scored.inputs}
    assert values["gpus"].scalar.primitive.integer == 4
    for template in templates.values():
        # scores over other GPUs come from the cache
        assert "gpus" in template.metadata.cache_ignore_input_vars, template.id.name


def test_the_plan_gives_the_base_to_one_branch_alone() -> None:
    for gpus, shards, parts in ((1, 1, 0), (1, 3, 3), (2, 1, 0), (2, 3, 0)):
        assert len(base_parts(EvaluateConfig(gpus=gpus, shards=shards))) == parts


def test_scores_do_not_depend_on_the_number_of_gpus() -> None:
    four, one = EvaluateConfig(gpus=4, load_in="4bit"), EvaluateConfig(load_in="4bit")
    assert four.for_scoring() == one.for_scoring() != EvaluateConfig().for_scoring()


def test_the_demo_takes_14_pods(demo: list[Step]) -> None:
    assert [step.name for step in demo] == [
        *("plan", "model", "rows", "tokens", "evaluate-base", "tune", "gate", "report"),
        *("train", "evaluate-tuned"),
        *("quantize-8bit", "evaluate-8bit", "quantize-4bit", "evaluate-4bit"),
    ]


def test_a_second_run_whose_steps_are_cached_takes_4_pods(demo: list[Step]) -> None:
    assert [step.name for step in demo if not step.is_cached] == ["plan", "tune", "gate", "report"]


def test_pods_that_copy_a_large_model_have_room_for_it(tmp_path: Path) -> None:
    config = load_config(PRESETS / "llama-3.1-8b-lora.yaml")

    def asked(model_gib: int) -> dict[str, dict[int, str]]:
        inputs = {**placeholders(tmp_path), "config": config, "model_gib": model_gib}
        pod = Pod(tune, tmp_path / f"{model_gib}", inputs).run()
        nodes = DynamicJobSpec.FromString((pod.output / "futures.pb").read_bytes()).nodes
        given = {node.id: node.task_node.overrides.resources.requests for node in nodes}
        return {name: {entry.name: entry.value for entry in entries} for name, entries in given.items() if entries}

    # 15 GiB fit into what is declared: 64 GiB of memory, 200 of disk
    assert not {"merge", "quantize-8bit"} & set(asked(15))
    # 132 GiB of a 70B model in 16 bits: 1.125 x 132 + 8; base and merged model on the disk, 2.1 x 132 + 8
    large = asked(132)
    assert (large["merge"][Resources.MEMORY], large["merge"][Resources.EPHEMERAL_STORAGE]) == ("157Gi", "286Gi")
    # bitsandbytes reads file by file; model and copy, 1.85 x 132 + 8
    copied = large["quantize-8bit"]
    assert (copied[Resources.MEMORY], copied[Resources.EPHEMERAL_STORAGE], copied[Resources.GPU]) == (
        "64Gi",
        "253Gi",
        "1",
    )


def test_other_models_are_fetched_tokenized_and_scored_beside_the_training(tmp_path: Path) -> None:
    others = [
        {"title": "last_week", "adapter": "me/adapter"},
        {"title": "larger", "model": "me/larger"},
        {"title": "served", "endpoint": "https://host/v1", "endpoint_model": "m"},
    ]
    demo = load_config(PRESETS / "demo.yaml")
    evaluation = EvaluateConfig.model_validate({**demo.evaluate.model_dump(), "others": others, "gpus": 2})
    config = demo.model_copy(update={"evaluate": evaluation})
    inputs = {**placeholders(tmp_path), "config": config, "other_revisions": ["a", "b", ""]}
    job = DynamicJobSpec.FromString((Pod(tune, tmp_path / "pod", inputs).run().output / "futures.pb").read_bytes())
    nodes = {node.id: node for node in job.nodes if node.WhichOneof("target")}
    assert {
        *("adapter-last-week", "merge-last-week", "tokens-last-week", "evaluate-last-week"),
        *("model-larger", "tokens-larger", "evaluate-larger", "ask-served"),
    } <= set(nodes)
    # an adapter is merged first, a model is scored as it is, and none of them waits for the training
    assert "merge-last-week" in nodes["evaluate-last-week"].upstream_node_ids
    assert "model-larger" in nodes["evaluate-larger"].upstream_node_ids
    assert not {"train"} & {up for name in ("evaluate-larger", "ask-served") for up in nodes[name].upstream_node_ids}
    templates = {template.id.name: template for template in job.tasks}
    assert gpus_of(nodes["evaluate-larger"], templates) == "2"
    assert "fine-tune-cpu" in templates["tasks.evaluate.task.ask_endpoint"].container.image


def test_an_evaluation_alone_registers_the_image_of_its_gpus() -> None:
    spec, templates = serialized(evaluate_alone)
    [scoring] = [node for node in spec.template.nodes if node.id == "evaluate"]
    assert scoring.HasField("array_node") and gpus_of(scoring, templates) == "1"
    assert "fine-tune-gpu" in templates[scoring.array_node.node.task_node.reference_id.name].container.image
    assert [node.id for node in spec.template.nodes if node.WhichOneof("target")] == [
        *("plan", "scan-shards", "rows", "models", "evaluate", "scores", "gate", "report")
    ]
