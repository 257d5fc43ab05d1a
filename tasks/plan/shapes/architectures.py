"""From a model's config.json to its shape, for every architecture that transformers knows, without weights.

Dense families by arithmetic; models whose shape file has them, by their counts; all others are counted in transformers'
own model, for which PyTorch is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from configs.errors import ModelError
from tasks.plan.shapes.dense_families import dense_shape, is_dense
from tasks.plan.shapes.shape import Linear, ModelShape

SHAPES = Path(__file__).parents[3] / "configs" / "shapes"


@dataclass(frozen=True)
class KnownShape:
    """A model whose numbers are in `configs/shapes`: the keys of its config.json that decide its shape.

    `license` is the licence's name as the model's page states it, `source` where the numbers are published. `counted`
    are fields of `ModelShape` for an architecture that is not planned by arithmetic. `aliases` are other names of it.
    """

    name: str
    settings: dict[str, Any]
    license: str
    source: str
    counted: dict[str, Any] | None = None
    aliases: tuple[str, ...] = ()


def known_shape(name: str) -> KnownShape | None:
    """Return what `configs/shapes` says of the model called `name`, in any case; None where it says nothing.

    Raises:
        ModelError: a file there that is not a shape.
    """
    return _known_shapes().get(name.lower())


@cache
def _known_shapes() -> dict[str, KnownShape]:
    found = [_read(path) for path in sorted(SHAPES.glob("*.json"))]
    return {name.lower(): each for each in found for name in (each.name, *each.aliases)}


def _read(path: Path) -> KnownShape:
    try:
        return KnownShape(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"configs/shapes/{path.name} is not a shape ({error}); it has name, settings, license and source"
        ) from None


def shape_of(settings: dict[str, Any], name: str) -> ModelShape:
    """Return the shape of the causal language model whose config.json holds `settings`; `name` is for messages.

    Code that a repository ships is never run. Weights that are quantized already are planned as if they were not, and
    both are said in the shape's notes.

    Raises:
        ModelError: an architecture that transformers does not know, that needs its own code, or that does not write
            from left to right; a number that is none, or that no model has.
    """
    if not isinstance(settings, dict):
        raise ModelError(f"model.name={name}: config.json is not a JSON object; copy it again")
    family = settings.get("model_type")
    if not isinstance(family, str) or not family:
        raise ModelError(
            f"model.name={name}: config.json has no model_type, so that its architecture is not known\n"
            "name a model in transformers' format"
        )
    shape = _shape_of_family(settings, name, family)
    return replace(shape, is_exact="auto_map" not in settings, notes=(*shape.notes, *_assumptions(settings)))


def _shape_of_family(settings: dict[str, Any], name: str, family: str) -> ModelShape:
    if is_dense(settings):
        return dense_shape(settings, name)
    known = known_shape(name)
    if known is not None and known.counted is not None and _agrees(settings, known.settings):
        return _counted(known)
    from transformers import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        needed = "needs code of its own (auto_map), which planning does not run" if "auto_map" in settings else ""
        raise ModelError(
            f"model.name={name}: config.json is of architecture '{family[:60]}', which "
            + (needed or f"transformers {_release()} does not know")
            + "\nname a model of an architecture that transformers has, or install a newer transformers"
        )
    from tasks.plan.shapes.counted_shapes import count_shape

    print(f"plan: counting {family} in transformers' own model, without data, which takes up to a minute", flush=True)
    return count_shape(settings, name)


def _release() -> str:
    return ".".join(version("transformers").split(".")[:2])


def _agrees(settings: dict[str, Any], numbers: dict[str, Any]) -> bool:
    return all(settings.get(key) == value for key, value in numbers.items())


def _counted(known: KnownShape) -> ModelShape:
    assert known.counted is not None
    fields = _tuples(known.counted)
    fields["linears"] = tuple(Linear(**_tuples(each)) for each in fields["linears"])
    return ModelShape(known.name, **fields)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _assumptions(settings: dict[str, Any]) -> list[str]:
    notes = []
    if "auto_map" in settings:
        notes.append("the repository's own code (auto_map) is not run: the shape is that of transformers' own model")
    if settings.get("quantization_config"):
        notes.append("its weights are quantized already; they are planned as if they were not")
    return notes
