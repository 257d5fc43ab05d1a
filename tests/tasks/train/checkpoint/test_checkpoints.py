"""A checkpoint is whole or recognised as broken; a store that fails now and then is survived, a full disk reported."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import xxhash
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from support.killed_runs import EveryThirdCallFails

from configs.errors import ArtifactError
from configs.schema import TrainConfig
from tasks.train.checkpoint import checkpoints
from tasks.train.checkpoint import store as checkpoint_store
from tasks.train.checkpoint.checkpoints import BrokenCheckpointError, Manifest, whole_checkpoints, write_part
from tasks.train.checkpoint.store import CheckpointPlaces, Store, name_previous, stores
from tasks.train.fit import FitInputs

RUN = "a" * 64


def manifest(step: int, machine: int = 0, machines: int = 1, **values: Any) -> Manifest:
    defaults = {"fingerprint": RUN, "processes": machines, "sharding": "none", "files": {}}
    return Manifest(**{**defaults, "step": step, "machine": machine, "machines": machines, **values})


def save(store: Store, directory: Path, step: int, machine: int = 0, machines: int = 1, **values: Any) -> None:
    files = directory / f"{step}-{machine}"
    (files / "inner").mkdir(parents=True)
    (files / f"weights-{machine}").write_bytes(b"w" * 100)
    (files / "inner" / f"state-{machine}").write_bytes(bytes([step]) * 10)
    write_part(store, "checkpoint", files, manifest(step, machine, machines, **values))


@pytest.fixture(params=["disk", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return Store(str(tmp_path / "cp"))
    return Store(f"memory://{tmp_path.name}/cp", lambda _: MemoryFileSystem())


def usable(store: Store) -> list[int]:
    return [checkpoint.step for checkpoint in whole_checkpoints(store, "checkpoint", RUN)[0]]


def reason(store: Store) -> str:
    found, skipped = whole_checkpoints(store, "checkpoint", RUN)
    assert not found and len(skipped) == 1
    return skipped[0].partition(": ")[2]


def test_what_was_saved_comes_back_byte_for_byte(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 3)
    save(store, tmp_path, 12)
    assert usable(store) == [12, 3]
    newest = whole_checkpoints(store, "checkpoint", RUN)[0][0]
    record = newest.manifests[0].files["inner/state-0"]
    assert (record.num_bytes, record.checksum) == (10, xxhash.xxh3_128_hexdigest(b"\x0c" * 10))
    checkpoints.download(newest, tmp_path / "back")
    assert (tmp_path / "back" / "weights-0").read_bytes() == b"w" * 100
    assert (tmp_path / "back" / "inner" / "state-0").read_bytes() == b"\x0c" * 10


def test_a_checkpoint_is_there_when_all_machines_have_written_theirs(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 5, machine=1, machines=2)
    assert reason(store) == "half-written: 1 of 2 machines wrote their manifest"
    save(store, tmp_path, 5, machine=0, machines=2)
    assert usable(store) == [5]
    both = whole_checkpoints(store, "checkpoint", RUN)[0][0]
    checkpoints.download(both, tmp_path / "mine", machines=[1])
    assert not (tmp_path / "mine" / "weights-0").exists() and (tmp_path / "mine" / "weights-1").exists()


def test_without_a_manifest_it_is_half_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store.upload(tmp_path / "file", "checkpoint-00000007/weights-0")
    assert reason(store) == "half-written: it has no manifest"


@pytest.mark.parametrize(("content", "said"), [(b"w" * 99, "has 99 bytes"), (None, "is missing")])
def test_a_truncated_file_is_found_without_reading_it(
    content: bytes | None, said: str, store: Store, tmp_path: Path
) -> None:
    save(store, tmp_path, 5)
    store.remove("checkpoint-00000005/weights-0")
    if content is not None:
        (tmp_path / "short").write_bytes(content)
        store.upload(tmp_path / "short", "checkpoint-00000005/weights-0")
    assert reason(store) == f"truncated: weights-0 {said}, and should have 100"


def test_one_changed_byte_is_found_when_it_is_read(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 5)
    (tmp_path / "changed").write_bytes(b"w" * 99 + b"v")
    store.upload(tmp_path / "changed", "checkpoint-00000005/weights-0")
    assert usable(store) == [5]
    with pytest.raises(BrokenCheckpointError, match="damaged: weights-0 is not what was written"):
        checkpoints.download(whole_checkpoints(store, "checkpoint", RUN)[0][0], tmp_path / "back")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fingerprint": "b" * 64}, "foreign: it is of another model, other rows or other settings"),
        ({"format": 2}, "it has format 2, and this version reads 1"),
    ],
)
def test_what_another_run_or_version_wrote_is_not_used(
    values: dict[str, Any], said: str, store: Store, tmp_path: Path
) -> None:
    save(store, tmp_path, 5, **values)
    assert reason(store) == said


def test_a_manifest_that_is_no_manifest_is_not_used(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 5)
    store.write_text("checkpoint-00000005/manifest-00000-of-00001.json", '{"step": "five"}')
    assert reason(store) == "manifest-00000-of-00001.json is not a manifest of this version"


def test_a_broken_one_does_not_hide_the_one_before(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 3)
    save(store, tmp_path, 6)
    store.remove("checkpoint-00000006/weights-0")
    assert usable(store) == [3]


def test_old_checkpoints_go_and_the_best_weights_that_one_names_stay(store: Store, tmp_path: Path) -> None:
    for step, best in ((3, 2), (6, 2), (9, 7), (12, 7)):
        save(store, tmp_path, step, best_step=best)
    for step in (2, 7, 11):
        write_part(store, "best", tmp_path / "3-0", manifest(step))
    (tmp_path / "left").write_bytes(b"x")
    store.upload(tmp_path / "left", "checkpoint-00000004/half-written")
    store.upload(tmp_path / "left", "out-of-memory.json")
    removed = checkpoints.remove_old(store, RUN, keep=2)
    assert removed == [
        "best-00000002",
        "best-00000011",
        "checkpoint-00000003",
        "checkpoint-00000004",
        "checkpoint-00000006",
    ]
    left = {name.partition("/")[0] for name in store.names()}
    assert left == {"best-00000007", "checkpoint-00000009", "checkpoint-00000012", "out-of-memory.json"}


def test_tries_are_followed_back_through_one_that_saved_nothing(tmp_path: Path) -> None:
    def places(number: int) -> CheckpointPlaces:
        return CheckpointPlaces(f"{tmp_path}/{number}", f"{tmp_path}/{number - 1}" if number else None)

    save(Store(f"{tmp_path}/0"), tmp_path / "files", 3)
    for number in (1, 2, 3):
        name_previous(places(number))
    assert [store.uri for store in stores(places(3))] == [f"{tmp_path}/{number}" for number in (3, 2, 1, 0)]


class FullDisk(LocalFileSystem):
    """A disk without room."""

    cachable = False

    def put_file(self, *args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_store_that_fails_every_third_call_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(checkpoint_store.time, "sleep", waits.append)
    failing = Store(str(tmp_path / "cp"), lambda _: EveryThirdCallFails())
    for step in (3, 6, 9):
        save(failing, tmp_path, step)
        checkpoints.remove_old(failing, RUN, keep=1)
    assert usable(failing) == [9]
    checkpoints.download(whole_checkpoints(failing, "checkpoint", RUN)[0][0], tmp_path / "back")
    assert (tmp_path / "back" / "weights-0").read_bytes() == b"w" * 100
    assert len(waits) >= 5 and max(waits) < 1.0


def test_a_full_disk_is_said_at_once_and_leaves_nothing_half(tmp_path: Path) -> None:
    full = Store(str(tmp_path / "cp"), lambda _: FullDisk())
    with pytest.raises(ArtifactError) as raised:
        save(full, tmp_path, 3)
    lines = str(raised.value).splitlines()
    assert len(lines) == 2 and "OSError after 1 attempt: " in lines[0] and "No space left on device" in lines[0]
    assert lines[1] == "the disk is full: raise train.cluster.disk_gib, or lower train.checkpoint.keep"
    assert full.names() == []


def test_a_fingerprint_is_of_what_decides_the_result(tiny_model: Path, answers: Path, tmp_path: Path) -> None:
    inputs = FitInputs(model=tiny_model, train_tokens=answers, tokenizer=tiny_model, end_token_ids=[1])
    first = checkpoints.fingerprint(TrainConfig(), inputs)
    for same in (
        {"nodes": "1:4"},
        {"processes_per_node": 2},
        {"micro_batch_size": 4},
        {"checkpoint": {"keep": 3}},
        {"tracking": {"tracker": "tensorboard"}},
    ):
        assert checkpoints.fingerprint(TrainConfig(**same), inputs) == first
    assert checkpoints.fingerprint(TrainConfig(cluster={"retries": 9}), inputs) == first
    for other in ({"seed": 1}, {"sharding": "zero2"}, {"batch_size": 32}, {"epochs": 2.0}):
        assert checkpoints.fingerprint(TrainConfig(**other), inputs) != first
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = next(model.glob("*.safetensors"))
    assert checkpoints.fingerprint(TrainConfig(), FitInputs(**vars(inputs) | {"model": model})) == first
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert checkpoints.fingerprint(TrainConfig(), FitInputs(**vars(inputs) | {"model": model})) != first
