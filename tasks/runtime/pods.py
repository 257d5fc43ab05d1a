"""Resources that tasks declare, and the folders in which they may write."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import flytekit
from flytekit import PodTemplate, Resources
from flytekit.core.context_manager import FlyteContextManager
from flytekit.deck import DeckField
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset

from configs.errors import ArtifactError, ConfigError
from configs.schema.cluster import ClusterConfig

_GONE = (
    "is in Flyte's local cache but was deleted from the disk\n"
    "forget the cached steps with `pyflyte local-cache clear` and run again"
)
_GRACE_SECONDS = 120
# beside those of tasks: the page of packages asks pip, which images need not have, and that of inputs repeats
# whole configs
DECK_FIELDS = (DeckField.TIMELINE,)
PODS = os.environ.get("FINE_TUNE_PODS", "full")
if PODS not in ("full", "small"):
    raise ConfigError(f"FINE_TUNE_PODS={PODS} is not a size of pods; set it to small or full, or unset it")
_IS_SMALL = PODS == "small"
# a sandbox on a laptop has no GPU and few cores; the demo in one process takes 1.0 GiB, and training has a launcher too
_LAPTOP = Resources(cpu="1", mem="3Gi", ephemeral_storage="5Gi")
SMALL_POD_BYTES = 3 * 2**30 if _IS_SMALL else None
"""Memory of every pod where they are as small as a laptop's, without a GPU; None where they are not."""
SMALL = _LAPTOP if _IS_SMALL else Resources(cpu="1", mem="2Gi", ephemeral_storage="10Gi")
CPU = _LAPTOP if _IS_SMALL else Resources(cpu="4", mem="16Gi", ephemeral_storage="200Gi")
BIG_CPU = _LAPTOP if _IS_SMALL else Resources(cpu="8", mem="64Gi", ephemeral_storage="200Gi")
ONE_GPU = _LAPTOP if _IS_SMALL else Resources(cpu="8", mem="64Gi", gpu="1", ephemeral_storage="200Gi")


# of a process whose plan nobody made: what is declared when the tasks are registered
_UNPLANNED_MEMORY_GIB, _UNPLANNED_DISK_GIB = 96, 500


def node_resources(processes_per_node: int, cluster: ClusterConfig) -> Resources:
    """Return what one training machine is asked for: GPUs, CPU cores and host memory for each process.

    With FINE_TUNE_PODS=small it is what a laptop has, whatever is configured.
    """
    if _IS_SMALL:
        return _LAPTOP
    return Resources(
        cpu=str(cluster.cpus_per_process * processes_per_node),
        mem=f"{(cluster.memory_gib_per_process or _UNPLANNED_MEMORY_GIB) * processes_per_node}Gi",
        gpu=str(cluster.gpus_per_process * processes_per_node),
        ephemeral_storage=f"{cluster.disk_gib or _UNPLANNED_DISK_GIB}Gi",
    )


def pod_template(cluster: ClusterConfig) -> PodTemplate | None:
    """Return where training pods may run, and how long they may save before they go; None for the cluster's own way."""
    if not cluster.node_selectors and not cluster.interruptible:
        return None
    from kubernetes.client import V1PodSpec

    return PodTemplate(
        pod_spec=V1PodSpec(
            containers=[],
            node_selector={label.key: label.value for label in cluster.node_selectors} or None,
            # clouds give spot machines 30 to 120 seconds
            termination_grace_period_seconds=_GRACE_SECONDS,
        )
    )


def scratch_directory(name: str) -> Path:
    """Return a new, empty folder of this task for its outputs."""
    parent = Path(flytekit.current_context().working_directory)
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def node_directory(name: str) -> Path:
    """Return a folder of this task that all its processes on this node share, as `scratch_directory` is not.

    Checkpoints of a divided model are written by all of them, and read back from one place. What processes of the same
    launcher left before it started them anew is deleted, with the folders beside it whose names begin alike.
    """
    parent, launcher = Path(tempfile.gettempdir()), f"fine-tune-{name}-{os.getppid()}-"
    # one launcher has one address for its processes, until it starts them anew
    start = f"{os.environ.get('MASTER_PORT', '0')}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    path = parent / f"{launcher}{start}"
    path.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{launcher}*"):
        if old != path and not old.name.startswith(f"{path.name}-"):
            shutil.rmtree(old, ignore_errors=True)
    return path


def is_laptop_run() -> bool:
    """Return whether this is `pyflyte run` without a cluster."""
    context = FlyteContextManager.current_context()
    state = context.execution_state
    if state is None or state.user_space_params is None:
        return False
    # a process of elastic training has a context of its own, in which only a cluster's execution has a name
    return bool(state.is_local_execution() or not state.user_space_params.execution_id.name)


def checkpoint_uris(fingerprint: str) -> tuple[str, str | None] | None:
    """Return the folder for checkpoints of this try, and that of the try before; None where Flyte gives none.

    On a laptop it is one folder for all runs with the same `fingerprint`, so that the same command goes on.
    """
    if is_laptop_run():
        return str(laptop_checkpoints(fingerprint)), None
    try:
        checkpoint: Any = flytekit.current_context().checkpoint
    except NotImplementedError:
        return None
    # Flyte's placeholder for the first try, which has none before it
    previous = str(checkpoint._checkpoint_src or "").strip('"')
    return str(checkpoint._checkpoint_dest), previous or None


def laptop_checkpoints(fingerprint: str) -> Path:
    """Return where a laptop keeps the checkpoints of a run."""
    # Python looks for another folder where the one that is named is full, and would find no checkpoint there
    return Path(os.environ.get("TMPDIR") or tempfile.gettempdir()) / "fine-tune-checkpoints" / fingerprint


def delete_finished_checkpoints() -> None:
    """Delete what a laptop keeps of runs that have ended."""
    for note in laptop_checkpoints("").glob("*/finished.json"):
        shutil.rmtree(note.parent, ignore_errors=True)


def filesystem_of(uri: str) -> Any:
    """Return the file system for `uri` with the access that Flyte has."""
    return FlyteContextManager.current_context().file_access.get_filesystem_for_path(uri)


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
