"""How values travel between tasks on a cluster: bindings, attributes of promises, and a console's encoding.

It follows FlytePropeller (flytepropeller/pkg/controller/nodes/attr_path_resolver.go), its sharp edges included: what a
form has left out is missing, not its default, and keys of a part that is cut out come in an order of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgpack
from flyteidl.core.literals_pb2 import (
    Binary,
    Binding,
    BindingData,
    Literal,
    LiteralCollection,
    LiteralMap,
    Primitive,
    Scalar,
)
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

# values of a workflow's or a task's outputs, by node and name; the workflow's own inputs are of node ""
Values = dict[str, dict[str, Literal]]


def resolve(binding: BindingData, values: Values) -> Literal:
    """Return the value of a node's input.

    Raises:
        KeyError: a part of a form that was left out, or an output that is not there.
    """
    kind = binding.WhichOneof("value")
    if kind == "scalar":
        return Literal(scalar=binding.scalar)
    if kind == "collection":
        items = [resolve(binding_, values) for binding_ in binding.collection.bindings]
        return Literal(collection=LiteralCollection(literals=items))
    if kind == "map":
        return Literal(map=LiteralMap(literals={k: resolve(v, values) for k, v in binding.map.bindings.items()}))
    assert kind == "promise", f"a binding of {kind}"
    promise = binding.promise
    node = "" if promise.node_id == "start-node" else promise.node_id
    return _attribute(values[node][promise.var], list(promise.attr_path))


def resolve_all(bindings: Any, values: Values) -> dict[str, Literal]:
    """Return the values of all inputs of a node, or outputs of a workflow."""
    typed: list[Binding] = list(bindings)
    return {literal.var: resolve(literal.binding, values) for literal in typed}


def _attribute(literal: Literal, path: list[Any]) -> Literal:
    while path and literal.WhichOneof("value") in ("map", "collection"):
        step = path.pop(0)
        if literal.HasField("map"):
            # a protobuf map makes what it is asked for
            if step.string_value not in literal.map.literals:
                raise KeyError(step.string_value)
            literal = literal.map.literals[step.string_value]
        else:
            literal = literal.collection.literals[step.int_value]
    if not path:
        return literal
    scalar = literal.scalar
    if scalar.HasField("binary"):
        value = _walk(msgpack.loads(scalar.binary.value, strict_map_key=False), path)
        return Literal(scalar=Scalar(binary=Binary(value=msgpack.dumps(_other_order(value)), tag="msgpack")))
    assert scalar.HasField("generic"), "an attribute of what has none"
    return _plain(_walk(json_format.MessageToDict(scalar.generic), path))


def _walk(value: Any, path: list[Any]) -> Any:
    for step in path:
        value = value[step.string_value if step.HasField("string_value") else step.int_value]
    return value


def _other_order(value: Any) -> Any:
    """Return the same mappings with their keys the other way round: Go's maps have no order."""
    if isinstance(value, dict):
        return {key: _other_order(item) for key, item in reversed(value.items())}
    return [_other_order(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Literal:
    """Return a part of a console's form as a literal. Every number of a form is a float."""
    if isinstance(value, dict):
        return Literal(scalar=Scalar(generic=json_format.ParseDict(value, Struct())))
    if isinstance(value, list):
        return Literal(collection=LiteralCollection(literals=[_plain(item) for item in value]))
    if value is None:
        return Literal()
    if isinstance(value, bool):
        return Literal(scalar=Scalar(primitive=Primitive(boolean=value)))
    if isinstance(value, str):
        return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))
    return Literal(scalar=Scalar(primitive=Primitive(float_value=float(value))))


def as_form(values: Mapping[str, Any]) -> Literal:
    """Return a mapping as Flyte's console sends a form: a protobuf Struct, in which every number is a double."""
    return Literal(scalar=Scalar(generic=json_format.Parse(json.dumps(values), Struct())))


def uris(literal: Literal) -> list[str]:
    """Return every address of a file, folder or table in a literal, those within typed values included."""
    kind = literal.WhichOneof("value")
    if kind == "collection":
        return [uri for item in literal.collection.literals for uri in uris(item)]
    if kind == "map":
        return [uri for item in literal.map.literals.values() for uri in uris(item)]
    scalar = literal.scalar
    inner = scalar.WhichOneof("value")
    if inner in ("blob", "structured_dataset"):
        return [getattr(scalar, inner).uri]
    if inner == "union":
        return uris(scalar.union.value)
    if inner == "binary":
        return _paths(msgpack.loads(scalar.binary.value, strict_map_key=False))
    return []


def _paths(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [path for key, item in value.items() for path in ([item] if key == "uri" else _paths(item))]
    if isinstance(value, list):
        return [path for item in value for path in _paths(item)]
    return [value] if isinstance(value, str) and value.startswith(("/", "file:", "s3:")) else []
