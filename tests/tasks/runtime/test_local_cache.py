"""A cache of Flyte's that cannot be used is one line that says what mends it; damage is made with real files."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from diskcache import Cache
from flytekit.core import local_cache as flyte_cache
from flytekit.core.local_cache import LocalTaskCache

from configs.errors import ArtifactError
from tasks.runtime import local_cache
from tasks.runtime.local_cache import explained_cache, named_outputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(flyte_cache, "CACHE_LOCATION", str(folder))
    monkeypatch.setattr(LocalTaskCache, "_initialized", False)
    with Cache(folder) as cache:
        for number in range(100):
            cache.set(f"inputs of the last run: x: {number}", "y" * 1000)
    return folder


def cut_short(folder: Path) -> None:
    content = (folder / "cache.db").read_bytes()
    (folder / "cache.db").write_bytes(content[: len(content) // 2])


def is_text(folder: Path) -> None:
    (folder / "cache.db").write_text("not a data base " * 1000)


def is_a_folder(folder: Path) -> None:
    (folder / "cache.db").unlink()
    (folder / "cache.db").mkdir()


def lies_in_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def has_other_values(folder: Path) -> None:
    with Cache(folder) as cache:
        cache.set("tasks.x", b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (cut_short, "is damaged (DatabaseError); delete it, and all steps run again"),
        (is_text, "is damaged (DatabaseError); delete it, and all steps run again"),
        (is_a_folder, "cannot be used (unable to open database file); make it readable and writable, or delete it"),
        (lies_in_a_file, "cannot be used (unable to open database file); make it readable and writable, or delete it"),
        (has_other_values, "is damaged (DecodeError); delete it, and all steps run again"),
    ],
)
def test_a_damaged_cache_is_one_line_with_its_command(damage: object, fault: str, folder: Path) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ArtifactError) as error:
        named_outputs()
    assert str(error.value) == f"Flyte's local cache in {folder} {fault}: rm -rf {folder}"
    if damage is not has_other_values:
        # flytekit's own use of it
        with pytest.raises(ArtifactError) as error, explained_cache():
            LocalTaskCache.initialize()
            LocalTaskCache._cache.get("tasks.y")
        assert str(error.value) == f"Flyte's local cache in {folder} {fault}: rm -rf {folder}"
    # and the command mends it
    shutil.rmtree(folder, ignore_errors=True)
    folder.unlink(missing_ok=True)
    assert named_outputs() == set()


def test_a_place_that_cannot_hold_a_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setattr(flyte_cache, "CACHE_LOCATION", str(tmp_path / "home" / "cache"))
    with pytest.raises(ArtifactError, match="cannot be used"):
        named_outputs()


def test_a_locked_cache_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_cache, "LOCKED_SECONDS", 0.5)
    monkeypatch.setattr("tasks.files.waiting._FIRST_LINE_SECONDS", 0.2)
    other = sqlite3.connect(folder / "cache.db")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ArtifactError, match=r"cache is locked by another process; run again once that has ended"):
        named_outputs()
    assert f"still waiting for Flyte's local cache in {folder}" in capsys.readouterr().out
    other.close()
    assert named_outputs() == set()
