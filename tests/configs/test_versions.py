"""The cache version of a stage depends on its code and on the files that run beside it, and on no other file."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import versions


@pytest.mark.parametrize("name", ["stage/work.py", "stage/inner/zero2.json", "constraints.txt"])
def test_a_changed_file_changes_the_version(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    (tmp_path / "stage" / "inner").mkdir(parents=True)
    for file_name in ("stage/work.py", "stage/inner/zero2.json", "constraints.txt", "other.py"):
        (tmp_path / file_name).write_text("before")
    version = versions.source_version.__wrapped__
    before = version("stage")
    (tmp_path / "other.py").write_text("after")
    assert version("stage") == before
    (tmp_path / name).write_text("after")
    assert version("stage") != before
