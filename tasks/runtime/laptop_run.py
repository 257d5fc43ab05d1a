"""The run under way in this process, on a laptop: its output folder, the models that it has made, and its steps.

All tasks of a laptop's run are called in one process, so this is its only state that no task hands on. On a cluster
nothing here is called.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flytekit.core.promise import Promise
from flytekit.types.directory import FlyteDirectory

from configs.errors import ConfigError
from configs.printable import one_line, print_line
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from tasks.files.full_disk import is_disk_full
from tasks.files.kept_files import RECORD
from tasks.files.run_folder import RunFolder, claim, finish, release
from tasks.files.whole_files import write_whole
from tasks.runtime.artifacts import local_path
from tasks.runtime.pods import is_laptop_run


@dataclass
class _LaptopRun:
    key: tuple[str, str, str]
    record: dict[str, Any]
    folder: RunFolder
    models: dict[str, Path] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)


_run: _LaptopRun | None = None
# where the last run that was begun was to write
_wanted: Path | None = None
_steps: dict[str, str] = {}
_counts: Counter[str] = Counter()
_under_way = ""


def start(config: FineTuneConfig | AlignConfig, workflow: str) -> None:
    """Do what a laptop's run begins with: claim its folder, and say of each step why it runs.

    A folder that cannot be written to is left to the checks of the plan, which name it with all other faults.

    Raises:
        ConfigError: as for `begin`.
        ArtifactError: Flyte's local cache cannot be used.
    """
    from tasks.runtime.cached_steps import explain_steps
    from tasks.runtime.local_cache import check_cache

    if not is_laptop_run():
        return
    check_cache()
    explain_steps()
    with suppress(OSError):
        begin(config, workflow)


def begin(config: FineTuneConfig | AlignConfig, workflow: str) -> Path:
    """Claim the output folder of a run, say so if it is not the config's own, and return where the run writes to.

    Raises:
        ConfigError: the run would write over what it reads, or its folder is taken and `output_exists` forbids another.
        OSError: the folder cannot be written to.
    """
    global _run, _wanted
    from tasks.files.apart import check_apart
    from tasks.files.run_record import identity, public_settings

    check_apart(config)
    if _run is not None:
        # of an earlier run in this session, which has failed
        release(_run.folder)
        _run = None
    _wanted = Path(config.output_directory)
    key = (config.output_directory, config.name, identity(config, workflow))
    folder = claim(Path(config.output_directory), config.name, key[2], config.output_exists)
    if folder.note:
        print_line(f"output: {folder.note}")
    record = {
        "name": config.name,
        "workflow": workflow,
        "status": "unfinished",
        "identity": key[2],
        "started": _now(),
        "config": public_settings(config),
    }
    _steps.clear()
    _counts.clear()
    _run = _LaptopRun(key, record, folder)
    _write(folder.unfinished, record)
    return folder.unfinished


def folder(config: FineTuneConfig | AlignConfig, workflow: str) -> Path:
    """Return where the run of `config` writes to until it ends; a report without a plan before it claims a folder.

    Raises:
        ConfigError, OSError: as for `begin`.
    """
    if _run is not None and _run.key[:2] == (config.output_directory, config.name):
        return _run.folder.unfinished
    try:
        return begin(config, workflow)
    except OSError as error:
        if is_disk_full(error):
            raise
        where = f"output_directory={one_line(config.output_directory)}"
        raise ConfigError(f"{where} cannot be written to ({error.strerror}); name another folder") from None


def unfinished_folder() -> Path | None:
    """Return where the run under way writes to; None if there is none."""
    return None if _run is None else _run.folder.unfinished


def folders_written_to() -> list[Path]:
    """Return the folder that the run under way writes to, or would have written to; none if no run has begun."""
    if _run is not None:
        return [_run.folder.unfinished]
    return [] if _wanted is None else [_wanted]


def run_name() -> str:
    """Return the name of the run under way; empty if there is none."""
    return "" if _run is None else _run.key[1]


def keep_models(models: Mapping[str, FlyteDirectory | Promise]) -> None:
    """Put models that have been made into the run's folder at once, so that no later failure hides them.

    Models that lie there already are not copied again.
    """
    from tasks.files.copies import copy_folder
    from tasks.files.digests import check_digest

    if _run is None:
        return
    for name, model in models.items():
        # within a dynamic task, what another task returns is a promise that is kept
        source = Path(model.val.scalar.blob.uri) if isinstance(model, Promise) else local_path(model)
        if _run.sources.get(name) != source:
            _run.models[name] = copy_folder(source, _run.folder.unfinished / name)
            check_digest(_run.models[name], str(source), "run again: the step that made it runs anew")
            _run.sources[name] = source


def made_models() -> dict[str, tuple[Path, Path]]:
    """Return the models of the run under way by name: where each is now, and where it is once the run has ended."""
    if _run is None:
        return {}
    return {name: (folder, _run.folder.place / name) for name, folder in _run.models.items()}


def end(facts: Mapping[str, Any]) -> Path:
    """Write `run.json`, put the run's folder into its place, and return the place. `facts` go into `run.json`."""
    global _run
    from configs.versions import ROOT
    from tasks.files.run_record import code_commit, file_hashes, package_versions, seeds

    assert _run is not None
    unfinished, record = _run.folder.unfinished, dict(_run.record)
    record |= {"status": "finished", "ended": _now(), **facts}
    record |= {
        "steps": dict(_steps),
        "seeds": seeds(record["config"]),
        "versions": package_versions(),
        "commit": code_commit(ROOT),
        "files": sorted(path.name for path in unfinished.iterdir() if path.name[0] != "." and path.name != RECORD),
        "sha256": file_hashes(unfinished),
    }
    _write(unfinished, record)
    place = finish(_run.folder)
    _run = None
    return place


def kept_line() -> str:
    """Return a line that says where the models of a run are that has not ended; empty if it has made none."""
    if _run is None or not _run.models:
        return ""
    names = [name for name in _run.models if name != "adapter"] or list(_run.models)
    places = ", ".join(str(_run.models[name]) for name in names)
    return f"the trained model is kept at {places}" if len(names) == 1 else f"the trained models are kept at {places}"


def note(facts: Mapping[str, Any]) -> None:
    """Note facts for `run.json` that a later step does not know."""
    if _run is not None:
        _run.record.update(facts)


def count_step(name: str) -> int:
    """Return how many steps of that name the run has had, this one included."""
    _counts[name] += 1
    return _counts[name]


def note_step(name: str, what: str) -> None:
    """Note for `run.json` whether a step ran, and why, or came from the cache."""
    _steps[name] = what


def begin_step(name: str) -> None:
    """Note the step that is under way."""
    global _under_way
    _under_way = name


def end_step() -> None:
    """Note that no step is under way."""
    begin_step("")


def step_under_way() -> str:
    """Return the step under way; empty if none is."""
    return _under_way


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / RECORD, text)
