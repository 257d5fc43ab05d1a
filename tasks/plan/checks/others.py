"""Checks the other models of a run before anything runs: they exist, are whole, and can be loaded."""

from __future__ import annotations

from typing import Any, NamedTuple

from configs.addresses import shown_address
from configs.errors import FineTuneError, ModelError
from configs.printable import one_line
from configs.schema import FineTuneConfig, ModelConfig
from configs.schema.others import OtherModelConfig
from tasks.files.model_files import is_hub_id
from tasks.plan.checks.preflight import Finding
from tasks.plan.resolve import models

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class FoundModel(NamedTuple):
    """The revision of another model, empty for an endpoint, and its config.json, if it has one of its own."""

    revision: str
    settings: dict[str, Any]


def check_others(config: FineTuneConfig, token: str | None) -> Finding:
    """Check the models and adapters of `evaluate.others`; return a `FoundModel` for each.

    Raises:
        ConfigError, ModelError, HubError: one does not exist, or is not whole; the message names its setting.
    """
    found, warnings = [], []
    for number, other in enumerate(config.evaluate.others):
        own, warning = FoundModel("", {}), ""
        if not other.endpoint:
            setting = "model" if other.model else "adapter"
            own, warning = _resolved(config, other, f"evaluate.others[{number}].{setting}", token)
        found.append(own)
        warnings += [warning] if warning else []
    titles = ", ".join(other.title for other in config.evaluate.others)
    return Finding(titles, found, "\n".join(warnings), "read its adapter_config.json, or set model.name to its base")


def _resolved(config: FineTuneConfig, other: OtherModelConfig, where: str, token: str | None) -> tuple[FoundModel, str]:
    """Return a model or an adapter, and a warning."""
    named = other_model(config, other)
    try:
        files = models.find_model(named, token)
        if files is None:
            return FoundModel(models.EMBEDDED.revision, {}), ""
        if other.model:
            whole = models.check_model(named, files)
            return FoundModel(whole.revision, whole.settings), ""
        return _adapter(config, other, files)
    except FineTuneError as error:
        # the checks of the base model are those of any model, and name its setting
        name = where.removesuffix(".model").removesuffix(".adapter")
        text = str(error).replace("model.name=", f"{where}=").replace("model.revision=", f"{name}.revision=")
        raise type(error)(text) from None


def other_model(config: FineTuneConfig, other: OtherModelConfig) -> ModelConfig:
    """Return how another model, or an adapter's files, is found and loaded: by the settings of the base model."""
    return config.model.model_copy(update={"name": other.model or other.adapter, "revision": other.revision})


def _adapter(config: FineTuneConfig, other: OtherModelConfig, files: models.ModelFiles) -> tuple[FoundModel, str]:
    missing = [name for name in ADAPTER_FILES if name not in files.sizes]
    if missing:
        raise ModelError(
            f"model.name={shown_address(other.adapter)} is no adapter: it has no {one_line(missing[0])}\n"
            "name a folder that peft saved, or `model` for a whole model"
        )
    files.check_weights(ADAPTER_FILES[1])
    base = files.json(ADAPTER_FILES[0]).get("base_model_name_or_path")
    is_another = (
        isinstance(base, str) and is_hub_id(base) and is_hub_id(config.model.name) and base != config.model.name
    )
    warning = f"{other.title} was trained on {one_line(base)}, and is merged into {config.model.name}"
    return FoundModel(files.revision(), {}), warning if is_another else ""
