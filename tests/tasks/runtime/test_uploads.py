"""Local files that a config names are uploaded to a cluster's store before a run starts, with their folder tree."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flytekit.configuration import Config, PlatformConfig
from flytekit.core.type_engine import TypeEngine
from flytekit.remote import FlyteRemote
from rehearsal.admin import Admin
from rehearsal.store import BUCKET, Store

from configs.errors import ConfigError, DataError, FineTuneError, ModelError, RegistrationError
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from tasks.files.places import find_files
from tasks.runtime import uploads

FOLDER = re.compile(rf"s3://{BUCKET}/flytesnacks/development/[0-9a-f]{{32}}")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture
def remote(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlyteRemote]:
    """flytekit's client for a cluster; this process reads the store like a pod."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    with Admin(store) as admin:
        platform = PlatformConfig(endpoint=admin.endpoint, insecure=True)
        yield FlyteRemote(Config(platform=platform), "flytesnacks", "development", data_upload_location="flyte://data")


def config(*sources: Any, **changes: Any) -> FineTuneConfig:
    data = {"sources": [{"path": source} for source in sources or ("embedded:english-to-sql",)]}
    return FineTuneConfig.model_validate({"model": {"name": "owner/name"}, "data": data, **changes})


def sent(remote: FlyteRemote, value: Any) -> Any:
    """Return the config that a run's pods get."""
    with remote.remote_context() as ctx:
        literal = TypeEngine.to_literal(ctx, value, type(value), TypeEngine.to_literal_type(type(value)))
    return TypeEngine.to_python_value(ctx, literal, type(value))


def refused(remote: FlyteRemote, value: FineTuneConfig, kind: type[FineTuneError]) -> str:
    with pytest.raises(kind) as caught:
        sent(remote, value)
    assert 1 <= len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f'{{"text": "{name}"}}\n'.encode())
    return folder


def files_at(store: Store, path: Any) -> list[tuple[str, bytes | None]]:
    """Return (name, content) of the files at a path, on this machine or in the store."""
    return [
        (file.name, store.read(file.path) if file.path.startswith("s3://") else Path(file.path).read_bytes())
        for file in find_files(path)
    ]


