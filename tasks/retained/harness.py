"""Tasks of lm-evaluation-harness on a loaded model: what others measure, with a value for each document.

Gao et al., "The language model evaluation harness" (https://github.com/EleutherAI/lm-evaluation-harness), which is the
optional extra `harness`. It is imported when a config names a task, and only here.

A task's YAML may hold `!function`, which runs code of a file beside it. The harness's own tasks are trusted as the
package is; a YAML file runs only if the config names it by its path.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from configs.addresses import first_line, shown_address
from configs.errors import ConfigError, FineTuneError
from configs.printable import one_line
from configs.schema.measures import HarnessTaskConfig
from tasks.files.hub_client import use_patient_client
from tasks.measures.measured import RowValues, mean_values

EMBEDDED_TASK = "embedded:arithmetic"
_EMBEDDED_FILE = Path(__file__).parent / "harness" / "arithmetic.yaml"
_YAML = (".yaml", ".yml")
_MAIN_METRICS = ("acc", "exact_match", "acc_norm", "em", "f1", "mcc", "rougeL", "bleu")
"""Metrics in the order in which a task's main one is sought; then any other."""
# a score that the harness computes is the mean of its documents' values up to rounding
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class HarnessResult:
    """A task's main metric over its documents, in the task's order; of a group, over those of all its tasks.

    `metric` is named as the harness names it, with its filter: `acc,none`. `values` has one value a document, from 0 to
    1 and higher for a better answer; its score is the mean, which equals the harness's own number for a single task.
    `row_ids` [documents] are `<task>:<document>`; `answers` hold generated text, or the most likely choice.
    """

    task: str
    metric: str
    values: RowValues
    row_ids: list[str]
    prompts: list[str]
    expected: list[str]
    answers: list[str]


def check_tasks(tasks: Sequence[HarnessTaskConfig]) -> None:
    """Check that the harness is installed and knows the tasks; no code of a YAML file runs, and nothing is downloaded.

    Raises:
        ConfigError: the harness is not installed, a task has an unknown name, a YAML file cannot be read or describes
            no task, or a task is named twice.
    """
    if not tasks:
        return
    _require_harness()
    names = [config.task for config in tasks]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"{_where(number, name)} is named twice; remove one")
    known = _known_tasks().task_index if any(not _is_file(name) for name in names) else {}
    for number, name in enumerate(names):
        if _is_file(name):
            _described(name, number, runs_code=False)
        elif name not in known:
            raise ConfigError(
                f"{_where(number, name)} is no task of lm-evaluation-harness; `lm-eval ls tasks` lists them, and "
                "a file of your own is named by its path, with .yaml"
            )


def run_tasks(
    tasks: Sequence[HarnessTaskConfig], model: Any, tokenizer: Any, batch_size: int, seed: int = 0
) -> list[HarnessResult]:
    """Return the results of the tasks on a loaded model, in evaluation mode, without a chat template.

    `seed` chooses the examples of few-shot prompts. A task's first filter is taken where it has several. Data sets are
    read through the hub's client with an end to every wait, and from its cache where the hub is off.

    Raises:
        ConfigError: as `check_tasks`; or a task's data cannot be loaded, it runs code of the model's, its examples are
            fixed, or no metric is a share of each document.
    """
    if not tasks:
        return []
    check_tasks(tasks)
    use_patient_client()
    # it warns of a model that is loaded already, which is how it is used here
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    huggingface = importlib.import_module("lm_eval.models.huggingface")
    wrapped = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        return [_run(number, config, wrapped, seed, scratch) for number, config in enumerate(tasks)]


