"""The test Hub is trusted by the tests of everything that pushes and pulls, so the real client judges it here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, HfFileSystem, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import save_file
from support.hub_server import HubServer

REPO = "owner/model"


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither write to the user's cache nor obey a setting that keeps tests off the network: this is loopback."""
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer(tokens={"hf_write": "write", "hf_read": "read"}) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "adapter").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    (folder / "config.json").write_text("{}")
    # Noise, floats and repetition: the Xet client compresses each of them differently.
    random = np.random.default_rng(0)
    noise = np.frombuffer(random.bytes(200_000), np.uint8)
    weights = random.normal(size=100_000).astype(np.float32)
    save_file({"noise": noise, "weights": weights, "zeros": np.zeros(100_001, np.uint8)}, folder / "model.safetensors")
    save_file({"weights": weights[:1000]}, folder / "adapter" / "model.safetensors")
    return folder


def _api(server: HubServer, token: str | bool = "hf_write") -> HfApi:
    return HfApi(endpoint=server.endpoint, token=token)


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".gitattributes")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _uploads(server: HubServer) -> int:
    return sum(path.startswith("/lfs-upload/") or "/v1/xorbs/" in path for _, path in server.requests)


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_folder_survives_the_round_trip_and_is_committed_once(
    server: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xet: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    api = _api(server)
    api.create_repo(REPO, private=True)
    api.create_repo(REPO, exist_ok=True)
    first = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="Push")
    assert {path: data for path, data in server.files(REPO).items() if path != ".gitattributes"} == _contents(folder)
    assert _uploads(server) == (1 if xet else 2)

    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == first.oid
    assert [commit.message for commit in server.commits(REPO)] == ["initial commit", "Push"]
    assert server.commits(REPO)[-1].files == tuple(sorted(_contents(folder)))
    assert api.list_repo_commits(REPO)[0].commit_id == first.oid

    copy = Path(api.snapshot_download(REPO, cache_dir=tmp_path / "cache"))
    assert _contents(copy) == _contents(folder)
    lfs = {s.rfilename for s in api.model_info(REPO, files_metadata=True).siblings or [] if s.lfs}
    assert lfs == {"model.safetensors", "adapter/model.safetensors"}
    assert set(server.authorizations) == {"hf_write"}


def test_tokens_are_told_apart(server: HubServer) -> None:
    server.add_repo(REPO, {"config.json": b"{}"})
    assert _api(server).whoami()["auth"]["accessToken"]["role"] == "write"
    for token, status in (("hf_read", 403), ("hf_unknown", 401), (False, 401)):
        with pytest.raises(HfHubHTTPError) as error:
            _api(server, token).upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO)
        assert error.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        _api(server, "hf_unknown").whoami()
    assert len(server.commits(REPO)) == 2


@pytest.mark.parametrize("route", ["create", "preupload", "lfs_upload", "commit"])
def test_broken_push_can_be_repeated(server: HubServer, folder: Path, route: str) -> None:
    def push() -> None:
        _api(server).create_repo(REPO, exist_ok=True)
        _api(server).upload_folder(repo_id=REPO, folder_path=folder)

    server.fail_next(route, status=418)
    # Not HfHubHTTPError: what goes wrong while large files go up is raised by the Xet client.
    with pytest.raises(OSError, match="418"):
        push()
    assert route == "create" or len(server.commits(REPO)) == 1
    push()
    assert {**server.files(REPO), **_contents(folder)} == server.files(REPO)
    assert len(server.commits(REPO)) == 2


def test_refusals_have_the_names_that_the_client_knows(server: HubServer, tmp_path: Path) -> None:
    server.add_repo(REPO, {"config.json": b"{}"})
    server.add_repo("owner/gated", {"config.json": b"{}"}, gated=True, granted=["hf_write"])
    server.add_repo("owner/private", {"config.json": b"{}"}, private=True)
    api = _api(server, "hf_read")
    assert api.model_info("owner/gated").gated == "manual"
    assert api.hf_hub_download("owner/private", "config.json", cache_dir=tmp_path)
    assert _api(server).hf_hub_download("owner/gated", "config.json", cache_dir=tmp_path / "granted")
    for error, repo, file, revision in (
        (RepositoryNotFoundError, "owner/none", "config.json", None),
        (GatedRepoError, "owner/gated", "config.json", None),
        (RevisionNotFoundError, REPO, "config.json", "none"),
        (EntryNotFoundError, REPO, "none.json", None),
    ):
        with pytest.raises(error):
            api.hf_hub_download(repo, file, revision=revision, cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        _api(server, False).model_info("owner/private")


def test_part_of_a_file_can_be_read(server: HubServer) -> None:
    server.add_repo(REPO, {"weights/model.bin": bytes(range(256)) * 100})
    files = HfFileSystem(endpoint=server.endpoint, token="hf_read")
    assert files.ls(REPO, detail=False) == [f"{REPO}/.gitattributes", f"{REPO}/weights"]
    with files.open(f"{REPO}/weights/model.bin", block_size=1000) as file:
        file.seek(12_800)
        assert file.read(4) == b"\x00\x01\x02\x03"


def test_datasets_are_loaded(server: HubServer, tmp_path: Path) -> None:
    table = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["c", "d"]}), table)
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in "ab")
    server.add_repo("owner/lines", {"train.jsonl": lines}, "dataset", private=True)
    server.add_repo("owner/table", {"data/train-00000-of-00001.parquet": table}, "dataset")
    # A process of its own, because both libraries read their endpoint when they are imported.
    script = (
        "from datasets import load_dataset\n"
        "names = 'owner/lines', 'owner/table'\n"
        "print(*(load_dataset(name, split='train')[:]['text'] for name in names))\n"
    )
    settings = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_read"}
    run = subprocess.run([sys.executable, "-c", script], env={**os.environ, **settings}, capture_output=True, text=True)
    assert run.stdout == "['a', 'b'] ['c', 'd']\n", run.stderr
