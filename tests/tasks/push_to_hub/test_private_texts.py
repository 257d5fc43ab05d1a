"""Nothing private goes up: paths of this machine, tokens, texts of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from configs.errors import HubError
from tasks.push_to_hub.private_texts import check_private, is_local, without_places

ROW = "Which of the customers of the shop in Bern did not pay in May?"


def fault(name: str, content: Path | bytes, **given: list[str]) -> str:
    """Return what the refusal says that a file holds; nothing for a file that may go up."""
    known = {"paths": [], "secrets": [], "rows": [], **given}
    try:
        check_private("me/x", {name: content}, **known)
    except HubError as error:
        first, fix = str(error).splitlines()
        assert first.startswith(f"push_to_hub.repository=me/x: {name} holds ") and fix.startswith("remove it from")
        return first.partition(" holds ")[2].removesuffix("; nothing was pushed")
    return ""


@pytest.mark.parametrize("name", ["README.md", "config.json", "fine_tune_config.yaml", "training.json"])
def test_what_is_private_is_found_in_each_text(name: str) -> None:
    for text in ("/home/alice/base", "x=/Users/bob/data", "C:\\Users\\bob", "file:///data/x", "/root/.cache/hub"):
        assert fault(name, f"see {text}".encode()) == "a path of a machine"
    assert fault(name, b"at /data/runs/base", paths=["/data/runs/base/"]) == "a path of a machine"
    assert fault(name, b"token hf_" + b"a" * 30) == "a token"
    assert fault(name, b"key s3cr3t-value", secrets=["s3cr3t-value"]) == "a token"
    assert fault(name, b'{"x": "https://me:pw@host/x"}') == "an address with a password"
    assert fault(name, f"example: {ROW}".encode(), rows=[ROW]) == "the text of a held-out row"
    quoted = f'"{ROW}" é'
    for ascii_only in (True, False):
        written = json.dumps({"x": quoted}, ensure_ascii=ascii_only).encode()
        assert fault(name, written, rows=[quoted]) == "the text of a held-out row"


def test_what_is_public_goes_up() -> None:
    text = b"See https://example.org/home/page and owner/model, ./local, half/home, 1/2; Yes."
    assert fault("README.md", text, rows=["Yes."], paths=["/", "/tmp"]) == ""
    # a vocabulary or a template may have what looks like a folder
    assert fault("tokenizer.json", b'{"/home/user": 7}') == ""
    assert fault("chat_template.jinja", b"The drive is at /home/oai/share") == ""
    assert fault("tokenizer.json", b'{"/data/mine/x": 7}', paths=["/data/mine"]) == "a path of a machine"


def test_the_header_of_weights_is_searched(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(2)}, path, metadata={"from": "/home/alice/base"})
    assert fault("model.safetensors", path) == "a path of a machine"
    save_file({"x": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert fault("model.safetensors", path) == ""


def test_places_that_libraries_write_are_replaced(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter_config.json"
    adapter.write_text(json.dumps({"base_model_name_or_path": "/home/alice/base", "r": 8}))
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({"_name_or_path": "owner/base", "x": 1}))
    files = without_places({"adapter_config.json": adapter, "config.json": settings}, "base@0123")
    assert json.loads(files["adapter_config.json"]) == {"base_model_name_or_path": "base@0123", "r": 8}
    # the id of a model on a hub stays, and so do the file's bytes
    assert files["config.json"] == settings


@pytest.mark.parametrize("place", ["/x", "./x", "../x", "~/x", "file:///x", "C:\\x", "s3://bucket/x"])
def test_folders_and_addresses_are_local(place: str) -> None:
    assert is_local(place) and not is_local("owner/name") and not is_local("") and not is_local(None)
