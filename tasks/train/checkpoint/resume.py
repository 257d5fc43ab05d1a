"""Finds the newest checkpoint that a run can resume from, and downloads it to all machines."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.printable import joined_lines, one_line, print_line
from configs.schema.cluster import DEEPSPEED, FSDP
from tasks.train.checkpoint import checkpoints
from tasks.train.checkpoint.checkpoints import BrokenCheckpointError, Checkpoint, folder_of
from tasks.train.checkpoint.saver import EXTRAS_FILE, RESUMED_FOLDER, STATE_FILE, Saver
from tasks.train.checkpoint.store import Store, stores
from tasks.train.checkpoint.universal import to_universal
from tasks.train.collectives import all_values, barrier, broadcast, is_node_leader, machine, num_processes, rank


@dataclass
class Restored:
    """A checkpoint on this machine's disk; `extras` is what transformers does not restore by itself."""

    directory: Path
    step: int
    is_universal: bool
    extras: dict[str, Any]


def restore(saver: Saver, output: Path) -> Restored | None:
    """Download and return the newest checkpoint of the run, or None if there is none. All processes call this.

    The best weights so far are downloaded to `output`, where transformers looks for them. A checkpoint that is
    half-written, truncated, damaged, or of another run is left alone, and a line says so.

    Raises:
        ArtifactError: the store cannot be read.
    """
    candidates = _candidates(saver) if rank() == 0 else []
    for number in range(int(broadcast(str(len(candidates))))):
        described = broadcast("\n".join(candidates[number]) if rank() == 0 else "")
        uri, folder = described.split("\n")
        faults = all_values(_fetch(saver, uri, folder, output) if is_node_leader() else "")
        fault = next(filter(None, faults), "")
        if not fault:
            return _restored(saver, output)
        if rank() == 0:
            print_line(f"train: checkpoint not used: {uri}/{folder}: {joined_lines(fault)}")
    if rank() == 0 and (saver.places.previous or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"):
        print_line("train: begins at step 1: earlier attempts left no checkpoint to resume from")
    barrier()
    return None


def _candidates(saver: Saver) -> list[tuple[str, str]]:
    """Return (URI of the store, folder) of all whole checkpoints, newest first; print what is wrong with others."""
    found: list[Checkpoint] = []
    for store in stores(saver.places):
        whole, skipped = checkpoints.whole_checkpoints(store, "checkpoint", saver.identity)
        found += whole
        for line in skipped:
            print_line(f"train: checkpoint not used: {joined_lines(line)}")
    # the sort is stable: of two checkpoints of one step, the later attempt's comes first
    newest_first = sorted(found, key=lambda checkpoint: -checkpoint.step)
    return [(checkpoint.store.uri, checkpoint.folder) for checkpoint in newest_first]


def _fetch(saver: Saver, uri: str, folder: str, output: Path) -> str:
    """Download a checkpoint to this machine's disk; return what is wrong with it, or an empty text."""
    store = Store(uri, saver.places.filesystem)
    local = saver.directory / RESUMED_FOLDER
    shutil.rmtree(local, ignore_errors=True)
    try:
        checkpoint = _named(store, "checkpoint", folder, saver.identity)
        _check_sharding(checkpoint, saver)
        checkpoints.download(checkpoint, local, _wanted_machines(checkpoint))
        if needs_universal(checkpoint):
            to_universal(local)
        best_step = checkpoint.manifests[0].best_step
        state = json.loads((local / STATE_FILE).read_text(encoding="utf-8"))
        state["best_model_checkpoint"] = None
        if best_step is not None:
            weights = output / f"checkpoint-{best_step}"
            best = _named(store, "best", folder_of("best", best_step), saver.identity)
            checkpoints.download(best, weights, _wanted_machines(best))
            if needs_universal(best):
                to_universal(weights)
            state["best_model_checkpoint"] = str(weights)
        (local / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    except BrokenCheckpointError as error:
        return str(error)
    return ""


def _named(store: Store, kind: checkpoints.Kind, folder: str, identity: str) -> Checkpoint:
    whole, skipped = checkpoints.whole_checkpoints(store, kind, identity)
    for checkpoint in whole:
        if checkpoint.folder == folder:
            return checkpoint
    reasons = [line for line in skipped if f"/{folder}: " in line]
    raise BrokenCheckpointError(reasons[0] if reasons else f"{one_line(folder)} is missing")


def _check_sharding(checkpoint: Checkpoint, saver: Saver) -> None:
    """Refuse a state that was sharded in a way this run cannot load."""
    then, now = checkpoint.manifests[0].sharding, saver.sharding
    if then != now and not (then in FSDP and now in FSDP):
        raise BrokenCheckpointError(
            f"it was sharded as {then} over {checkpoint.processes} processes, and {num_processes()} would shard it as "
            f"{now}; keep train.nodes x train.processes_per_node above 1"
        )


def needs_universal(checkpoint: Checkpoint) -> bool:
    """Return whether DeepSpeed's shards were written by another number of processes."""
    return checkpoint.manifests[0].sharding in DEEPSPEED and checkpoint.processes != num_processes()


def _wanted_machines(checkpoint: Checkpoint) -> Iterable[int] | None:
    """Return the machines whose files this machine needs; None for all. Some processes read only their own shards."""
    number, machines = machine()
    first = checkpoint.manifests[0]
    if first.sharding in DEEPSPEED and first.machines == machines and first.processes == num_processes():
        return {0, number}
    return None


def _restored(saver: Saver, output: Path) -> Restored:
    directory = saver.directory / RESUMED_FOLDER
    extras = json.loads((directory / EXTRAS_FILE).read_text(encoding="utf-8"))
    step = int(json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))["global_step"])
    saver.resumed_steps = [*extras["resumed_steps"], step]
    saver.earlier_seconds = float(extras["seconds"])
    saver.num_saved, saver.num_failed, saver.saving_seconds = extras["saving"]
    is_universal = saver.sharding in DEEPSPEED and int(extras["processes"]) != num_processes()
    if rank() == 0:
        print_line(f"train: resumes from step {step}, the last checkpoint")
    return Restored(directory=directory, step=step, is_universal=is_universal, extras=extras)
