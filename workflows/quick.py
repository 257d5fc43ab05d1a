"""The short form: a preset, and the few settings that people change first.

pyflyte run workflows/quick.py quick --preset demo --epochs 1
"""

from typing import NamedTuple

from flytekit import workflow

from configs.quick import Preset
from configs.schema import FineTuneConfig
from tasks.quick.task import choose_settings
from tasks.report.task import FineTuneResult
from workflows.fine_tune import fine_tune


class QuickResult(NamedTuple):
    """The config that was run, whole, and the results of the run."""

    config: FineTuneConfig
    result: FineTuneResult


_DEMO = Preset("demo")


@workflow
def quick(
    preset: Preset = _DEMO,
    model: str = "",
    data: str = "",
    prompt_column: str = "",
    completion_column: str = "",
    epochs: float = 0.0,
    learning_rate: float = 0.0,
    repository: str = "",
    name: str = "",
) -> QuickResult:
    """Fine-tune a language model, from a short form.

    Fine-tunes a language model with a preset, and replaces what is given here: base model, rows, epochs, learning rate,
    repository. An empty field or a 0 leaves the preset's own. Runs `fine_tune`; the config that was run is an output.

    Args:
        preset: The preset that all other settings come from.
        model: The base model: a hub id, or the address of a folder. Empty for the preset's own.
        data: The rows: a hub data set (owner/name, or owner/name:subset), or the address of a file or folder. Empty for
            the preset's own.
        prompt_column: The column that holds the prompt. Empty if your rows call it `prompt`.
        completion_column: The column that holds the answer. Empty if your rows call it `completion`.
        epochs: Number of passes over the training rows; 0 for the preset's own.
        learning_rate: Peak learning rate; 0 for the preset's own.
        repository: Hub repository to publish to (owner/name); empty for the preset's own.
        name: Name of the run, of its report and of its output folder; empty for the preset's name.
    """
    config = choose_settings(
        preset=preset,
        model=model,
        data=data,
        prompt_column=prompt_column,
        completion_column=completion_column,
        epochs=epochs,
        learning_rate=learning_rate,
        repository=repository,
        name=name,
    ).with_overrides(node_name="settings")
    result = fine_tune(config=config).with_overrides(node_name="fine-tune")
    return QuickResult(config=config, result=result)
