"""The base model as the plan's checks of it find it, all at once."""

from __future__ import annotations

from configs.schema import ModelConfig
from tasks.plan.resolve.models import EMBEDDED, ResolvedModel, check_model, find_model


def resolve_model(config: ModelConfig, token: str | None) -> ResolvedModel:
    """Find the model and check its files, as the questions of `tasks.plan.checks.questions` do one by one."""
    files = find_model(config, token)
    return EMBEDDED if files is None else check_model(config, files)
