"""The questions about an evaluation alone: models and rows, and nothing of a training."""

from __future__ import annotations

from configs.errors import ConfigError
from configs.schema import DataConfig, FineTuneConfig
from tasks.files.apart import check_apart
from tasks.plan.checks import settings
from tasks.plan.checks.preflight import Finding, Question
from tasks.plan.checks.questions import evaluation_questions, model_questions
from tasks.plan.checks.surroundings import Surroundings, base_model
from tasks.plan.checks.token_questions import row_questions, token_questions


def questions_alone(config: FineTuneConfig, surroundings: Surroundings) -> list[Question]:
    """Return the questions about an evaluation without training, in the order of the table.

    Raises:
        ConfigError: there is nothing to score, or a setting asks for what only a training has.
    """
    _check(config)
    questions: list[Question] = []
    if config.model.name:
        base = base_model(config.model, surroundings.token)
        questions += model_questions(base, config)
        questions += [*evaluation_questions(config, surroundings), *token_questions(config, base, surroundings)]
    else:
        questions += [*evaluation_questions(config, surroundings), *row_questions(config, surroundings)]

    def output() -> Finding:
        settings.check_output_directory(config)
        check_apart(config)
        return Finding(config.output_directory)

    return [*questions, *([Question("output folder", output)] if surroundings.runs_here else [])]


def _check(config: FineTuneConfig) -> None:
    if not (config.model.name or config.evaluate.others):
        raise ConfigError("config: model.name is missing; name a model to score, or models in evaluate.others")
    if not config.model.name and any(other.adapter for other in config.evaluate.others):
        raise ConfigError("evaluate.others names an adapter; set model.name to the base model that it belongs to")
    has_training_rows = any(source.role == "train" for source in config.data.sources)
    wanted = {
        "evaluate.few_shot": config.evaluate.few_shot,
        "evaluate.retained.memorization_rows": config.evaluate.retained.memorization_rows,
    }
    for name, value in wanted.items():
        if value and not has_training_rows:
            raise ConfigError(f"{name}={value} needs training rows; give their source `role: train`, or set it to 0")
        if value and not config.model.name:
            raise ConfigError(f"{name}={value} needs a model that is loaded; set model.name, or set it to 0")
    if all(source.role == "train" for source in config.data.sources):
        raise ConfigError(
            "data.sources: every source has `role: train`, so there are no rows to score; add one without"
        )


def data_to_score(config: DataConfig) -> DataConfig:
    """Return the data section with which all rows are scored, but those of sources with the role `train`."""
    sources = [s if s.role == "train" else s.model_copy(update={"role": "test"}) for s in config.sources]
    return config.model_copy(update={"sources": sources})
