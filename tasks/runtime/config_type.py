"""How a run's config travels: as the form of Flyte's console, and with the files that it names.

Flyte's own way for pydantic models is kept between tasks. A value that enters from outside, as a run's input or a
launch plan's default, is a protobuf Struct, as the console sends it: the console's form cannot be filled in again from
anything else, and a user who changed one field of it would lose the others. Importing this module registers the type.
"""

from __future__ import annotations

from typing import Any, TypeVar

import click
from flytekit import FlyteContext
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

Config = TypeVar("Config", bound=RunConfig)


class PartTransformer(PydanticTransformer):
    """Flyte's own type of a pydantic model, worked out once: each task asks anew for those of all its parts' parts."""

    def __init__(self, name: str, kind: type[BaseModel]) -> None:
        # not the parent's, which is for all pydantic models
        TypeTransformer.__init__(self, name, kind, enable_type_assertions=False)
        self._types: dict[type[BaseModel], LiteralType] = {}

    def get_literal_type(self, t: type[BaseModel]) -> LiteralType:
        """Return the type as flytekit makes it."""
        if t not in self._types:
            self._types[t] = self._literal_type(t)
        return self._types[t]

    def _literal_type(self, t: type[BaseModel]) -> LiteralType:
        return super().get_literal_type(t)


class RunConfigTransformer(PartTransformer):
    """Flyte's type of `FineTuneConfig` and `AlignConfig`."""

    def __init__(self) -> None:
        super().__init__("Run config", RunConfig)

    def _literal_type(self, t: type[BaseModel]) -> LiteralType:
        """Return the type with the console's form as its schema, and no second copy of the schema in its parts."""
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
        """Return the value as it travels; a run's input with the addresses of what was uploaded for it.

        Raises:
            FineTuneError: a place that is not there or cannot be uploaded; for a launch plan, one of this machine.
        """
        if ctx.execution_state is not None and ctx.execution_state.mode is not None:
            # within a pod or a laptop's run
            return super().to_literal(ctx, python_val, python_type, expected)
        assert isinstance(python_val, RunConfig)
        try:
            python_val = _for_others(python_val, ctx)
        except FineTuneError as error:
            if click.get_current_context(silent=True) is not None:
                # pyflyte would show any exception below the whole config; this it lets pass
                raise SystemExit(error.exit_code) from None
            raise
        return Literal(scalar=Scalar(generic=json_format.Parse(python_val.model_dump_json(), Struct())))

    def to_python_value(self, ctx: FlyteContext, lv: Literal, expected_python_type: type[BaseModel]) -> BaseModel:
        """Return the value that a literal holds, of a form or of flytekit.

        Raises:
            ConfigError: with one line for each setting that is wrong.
        """
        try:
            return super().to_python_value(ctx, lv, expected_python_type)
        except ConfigError:
            # flytekit puts the whole literal before the error, some hundred lines of it
            lv._scalar = Scalar(none_type=Void())
            raise

    def guess_python_type(self, literal_type: LiteralType) -> type[RunConfig]:
        """Return the class of a registered workflow's input, so that `pyflyte run remote-launchplan` checks it.

        Raises:
            ValueError: another type, as flytekit asks all types in turn.
        """
        for config in (FineTuneConfig, AlignConfig):
            reference = f"#/definitions/{config.__name__}"
            if literal_type.simple == SimpleType.STRUCT and (literal_type.metadata or {}).get("$ref") == reference:
                return config
        raise ValueError(f"{self.name} cannot reverse {literal_type}")


def _for_others(config: Config, ctx: FlyteContext) -> Config:
    """Return the config as other machines can read it."""
    if ctx.file_access.is_remote(ctx.file_access.raw_output_prefix):
        from tasks.runtime.uploads import with_uploads

        return with_uploads(config, ctx.file_access)
    if ctx.serialization_settings is not None:
        for keys, value in local_settings(config).items():
            raise ConfigError(
                f"{setting_name(keys)}={value} is of this machine, and a launch plan is run by others\n"
                "name an address (s3://...) or what is on the hub, or leave it to `pyflyte run --remote --config`, "
                "which uploads it"
            )
    return config


def _without_schemas(literal_type: LiteralType) -> LiteralType:
    """Return the type without JSON schemas: those of all parts of parts made one task's type a megabyte."""
    structure: Any = literal_type.structure
    parts = (structure.dataclass_type if structure is not None else None) or {}
    copy = LiteralType.from_flyte_idl(literal_type.to_flyte_idl())
    copy._metadata = None
    if parts:
        copy._structure = TypeStructure(
            tag=structure.tag, dataclass_type={name: _without_schemas(part) for name, part in parts.items()}
        )
    return copy


TypeEngine.register(PartTransformer("Config section", Section))
TypeEngine.register(PartTransformer("Wire type", WireType))
TypeEngine.register(RunConfigTransformer())
