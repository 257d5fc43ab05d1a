"""Finds the newest checkpoint that a run can go on from, and brings it to the disks of all machines."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema.cluster import DEEPSPEED, FSDP
from tasks.train.checkpoint import checkpoints
from tasks.train.checkpoint.checkpoints import BrokenCheckpointError, Checkpoint, folder_of
from tasks.train.checkpoint.saver import EXTRAS_FILE, RESUMED_FOLDER, STATE_FILE, Saver
from tasks.train.checkpoint.store import Store, stores
from tasks.train.checkpoint.universal import to_universal
from tasks.train.collectives import barrier, broadcast, everywhere, is_node_leader, machine, num_processes, rank


@dataclass
class Restored:
    """A checkpoint on this machine's disk, and what is to be put back besides what transformers does."""

    directory: Path
    step: int
    is_universal: bool
    extras: dict[str, Any]


def restore(saver: Saver, output: Path) -> Restored | None:
    """Return the newest checkpoint of the run, on this machine's disk, or None. All processes call this.

    The best weights so far go to `output`, where transformers looks for them. What is half-written, truncated, damaged,
    or of another run is left where it is, with a line that says so.

    Raises:
        ArtifactError: the store cannot be read.
    """
    candidates = _candidates(saver) if rank() == 0 else []
    for number in range(int(broadcast(str(len(candidates))))):
        described = broadcast("\n".join(candidates[number]) if rank() == 0 else "")
        uri, folder = described.split("\n")
        faults = everywhere(_fetch(saver, uri, folder, output) if is_node_leader() else "")
        fault = next(filter(None, faults), "")
        if not fault:
            return _restored(saver, output)
        if rank() == 0:
            print(f"train: checkpoint not used: {uri}/{folder}: {fault}", flush=True)
    if rank() == 0 and (saver.places.previous or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"):
        print("train: begins at step 1: earlier tries left no checkpoint to go on from", flush=True)
    barrier()
    return None


def _candidates(saver: Saver) -> list[tuple[str, str]]:
    """Return (URI of the store, folder) of all whole checkpoints, newest first; say what is wrong with others."""
    found: list[Checkpoint] = []
    for store in stores(saver.places):
        whole, skipped = checkpoints.whole_checkpoints(store, "checkpoint", saver.identity)
        found += whole
        for line in skipped:
            print(f"train: checkpoint not used: {line}", flush=True)
    # stable: of two of one step, that of the later try comes first
    return [(each.store.uri, each.folder) for each in sorted(found, key=lambda each: -each.step)]


def _fetch(saver: Saver, uri: str, folder: str, output: Path) -> str:
    """Bring a checkpoint to this machine's disk; return what is wrong with it, or nothing."""
    store = Store(uri, saver.places.filesystem)
    local = saver.directory / RESUMED_FOLDER
    shutil.rmtree(local, ignore_errors=True)
    try:
        checkpoint = _named(store, "checkpoint", folder, saver.identity)
        _check_division(checkpoint, saver)
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
    for each in whole:
        if each.folder == folder:
            return each
    reasons = [line for line in skipped if f"/{folder}: " in line]
    raise BrokenCheckpointError(reasons[0] if reasons else f"{folder} is missing")


def _check_division(checkpoint: Checkpoint, saver: Saver) -> None:
    """Refuse a state whose parts this run cannot put together."""
    then, now = checkpoint.manifests[0].sharding, saver.division
    if then != now and not (then in FSDP and now in FSDP):
        raise BrokenCheckpointError(
            f"it was divided as {then} among {checkpoint.processes} processes, and {num_processes()} would divide it "
            f"as {now}; keep train.nodes x train.processes_per_node above 1"
        )


def needs_universal(checkpoint: Checkpoint) -> bool:
    """Return whether DeepSpeed's parts are for another number of processes."""
    return checkpoint.manifests[0].sharding in DEEPSPEED and checkpoint.processes != num_processes()


def _wanted_machines(checkpoint: Checkpoint) -> Iterable[int] | None:
    """Return whose files this machine needs: all of them, but not where each process reads its own part only."""
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
    is_universal = saver.division in DEEPSPEED and int(extras["processes"]) != num_processes()
    if rank() == 0:
        print(f"train: goes on from step {step}, the last checkpoint", flush=True)
    return Restored(directory=directory, step=step, is_universal=is_universal, extras=extras)
