"""Bad input as a user meets it: one to three lines on stderr, exit status 1, nothing trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PyFlyte, error_lines
from support.hub_server import HubServer

PAIRS = "".join(json.dumps({"prompt": f"q {n}", "completion": f"a {n}"}) + "\n" for n in range(20))


def config(model: Path | str, data: Path | str, **changes: object) -> dict:
    return {"model": {"name": str(model)}, "data": {"sources": [{"path": str(data)}]}, **changes}


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Check the form of a refusal, and return its message."""
    assert result.returncode == 1
    lines = error_lines(result)
    assert 1 <= len(lines) <= 3, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "train: step" not in result.stdout
    return "\n".join(lines)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(PAIRS)
    return path


def test_a_wrong_key(started_pyflyte: PyFlyte, tiny_model: Path, rows: Path) -> None:
    message = refused(started_pyflyte.fine_tune(config(tiny_model, rows, trian={})))
    assert "trian is not a setting (did you mean train?)" in message


def test_a_missing_config(started_pyflyte: PyFlyte) -> None:
    assert "config file none.yaml does not exist" in refused(started_pyflyte.fine_tune("none.yaml"))


def test_a_missing_file(pyflyte: PyFlyte, tiny_model: Path) -> None:
    assert "data.sources[0].path=none.jsonl does not exist" in refused(
        pyflyte.fine_tune(config(tiny_model, "none.jsonl"))
    )


def test_another_encoding(pyflyte: PyFlyte, tiny_model: Path, rows: Path) -> None:
    rows.write_bytes(PAIRS.encode() + '{"prompt": "é", "completion": "b"}\n'.encode("latin-1"))
    assert "line 21: byte 0xe9 is not UTF-8" in refused(pyflyte.fine_tune(config(tiny_model, rows)))


def test_an_empty_completion_is_named_and_shown_escaped(pyflyte: PyFlyte, tiny_model: Path, rows: Path) -> None:
    bad = [{"prompt": "<script>alert(1)</script>", "completion": ""}, {"prompt": 3, "completion": "<img src=x>"}]
    rows.write_text(PAIRS + "".join(json.dumps(row) + "\n" for row in bad))
    message = refused(pyflyte.fine_tune(config(tiny_model, rows)))
    assert "rows.jsonl row 21, column completion: is empty" in message
    assert "2 invalid rows" in message
    page = Path(message.splitlines()[-1].removeprefix("all failure cases: ")).read_text()
    assert "<script" not in page and "is a number, not text" in page


def test_too_few_rows(pyflyte: PyFlyte, tiny_model: Path, rows: Path) -> None:
    rows.write_text("\n".join(PAIRS.splitlines()[:9]))
    assert "9 valid rows in all, at least 10 are needed" in refused(pyflyte.fine_tune(config(tiny_model, rows)))


def test_a_model_without_weights(pyflyte: PyFlyte, tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "model.safetensors").unlink()
    assert "has no weights" in refused(pyflyte.fine_tune(config(model, rows)))


def test_weights_that_do_not_fit_the_configuration(
    pyflyte: PyFlyte, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}))
    assert "weights that its config.json asks for" in refused(pyflyte.fine_tune(config(model, rows)))


def test_target_modules_that_match_nothing(pyflyte: PyFlyte, tiny_model: Path, rows: Path) -> None:
    train = {"method": "lora", "lora": {"target_modules": ["q_porj"]}}
    assert "train.lora.target_modules: q_porj" in refused(pyflyte.fine_tune(config(tiny_model, rows, train=train)))


def test_a_refused_token(pyflyte: PyFlyte, tiny_model: Path, rows: Path) -> None:
    push = config(tiny_model, rows, push_to_hub={"repository": "me/tuned"})
    with HubServer(tokens={"hf_write": "write", "hf_read": "read"}) as server:
        for token, words in (
            ("hf_wrong_secret", "refused the token (401)"),
            ("hf_read", "the token may only read"),
            ("", "needs a hub token; looked in the Flyte secret huggingface/token, $HF_TOKEN"),
        ):
            message = refused(pyflyte.fine_tune(push, {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": token}))
            assert words in message
            assert "hf_wrong_secret" not in message
        # it asked three times, and wrote nothing
        assert {request.method for request in server.requests} == {"GET"}


def test_a_hub_that_is_not_there(pyflyte: PyFlyte, rows: Path) -> None:
    message = refused(pyflyte.fine_tune(config("owner/base", rows), {"HF_ENDPOINT": "http://127.0.0.1:9"}))
    assert "model.name=owner/base: http://127.0.0.1:9 cannot be reached" in message


def test_a_model_or_data_set_that_the_hub_does_not_have(pyflyte: PyFlyte, tiny_model: Path, rows: Path) -> None:
    with HubServer(tokens={}) as server:
        env = {"HF_ENDPOINT": server.endpoint}
        assert "model.name=owner/none is not on" in refused(pyflyte.fine_tune(config("owner/none", rows), env))
        missing = {"model": {"name": str(tiny_model)}, "data": {"sources": [{"hub": "owner/none"}]}}
        assert "data.sources[0].hub=owner/none is not on" in refused(pyflyte.fine_tune(missing, env))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(pyflyte: PyFlyte, tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    disk = pyflyte.home / "tmp"
    disk.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        message = refused(pyflyte.fine_tune(config(tiny_model, rows)))
        assert "GiB free; this run writes about" in message and "TMPDIR" in message
    finally:
        subprocess.run(["umount", str(disk)], check=True)
