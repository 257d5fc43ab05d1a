"""What the README says is so: its configs load, its commands run, its links and its tree exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from configs.schema import FineTuneConfig

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLEST = {"model": {"name": "x"}, "data": {"sources": [{"path": "rows.jsonl"}]}}


GUIDES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("data", "plan", "scaling-out", "cluster", "images", "watching", "architecture")
]


def blocks(language: str, page: str = README) -> list[str]:
    """Return the fenced blocks of one language; of "" those that name none."""
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", page, re.S | re.M) if name == language]


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda text: text.split(":")[0])
def test_each_config_is_accepted(block: str) -> None:
    FineTuneConfig.model_validate_json(json.dumps({**SMALLEST, **yaml.safe_load(block)}))


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_each_guide_says_what_is_accepted_and_links_to_what_is_there(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    for block in blocks("yaml", page):
        FineTuneConfig.model_validate_json(json.dumps({**SMALLEST, **yaml.safe_load(block)}))
    for link in re.findall(r"\]\(([^)#]+)", page):
        assert link.startswith("http") or (path.parent / link).exists(), link


def test_each_make_target_exists() -> None:
    pages = [README, *(path.read_text(encoding="utf-8") for path in GUIDES)]
    named = {name for page in pages for name in re.findall(r"(?:^|`)make ([a-z-]+)", page, re.M)}
    assert {"run", "test", "register", "run-remote", "help"} <= named
    for target in named:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_each_link_and_each_place_in_the_tree_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    [tree] = [text for text in blocks("") if text.startswith("configs/")]
    folder = ""
    for line in tree.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0]
        folder = names if not line.startswith(" ") else folder
        for name in names.split(", "):
            place = name if not line.startswith(" ") else f"{folder}{name}"
            assert (ROOT / place).exists(), place


def test_each_preset_is_in_the_table() -> None:
    named = set(re.findall(r"^\| `([\w.-]+)` \|", README, re.M))
    assert named == {path.stem for path in (ROOT / "configs" / "presets").glob("*.yaml")}


@pytest.mark.slow
def test_the_smallest_config_runs_with_the_command_given(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    smallest = yaml.safe_load(blocks("yaml")[0])
    smallest["model"]["name"] = str(tiny_model)
    smallest["data"]["sources"][0]["path"] = str(rows_file)
    config = tmp_path / "my.yaml"
    config.write_text(yaml.safe_dump({**smallest, "output_directory": str(tmp_path)}))
    [block] = [text for text in blocks("") if "# which is: " in text]
    (command,) = re.findall(r"# which is: (.+)", block)
    result = subprocess.run(
        command.replace("my.yaml", str(config)).split(),
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("metrics: ")
    assert "quantized_4bit" in result.stdout
