"""A file is written as a whole, or not at all, and never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tasks.files.whole_files import write_whole


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path: Path) -> None:
    theirs, page = tmp_path / "theirs", tmp_path / "page.html"
    theirs.write_text("mine")
    page.symlink_to(theirs)
    write_whole(page, "new")
    assert (page.read_text(), page.is_symlink(), theirs.read_text()) == ("new", False, "mine")
    assert stat.S_IMODE(page.stat().st_mode) == 0o666 & ~os.umask(os.umask(0o022) or 0o022)


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_whole(page, "old")
    # a lone surrogate is written; a folder in its place is no file
    write_whole(page, "\ud800")
    assert page.read_bytes() == b"\xed\xa0\x80"
    folder = tmp_path / "folder.html"
    folder.mkdir()
    with pytest.raises(OSError):
        write_whole(folder, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.html", "page.html"]
