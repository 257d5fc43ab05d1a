"""How a run's config travels: as a form sends it, with its own errors; a launch plan's without files of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flytekit import LaunchPlan
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.context_manager import ExecutionState, FlyteContext, FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal, Scalar
from flytekit.models.types import LiteralType
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel

from configs.errors import ConfigError
from configs.schema import EvaluateConfig, FineTuneConfig, TrainConfig
from configs.schema.align import AlignConfig
from workflows.fine_tune import fine_tune

SMALLEST: dict[str, Any] = {"model": {"name": "owner/name"}, "data": {"sources": [{"path": "s3://b/rows.jsonl"}]}}


def context() -> FlyteContext:
    return FlyteContextManager.current_context()


def from_form(content: dict[str, Any], kind: type[BaseModel] = FineTuneConfig) -> Any:
    """Return what a task is given of what a console's form sends."""
    struct = Struct()
    struct.update(content)
    return TypeEngine.to_python_value(context(), Literal(scalar=Scalar(generic=struct)), kind)


def literal_of(value: BaseModel, ctx: FlyteContext) -> Any:
    kind = type(value)
    return TypeEngine.to_literal(ctx, value, kind, TypeEngine.to_literal_type(kind)).to_flyte_idl()


@pytest.fixture
def registering() -> Iterator[FlyteContext]:
    """The context in which `pyflyte register` loads launch plans."""
    settings = SerializationSettings(image_config=ImageConfig(default_image=Image("x", "localhost/x", "1")))
    with FlyteContextManager.with_context(context().with_serialization_settings(settings)) as ctx:
        yield ctx


def test_a_run_s_input_is_what_a_form_can_be_filled_in_from() -> None:
    config = FineTuneConfig.model_validate({**SMALLEST, "train": {"learning_rate": 3e-5, "seed": 2**53 - 1}})
    literal = literal_of(config, context())
    sections = literal.scalar.generic.fields
    assert sections["train"].struct_value.fields["learning_rate"].number_value == 3e-5
    # every default is there: a form shows it, and a part that is cut out of the whole has it
    assert sections["train"].struct_value.fields["batch_size"].number_value == 16
    assert TypeEngine.to_python_value(context(), Literal.from_flyte_idl(literal), FineTuneConfig) == config


@pytest.mark.parametrize("mode", [ExecutionState.Mode.TASK_EXECUTION, ExecutionState.Mode.LOCAL_WORKFLOW_EXECUTION])
def test_between_tasks_a_config_travels_as_flyte_s_own_models_do(mode: ExecutionState.Mode) -> None:
    config = FineTuneConfig.model_validate({**SMALLEST, "name": f"between-{mode.value}"})
    state = context().new_execution_state(Path("/tmp")).with_params(mode=mode)
    with FlyteContextManager.with_context(context().with_execution_state(state)) as ctx:
        literal = literal_of(config, ctx)
        assert literal.scalar.binary.tag == "msgpack"
        assert TypeEngine.to_python_value(ctx, Literal.from_flyte_idl(literal), FineTuneConfig) == config


def test_a_form_that_leaves_out_all_that_has_a_default_is_enough() -> None:
    assert from_form(SMALLEST) == FineTuneConfig.model_validate(SMALLEST)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 3.7}, "config: train.batch_size=3.7: input should be a valid integer, got a number with a"),
        ({"nodes": 2.5}, "config: train.nodes=2.5 is neither a number of machines, such as 5, nor a range"),
        ({"seed": 2.0**53}, "config: train.seed: 9007199254740992 is beyond 9007199254740991, the largest integer"),
        ({"lora": {"rank": True}}, "config: train.lora.rank: true is not a number"),
        ({"batch_size": None}, "config: train.batch_size is empty; write its settings under it, or remove the line"),
        ({"method": "lroa"}, "config: train.method='lroa': input should be 'full', 'lora'"),
        ({"lora": {"rnak": 1.0}}, "config: train.lora.rnak is not a setting (did you mean rank?)"),
    ],
)
def test_what_a_form_may_not_say_is_refused_in_one_line(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_form({**SMALLEST, "train": train})
    assert str(caught.value).startswith(message) and len(str(caught.value).splitlines()) == 1


def test_a_section_alone_is_read_and_refused_in_the_same_words() -> None:
    assert from_form({"batch_size": 32.0, "nodes": "1:5"}, TrainConfig).batch_size == 32
    with pytest.raises(ConfigError, match=r"^config: batch_size=3\.7: input should be a valid integer"):
        from_form({"batch_size": 3.7}, EvaluateConfig)


@pytest.mark.parametrize("kind", [FineTuneConfig, AlignConfig])
def test_a_registered_input_is_known_for_what_it_is(kind: type[BaseModel]) -> None:
    sent = TypeEngine.to_literal_type(kind).to_flyte_idl()
    assert TypeEngine.guess_python_type(LiteralType.from_flyte_idl(sent)) is kind
    other = TypeEngine.to_literal_type(TrainConfig).to_flyte_idl()
    assert TypeEngine.guess_python_type(LiteralType.from_flyte_idl(other)).__name__ == "TrainConfig"


def test_the_type_of_an_input_holds_one_schema(registering: FlyteContext) -> None:
    for kind, most in ((FineTuneConfig, 100_000), (AlignConfig, 250_000)):
        size = len(TypeEngine.to_literal_type(kind).to_flyte_idl().SerializeToString())
        # flyteadmin takes 4 MiB in one call, and a task has several such inputs and outputs
        assert size < most


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"data": {"sources": [{"path": "rows.jsonl"}]}}, "data.sources[0].path=rows.jsonl"),
        ({"data": {"sources": [{"path": ["s3://b/x.jsonl", "~/rows.jsonl"]}]}}, "data.sources[0].path=~/rows.jsonl"),
        ({"model": {"name": "./my-model"}}, "model.name=./my-model"),
        ({"tokenize": {"chat_template": "chat.jinja"}}, "tokenize.chat_template=chat.jinja"),
        ({"train": {"sharding": "zero2", "deepspeed": {"config": "z.json"}}}, "train.deepspeed.config=z.json"),
    ],
)
def test_a_launch_plan_of_this_machine_s_files_is_refused(
    changes: dict[str, Any], setting: str, registering: FlyteContext
) -> None:
    config = FineTuneConfig.model_validate({**SMALLEST, **changes})
    with pytest.raises(ConfigError) as caught:
        LaunchPlan.create("of-files", fine_tune, default_inputs={"config": config})
    message = str(caught.value)
    assert message.startswith(f"{setting} is of this machine, and a launch plan is run by others\n")
    assert len(message.splitlines()) <= 3
    with pytest.raises(ConfigError, match="is of this machine"):
        LaunchPlan.create("of-fixed-files", fine_tune, fixed_inputs={"config": config})


def test_a_launch_plan_of_the_hub_and_of_stores_is_made(registering: FlyteContext) -> None:
    plan = LaunchPlan.create(
        "of-the-hub", fine_tune, default_inputs={"config": FineTuneConfig.model_validate(SMALLEST)}
    )
    literal = plan.parameters.parameters["config"].default
    assert literal.scalar.generic is not None
    assert TypeEngine.to_python_value(context(), literal, FineTuneConfig).model.name == "owner/name"