def _run(number: int, config: HarnessTaskConfig, wrapped: Any, seed: int, scratch: str) -> HarnessResult:
    evaluator = importlib.import_module("lm_eval.evaluator")
    manager_of = importlib.import_module("lm_eval.tasks").TaskManager
    where = _where(number, config.task)
    with _one_error(where, "cannot be loaded", "check its data set, its access and its packages, or remove the task"):
        spec: Any = _local_spec(config.task, number, scratch) if _is_file(config.task) else config.task
        # a task of its own needs none of the others, and a group may name them
        manager = manager_of(include_defaults=False) if isinstance(spec, dict) else _known_tasks()
        loaded = manager.load([spec])
    for name, task in loaded["tasks"].items():
        _set_examples(where, config, name, task, seed)
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(f"{where} runs code that the model writes, which is not allowed; remove the task")
    with _one_error(where, "failed", "correct the task, or remove it"):
        # not `simple_evaluate`: that sets seeds of the whole process, and starts programs that describe the machine
        found = evaluator.evaluate(wrapped, loaded, limit=config.limit, bootstrap_iters=0, log_samples=True)
    return _result(where, config.task, found)


def _set_examples(where: str, config: HarnessTaskConfig, name: str, task: Any, seed: int) -> None:
    own = task.get_config("num_fewshot")
    if config.few_shot is not None and own == 0 and config.few_shot != 0:
        raise ConfigError(
            f"{where}.few_shot={config.few_shot}: {shown_address(name)} fixes its prompts to no examples; "
            "remove few_shot"
        )
    task.set_config(key="num_fewshot", value=(own or 0) if config.few_shot is None else config.few_shot)
    task.set_fewshot_seed(seed=seed)


def _result(where: str, name: str, found: Mapping[str, Any]) -> HarnessResult:
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    firsts = {leaf: rows[0]["filter"] for leaf, rows in samples.items() if rows}
    kept = {leaf: [row for row in samples[leaf] if row["filter"] == first] for leaf, first in firsts.items()}
    rows = [(leaf, row) for leaf, own in kept.items() for row in sorted(own, key=lambda row: int(row["doc_id"]))]
    metric = _main_metric(found, kept)
    if metric is None:
        others = ", ".join(sorted({one_line(key) for rows in kept.values() for key in rows[0]["metrics"]})) or "none"
        raise ConfigError(
            f"{where} has no metric that is a share of each document and higher for better answers (its metrics: "
            f"{others}); choose another task"
        )
    leaf = next(iter(kept))
    return HarnessResult(
        task=name,
        metric=f"{metric},{firsts[leaf]}",
        values=mean_values([float(row[metric]) for _, row in rows]),
        row_ids=[f"{leaf}:{row['doc_id']}" for leaf, row in rows],
        prompts=[str(row["arguments"][0][0]) for _, row in rows],
        expected=[_expected(row) for _, row in rows],
        answers=[_answer(row) for _, row in rows],
    )


def _main_metric(found: Mapping[str, Any], kept: Mapping[str, list[dict[str, Any]]]) -> str | None:
    """Return the first metric that every task has, and whose score is the mean of its documents' shares.

    A metric that is lower for better answers is none, nor is one beyond 0 to 1: its points would be no points of 100.
    """
    if not kept:
        return None
    shared = set.intersection(*(set(rows[0]["metrics"]) for rows in kept.values()))
    order = [*(name for name in _MAIN_METRICS if name in shared), *sorted(shared - set(_MAIN_METRICS))]
    for metric in order:
        rises = all(found["higher_is_better"][leaf].get(metric, True) for leaf in kept)
        if rises and all(_is_mean_share(rows, metric, found["results"][leaf]) for leaf, rows in kept.items()):
            return metric
    return None


def _is_mean_share(rows: Sequence[Mapping[str, Any]], metric: str, results: Mapping[str, Any]) -> bool:
    values = [row.get(metric) for row in rows]
    total = results.get(f"{metric},{rows[0]['filter']}")
    if not all(isinstance(value, int | float) for value in [*values, total]):
        return False
    shares = [float(value) for value in values if value is not None]
    # not a number is not between 0 and 1 either
    if not all(0.0 <= share <= 1.0 for share in shares):
        return False
    return abs(sum(shares) / len(shares) - float(total or 0.0)) < _TOLERANCE


