"""A push is a transaction: verified on a branch of its own, then one commit, in which files of other models go."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants, snapshot_download
from support.hub_server import HubServer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from configs.errors import HubError
from tasks.push_to_hub import upload
from tasks.push_to_hub.upload import publish

TOKEN = "hf_write"
REPO = "owner/tuned"
CARD = "---\nlibrary_name: transformers\ntags:\n- fine-tuned\n---\n\n# tuned\n\nscores\n"
KINDS = ("one file", "shards", "adapter", "other tokenizer", "quantized")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """A folder of each kind of artifact, each with weights of its own; the adapter's base is that of the first."""
    root = tmp_path_factory.mktemp("artifacts")
    folders = {kind: root / kind.replace(" ", "_") for kind in KINDS}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    for seed, kind in enumerate(("one file", "shards", "other tokenizer", "quantized")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.save_pretrained(folders[kind], max_shard_size="20KB" if kind == "shards" else "1GB")
        tokenizer.save_pretrained(folders[kind])
    (folders["other tokenizer"] / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (folders["other tokenizer"] / "additional_chat_templates").mkdir()
    (folders["other tokenizer"] / "additional_chat_templates" / "rag.jinja").write_text("rag")
    (folders["quantized"] / "quantization_config.json").write_text("{}")
    from peft import LoraConfig, get_peft_model

    adapter = get_peft_model(LlamaForCausalLM(config), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    adapter.save_pretrained(folders["adapter"])
    tokenizer.save_pretrained(folders["adapter"])
    return folders


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tokens={TOKEN: "write"}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


def push(folder: Path, **settings: object) -> upload.Commit:
    given = {"repository": REPO, "private": True, "token": TOKEN, "card": CARD, "config": "name: x\n", **settings}
    return publish(folder, **given)  # type: ignore[arg-type]


def download(path: Path, revision: str = "main") -> Path:
    return Path(snapshot_download(REPO, revision=revision, token=TOKEN, local_dir=path))


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(KINDS, 2)))
def test_whatever_was_there_the_pushed_artifact_is_what_loads(
    first: str, second: str, artifacts: dict[str, Path], hub: HubServer, tmp_path: Path
) -> None:
    push(artifacts[first])
    push(artifacts[second])
    folder = download(tmp_path / "here")
    own = {path.relative_to(artifacts[second]).as_posix() for path in artifacts[second].rglob("*") if path.is_file()}
    assert set(hub.files(REPO)) == {*own, "README.md", "fine_tune_config.yaml", ".gitattributes"}
    if second == "adapter":
        from peft import PeftConfig

        assert PeftConfig.from_pretrained(folder).peft_type == "LORA"
        return
    expected = AutoModelForCausalLM.from_pretrained(artifacts[second]).state_dict()
    found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    before, after = (AutoTokenizer.from_pretrained(path).chat_template for path in (artifacts[second], folder))
    assert after == before


def test_files_of_the_user_stay(artifacts: dict[str, Path], hub: HubServer) -> None:
    kept = {
        "images/plot.png": b"png",
        "checkpoint-5/model.safetensors": b"theirs",
        "LICENSE": b"MIT",
        "notes.json": b"{}",
    }
    gone = {"pytorch_model.bin": b"old", "adapter_model.bin": b"old", "onnx/model.onnx": b"old", "vocab.json": b"{}"}
    readme = b"---\nlanguage: en\nbase_model: other/old\ntags: [mine]\n---\n# By hand\n\nMine.\n"
    hub.add_repo(REPO, {**kept, **gone, "README.md": readme}, private=True)
    push(artifacts["one file"])
    files = hub.files(REPO)
    assert {name: files[name] for name in kept} == kept
    assert not set(gone) & set(files)
    text = files["README.md"].decode()
    assert "language: en" in text and "other/old" not in text and "- mine" in text
    assert text.index("scores") < text.index("# By hand\n\nMine.")
    # a second push replaces what is between the markers only
    push(artifacts["shards"], card=CARD.replace("scores", "newer scores"))
    again = hub.files(REPO)["README.md"].decode()
    assert again == text.replace("scores", "newer scores")


def test_one_commit_and_a_tag_for_an_artifact_that_is_pushed_twice(
    artifacts: dict[str, Path], hub: HubServer, tmp_path: Path
) -> None:
    first, second = push(artifacts["one file"]), push(artifacts["one file"])
    assert (first.is_new, second.is_new) == (True, False)
    assert second.url == first.url and second.url.startswith(f"{hub.endpoint}/{REPO}/commit/")
    branches, tags = hub.refs(REPO)
    [(tag, commit)] = tags.items()
    assert branches == ["main"] and tag.startswith("artifact-") and first.url.endswith(commit)
    assert len(hub.commits(REPO)) == 2
    push(artifacts["shards"])
    # the tag keeps what it names
    assert set(download(tmp_path / "old", tag).glob("*.safetensors")) == {tmp_path / "old" / "model.safetensors"}


def test_a_revision_is_a_branch_beside_main(artifacts: dict[str, Path], hub: HubServer, tmp_path: Path) -> None:
    push(artifacts["one file"])
    main = hub.files(REPO)
    push(artifacts["shards"], revision="next")
    assert hub.files(REPO) == main and hub.refs(REPO)[0] == ["main", "next"]
    assert (download(tmp_path / "next", "next") / "model.safetensors.index.json").is_file()
    assert not (tmp_path / "next" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("route", "after"),
    [("create", 0), ("branch", 0), ("preupload", 0), ("lfs_upload", 0), ("commit", 0), ("commit", 1), ("tree", 2)],
)
def test_a_push_broken_anywhere_leaves_main_and_goes_on_without_sending_again(
    route: str, after: int, artifacts: dict[str, Path], hub: HubServer
) -> None:
    push(artifacts["one file"])
    before = hub.files(REPO)
    hub.fail_next(route, status=418, after=after)
    with pytest.raises(HubError, match="nothing is trained again"):
        push(artifacts["shards"])
    assert hub.files(REPO) == before
    sent = sum(request.path.startswith("/lfs-upload/") for request in hub.requests)
    push(artifacts["shards"])
    assert set(hub.files(REPO)) >= {"model.safetensors.index.json"} and "model.safetensors" not in hub.files(REPO)
    shards = len(list(artifacts["shards"].glob("*.safetensors")))
    again = sum(request.path.startswith("/lfs-upload/") for request in hub.requests) - sent
    assert again <= (shards if route in ("create", "branch", "preupload", "lfs_upload") else 0)
    assert hub.refs(REPO)[0] == ["main"]


def test_after_the_last_commit_a_push_is_whole_whatever_breaks(artifacts: dict[str, Path], hub: HubServer) -> None:
    hub.fail_next("tag", status=418)
    with pytest.raises(HubError):
        push(artifacts["one file"])
    assert "model.safetensors" in hub.files(REPO)
    assert not push(artifacts["one file"]).is_new
    assert len(hub.refs(REPO)[1]) == 1


def test_a_repository_that_moved_on_keeps_what_came_meanwhile(
    artifacts: dict[str, Path], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(artifacts["one file"])
    stage, calls = upload._stage, []

    def stage_while_another_commits(*given: object) -> None:
        stage(*given)  # type: ignore[arg-type]
        if not calls:
            hub.push_by_another(REPO, {"notes.md": b"mine", "pytorch_model.bin": b"stale"})
        calls.append(1)

    monkeypatch.setattr(upload, "_stage", stage_while_another_commits)
    push(artifacts["shards"])
    files = hub.files(REPO)
    assert files["notes.md"] == b"mine" and "pytorch_model.bin" not in files and len(calls) == 2


def test_a_public_repository_is_refused_for_a_private_push(artifacts: dict[str, Path], hub: HubServer) -> None:
    hub.add_repo(REPO, {"README.md": b"# mine\n"})
    with pytest.raises(HubError, match=r"is public, and push_to_hub.private is true: a push would publish the model\n"):
        push(artifacts["one file"])
    assert len(hub.commits(REPO)) == 2
    push(artifacts["one file"], private=False)


def test_a_file_that_changes_while_it_is_sent_is_never_published(
    artifacts: dict[str, Path], hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(artifacts["one file"], folder)
    create_commit = HfApi.create_commit

    def change_and_commit(api: HfApi, *given: object, **settings: object) -> object:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "changed": True}))
        return create_commit(api, *given, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "create_commit", change_and_commit)
    with pytest.raises(HubError, match=r"config.json is not there as it was sent \(1 of \d+ files\)"):
        push(folder)
    assert set(hub.files(REPO)) == {".gitattributes"}


