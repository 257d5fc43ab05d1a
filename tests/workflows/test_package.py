"""Registration without a cluster: everything serializes, light, with what a cluster needs declared on every task."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from typing import NamedTuple

import pytest
from conftest import ROOT, clean_environment
from flyteidl.admin.task_pb2 import TaskSpec

from configs.topologies import TOPOLOGIES, task_name

HEAVY = ("transformers", "datasets", "trl", "deepspeed", "peft", "bitsandbytes", "pandera", "matplotlib")
# dynamic tasks only wire others, and plain ones that always run again need no cache
UNCACHED = {
    "choose_settings",
    "resolve_data",
    "write_data_report",
    "make_plan",
    "show_plan",
    "show_alignment_plan",
    "push_to_hub",
    "map_push_to_hub",
    "write_report",
    "with_reason",
    "compare_models",
    "compare_with_first",
    "ask_endpoint",
    "plan_evaluation",
    "prepare_models",
    "write_comparison",
    "score_base",
    "tune",
    "plan_alignment",
    "train_phases",
    "check_same_tokenizer",
    "write_alignment_report",
}
SECRET = {
    "ask_endpoint",
    "compare_with_first",
    "get_adapter",
    "plan_evaluation",
    "compare_models",
    "make_plan",
    "plan_alignment",
    "show_plan",
    "show_alignment_plan",
    "resolve_data",
    "scan_shard",
    "map_scan_shard",
    "get_data",
    "get_model",
    "push_to_hub",
    "map_push_to_hub",
}


class Packaged(NamedTuple):
    specs: dict[str, TaskSpec]
    """The serialized tasks by their short names."""
    has_workflow: bool
    loaded: str


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """What `pyflyte package` writes, and which of the heavy libraries it has loaded at its end."""
    home = tmp_path_factory.mktemp("package")
    archive = home / "package.tgz"
    script = (
        "import sys; from flytekit.clis.sdk_in_container.pyflyte import main\n"
        "package = ['--pkgs', 'workflows', 'package', '--image', 'localhost/x:1', '--force', '--output', sys.argv[1]]\n"
        "sys.argv = ['pyflyte', *package]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(archive)],
        cwd=ROOT,
        env=clean_environment() | {"HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = {}
    with tarfile.open(archive) as package:
        for member in package.getmembers():
            if member.name.endswith("_1.pb"):
                spec = TaskSpec.FromString(package.extractfile(member).read())
                found[re.sub(r"_[0-9a-f]{32}-arraynode$", "", spec.template.id.name.rsplit(".", 1)[-1])] = spec
        has_workflow = any(member.name.endswith("_2.pb") for member in package.getmembers())
    return Packaged(found, has_workflow, result.stdout.splitlines()[-1])


@pytest.fixture
def specs(packaged: Packaged) -> dict[str, TaskSpec]:
    return packaged.specs


def container(spec: TaskSpec):
    template = spec.template
    return template.container if template.HasField("container") else None


def test_packaging_imports_none_of_the_heavy_libraries(packaged: Packaged) -> None:
    assert packaged.loaded == "LOADED []"


def test_every_stage_is_packaged(packaged: Packaged, specs: dict[str, TaskSpec]) -> None:
    assert packaged.has_workflow
    stages = {"make_plan", "get_model", "get_data", "tokenize", "tune", "merge", "evaluate", "quantize"}
    assert stages | {"push_to_hub", "write_report", "train_1", "train_2", "train_5", "train_1_to_5"} <= set(specs)


@pytest.mark.parametrize("name", ["map_scan_shard", "map_tokenize_part"])
def test_shards_are_map_tasks(name: str, specs: dict[str, TaskSpec]) -> None:
    assert list(container(specs[name]).args[:1]) == ["pyflyte-map-execute"]
    [output] = specs[name].template.interface.outputs.variables.values()
    # a list of folders, one for each shard
    assert output.type.collection_type.blob.dimensionality == 1


@pytest.mark.parametrize(("name", "fewest", "most"), [("train_5", 5, 5), ("train_1_to_5", 1, 5)])
def test_several_machines_are_a_pytorch_job(name: str, fewest: int, most: int, specs: dict[str, TaskSpec]) -> None:
    template = specs[name].template
    assert (template.type, template.task_type_version) == ("pytorch", 1)
    elastic = template.custom["elasticConfig"]
    assert (elastic["minReplicas"], elastic["maxReplicas"], elastic["nprocPerNode"]) == (fewest, most, 8)
    assert elastic["rdzvBackend"] == "c10d"
    assert template.custom["workerReplicas"]["replicas"] == most


def test_one_machine_is_a_plain_pod(specs: dict[str, TaskSpec]) -> None:
    assert specs["train_1"].template.type == "python-task"


def test_what_only_the_pods_are_asked_is_no_part_of_a_cached_training(specs: dict[str, TaskSpec]) -> None:
    for name in ("train_1", "train_5"):
        assert set(specs[name].template.metadata.cache_ignore_input_vars) == {"cluster", "checkpoint", "tracking"}


def test_every_task_declares_image_resources_retries_and_cache(specs: dict[str, TaskSpec]) -> None:
    # with the keys of trackers
    elastic = {task_name(nodes) for nodes in TOPOLOGIES}
    for name, spec in specs.items():
        box, metadata = container(spec), spec.template.metadata
        assert box is not None and box.image.startswith("localhost/fine-tune/fine-tune-"), name
        requests = {entry.name: entry.value for entry in box.resources.requests}
        # Resources.ResourceName: CPU 1, GPU 2, MEMORY 3
        assert {1, 3} <= set(requests), name
        assert metadata.retries.retries >= 2, name
        if name not in UNCACHED:
            assert metadata.discoverable and metadata.cache_serializable and metadata.discovery_version, name
        assert bool(spec.template.security_context.secrets) == (name in SECRET or name in elastic), name


def test_gpus_and_shared_memory_are_declared(specs: dict[str, TaskSpec]) -> None:
    # of the training tasks those of 8 processes; a run overrides them by its config
    for name, gpus in (("train_1", "8"), ("train_5", "8"), ("evaluate", "1"), ("quantize", "1")):
        requests = {entry.name: entry.value for entry in container(specs[name]).resources.requests}
        assert requests[2] == gpus, name
    assert specs["train_5"].template.extended_resources.HasField("shared_memory")
    environment = {entry.key: entry.value for entry in container(specs["train_5"]).env}
    # less than the 120 s that a pod of a spot machine asks for
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "100"


def test_the_registry_reaches_the_pods(specs: dict[str, TaskSpec]) -> None:
    # a dynamic task names the images of its tasks from inside its pod
    for name in ("tune", "train_phases"):
        assert {entry.key: entry.value for entry in container(specs[name]).env}["IMAGE_REGISTRY"]


def test_no_path_of_this_machine_is_packaged(specs: dict[str, TaskSpec]) -> None:
    for name, spec in specs.items():
        assert str(ROOT) not in str(spec), name


def test_a_task_is_small_enough_to_register(specs: dict[str, TaskSpec]) -> None:
    # flyteadmin takes 4 MiB in one call; a task has several configs with their forms among its inputs and outputs
    sizes = {name: spec.ByteSize() for name, spec in specs.items()}
    assert max(sizes.values()) < 2 * 2**20, max(sizes, key=sizes.__getitem__)
