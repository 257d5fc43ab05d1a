"""Files of the base that go with every model made from it, and what its card says of its licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.models.companions import copy_companions, copy_record, stated_license


def folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def test_licences_notices_and_preprocessors_go_with_the_model(tmp_path: Path) -> None:
    base = folder(
        tmp_path / "base",
        LICENSE="MIT",
        LICENSE__txt="MIT",
        NOTICE="n",
        USE_POLICY__md="p",
        preprocessor_config__json="{}",
        config__json="{}",
        README__md="r",
    )
    output = folder(tmp_path / "output", NOTICE="its own")
    assert copy_companions(base, output) == ["LICENSE", "LICENSE.txt", "USE_POLICY.md", "preprocessor_config.json"]
    assert (output / "NOTICE").read_text() == "its own" and not (output / "README.md").exists()


def test_a_copy_of_a_model_keeps_its_record(tmp_path: Path) -> None:
    model = folder(tmp_path / "model", LICENSE="MIT", training__json="{}")
    copy_record(model, folder(tmp_path / "copy"))
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["LICENSE", "training.json"]
    copy_record(folder(tmp_path / "bare"), folder(tmp_path / "other"))
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# Model\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "llama3", "license_link": "LICENSE"},
        ),
        ("# Model\n", {}),
        ("---\n{broken\n---\n", {}),
        ("---\n- a list\n---\n", {}),
    ],
)
def test_the_licence_is_that_of_the_bases_card(card: str, stated: dict[str, str], tmp_path: Path) -> None:
    assert stated_license(folder(tmp_path / "base", README__md=card)) == stated


def test_a_model_without_a_card_states_none(tmp_path: Path) -> None:
    assert stated_license(tmp_path) == {}
