"""Works out a model's shape from its config.json, for every architecture that transformers knows, without weights.

Dense families are computed by arithmetic. Other models in `configs/shapes` use the counts of their file. The rest are
counted in transformers' own model, which loads PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from configs.addresses import first_line, shown_address
from configs.errors import ModelError
from configs.printable import print_line
from tasks.plan.shapes.dense_families import dense_shape, is_dense
from tasks.plan.shapes.shape import Linear, ModelShape

SHAPES = Path(__file__).parents[3] / "configs" / "shapes"


@dataclass(frozen=True)
class KnownShape:
    """A model described by a file in `configs/shapes`.

    `settings` are the keys of its config.json that decide its shape; `license` is the licence's name as the model's
    page states it; `source` is where the numbers are published. `counted` holds the fields of `ModelShape` for an
    architecture that has no arithmetic here. `aliases` are the model's other names.
    """

    name: str
    settings: dict[str, Any]
    license: str
    source: str
    counted: dict[str, Any] | None = None
    aliases: tuple[str, ...] = ()


def known_shape(name: str) -> KnownShape | None:
    """Return the entry of `configs/shapes` for the model called `name`, ignoring case; None if it has none.

    Raises:
        ModelError: a file in that folder is not a shape.
    """
    return _known_shapes().get(name.lower())


@cache
def _known_shapes() -> dict[str, KnownShape]:
    shapes = [_read_shape_file(path) for path in sorted(SHAPES.glob("*.json"))]
    return {name.lower(): shape for shape in shapes for name in (shape.name, *shape.aliases)}


def _read_shape_file(path: Path) -> KnownShape:
    try:
        return KnownShape(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"configs/shapes/{path.name} is not a shape ({first_line(error)}); it has name, settings, license and "
            "source"
        ) from None


def shape_of(settings: dict[str, Any], name: str) -> ModelShape:
    """Return the shape of the causal language model whose config.json holds `settings`; `name` is for messages.

    A repository's own code is never run, and quantized weights are planned as if they were not quantized; the shape's
    notes say so.

    Raises:
        ModelError: transformers does not know the architecture, it needs its own code, or it does not write from left
            to right; a setting is not a number where it must be, or is beyond any model's size.
    """
    if not isinstance(settings, dict):
        raise ModelError(f"model.name={name}: config.json is not a JSON object; copy it again")
    family = settings.get("model_type")
    if not isinstance(family, str) or not family:
        raise ModelError(
            f"model.name={name}: config.json has no model_type, so its architecture is unknown\n"
            "name a model in transformers' format"
        )
    shape = _shape_of_family(settings, name, family)
    return replace(shape, is_exact="auto_map" not in settings, notes=(*shape.notes, *_assumptions(settings)))


def _shape_of_family(settings: dict[str, Any], name: str, family: str) -> ModelShape:
    if is_dense(settings):
        return dense_shape(settings, name)
    known = known_shape(name)
    if known is not None and known.counted is not None and _contains(settings, known.settings):
        return _counted_shape(known)
    from transformers import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        reason = (
            "needs code of its own (auto_map), which planning does not run"
            if "auto_map" in settings
            else f"transformers {_transformers_release()} does not know"
        )
        raise ModelError(
            f"model.name={name}: config.json is of architecture '{shown_address(family)[:60]}', which {reason}"
            "\nname a model of an architecture that transformers has, or install a newer transformers"
        )
    return _counted_in_transformers(json.dumps(settings, sort_keys=True), name, family)


@lru_cache(maxsize=8)
def _counted_in_transformers(settings: str, name: str, family: str) -> ModelShape:
    """Count the shape of a config.json once: the check of the disk and the plan both ask for it."""
    from tasks.plan.shapes.counted_shapes import count_shape

    print_line(f"plan: counting {family} in transformers' own model, without data; this takes up to a minute")
    return count_shape(json.loads(settings), name)


def _transformers_release() -> str:
    return ".".join(version("transformers").split(".")[:2])


def _contains(settings: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(settings.get(key) == value for key, value in expected.items())


def _counted_shape(known: KnownShape) -> ModelShape:
    assert known.counted is not None
    fields = _lists_to_tuples(known.counted)
    fields["linears"] = tuple(Linear(**_lists_to_tuples(linear)) for linear in fields["linears"])
    return ModelShape(known.name, **fields)


def _lists_to_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _lists_to_tuple(value) for key, value in values.items()}


def _lists_to_tuple(value: Any) -> Any:
    return tuple(map(_lists_to_tuple, value)) if isinstance(value, list) else value


def _assumptions(settings: dict[str, Any]) -> list[str]:
    notes = []
    if "auto_map" in settings:
        notes.append("the repository's own code (auto_map) is not run: the shape is that of transformers' own model")
    if settings.get("quantization_config"):
        notes.append("its weights are quantized already; they are planned as if they were not")
    return notes
