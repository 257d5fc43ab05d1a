"""The cache version of a stage depends on its code and on the files that run beside it, and on no other file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from configs import versions

SHELLS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tasks/*/task.py"))
# what is code to a stage: settings, in contrast, travel as inputs of a task
DECISIONS = ("configs/effective/", "configs/objectives.py", "configs/measures.py", "configs/artifacts.py")


@pytest.mark.parametrize("name", ["stage/work.py", "stage/inner/zero2.json", "table.py", "constraints.txt"])
def test_a_changed_file_changes_the_version(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    (tmp_path / "stage" / "inner").mkdir(parents=True)
    for file_name in ("stage/work.py", "stage/inner/zero2.json", "table.py", "constraints.txt", "other.py"):
        (tmp_path / file_name).write_text("before")
    version = versions.source_version.__wrapped__
    before = version("stage", "table.py")
    (tmp_path / "other.py").write_text("after")
    assert version("stage", "table.py") == before
    (tmp_path / name).write_text("after")
    assert version("stage", "table.py") != before


@pytest.mark.parametrize("shell", SHELLS)
def test_a_cached_stage_depends_on_the_decisions_that_it_imports(shell: str) -> None:
    tree = ast.parse((ROOT / shell).read_text(encoding="utf-8"))
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "source_version":
            # what a Deck says of measures is no part of a result that a later stage reads
            places = [ast.literal_eval(argument) for argument in call.args]
            files = [
                file
                for place in places
                if place != "tasks/decks"
                for file in ([place] if place.endswith(".py") else _sources(place))
            ]
            needed = {module for file in files for module in _imported(file) if module.startswith(DECISIONS)}
            missing = {module for module in needed if not any(f"{module}/".startswith(f"{place}/") for place in places)}
            assert not missing, f"{shell}: source_version lacks {', '.join(sorted(missing))}"


def _sources(folder: str) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")]


def _imported(file: str) -> Iterator[str]:
    """Yield the files of the project that a file imports."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = f"{name.replace('.', '/')}.py"
                if (ROOT / path).is_file():
                    yield path


def test_sources_of_versions_are_there() -> None:
    assert len(SHELLS) == 12
    assert "configs/objectives.py" in set(_imported("tasks/train/arguments.py"))
