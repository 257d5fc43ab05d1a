"""What a checkpoint is: files from all machines and a manifest from each, by which a broken one is recognised.

A checkpoint is a folder in a store. Each machine uploads its files and then its manifest: names, sizes and checksums.
The checkpoint counts only when all manifests are there, so that a kill at any moment leaves it either whole or
recognised as half-written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import ArtifactError
from configs.printable import joined_lines, one_line, print_line
from configs.schema.train import TrainConfig
from tasks.train.checkpoint.store import CheckpointPlaces, Store, checksum_of, stores

if TYPE_CHECKING:
    from tasks.train.inputs import FitInputs

Kind = Literal["checkpoint", "best"]
FORMAT = 1
_SAMPLE_BYTES = 2**20
_MANIFEST = re.compile(r"(checkpoint|best)-(\d{8})/manifest-(\d{5})-of-(\d{5})\.json")
# what may change between two attempts of one run: how rows are split over processes and forward passes, not the rows
_NOT_IDENTITY = (
    "cluster",
    "checkpoint",
    "tracking",
    "nodes",
    "processes_per_node",
    "micro_batch_size",
    "logging_steps",
)


class FileRecord(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_bytes: int
    checksum: str


class Manifest(BaseModel):
    """What one machine wrote into a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    fingerprint: str
    step: int
    machine: int
    machines: int
    processes: int
    sharding: str
    best_step: int | None = None
    files: dict[str, FileRecord]
    config: str = ""


class Checkpoint(BaseModel):
    """A whole checkpoint, with the manifest of each machine that wrote it, in order."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    store: Store
    folder: str
    manifests: list[Manifest]

    @property
    def step(self) -> int:
        """Optimizer steps done before it was saved."""
        return self.manifests[0].step

    @property
    def processes(self) -> int:
        """Processes that wrote it."""
        return self.manifests[0].processes

    def __str__(self) -> str:
        return f"{self.store.uri}/{self.folder}"


class BrokenCheckpointError(Exception):
    """A checkpoint that must not be used. The message names the file and what is wrong with it."""


def folder_of(kind: Kind, step: int) -> str:
    """Return the name of a checkpoint's folder in its store."""
    return f"{kind}-{step:08d}"


def fingerprint(config: TrainConfig, inputs: FitInputs) -> str:
    """Return what all attempts of one run have in common: the settings that decide the result, the model and the rows.

    It is a SHA-256 of the config without settings that only split the work, of the checksums of the tokens, of the
    model's config.json, and of the first and last MiB of each of its weight files.
    """
    digest = hashlib.sha256()
    settings = config.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
    digest.update(json.dumps([settings, inputs.deepspeed_json, inputs.new_token_ids], sort_keys=True).encode())
    tokens = [inputs.train_tokens, *([inputs.test_tokens] if inputs.test_tokens else [])]
    for path in [file for folder in tokens for file in sorted(folder.glob("*.parquet"))]:
        digest.update(checksum_of(path).encode())
    for folder in (inputs.model, *inputs.reward_models):
        for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE_BYTES))
                file.seek(max(0, path.stat().st_size - _SAMPLE_BYTES))
                digest.update(file.read())
    return digest.hexdigest()


def write_part(
    store: Store, kind: Kind, files: Path, manifest: Manifest, skip: Iterable[str] = ()
) -> dict[str, FileRecord]:
    """Upload all files under `files`, then `manifest` with their sizes and checksums, and return the latter.

    Files with a name in `skip` are left out.

    Raises:
        ArtifactError: the store cannot be written to.
    """
    folder = folder_of(kind, manifest.step)
    records = {}
    for path in sorted(found for found in files.rglob("*") if found.is_file()):
        name = path.relative_to(files).as_posix()
        if name in skip:
            continue
        records[name] = FileRecord(num_bytes=path.stat().st_size, checksum=checksum_of(path))
        store.upload(path, f"{folder}/{name}")
    whole = manifest.model_copy(update={"files": records})
    name = f"manifest-{manifest.machine:05d}-of-{manifest.machines:05d}.json"
    store.write_text(f"{folder}/{name}", whole.model_dump_json())
    return records


def whole_checkpoints(store: Store, kind: Kind, identity: str) -> tuple[list[Checkpoint], list[str]]:
    """Return the whole checkpoints of the run `identity` in a store, newest first, and why others are not used."""
    sizes = store.sizes()
    folders = sorted({name.partition("/")[0] for name in sizes if name.startswith(f"{kind}-")}, reverse=True)
    found, skipped = [], []
    for folder in folders:
        try:
            found.append(_whole(store, folder, sizes, identity))
        except BrokenCheckpointError as error:
            skipped.append(f"{store.uri}/{folder}: {error}")
    return found, skipped


