"""Resources that tasks declare, and folders in which they may write."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import flytekit
from flytekit import PodTemplate, Resources
from flytekit.core.context_manager import FlyteContextManager

from configs.schema.cluster import ClusterConfig
from images.specs import PODS
from tasks.runtime.leftovers import CHECKPOINTS_VARIABLE

_GRACE_SECONDS = 120
# none of Flyte's own Decks: the console would open on Timeline, the dependencies Deck runs pip, which images may lack,
# and the inputs Deck repeats whole configs
DECK_FIELDS = ()
_IS_SMALL = PODS == "small"
# a sandbox on a laptop has no GPU and few cores; the demo's training takes 1.0 GiB in one process beside its launcher
_LAPTOP = Resources(cpu="1", mem="3Gi", ephemeral_storage="5Gi")
SMALL_POD_BYTES = 3 * 2**30 if _IS_SMALL else None
"""Memory of every pod with FINE_TUNE_PODS=small; None with full pods."""
SMALL = _LAPTOP if _IS_SMALL else Resources(cpu="1", mem="2Gi", ephemeral_storage="10Gi")
CPU = _LAPTOP if _IS_SMALL else Resources(cpu="4", mem="16Gi", ephemeral_storage="200Gi")
BIG_CPU = _LAPTOP if _IS_SMALL else Resources(cpu="8", mem="64Gi", ephemeral_storage="200Gi")
ONE_GPU = _LAPTOP if _IS_SMALL else Resources(cpu="8", mem="64Gi", gpu="1", ephemeral_storage="200Gi")
# memory per process and disk per machine, declared at registration when no plan exists
_UNPLANNED_MEMORY_GIB, _UNPLANNED_DISK_GIB = 96, 500
# libraries and the files of a tokenizer, beside a model
_SPARE_GIB = 8


def evaluation_resources(gpus: int) -> Resources:
    """Return what a pod asks for that scores a model on so many GPUs; its disk holds a model that fills them."""
    return _LAPTOP if _IS_SMALL else Resources(cpu="8", mem="64Gi", gpu=str(gpus), ephemeral_storage=f"{200 * gpus}Gi")


def resources_for_model(
    declared: Resources, model_gib: int, disk_copies: float, is_in_memory: bool
) -> Resources | None:
    """Return what a pod asks for that writes a copy of a model of `model_gib`; None where it has what it needs.

    Its disk holds `disk_copies` of the model; its memory holds the model too where `is_in_memory`, with an eighth more
    for the tensors that are changed and saved.
    """
    if _IS_SMALL:
        return None
    memory = max(_gib(declared.mem), math.ceil(1.125 * model_gib) + _SPARE_GIB if is_in_memory else 0)
    disk = max(_gib(declared.ephemeral_storage), math.ceil(disk_copies * model_gib) + _SPARE_GIB)
    if (memory, disk) == (_gib(declared.mem), _gib(declared.ephemeral_storage)):
        return None
    return Resources(cpu=declared.cpu, mem=f"{memory}Gi", gpu=declared.gpu, ephemeral_storage=f"{disk}Gi")


def _gib(quantity: Any) -> int:
    return int(str(quantity).removesuffix("Gi"))


def node_resources(processes_per_node: int, cluster: ClusterConfig) -> Resources:
    """Return the resources of one training machine: GPUs, CPU cores and host memory for all its processes, and disk.

    With FINE_TUNE_PODS=small the config is ignored and a laptop's resources are returned.
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
    """Return a template with the nodes on which training pods may run, and their time to save before they are killed.

    None if the config has neither node selectors nor interruptible pods.
    """
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
    """Return a new, empty folder for outputs of this task."""
    parent = Path(flytekit.current_context().working_directory)
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def node_directory(name: str) -> Path:
    """Return a folder that all processes of this task on this node share; a `scratch_directory` belongs to one process.

    All processes write the checkpoint of a sharded model, and read it back from one folder. Folders of the processes
    before a restart are deleted, together with folders beside them whose names begin the same.
    """
    parent, launcher = Path(tempfile.gettempdir()), f"fine-tune-{name}-{os.getppid()}-"
    # a launcher gives its processes one address, and another after a restart
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
    # the context in a process of elastic training has an execution name only on a cluster
    return bool(state.is_local_execution() or not state.user_space_params.execution_id.name)


def checkpoint_uris(fingerprint: str) -> tuple[str, str | None] | None:
    """Return the checkpoint folders of this attempt and of the previous one; None if Flyte gives none.

    A laptop has one folder for all runs with the same `fingerprint`, so that the same command resumes.
    """
    if is_laptop_run():
        return str(laptop_checkpoints(fingerprint)), None
    try:
        checkpoint: Any = flytekit.current_context().checkpoint
    except NotImplementedError:
        return None
    # in the first attempt Flyte passes `""` as a placeholder
    previous = str(checkpoint._checkpoint_src or "").strip('"')
    return str(checkpoint._checkpoint_dest), previous or None


def laptop_checkpoints(fingerprint: str) -> Path:
    """Return the folder in which a laptop keeps the checkpoints of a run."""
    # while a run has a temporary folder of its own, the checkpoints lie beside it
    given = os.environ.get(CHECKPOINTS_VARIABLE)
    # tempfile would choose another folder once $TMPDIR is full, without the checkpoints
    folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir()) / "fine-tune-checkpoints"
    return (Path(given) if given else folder) / fingerprint


def delete_finished_checkpoints() -> None:
    """Delete the checkpoints of finished runs from a laptop."""
    for note in laptop_checkpoints("").glob("*/finished.json"):
        shutil.rmtree(note.parent, ignore_errors=True)


def filesystem_of(uri: str) -> Any:
    """Return the file system for `uri`, with Flyte's credentials."""
    return FlyteContextManager.current_context().file_access.get_filesystem_for_path(uri)