def _choices(row: Mapping[str, Any]) -> list[str]:
    """Return the continuations whose likelihoods were asked for; empty for a task that generates."""
    ends = [arguments[1] for arguments in row["arguments"] if len(arguments) > 1]
    return [end.strip() for end in ends] if all(isinstance(end, str) for end in ends) else []


def _expected(row: Mapping[str, Any]) -> str:
    choices, target = _choices(row), row["target"]
    is_place = isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(choices)
    return choices[target] if is_place else str(target)


def _answer(row: Mapping[str, Any]) -> str:
    choices, responses = _choices(row), row["filtered_resps"]
    if choices and len(choices) == len(responses):
        best = max(range(len(choices)), key=lambda place: float(responses[place][0]))
        return choices[best]
    first = responses[0] if responses else ""
    return first if isinstance(first, str) else str(first)


def _local_spec(name: str, number: int, scratch: str) -> dict[str, Any] | str:
    """Return what a YAML file describes, with local data beside it; a file of a group or a class by its path."""
    described = _described(name, number, runs_code=True)
    if "group" in described or "class" in described:
        return str(_path(name))
    settings = dict(described.get("dataset_kwargs") or {})
    if "data_files" in settings:
        settings["data_files"] = _beside(settings["data_files"], _path(name).parent)
        # the rows of a changed file are read anew, and no home is needed
        settings.setdefault("cache_dir", scratch)
    return {**described, **({"dataset_kwargs": settings} if settings else {})}


def _beside(files: Any, folder: Path) -> Any:
    """Return file names with those that lie in `folder` as whole paths; the harness would seek them elsewhere."""
    if isinstance(files, dict):
        return {key: _beside(value, folder) for key, value in files.items()}
    if isinstance(files, list):
        return [_beside(value, folder) for value in files]
    return str(folder / files) if isinstance(files, str) and (folder / files).exists() else files


def _described(name: str, number: int, runs_code: bool) -> dict[str, Any]:
    loader = importlib.import_module("lm_eval.tasks._yaml_loader")
    with _one_error(_where(number, name), "cannot be read", "correct the file, or name a task of the harness"):
        described: dict[str, Any] = loader.load_yaml(_path(name), resolve_func=runs_code)
    if not {"task", "group", "class"} & described.keys():
        raise ConfigError(f"{_where(number, name)} describes no task; give it the key `task` with a name")
    return described


@cache
def _known_tasks() -> Any:
    """Return the harness's own tasks, about 15,000; reading their descriptions takes seconds."""
    return importlib.import_module("lm_eval.tasks").TaskManager()


def _is_file(name: str) -> bool:
    return name == EMBEDDED_TASK or name.lower().endswith(_YAML)


def _path(name: str) -> Path:
    return _EMBEDDED_FILE if name == EMBEDDED_TASK else Path(name).expanduser().resolve()


def _where(number: int, name: str) -> str:
    return f"evaluate.retained.harness[{number}].task={shown_address(name)}"


def _require_harness() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "evaluate.retained.harness needs lm-evaluation-harness, which is not installed here\n"
            "install it with `pip install 'flyte-fine-tune[harness]'`, or remove the tasks"
        )


@contextmanager
def _one_error(where: str, fault: str, fix: str) -> Iterator[None]:
    """Turn what the harness and the libraries behind it raise of a task into one error that names the task."""
    rows = importlib.import_module("datasets.exceptions").DatasetsError
    network = importlib.import_module("httpx2").HTTPError
    parser = importlib.import_module("yaml").YAMLError
    template = importlib.import_module("jinja2").TemplateError
    usual = (LookupError, ValueError, TypeError, AttributeError, ImportError, OSError, AssertionError)
    try:
        yield
    except FineTuneError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise ConfigError(
            f"{where} {fault}, since the hub cannot be reached: {first_line(error)}\n"
            "allow access to the hub, load the task's data set into its cache before, or remove the task"
        ) from error
    except (*usual, rows, network, parser, template) as error:
        raise ConfigError(f"{where} {fault}: {first_line(error)}\n{fix}") from error
