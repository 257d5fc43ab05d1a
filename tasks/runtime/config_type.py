"""Flyte's type for a run's config: it fits the console's form, and uploads the local files that the config names.

Between tasks a config travels as flytekit sends any pydantic model. A config that comes from outside, as a run's input
or a launch plan's default, is a protobuf Struct, as the console sends it. The console can fill its form from nothing
else, and a user who changed one field would lose the others. Importing this module registers the type.
"""

from __future__ import annotations

from typing import Any, TypeVar

import click
from flytekit import FlyteContext
from flytekit.core.context_manager import ExecutionState
from flytekit.core.type_engine import TypeEngine, TypeTransformer
from flytekit.extras.pydantic_transformer.transformer import PydanticTransformer
from flytekit.models.literals import Literal, Scalar, Void
from flytekit.models.types import LiteralType, SimpleType, TypeStructure
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel

from configs.console_form import console_form
from configs.errors import ConfigError, FineTuneError
from configs.schema import FineTuneConfig, RunConfig
from configs.schema.align import AlignConfig
from configs.schema.section import Section
from configs.wire import WireType
from tasks.files.local_files import local_settings, setting_name
from tasks.runtime.refused_config import RefusedConfig

Config = TypeVar("Config", bound=RunConfig)


class CachedTransformer(PydanticTransformer):
    """Flyte's own type of a pydantic model, computed once: each task asks again for all nested models of its inputs."""

    def __init__(self, name: str, kind: type[BaseModel]) -> None:
        # the parent's constructor takes no name and no class: it serves all pydantic models
        TypeTransformer.__init__(self, name, kind, enable_type_assertions=False)
        self._types: dict[type[BaseModel], LiteralType] = {}

    def get_literal_type(self, t: type[BaseModel]) -> LiteralType:
        """Return the type as flytekit makes it."""
        if t not in self._types:
            self._types[t] = self._literal_type(t)
        return self._types[t]

    def _literal_type(self, t: type[BaseModel]) -> LiteralType:
        return super().get_literal_type(t)


class RunConfigTransformer(CachedTransformer):
    """Flyte's type of `FineTuneConfig` and `AlignConfig`."""

    def __init__(self) -> None:
        super().__init__("Run config", RunConfig)

    def _literal_type(self, t: type[BaseModel]) -> LiteralType:
        """Return the type with the console's form as its only schema; its parts hold no second copy."""
        plain = super()._literal_type(t)
        assert issubclass(t, RunConfig)
        return LiteralType(
            simple=SimpleType.STRUCT,
            metadata=console_form(t),
            structure=_without_schemas(plain).structure,
            annotation=plain.annotation,
        )

    def to_literal(
        self, ctx: FlyteContext, python_val: BaseModel, python_type: type[BaseModel], expected: LiteralType
    ) -> Literal:
        """Return the literal of a config; for a run's input, upload its local files and use their addresses.

        Raises:
            FineTuneError: a local file does not exist or cannot be uploaded, or a launch plan names a local file.
        """
        if ctx.execution_state is not None and ctx.execution_state.mode is not None:
            # inside a pod or a laptop's run
            return super().to_literal(ctx, python_val, python_type, expected)
        assert isinstance(python_val, RunConfig)
        try:
            python_val = _for_other_machines(python_val, ctx)
        except FineTuneError as error:
            if click.get_current_context(silent=True) is not None:
                # pyflyte prints the whole config before any exception, except for SystemExit
                raise SystemExit(error.exit_code) from None
            raise
        return Literal(scalar=Scalar(generic=json_format.Parse(python_val.model_dump_json(), Struct())))

    def to_python_value(
        self, ctx: FlyteContext, lv: Literal, expected_python_type: type[BaseModel]
    ) -> BaseModel | RefusedConfig:
        """Return the config in a literal that the console or flytekit made.

        In a pod, a config with wrong settings becomes a `RefusedConfig`, which the task refuses with a short error.

        Raises:
            ConfigError: not in a pod: settings are wrong; one line for each of the first three.
        """
        try:
            return super().to_python_value(ctx, lv, expected_python_type)
        except ConfigError as error:
            if ctx.execution_state is not None and ctx.execution_state.mode == ExecutionState.Mode.TASK_EXECUTION:
                return RefusedConfig(error)
            # flytekit would print the whole literal before the error, hundreds of lines
            lv._scalar = Scalar(none_type=Void())
            raise

    def guess_python_type(self, literal_type: LiteralType) -> type[RunConfig]:
        """Return the config class of a registered input, so that `pyflyte run remote-launchplan` checks the config.

        Raises:
            ValueError: the type is not a run's config; flytekit then asks the next transformer.
        """
        for config in (FineTuneConfig, AlignConfig):
            reference = f"#/definitions/{config.__name__}"
            if literal_type.simple == SimpleType.STRUCT and (literal_type.metadata or {}).get("$ref") == reference:
                return config
        raise ValueError(f"{self.name} cannot reverse {literal_type}")


def _for_other_machines(config: Config, ctx: FlyteContext) -> Config:
    """Return the config with every local path replaced by an address, or refuse local paths in a launch plan."""
    if ctx.file_access.is_remote(ctx.file_access.raw_output_prefix):
        from tasks.runtime.uploads import with_uploads

        return with_uploads(config, ctx.file_access)
    if ctx.serialization_settings is not None:
        for keys, value in local_settings(config).items():
            raise ConfigError(
                f"{setting_name(keys)}={value} is on this machine, but a launch plan is run by others\n"
                "name an address (s3://...) or a hub id, or use `pyflyte run --remote --config`, which uploads it"
            )
    return config


def _without_schemas(literal_type: LiteralType) -> LiteralType:
    """Return the type without the JSON schemas of nested models, which made one task's type a megabyte."""
    structure: Any = literal_type.structure
    parts = (structure.dataclass_type if structure is not None else None) or {}
    copy = LiteralType.from_flyte_idl(literal_type.to_flyte_idl())
    copy._metadata = None
    if parts:
        copy._structure = TypeStructure(
            tag=structure.tag, dataclass_type={name: _without_schemas(part) for name, part in parts.items()}
        )
    return copy


TypeEngine.register(CachedTransformer("Config section", Section))
TypeEngine.register(CachedTransformer("Wire type", WireType))
TypeEngine.register(RunConfigTransformer())
