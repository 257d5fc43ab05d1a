"""docs/scaling.md holds what the code computes; `UPDATE_DOCS=1 pytest tests/docs/test_scaling.py` writes it anew."""

from __future__ import annotations

import os
import re

import pytest
from conftest import ROOT
from support.scaling_tables import TABLES

DOCS = ROOT / "docs" / "scaling.md"


@pytest.mark.parametrize("name", TABLES)
def test_the_table_in_the_docs_is_what_the_code_computes(name: str) -> None:
    table, text = TABLES[name](), DOCS.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: made by tests/docs/test_scaling.py -->\n", f"\n<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    written, found_end, after = rest.partition(end)
    assert found and found_end, f"docs/scaling.md has no place for {name}"
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")
        return
    assert written == table, "run with UPDATE_DOCS=1"


def test_every_place_in_the_docs_is_filled_by_a_table() -> None:
    places = re.findall(r"<!-- ([\w ]+): made by", DOCS.read_text(encoding="utf-8"))
    assert places == list(TABLES)


def test_it_is_short_and_names_files_that_exist() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 285
    for path in re.findall(r"\]\((?:\.\./)?([\w/.]+\.(?:py|md|json))\)", text):
        assert (ROOT / path).is_file() or (ROOT / "docs" / path).is_file(), path