@pytest.mark.parametrize(
    "places",
    [
        ["b.jsonl"],
        ["x"],
        ["x/*.jsonl"],
        ["**/*.jsonl"],
        ["**.jsonl"],
        ["x/[ab].jsonl"],
        ["rows[1].jsonl"],
        ["Zeilen für alle.jsonl"],
        ["."],
        ["c.csv", "*.jsonl", "b.jsonl", "x"],
        ["x/y/b.jsonl", "x"],
        ["x/b.jsonl", "b.jsonl"],
    ],
    ids=str,
)
def test_an_upload_keeps_files_names_and_order(
    places: list[str], remote: FlyteRemote, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("b.jsonl", "a.jsonl", "c.csv", "x/b.jsonl", "x/y/b.jsonl", "x/y/c.jsonl.gz", "x/.hidden/d.jsonl")
    fill(tmp_path, *names, "notes.md", "rows[1].jsonl", "rows1.jsonl", "Zeilen für alle.jsonl")
    monkeypatch.chdir(tmp_path)
    place: Any = places[0] if len(places) == 1 else places
    [source] = sent(remote, config(place)).data.sources
    assert files_at(store, source.path) == files_at(store, place)
    entries = [source.path] if isinstance(source.path, str) else source.path
    assert len(entries) == len(places)
    for entry, name in zip(entries, places, strict=True):
        assert FOLDER.match(entry)
        # the name of a source in reports
        expected = tmp_path.name if name == "." else name.rpartition("/")[2].replace("**.", "*.")
        assert entry.rpartition("/")[2] == expected


def test_every_setting_that_names_a_file_is_uploaded(
    remote: FlyteRemote, store: Store, tiny_model: Path, tmp_path: Path
) -> None:
    fill(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl", "t.jinja", "z.json")
    stage = {
        "data": {
            "sources": [{"path": f"{tmp_path}/a.jsonl"}],
            "evaluation": [{"path": f"{tmp_path}/b.jsonl"}],
            "contamination": [{"path": f"{tmp_path}/c.jsonl"}],
        },
    }
    ours = {"sharding": "zero2", "deepspeed": {"config": f"{tmp_path}/z.json"}}
    value = AlignConfig.model_validate(
        {
            "model": {"name": str(tiny_model)},
            "tokenize": {"chat_template": f"{tmp_path}/t.jinja"},
            "sft": {**stage, "train": ours},
            "reward": {**stage, "train": {"objective": "reward", **ours}},
            "policy": {**stage, "train": {"objective": "grpo", **ours}},
        }
    )
    found = sent(remote, value)
    places = [found.model.name, found.tokenize.chat_template]
    for part in (found.sft, found.reward, found.policy):
        data = part.data
        places += [
            part.train.deepspeed.config,
            data.sources[0].path,
            data.evaluation[0].path,
            data.contamination[0].path,
        ]
    assert all(FOLDER.match(place) for place in places) and len(places) == 14
    assert store.read(found.policy.data.contamination[0].path) == b'{"text": "c.jsonl"}\n'
    assert store.read(found.reward.train.deepspeed.config) == b'{"text": "z.json"}\n'
    # nothing of this machine is left
    assert str(tmp_path) not in found.model_dump_json() and str(tiny_model) not in found.model_dump_json()


def test_an_empty_file_is_uploaded(remote: FlyteRemote, store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "full.jsonl").write_bytes(b"{}\n")
    [source] = sent(remote, config(str(tmp_path))).data.sources
    assert dict(files_at(store, source.path)) == {"empty.jsonl": b"", "full.jsonl": b"{}\n"}


def test_addresses_and_hub_ids_are_not_uploaded(remote: FlyteRemote, store: Store) -> None:
    value = config("s3://other/rows.jsonl", ["https://host/a.jsonl"], model={"name": "embedded:english-to-sql"})
    before = store.keys()
    assert sent(remote, value) == value
    assert store.keys() == before


def test_a_list_may_mix_addresses_and_files(remote: FlyteRemote, tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "b.jsonl")
    path = [f"{tmp_path}/b.jsonl", "s3://other/rows.jsonl", f"{tmp_path}/a.jsonl"]
    [source] = sent(remote, config(path)).data.sources
    assert [entry.rpartition("/")[2] for entry in source.path] == ["b.jsonl", "rows.jsonl", "a.jsonl"]
    assert source.path[1] == "s3://other/rows.jsonl"


def test_equal_content_has_one_address_and_changed_content_another(
    remote: FlyteRemote, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fill(tmp_path, "x/rows.jsonl") / "x" / "rows.jsonl"
    value = config(str(path), str(path))
    first, second = (source.path for source in sent(remote, value).data.sources)
    assert first == second
    assert capsys.readouterr().out.count("uploading") == 1
    assert sent(remote, value).data.sources[0].path == first
    path.write_bytes(b'{"text": "changed"}\n')
    # the same config object: a cache of its literal would give the old address
    assert sent(remote, value).data.sources[0].path != first
    assert store.read(first) == b'{"text": "x/rows.jsonl"}\n'


def test_a_large_file_that_the_store_has_is_not_sent_again(
    remote: FlyteRemote,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(uploads, "LARGE_BYTES", 10)
    path = fill(tmp_path, "big rows.jsonl") / "big rows.jsonl"
    sent(remote, config(str(path)))
    assert "already" not in capsys.readouterr().out

    # flyteadmin signs addresses for download; the loopback server does not
    def readable(address: str) -> Any:
        place = {"Bucket": BUCKET, "Key": address.removeprefix(f"s3://{BUCKET}/")}
        return SimpleNamespace(signed_url=store.client.generate_presigned_url("get_object", Params=place))

    monkeypatch.setattr(remote.client, "get_download_signed_url", readable)
    found = sent(remote, config(str(path)))
    assert "big rows.jsonl is in the store already" in capsys.readouterr().out
    store.client.delete_object(Bucket=BUCKET, Key=found.data.sources[0].path.removeprefix(f"s3://{BUCKET}/"))
    again = sent(remote, config(str(path)))
    assert "already" not in capsys.readouterr().out
    assert store.read(again.data.sources[0].path) == path.read_bytes()


def test_read_only_files_and_symbolic_links_are_uploaded(
    remote: FlyteRemote, store: Store, tiny_model: Path, tmp_path: Path
) -> None:
    # the layout of a model in the hub's cache
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny_model.iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (blobs / str(number)).chmod(stat.S_IRUSR)
        (snapshot / file.name).symlink_to(blobs / str(number))
    (snapshot / "model.onnx").write_bytes(b"unused")
    user = os.geteuid()
    found = sent(remote, config(model={"name": str(snapshot)}))
    assert user == os.geteuid() and found.model.name.endswith("/main")
    folder = found.model.name.removeprefix(f"s3://{BUCKET}/")
    assert {key.removeprefix(f"{folder}/") for key in store.keys(folder)} == {
        file.name for file in tiny_model.iterdir()
    }


def test_a_local_folder_is_taken_before_a_hub_id_of_the_same_name(
    remote: FlyteRemote, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sent(remote, config(model={"name": "owner/name"})).model.name == "owner/name"
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(tiny_model)
    assert FOLDER.match(sent(remote, config(model={"name": "owner/name"})).model.name)


def test_missing_files_are_refused_before_anything_is_sent(remote: FlyteRemote, store: Store, tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "model/config.json")
    here, gone = str(tmp_path / "a.jsonl"), str(tmp_path / "none.jsonl")
    before = store.keys()
    assert f"data.sources[1].path={gone} does not exist" in refused(remote, config(here, gone), DataError)
    assert "has no file that ends in" in refused(remote, config(here, f"{tmp_path}/*.csv"), DataError)
    assert "no such directory, and not a hub id" in refused(remote, config(here, model={"name": "./none"}), ModelError)
    model = config(here, model={"name": f"{tmp_path}/model"})
    assert "has no weights" in refused(remote, model, ModelError)
    template = config(here, tokenize={"chat_template": "none.jinja"})
    assert "tokenize.chat_template=none.jinja does not exist" in refused(remote, template, ConfigError)
    ours = config(here, train={"sharding": "zero2", "deepspeed": {"config": "none.json"}})
    assert "train.deepspeed.config=none.json does not exist" in refused(remote, ours, ConfigError)
    assert store.keys() == before


def test_too_large_files_are_refused_with_the_fix(
    remote: FlyteRemote, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "rows.jsonl", "wb") as file:
        # a sparse file one byte over the limit of 5 GiB
        file.truncate(5 * 2**30 + 1)
    before = store.keys()
    message = refused(remote, config(str(tmp_path / "rows.jsonl")), DataError)
    assert "rows.jsonl has 5.0 GiB, and a run uploads files of at most 5 GiB" in message and "aws s3 cp" in message
    for number in range(4):
        with open(tmp_path / f"{number}.jsonl", "wb") as file:
            file.truncate(5 * 2**30)
    uploads._check_sizes(uploads.local_places(config(f"{tmp_path}/[0-3].jsonl")))
    fill(tmp_path, "4.jsonl")
    message = refused(remote, config(f"{tmp_path}/[0-4].jsonl"), DataError)
    assert "have over 20 GiB" in message and "name its address" in message
    assert store.keys() == before


def test_a_file_name_that_breaks_addresses_is_refused(remote: FlyteRemote, tmp_path: Path) -> None:
    fill(tmp_path, "rows #1.jsonl")
    assert "rename the file" in refused(remote, config(str(tmp_path / "rows #1.jsonl")), DataError)


def test_errors_of_the_cluster_and_of_the_store_are_explained(
    remote: FlyteRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "rows.jsonl")
    value = config(str(tmp_path / "rows.jsonl"))
    signed = remote.client.get_upload_signed_url

    def away(*arguments: Any, **settings: Any) -> Any:
        place = signed(*arguments, **settings)
        place.signed_url = "http://127.0.0.1:9/x"
        return place

    monkeypatch.setattr(remote.client, "get_upload_signed_url", away)
    assert "rows.jsonl cannot be uploaded (ConnectionError)" in refused(remote, value, RegistrationError)
    monkeypatch.undo()
    remote._default_project = ""
    message = refused(remote, value, RegistrationError)
    assert message.startswith("data.sources[0].path: ") and "project and domain are required" in message
