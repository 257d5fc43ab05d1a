"""Rows and models are read from a store such as MinIO, found by the variables that Flyte sets in its pods."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from rehearsal.store import Store
from support.resolved import resolve_model

from configs.errors import ConfigError, DataError, FineTuneError, ModelError, UnreachableStoreError
from configs.schema import DataConfig, ModelConfig, TrainConfig
from tasks.files.places import find_files
from tasks.files.streams import open_bytes
from tasks.get_model.fetch import fetch_model
from tasks.plan.checks.settings import read_chat_template, read_deepspeed
from tasks.plan.resolve.data import resolve_data

POD = {"FLYTE_INTERNAL_EXECUTION_ID": "f0"}


@pytest.fixture(scope="module")
def served() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture
def store(served: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that this process finds only by the variables that Flyte sets in a pod."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    # fsspec would return a listing that another test has cached
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return served


@pytest.fixture
def model(store: Store, tiny_model: Path, request: pytest.FixtureRequest) -> str:
    """The address of a small model that only this test uses."""
    address = store.uri(f"models/{request.node.name}/tiny")
    for file in tiny_model.iterdir():
        store.write(f"{address}/{file.name}", file.read_bytes())
    return address


def resolve(address: str, **settings: Any) -> Any:
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return resolve_model(ModelConfig(name=address, **settings), None)


def refused(kind: type[FineTuneError], address: str, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        resolve(address, **settings)
    assert 1 <= len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def copy(store: Store, address: str, path: Path) -> None:
    path.write_bytes(store.read(address) or b"")


def test_rows_are_read_from_flytes_store(store: Store) -> None:
    for name in ("b.jsonl", "x/a.jsonl"):
        store.write(store.uri(f"rows/{name}"), name.encode())
    assert [file.name for file in find_files(store.uri("rows"))] == ["b.jsonl", "x/a.jsonl"]
    assert [file.name for file in find_files(store.uri("rows/*.jsonl"))] == ["b.jsonl"]
    with open_bytes(store.uri("rows/x/a.jsonl")) as stream:
        assert stream.read() == b"x/a.jsonl"


def test_an_error_for_a_refused_key_does_not_show_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYTE_AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("FLYTE_AWS_SECRET_ACCESS_KEY", "very-secret")
    with pytest.raises(DataError, match="check the address, the credentials and the network") as caught:
        find_files(store.uri("rows"))
    assert "very-secret" not in str(caught.value)


def test_a_revision_of_a_stored_model_changes_with_its_content_only(store: Store, model: str, tiny_model: Path) -> None:
    first = resolve(model)
    weights = (tiny_model / "model.safetensors").stat().st_size
    assert (first.weight_bytes, len(first.revision)) == (weights, 64)
    assert first.settings["num_hidden_layers"] == 2
    assert resolve(f"{model}/").revision == first.revision
    # the address and files that no run reads do not count
    for file in tiny_model.iterdir():
        store.write(f"{model}-copy/{file.name}", file.read_bytes())
    store.write(f"{model}/model.onnx", b"unused")
    assert resolve(f"{model}-copy").revision == first.revision == resolve(model).revision
    settings = json.loads((tiny_model / "config.json").read_text())
    store.write(f"{model}/config.json", json.dumps({**settings, "rope_theta": 5.0}).encode())
    assert resolve(model).revision != first.revision


def test_a_stored_model_is_checked_like_a_local_one(store: Store, model: str, tiny_model: Path) -> None:
    whole = (tiny_model / "model.safetensors").read_bytes()
    assert "revision=main is for models of the hub" in refused(ConfigError, model, revision="main")
    store.write(f"{model}/model.safetensors", whole[:-1])
    message = refused(ModelError, model)
    assert f"{model}/model.safetensors is cut short or damaged" in message
    assert f"it has {len(whole) - 1} bytes of {len(whole)}" in message
    store.write(f"{model}/model.safetensors", whole[:5])
    assert "is cut short or damaged" in refused(ModelError, model)
    store.write(f"{model}/model.safetensors", whole)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    store.write(f"{model}/model.safetensors.index.json", json.dumps(index).encode())
    assert "lacks model-2.safetensors" in refused(ModelError, model)
    store.write(f"{model}/config.json", b"{")
    assert f"{model}/config.json is not readable JSON" in refused(ModelError, model)


def test_pickled_weights_and_remote_code_in_a_store_are_refused_unless_allowed(
    store: Store, model: str, tiny_model: Path
) -> None:
    settings = json.loads((tiny_model / "config.json").read_text())
    store.write(f"{model}/config.json", json.dumps({**settings, "auto_map": {"AutoModel": "x.Y"}}).encode())
    assert "runs Python code of its own" in refused(ModelError, model)
    store.client.delete_object(Bucket="flyte-data", Key=f"{model.removeprefix('s3://flyte-data/')}/model.safetensors")
    store.write(f"{model}/pytorch_model.bin", b"x")
    assert "has pickled weights only (pytorch_model.bin)" in refused(ModelError, model, trust_remote_code=True)
    allowed = resolve(model, trust_remote_code=True, allow_pickled_weights=True)
    assert allowed.weight_bytes == 1


def test_a_missing_folder_and_a_web_server_are_refused(store: Store) -> None:
    assert "is not a folder, or is empty" in refused(ModelError, store.uri("models/none"))
    assert "a web server does not list its files" in refused(ModelError, "https://host/model")


def test_the_fetched_model_equals_the_planned_one_byte_for_byte(
    store: Store, model: str, tiny_model: Path, tmp_path: Path
) -> None:
    store.write(f"{model}/sub/notes.txt", b"kept")
    store.write(f"{model}/model.onnx", b"unused")
    planned = resolve(model)

    def download(address: str, path: Path) -> None:
        copy(store, address, path)

    fetch_model(ModelConfig(name=model), planned.revision, tmp_path, None, download)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted([file.name for file in tiny_model.iterdir()] + ["sub/notes.txt"])
    for file in tiny_model.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    store.write(f"{model}/config.json", b"{}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with pytest.raises(ModelError, match="has changed since this run began; run again"):
        fetch_model(ModelConfig(name=model), planned.revision, tmp_path, None, download)
    assert not list(tmp_path.iterdir())


def test_a_download_that_stalls_is_given_up_and_one_that_grows_is_not(
    store: Store, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = resolve(model)
    # a store has twice as long
    monkeypatch.setenv("WAITING_SECONDS", "0.5")

    def stall(address: str, path: Path) -> None:
        path.write_bytes(b"first")
        threading.Event().wait(20)

    def grow(address: str, path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            if path.name != "model.safetensors":
                file.write(b"{}")
                return
            for _ in range(5):
                file.write(b"x" * 2**16)
                threading.Event().wait(0.3)

    began = time.monotonic()
    with pytest.raises(UnreachableStoreError, match=r"cannot be read: its server was silent, or nearly so, for 1 s"):
        fetch_model(ModelConfig(name=model), planned.revision, tmp_path, None, stall)
    assert time.monotonic() - began < 8
    fetch_model(ModelConfig(name=model), planned.revision, tmp_path, None, grow)
    assert (tmp_path / "model.safetensors").stat().st_size == 5 * 2**16


def test_a_template_and_a_deepspeed_file_are_read_from_addresses(store: Store) -> None:
    store.write(store.uri("chat.jinja"), b"{{ messages }}")
    store.write(store.uri("zero2.json"), b'{"zero_optimization": {"stage": 2}}')
    assert read_chat_template(store.uri("chat.jinja")) == "{{ messages }}"

    def train(path: str) -> TrainConfig:
        return TrainConfig.model_validate({"sharding": "zero2", "deepspeed": {"config": path}})

    assert read_deepspeed(train(store.uri("zero2.json"))) == '{"zero_optimization": {"stage": 2}}'
    with pytest.raises(ConfigError, match=r"^tokenize.chat_template=s3://.*/none.jinja does not exist"):
        read_chat_template(store.uri("none.jinja"))
    with pytest.raises(ConfigError, match=r"^train.deepspeed.config=s3://.*/none.json does not exist"):
        read_deepspeed(train(store.uri("none.json")))


def test_errors_in_a_pod_say_that_it_does_not_see_a_laptops_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in POD.items():
        monkeypatch.setenv(name, value)
    for path in ("rows.jsonl", "parts/*.jsonl", "~/rows"):
        with pytest.raises(DataError) as caught:
            resolve_data(DataConfig.model_validate({"sources": [{"path": path}]}), None)
        assert str(caught.value) == (
            f"data.sources[0].path={path} does not exist here: a pod does not see a laptop's files; put it into the "
            "store and name its address (s3://...), or name a hub data set"
        )
    with pytest.raises(ModelError, match=r"(?s)^model.name=./m: no such directory here \(a pod does not see .*s3://"):
        resolve_model(ModelConfig(name="./m"), None)
    for read in (
        read_chat_template,
        lambda path: read_deepspeed(TrainConfig(sharding="zero2", deepspeed={"config": path})),
    ):
        with pytest.raises(ConfigError, match=r"=x.y does not exist here: a pod does not see a laptop's files; put it"):
            read("x.y")
