"""The base class of the typed values that stages hand to each other; the values are in wire.py, wire_plan.py and
measures.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from configs.settings_texts import shown_arguments


class WireType(BaseModel):
    """Base of the typed values on the wire."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # flytekit logs the inputs and outputs of tasks
        return shown_arguments(super().__repr_args__())
