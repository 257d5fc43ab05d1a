"""A cached result depends on everything that made it: code, and the files that run beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import versions


@pytest.mark.parametrize("name", ["stage/work.py", "stage/inner/zero2.json", "table.py", "constraints.txt"])
def test_a_changed_file_makes_another_version(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    (tmp_path / "stage" / "inner").mkdir(parents=True)
    for file in ("stage/work.py", "stage/inner/zero2.json", "table.py", "constraints.txt", "other.py"):
        (tmp_path / file).write_text("before")
    version = versions.source_version.__wrapped__
    before = version("stage", "table.py")
    (tmp_path / "other.py").write_text("after")
    assert version("stage", "table.py") == before
    (tmp_path / name).write_text("after")
    assert version("stage", "table.py") != before
