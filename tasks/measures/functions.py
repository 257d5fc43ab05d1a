"""The measure function: a function of the project, called and checked as reward functions are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues, mean_values
from tasks.rewards.functions import RewardFunction, project_file, project_function

_TRIED_ROWS = 8


def function_values(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return what the function gives each answer, without its reasoning: any finite number.

    Raises:
        ConfigError: as `measure_function`; or the function fails, or returns anything but one finite number per answer.
    """
    prompts, answers = [row.prompt for row in rows], [row.answer for row in rows]
    function = measure_function(config)
    return mean_values(function(prompts, answers, [row.expected for row in rows]) if rows else [])


def measure_function(config: MeasureConfig) -> RewardFunction:
    """Return the function that `config` names.

    Raises:
        ConfigError: it is not of this project, does not exist, cannot be imported or takes other arguments.
    """
    return project_function(_setting(config), str(config.function))


def functions_hash(configs: Sequence[MeasureConfig]) -> str:
    """Return a hash of the files that hold the project's functions, on which cached results depend; empty without any.

    Raises:
        ConfigError: a function is not of this project.
    """
    named = [config for config in configs if config.function]
    digest = hashlib.sha256()
    for config in named:
        digest.update(project_file(_setting(config), str(config.function).partition(":")[0]).read_bytes())
    return digest.hexdigest()[:16] if named else ""


def try_function(config: MeasureConfig, prompts: Sequence[str], expected: Sequence[str]) -> None:
    """Call the function with the first rows' expected texts as answers, and with an empty answer.

    Raises:
        ConfigError: as `function_values`.
    """
    function = measure_function(config)
    if expected:
        wanted = [*expected[:_TRIED_ROWS], expected[0]]
        function([*prompts[:_TRIED_ROWS], prompts[0]], [*wanted[:-1], ""], wanted)


def _setting(config: MeasureConfig) -> str:
    return f"evaluate.measures: function={config.function}"
