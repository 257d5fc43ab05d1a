"""What `run.json` in a run's folder says of the run, and what tells the configs of two runs apart."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from configs.printable import yaml_text
from configs.schema import RunConfig
from configs.settings_texts import map_texts, shown_setting
from tasks.files.kept_files import LOCK, RECORD

_PACKAGES = (
    "flyte-fine-tune",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "bitsandbytes",
    "deepspeed",
    "safetensors",
    "flytekit",
)
# they say where results go, what to run on, and how to watch it
_NO_RESULTS = ("output_directory", "output_exists", "push_to_hub", "plan")
_NO_RESULTS_OF_TRAINING = ("cluster", "checkpoint", "tracking")


def public_settings(config: RunConfig) -> dict[str, Any]:
    """Return the config with all defaults, and texts as `shown_setting`."""
    settings: dict[str, Any] = map_texts(config.model_dump(mode="json"), shown_setting)
    return settings


def public_config_text(config: RunConfig) -> str:
    """Return `public_settings` as YAML, with all defaults written out."""
    return yaml_text(public_settings(config))


def identity(config: RunConfig, workflow: str) -> str:
    """Return a hash of the workflow's name and of all settings that change its results.

    Settings with their default values are left out: a later version may have more of them.
    """
    given = map_texts(config.model_dump(mode="json", exclude_defaults=True), shown_setting)
    settings = {name: value for name, value in given.items() if name not in _NO_RESULTS}
    # a reason to publish changes no model, and publishing later belongs to the same run
    settings.get("push_to_hub", {}).pop("reason", None)
    for phase in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        for name in _NO_RESULTS_OF_TRAINING if isinstance(phase.get("train"), dict) else ():
            phase["train"].pop(name, None)
    text = json.dumps([workflow, _without_empty(settings)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def seeds(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return every seed of a config by its path, such as `train.seed`."""
    return {path: value for path, value in _leaves(settings) if path.rpartition(".")[2] == "seed"}


def differing_settings(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the settings of several runs that differ and may change results, by their paths: a value for each run.

    Left out are seeds, the runs' names, and what `identity` leaves out; None stands for a setting that a run lacks.
    """
    found = [dict(_leaves({name: value for name, value in run.items() if name not in _NO_RESULTS})) for run in runs]
    paths = dict.fromkeys(path for own in found for path in own)
    differing = {path: [own.get(path) for own in found] for path in paths}
    return {
        path: values
        for path, values in differing.items()
        if any(value != values[0] for value in values)
        and path != "name"
        and path.rpartition(".")[2] != "seed"
        and not any(f".{path}".partition(f".train.{name}.")[1] for name in _NO_RESULTS_OF_TRAINING)
    }


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a run's folder, as hubs and `sha256sum` give it, by its path.

    Not of the record itself, nor of the lock.
    """
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (RECORD, LOCK):
            with path.open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide what a training computes."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def code_commit(project: Path) -> str | None:
    """Return the git commit of the project's folder, and whether files differ from it; None outside of a repository."""
    found = _git(project, "rev-parse", "--show-toplevel", "HEAD")
    # a package in the virtual environment of somebody else's repository has that repository around it
    if found is None or Path(found[0]).resolve() != project.resolve():
        return None
    return found[1] + (" with changes that are not committed" if _git(project, "status", "--porcelain") else "")


def _git(project: Path, *arguments: str) -> list[str] | None:
    try:
        done = subprocess.run(["git", "-C", project, *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None


def _without_empty(settings: dict[str, Any]) -> dict[str, Any]:
    pruned = {name: _without_empty(part) if isinstance(part, dict) else part for name, part in settings.items()}
    return {name: part for name, part in pruned.items() if part != {}}


def _leaves(settings: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value
