"""Files that pages for contributors name are there, and the changelog knows the version."""

from __future__ import annotations

import re
import tomllib

import pytest
from conftest import ROOT

PAGES = ("CONTRIBUTING.md", "docs/architecture.md")
_PLACE = re.compile(r"`((?:configs|tasks|workflows|images|tests|docs|benchmarks)/[\w./-]*|[A-Z]+\.md|\.[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES)
def test_each_place_that_a_page_names_exists(page: str) -> None:
    places = _PLACE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(places) > 10
    missing = [place for place in places if "NAME" not in place and not (ROOT / place).exists()]
    assert not missing, f"{page} names {', '.join(missing)}"


def test_the_changelog_has_the_packages_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert next(heading for heading in headings if heading != "Unreleased") == version
