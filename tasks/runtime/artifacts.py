"""Artifacts of tasks on their way through Flyte: written with their digest in their name, and checked when read."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from pathlib import Path

from flytekit.core.context_manager import FlyteContextManager
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset

from configs.errors import ArtifactError
from configs.printable import one_line
from tasks.files.digests import check_digest, content_digest, sealed_name
from tasks.runtime.pods import is_laptop_run, scratch_directory

_DELETED_OUTPUT = (
    "is in Flyte's local cache but was deleted from the disk\n"
    "clear the cache with `pyflyte local-cache clear` and run again"
)


def store_folder(folder: Path, name: str) -> FlyteDirectory:
    """Store an output of this task, and return it by its address, which ends in `name` and the content's digest.

    A pod uploads `folder`; on a laptop it is moved, because a second copy would gain nothing.
    """
    return FlyteDirectory(_store(folder, name, is_folder=True), remote_directory=False)


def store_table(path: Path) -> StructuredDataset:
    """Store a Parquet file of this task in the same manner."""
    return StructuredDataset(uri=_store(path, path.name, is_folder=False), file_format="parquet")


def kept_file(path: Path) -> FlyteFile:
    """Return a report's file as an output: a laptop keeps it in the output folder, and a pod uploads it."""
    return FlyteFile(str(path.absolute()), **({"remote_path": False} if is_laptop_run() else {}))


def address_of(artifact: FlyteDirectory) -> str:
    """Return where an artifact is stored, with the digest that it was written with."""
    return str(artifact.remote_source or artifact.path)


def local_path(artifact: FlyteDirectory) -> Path:
    """Download `artifact`, check its digest, and return its local path.

    Raises:
        ArtifactError: it was changed since it was written, or a cached local output was deleted.
    """
    path = Path(artifact.download())
    if not path.exists():
        raise ArtifactError(f"{one_line(path)} {_DELETED_OUTPUT}")
    check_digest(path, address_of(artifact), _fix())
    return path


def table_path(table: StructuredDataset) -> Path:
    """Download `table`, check its digest, and return the path of its Parquet file.

    Raises:
        ArtifactError: as for `local_path`.
    """
    uri = str(table.literal.uri if table.literal is not None else table.uri)
    access = FlyteContextManager.current_context().file_access
    path = Path(uri.removeprefix("file://"))
    if access.is_remote(uri):
        path = scratch_directory("table") / "table.parquet"
        access.get_data(uri, str(path))
    elif not path.exists():
        raise ArtifactError(f"{one_line(uri)} {_DELETED_OUTPUT}")
    check_digest(path, uri, _fix())
    return path


def download_once(directory: FlyteDirectory) -> Path:
    """Download `directory` in one process of a node while the others wait; return its local path.

    The process that downloads it checks its digest.

    Raises:
        ArtifactError: as for `local_path`.
    """
    from filelock import FileLock

    path = Path(directory.path)
    name = hashlib.sha256(str(path).encode()).hexdigest()[:24]
    with FileLock(Path(tempfile.gettempdir()) / f"fine-tune-{name}.lock"):
        # the processes of a node share this path; the first one to get the lock fills it
        if is_laptop_run() or not path.exists() or not any(path.iterdir()):
            return local_path(directory)
    return path


def _store(path: Path, name: str, is_folder: bool) -> str:
    access = FlyteContextManager.current_context().file_access
    # flytekit's random names come from Python's common generator, which a training seeds
    folder = access.join(access.raw_output_prefix, secrets.token_hex(16))
    target = access.join(folder, sealed_name(name, content_digest(path)))
    if not is_laptop_run() or access.is_remote(access.raw_output_prefix):
        return str(access.put_data(str(path), target, is_folder))
    Path(folder).mkdir(parents=True)
    shutil.move(path, target)
    return str(target)


def _fix() -> str:
    if is_laptop_run():
        return "run again: the step that made it runs anew"
    return "run again with --overwrite-cache, so that the step that made it runs anew"