def test_a_readme_that_is_not_utf8_is_not_rewritten(artifacts: dict[str, Path], hub: HubServer) -> None:
    hub.add_repo(REPO, {"README.md": "café".encode("latin-1")}, private=True)
    with pytest.raises(HubError, match=r"README.md of owner/tuned is not UTF-8"):
        push(artifacts["one file"])


KILLED_PUSH = """
import sys
from pathlib import Path
from tasks.push_to_hub.upload import publish
publish(Path(sys.argv[1]), "owner/tuned", True, "hf_write", sys.argv[2], "name: x\\n")
"""


@pytest.mark.parametrize("xet", ["0", "1"])
@pytest.mark.parametrize("route", ["branch", "lfs_upload", "commit", "tag", "delete_branch"])
def test_a_push_that_is_killed_leaves_the_old_model_or_the_new_one(
    route: str, xet: str, artifacts: dict[str, Path], hub: HubServer, tmp_path: Path
) -> None:
    push(artifacts["one file"])
    old = hub.files(REPO)
    hub.hold_next_answer(route)
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": xet}
    arguments = [sys.executable, "-c", KILLED_PUSH, str(artifacts["shards"]), CARD]
    with subprocess.Popen(arguments, env=os.environ | environment, stderr=subprocess.DEVNULL) as process:
        while not hub.is_holding and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
    now = hub.files(REPO)
    is_new = "model.safetensors.index.json" in now
    assert is_new == (route in ("tag", "delete_branch"))
    assert is_new or now == old
    push(artifacts["shards"])
    expected = {path.name: path.read_bytes() for path in artifacts["shards"].iterdir()}
    files = hub.files(REPO)
    assert {name: files[name] for name in expected} == expected and "model.safetensors" not in files
    assert len(hub.commits(REPO)) == 3 and hub.refs(REPO)[0] == ["main"]


