"""Flyte's type for configs: it reads what a form sends, explains errors, and refuses local files in launch plans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flyteidl.core.types_pb2 import LiteralType as LiteralTypeMessage
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
    """Return the config that a task gets if the console's form sends `content`."""
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


def test_a_runs_input_holds_every_field_of_the_form() -> None:
    config = FineTuneConfig.model_validate({**SMALLEST, "train": {"learning_rate": 3e-5, "seed": 2**53 - 1}})
    literal = literal_of(config, context())
    sections = literal.scalar.generic.fields
    assert sections["train"].struct_value.fields["learning_rate"].number_value == 3e-5
    # defaults are written out: the form shows them, and a section that is cut out keeps them
    assert sections["train"].struct_value.fields["batch_size"].number_value == 16
    assert TypeEngine.to_python_value(context(), Literal.from_flyte_idl(literal), FineTuneConfig) == config


@pytest.mark.parametrize("mode", [ExecutionState.Mode.TASK_EXECUTION, ExecutionState.Mode.LOCAL_WORKFLOW_EXECUTION])
def test_between_tasks_a_config_travels_like_any_pydantic_model(mode: ExecutionState.Mode) -> None:
    config = FineTuneConfig.model_validate({**SMALLEST, "name": f"between-{mode.value}"})
    state = context().new_execution_state(Path("/tmp")).with_params(mode=mode)
    with FlyteContextManager.with_context(context().with_execution_state(state)) as ctx:
        literal = literal_of(config, ctx)
        assert literal.scalar.binary.tag == "msgpack"
        assert TypeEngine.to_python_value(ctx, Literal.from_flyte_idl(literal), FineTuneConfig) == config


def test_a_form_may_leave_out_fields_with_defaults() -> None:
    assert from_form(SMALLEST) == FineTuneConfig.model_validate(SMALLEST)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 3.7}, "config: train.batch_size=3.7 is not a whole number; write one, such as 16"),
        ({"nodes": 2.5}, "config: train.nodes=2.5 is neither a number of machines, such as 5, nor a range"),
        ({"seed": 2.0**53}, "config: train.seed: 9007199254740992 is beyond 9007199254740991, the largest integer"),
        ({"lora": {"rank": True}}, "config: train.lora.rank: true is not a number"),
        ({"batch_size": None}, "config: train.batch_size is empty; write its settings under it, or remove the line"),
        ({"method": "lroa"}, "config: train.method='lroa' is not a choice; write 'full', 'lora'"),
        ({"lora": {"rnak": 1.0}}, "config: train.lora.rnak is not a setting (did you mean rank?)"),
    ],
)
def test_a_wrong_value_in_a_form_is_refused_in_one_line(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_form({**SMALLEST, "train": train})
    assert str(caught.value).startswith(message) and len(str(caught.value).splitlines()) == 1


def test_a_single_section_is_read_and_refused_with_the_same_messages() -> None:
    assert from_form({"batch_size": 32.0, "nodes": "1:5"}, TrainConfig).batch_size == 32
    with pytest.raises(ConfigError, match=r"^config: batch_size=3\.7 is not a whole number"):
        from_form({"batch_size": 3.7}, EvaluateConfig)


@pytest.mark.parametrize("kind", [FineTuneConfig, AlignConfig])
def test_the_config_class_of_a_registered_input_is_found(kind: type[BaseModel]) -> None:
    sent = TypeEngine.to_literal_type(kind).to_flyte_idl()
    assert TypeEngine.guess_python_type(LiteralType.from_flyte_idl(sent)) is kind
    other = TypeEngine.to_literal_type(TrainConfig).to_flyte_idl()
    assert TypeEngine.guess_python_type(LiteralType.from_flyte_idl(other)).__name__ == "TrainConfig"


def parts_of(kind: LiteralTypeMessage) -> Iterator[LiteralTypeMessage]:
    """Yield the types of all settings below a type."""
    for part in kind.structure.dataclass_type.values():
        yield part
        yield from parts_of(part)


def test_the_type_of_an_input_holds_one_schema(registering: FlyteContext) -> None:
    for kind in (FineTuneConfig, AlignConfig):
        sent = TypeEngine.to_literal_type(kind).to_flyte_idl()
        assert sent.HasField("metadata")
        nested = list(parts_of(sent))
        assert len(nested) > 30 and not [part for part in nested if part.HasField("metadata")]


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
def test_a_launch_plan_with_local_files_is_refused(
    changes: dict[str, Any], setting: str, registering: FlyteContext
) -> None:
    config = FineTuneConfig.model_validate({**SMALLEST, **changes})
    with pytest.raises(ConfigError) as caught:
        LaunchPlan.create("of-files", fine_tune, default_inputs={"config": config})
    message = str(caught.value)
    assert message.startswith(f"{setting} is on this machine, but a launch plan is run by others\n")
    assert len(message.splitlines()) <= 3
    with pytest.raises(ConfigError, match="is on this machine"):
        LaunchPlan.create("of-fixed-files", fine_tune, fixed_inputs={"config": config})


def test_a_launch_plan_with_hub_ids_and_store_addresses_is_accepted(registering: FlyteContext) -> None:
    plan = LaunchPlan.create(
        "of-the-hub", fine_tune, default_inputs={"config": FineTuneConfig.model_validate(SMALLEST)}
    )
    literal = plan.parameters.parameters["config"].default
    assert literal.scalar.generic is not None
    assert TypeEngine.to_python_value(context(), literal, FineTuneConfig).model.name == "owner/name"
