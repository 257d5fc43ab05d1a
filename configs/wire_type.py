"""The base class of the typed values that stages hand to each other; the values are in wire.py, wire_plan.py and
measures.py."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class WireType(BaseModel):
    """Base of the typed values on the wire."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