@pytest.mark.parametrize("chance", range(5))
def test_a_push_that_is_killed_at_a_random_request_leaves_the_old_model_or_the_new_one(
    chance: int, artifacts: dict[str, Path], hub: HubServer, tmp_path: Path
) -> None:
    push(artifacts["one file"])
    old, before = hub.files(REPO), len(hub.requests)
    # a push makes about twenty
    last = before + random.Random(chance).randint(1, 20)
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    arguments = [sys.executable, "-c", KILLED_PUSH, str(artifacts["shards"]), CARD]
    with subprocess.Popen(arguments, env=os.environ | environment, stderr=subprocess.DEVNULL) as process:
        while len(hub.requests) < last and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    now = hub.files(REPO)
    expected = {path.name: path.read_bytes() for path in artifacts["shards"].iterdir()}
    is_new = "model.safetensors.index.json" in now
    assert ({name: now.get(name) for name in expected} == expected) if is_new else now == old
    push(artifacts["shards"])
    files = hub.files(REPO)
    assert {name: files[name] for name in expected} == expected and "model.safetensors" not in files
    assert hub.refs(REPO)[0] == ["main"]


@pytest.mark.parametrize("route", ["create", "info", "commit", "tag"])
@pytest.mark.parametrize("status", [0, 401, 403, 404, 409, 429, 500, 503])
def test_whatever_a_hub_answers_is_one_error_and_the_next_push_completes(
    status: int, route: str, artifacts: dict[str, Path], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.fail_next(route, status=status, times=7, headers={"Retry-After": "0"})
    try:
        push(artifacts["one file"])
    except HubError as error:
        first, *more = str(error).splitlines()
        assert first.startswith("push_to_hub.repository=owner/tuned") and len(more) <= 1
        assert TOKEN not in str(error)
    # a 409 says that the repository, or the tag, is there
    hub._failures.clear()
    push(artifacts["one file"])
    assert "model.safetensors" in hub.files(REPO) and hub.refs(REPO)[0] == ["main"]


def with_licence(folder: Path, target: Path, text: str) -> Path:
    shutil.copytree(folder, target)
    (target / "LICENSE").write_text(text)
    return target


def test_what_an_earlier_push_said_of_its_model_goes_with_it(
    artifacts: dict[str, Path], hub: HubServer, tmp_path: Path
) -> None:
    licensed = CARD.replace("- fine-tuned", "- fine-tuned\n- lora").replace("tags:", "license: apache-2.0\ntags:")
    push(with_licence(artifacts["one file"], tmp_path / "licensed", "Apache"), card=licensed)
    assert hub.files(REPO)["LICENSE"] == b"Apache" and "license: apache-2.0" in hub.files(REPO)["README.md"].decode()
    push(artifacts["shards"])
    files = hub.files(REPO)
    text = files["README.md"].decode()
    assert "LICENSE" not in files and "license:" not in text and "- lora" not in text and "- fine-tuned" in text


def test_a_licence_of_the_users_stays_beside_that_of_the_base(
    artifacts: dict[str, Path], hub: HubServer, tmp_path: Path
) -> None:
    readme = b"---\nlicense: mit\ntags: [mine]\n---\n# By hand\n"
    hub.add_repo(REPO, {"LICENSE": b"MIT of mine", "README.md": readme}, private=True)
    folder = with_licence(artifacts["one file"], tmp_path / "licensed", "Apache")
    for artifact in (folder, folder, artifacts["shards"]):
        push(artifact)
        files = hub.files(REPO)
        assert files["LICENSE"] == b"MIT of mine" and "license: mit" in files["README.md"].decode()
        assert ("BASE_MODEL_LICENSE" in files) == (artifact == folder)
    assert len(hub.commits(REPO)) == 4