def _whole(store: Store, folder: str, sizes: dict[str, int], identity: str) -> Checkpoint:
    names = [name for name in sizes if name.startswith(f"{folder}/") and _MANIFEST.fullmatch(name)]
    manifests = []
    for name in sorted(names):
        try:
            manifests.append(Manifest.model_validate_json(store.read_text(name) or ""))
        except ValidationError:
            raise BrokenCheckpointError(
                f"{one_line(name.rpartition('/')[2])} is not a manifest of this version"
            ) from None
    if not manifests:
        raise BrokenCheckpointError("half-written: it has no manifest")
    wanted = manifests[0].machines
    if [m.machine for m in manifests] != list(range(wanted)) or any(m.machines != wanted for m in manifests):
        raise BrokenCheckpointError(f"half-written: {len(manifests)} of {wanted} machines wrote their manifest")
    if any(manifest.format != FORMAT for manifest in manifests):
        raise BrokenCheckpointError(f"it has format {manifests[0].format}, and this version reads {FORMAT}")
    if any(manifest.fingerprint != identity for manifest in manifests):
        raise BrokenCheckpointError("foreign: it is of another model, other rows or other settings")
    for manifest in manifests:
        for name, record in manifest.files.items():
            size = sizes.get(f"{folder}/{name}")
            if size != record.num_bytes:
                has = "is missing" if size is None else f"has {size} bytes"
                raise BrokenCheckpointError(f"truncated: {one_line(name)} {has}, and should have {record.num_bytes}")
    return Checkpoint(store=store, folder=folder, manifests=manifests)


def download(checkpoint: Checkpoint, local: Path, machines: Iterable[int] | None = None) -> None:
    """Copy a checkpoint's files to the folder `local`, and compare their checksums.

    `machines` are the numbers of the machines whose files are wanted; None for all.

    Raises:
        BrokenCheckpointError: a file is gone, or is not what was written.
        ArtifactError: the store cannot be read.
    """
    wanted = None if machines is None else set(machines)
    for manifest in checkpoint.manifests:
        if wanted is not None and manifest.machine not in wanted:
            continue
        for name, record in manifest.files.items():
            try:
                checkpoint.store.download(f"{checkpoint.folder}/{name}", local / name)
            except FileNotFoundError:
                raise BrokenCheckpointError(f"{one_line(name)} is missing") from None
            if checksum_of(local / name) != record.checksum:
                raise BrokenCheckpointError(f"damaged: {one_line(name)} is not what was written")


def remove_old(store: Store, identity: str, keep: int) -> list[str]:
    """Delete all but the newest `keep` whole checkpoints of a store, and older broken ones; return their names.

    The weights of a best step stay as long as a checkpoint that is kept names it.
    """
    whole, _ = whole_checkpoints(store, "checkpoint", identity)
    kept = whole[:keep]
    if not kept:
        return []
    best_steps = {checkpoint.manifests[0].best_step for checkpoint in kept}
    present = {name.partition("/")[0] for name in store.sizes()}
    removed = []
    for folder in sorted(present):
        kind, _, digits = folder.partition("-")
        if kind not in ("checkpoint", "best") or not digits.isdecimal():
            continue
        is_old = int(digits) < kept[-1].step if kind == "checkpoint" else int(digits) not in best_steps
        # best weights may be newer than the last checkpoint: the next one will name them
        if is_old and (kind == "checkpoint" or int(digits) < kept[0].step):
            remove_whole(store, folder)
            removed.append(folder)
    return removed


def forget(places: CheckpointPlaces) -> None:
    """Delete the checkpoints of all attempts of a run whose model is uploaded.

    What cannot be deleted stays, and is reported in a line.
    """
    for store in stores(places):
        try:
            for folder in sorted({name.partition("/")[0] for name in store.names()}):
                if folder.startswith(("checkpoint-", "best-")):
                    remove_whole(store, folder)
        except ArtifactError as error:
            print_line(f"train: checkpoints of a run that has ended could not be deleted: {joined_lines(error)}")


def remove_whole(store: Store, folder: str) -> None:
    """Delete a checkpoint's folder, its manifests first, so that a kill leaves it recognised as half-written."""
    for name in store.names():
        if name.startswith(f"{folder}/") and _MANIFEST.fullmatch(name):
            store.remove(name)
    store.remove(folder)
