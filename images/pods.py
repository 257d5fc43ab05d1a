"""Resources that tasks declare, and the folders in which they may write."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import flytekit
from flytekit import Resources
from flytekit.core.context_manager import FlyteContextManager
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset

from configs.errors import ArtifactError

_GONE = (
    "is in Flyte's local cache but was deleted from the disk\n"
    "forget the cached steps with `pyflyte local-cache clear` and run again"
)
SMALL = Resources(cpu="1", mem="2Gi", ephemeral_storage="10Gi")
CPU = Resources(cpu="4", mem="16Gi", ephemeral_storage="200Gi")
BIG_CPU = Resources(cpu="8", mem="64Gi", ephemeral_storage="200Gi")
ONE_GPU = Resources(cpu="8", mem="64Gi", gpu="1", ephemeral_storage="200Gi")


def node_resources(processes_per_node: int) -> Resources:
    """Return what one training node asks for: one GPU, 8 CPUs and 96 GiB of host memory for each process."""
    return Resources(
        cpu=str(8 * processes_per_node),
        mem=f"{96 * processes_per_node}Gi",
        gpu=str(processes_per_node),
        ephemeral_storage="500Gi",
    )


def scratch_directory(name: str) -> Path:
    """Return a new, empty folder of this task for its outputs."""
    parent = Path(flytekit.current_context().working_directory)
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def node_directory(name: str) -> Path:
    """Return a folder of this task that all its processes on this node share, as `scratch_directory` is not.

    Checkpoints of a divided model are written by all of them, and read back from one place.
    """
    # one launcher has one address for its processes
    launcher = (
        f"{os.getppid()}-{os.environ.get('MASTER_PORT', '0')}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    )
    path = Path(tempfile.gettempdir()) / f"fine-tune-{name}-{launcher}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def is_laptop_run() -> bool:
    """Return whether this is `pyflyte run` without a cluster."""
    state = FlyteContextManager.current_context().execution_state
    return state is not None and state.is_local_execution()


def local_path(artifact: FlyteDirectory | FlyteFile) -> Path:
    """Download `artifact` and return where it lies.

    Raises:
        ArtifactError: a cached local output was deleted, as when the temporary folder has been cleaned.
    """
    path = Path(artifact.download())
    if not path.exists():
        raise ArtifactError(f"{path} {_GONE}")
    return path


def table_path(table: StructuredDataset) -> Path:
    """Download `table` and return where its Parquet file lies.

    Raises:
        ArtifactError: a cached local output was deleted.
    """
    uri = str(table.literal.uri if table.literal is not None else table.uri)
    access = FlyteContextManager.current_context().file_access
    if not access.is_remote(uri):
        path = Path(uri.removeprefix("file://"))
        if not path.exists():
            raise ArtifactError(f"{uri} {_GONE}")
        return path
    path = scratch_directory("table") / "table.parquet"
    access.get_data(uri, str(path))
    return path


def download_once(directory: FlyteDirectory) -> Path:
    """Download `directory` in one process of a node while the others wait, and return where it lies.

    Raises:
        ArtifactError: a cached local output was deleted.
    """
    from filelock import FileLock

    path = Path(directory.path)
    name = hashlib.sha256(str(path).encode()).hexdigest()[:24]
    with FileLock(Path(tempfile.gettempdir()) / f"fine-tune-{name}.lock"):
        # the processes of a node share this path; the first one here fills it
        if not path.exists() or not any(path.iterdir()):
            return local_path(directory)
    return path
