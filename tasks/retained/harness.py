"""Tasks of lm-evaluation-harness on the loaded model, through its Python API (https://github.com/EleutherAI/lm-evaluation-harness).

A YAML file may name Python functions of its own (`!function`), which the harness runs: only files that the config names
are read. A task's data come from a hub, unless they lie beside it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from configs.addresses import first_line
from configs.errors import ConfigError, DataError
from configs.printable import one_line
from configs.schema.evaluate import HarnessTaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TASKS = Path(__file__).parent / "tasks"
_EMBEDDED = {"embedded:arithmetic": "arithmetic"}
_YAML = (".yaml", ".yml")
# the first of these that a task has for its documents is its main measure
_MEASURES = ("acc", "exact_match", "acc_norm", "f1", "em")


class HarnessScores(NamedTuple):
    """A task's main measure of each document: ids [documents], values [documents]."""

    task: str
    measure: str
    ids: list[str]
    values: np.ndarray


def check_tasks(tasks: Sequence[HarnessTaskConfig]) -> None:
    """Check that the harness is installed and that the files are there; names are known only to the harness.

    Raises:
        ConfigError: it is not, or a task is neither a file nor looks like a name.
    """
    if tasks and importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "evaluate.retained.harness needs lm-evaluation-harness\n"
            "install it with pip install 'flyte-fine-tune[harness]'"
        )
    for number, task in enumerate(tasks):
        where = f"evaluate.retained.harness[{number}].task={one_line(task.task)}"
        if task.task.startswith("embedded:") and task.task not in _EMBEDDED:
            raise ConfigError(f"{where} is no task of the project; choose {' or '.join(_EMBEDDED)}")
        if task.task.endswith(_YAML) and not Path(task.task).expanduser().is_file():
            raise ConfigError(f"{where} does not exist; name a YAML file, or a task of lm-evaluation-harness")


def run_task(
    config: HarnessTaskConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> HarnessScores:
    """Return the scores of one task; greedy, with the harness's own seeds.

    Raises:
        ConfigError: the harness does not know the task, or the task has no measure of single documents.
        DataError: the task's data cannot be loaded, for example without a network.
    """
    import logging

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    where = f"evaluate.retained.harness: {one_line(config.task)}"
    task, manager = _task_and_manager(config)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    try:
        found = simple_evaluate(
            model=lm,
            tasks=[task],
            task_manager=manager,
            num_fewshot=config.few_shot,
            limit=config.limit,
            log_samples=True,
            bootstrap_iters=0,
            verbosity="ERROR",
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{where} cannot be run ({first_line(error)}); name a task that the harness has") from None
    except (OSError, ConnectionError) as error:
        raise DataError(
            f"{where}: its data cannot be loaded ({first_line(error)})\na task with data of its own needs no network"
        ) from None
    samples = next(iter(found["samples"].values()), [])
    measure = next((name for name in _MEASURES if samples and name in samples[0]), None)
    if measure is None:
        raise ConfigError(f"{where} has none of the measures {', '.join(_MEASURES)} for its documents; name another")
    return HarnessScores(
        task=_EMBEDDED.get(config.task, Path(config.task).stem),
        measure=measure,
        ids=[f"{one_line(config.task)}:{sample['doc_id']}" for sample in samples],
        values=np.asarray([float(sample[measure]) for sample in samples]),
    )


def _task_and_manager(config: HarnessTaskConfig) -> tuple[Any, Any]:
    import yaml
    from lm_eval.tasks import TaskManager

    if config.task in _EMBEDDED:
        name = _EMBEDDED[config.task]
        settings = yaml.safe_load((_TASKS / f"{name}.yaml").read_text(encoding="utf-8"))
        settings["dataset_kwargs"] = {"data_files": {"test": str(_TASKS / f"{name}.jsonl")}}
        return settings, TaskManager(include_defaults=False)
    if config.task.endswith(_YAML):
        path = Path(config.task).expanduser().resolve()
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        return _name_in(path), manager
    return config.task, TaskManager()


def _name_in(path: Path) -> str:
    """Return the `task` of a YAML file, read without running what it names."""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "task" and value.strip():
            return value.strip().strip("\"'")
    raise ConfigError(f"evaluate.retained.harness: {one_line(path)} has no line `task: name`; add it")
