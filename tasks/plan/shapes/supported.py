"""Checks that transformers knows an architecture, by parsing its tables: importing them would import torch."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from configs.addresses import shown_address
from configs.errors import ModelError
from configs.objectives import SCORING, Objective
from configs.printable import one_line
from configs.schema import ModelConfig

_LANGUAGE_MODELS = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
_SCORING_MODELS = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"


def check_architecture(config: ModelConfig, settings: dict[str, Any], objective: Objective) -> str:
    """Return the architecture's name for the report, after checking that transformers can load it for `objective`.

    `settings` is the content of the model's config.json.

    Raises:
        ModelError: `model_type` is unknown, or is not a language model's.
    """
    where, family = f"model.name={config.name}", settings.get("model_type")
    if config.trust_remote_code and "auto_map" in settings:
        return f"{one_line(family)}, by the model's own code"
    if not isinstance(family, str) or not family:
        raise ModelError(f"{where}: its config.json has no model_type; name a model that transformers can load")
    if family not in _names("auto_mappings.py", "CONFIG_MAPPING_NAMES"):
        raise ModelError(
            f"{where} is of the architecture {shown_address(family)[:60]!r}, which transformers {_version()} does "
            "not know\ncorrect model_type in its config.json, or name another model"
        )
    table = _SCORING_MODELS if objective in SCORING else _LANGUAGE_MODELS
    if family not in _names("modeling_auto.py", table):
        kind = "has no variant that scores a text" if objective in SCORING else "is not a causal language model"
        raise ModelError(
            f"{where} is of the architecture {one_line(family)}, which {kind} in transformers\nname another model"
        )
    return str((settings.get("architectures") or [family])[0])


@cache
def _names(file: str, table: str) -> frozenset[str]:
    """Return the keys of a table in transformers' models/auto, without running the file."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "models" / "auto" / file
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == table:
            assert isinstance(node.value, ast.Call) and isinstance(node.value.args[0], ast.List)
            return frozenset(ast.literal_eval(pair)[0] for pair in node.value.args[0].elts)
    raise AssertionError(f"transformers' {file} has no {table}")


def _version() -> str:
    from importlib.metadata import version

    return version("transformers")
