"""A rehearsed pod has its image's packages, its own disk and its secrets; what it reads elsewhere is noted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import ROOT
from flyteidl.core.literals_pb2 import Binary, BindingData, Literal, Scalar
from flyteidl.core.types_pb2 import OutputReference
from msgpack import dumps, loads
from rehearsal.literals import as_form, resolve
from rehearsal.pods import Pod
from rehearsal.site import build, installed
from rehearsal.store import Store


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that holds nothing but PyYAML."""
    return build(["PyYAML"], tmp_path_factory.mktemp("image"))


def ended(pod: Pod) -> Pod:
    deadline = time.monotonic() + 60
    while not pod.ended() and time.monotonic() < deadline:
        time.sleep(0.02)
    pod.remove()
    return pod


def python(programs: Path, disk: Path, code: str, secrets: dict[tuple[str, str], str] | None = None) -> Pod:
    return ended(Pod(disk, programs, ["python", "-c", code], {}, secrets or {}))


def test_a_pod_imports_its_image_and_neither_other_packages_nor_the_project(programs: Path, tmp_path: Path) -> None:
    assert python(programs, tmp_path / "a", "import yaml").exit_status == 0
    for name in ("flytekit", "torch", "tasks", "configs.schema"):
        pod = python(programs, tmp_path / name, f"import {name}")
        assert pod.exit_status == 1 and "No module named" in pod.log, name


def test_an_image_has_what_its_packages_need_and_no_more() -> None:
    names = installed(["flytekit==1.16.31"])
    assert {"flytekit", "flyteidl", "protobuf"} <= set(names)
    assert not {"torch", "transformers", "pytest"} & set(names)


def test_what_a_pod_reads_of_another_machine_or_of_the_checkout_is_noted(programs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "file"
    other.parent.mkdir()
    other.write_text("of another machine")
    code = f"open('own.txt', 'w').close(); open({str(other)!r}); open({str(ROOT / 'README.md')!r})"
    assert python(programs, tmp_path / "pod", code).foreign_paths == [str(other), str(ROOT / "README.md")]
    assert not (tmp_path / "pod").exists()


def test_processes_of_a_pod_are_watched_too(programs: Path, tmp_path: Path) -> None:
    child = f"open({str(ROOT / 'README.md')!r})"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert python(programs, tmp_path / "pod", code).foreign_paths == [str(ROOT / "README.md")]


def test_secrets_are_files_and_one_that_is_missing_is_not_there(programs: Path, tmp_path: Path) -> None:
    code = "import os; print(open(os.environ['FLYTE_SECRETS_DEFAULT_DIR'] + '/huggingface/token').read())"
    assert python(programs, tmp_path / "with", code, {("huggingface", "token"): "value"}).log == "value\n"
    assert "No such file" in python(programs, tmp_path / "without", code).log


def test_a_killed_pod_is_ended_with_its_children(programs: Path, tmp_path: Path) -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    pod = Pod(tmp_path / "pod", programs, ["python", "-c", code], {}, {})
    deadline = time.monotonic() + 30
    while not pod.log.strip() and time.monotonic() < deadline:
        time.sleep(0.02)
    child = int(pod.log)
    pod.kill()
    assert ended(pod).exit_status == -9
    time.sleep(0.2)
    # gone, or dead and waiting for whoever reaps orphans
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def promise(*path: str) -> BindingData:
    reference = OutputReference(node_id="n0", var="config")
    for step in path:
        reference.attr_path.add(string_value=step)
    return BindingData(promise=reference)


def test_a_part_of_a_value_is_cut_out_with_its_keys_in_another_order() -> None:
    packed = dumps({"train": {"a": 1, "b": None}})
    values = {"n0": {"config": Literal(scalar=Scalar(binary=Binary(value=packed, tag="msgpack")))}}
    part = loads(resolve(promise("train"), values).scalar.binary.value)
    assert part == {"a": 1, "b": None} and list(part) == ["b", "a"]


def test_a_form_has_floats_and_no_defaults() -> None:
    values = {"n0": {"config": as_form({"train": {"max_steps": 3, "method": "lora"}})}}
    assert resolve(promise("train", "max_steps"), values).scalar.primitive.WhichOneof("value") == "float_value"
    assert resolve(promise("train", "method"), values).scalar.primitive.string_value == "lora"
    with pytest.raises(KeyError):
        resolve(promise("evaluate"), values)


def test_a_new_store_is_empty_and_a_second_one_leaves_the_first_alone() -> None:
    with Store() as store:
        store.write(store.uri("metadata/f1/error.pb"), b"of an earlier run")
    with Store() as store:
        assert store.keys() == []
        store.write(store.uri("kept"), b"")
        with Store():
            assert store.keys() == ["kept"]
