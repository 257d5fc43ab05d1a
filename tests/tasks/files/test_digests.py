"""Digests of artifacts: any change of a byte or a name shows, and the digest travels in the address."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ArtifactError
from tasks.files.digests import check_digest, content_digest, digest_in, is_unchanged, sealed_name

# published test values of XXH3 with 128 bits and seed 0
EMPTY, ABC = "99aa06d3014798d86001c324468d497f", "06b05ab6733a618578af5f94892f3950"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"one")
    (folder / "b.bin").write_bytes(b"two")
    (folder / "sub" / "c.bin").write_bytes(bytes(3 * 2**20 + 1))
    return folder


def test_the_digest_of_a_file_is_xxh3(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert content_digest(file) == EMPTY
    file.write_bytes(b"abc")
    assert content_digest(file) == ABC


def test_every_change_of_a_folder_shows(model: Path) -> None:
    before = content_digest(model)
    assert content_digest(model) == before

    def changed() -> bool:
        return content_digest(model) != before

    large = model / "sub" / "c.bin"
    content = large.read_bytes()
    # one bit of the last byte, at the same size and time
    large.write_bytes(content[:-1] + b"\x01")
    assert changed()
    large.write_bytes(content)
    assert not changed()
    (model / "a.bin").rename(model / "z.bin")
    assert changed()
    (model / "z.bin").rename(model / "a.bin")
    (model / "more.bin").write_bytes(b"")
    assert changed()
    (model / "more.bin").unlink()
    (model / "a.bin").write_bytes(b"two")
    (model / "b.bin").write_bytes(b"one")
    assert changed()
    (model / "a.bin").write_bytes(b"one")
    (model / "b.bin").write_bytes(b"two")
    (model / "empty").mkdir()
    assert not changed()


def test_links_count_as_what_they_name(model: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in model.iterdir():
        if path.is_file():
            (linked / path.name).symlink_to(path)
    (linked / "sub").mkdir()
    (linked / "sub" / "c.bin").symlink_to(model / "sub" / "c.bin")
    assert content_digest(linked) == content_digest(model)


@pytest.mark.parametrize(
    ("name", "sealed"),
    [("model", f"model.xxh3-{ABC}"), ("train.parquet", f"train.xxh3-{ABC}.parquet")],
)
def test_an_address_carries_the_digest(name: str, sealed: str) -> None:
    assert sealed_name(name, ABC) == sealed
    for address in (f"/tmp/raw/{sealed}", f"s3://bucket/{sealed}/", f"file:///raw/{sealed}"):
        assert digest_in(address) == ABC
    assert digest_in(f"/raw/{sealed}/model.safetensors") == ""
    assert digest_in(f"/raw/{name}") == ""


def test_a_changed_artifact_is_one_error_that_says_what_to_do(model: Path) -> None:
    address = str(model.with_name(sealed_name("model", content_digest(model))))
    check_digest(model, address, "run again")
    assert is_unchanged(model, address) and is_unchanged(model, "/raw/without")
    with (model / "sub" / "c.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"four")
    assert not is_unchanged(model, address)
    with pytest.raises(ArtifactError) as error:
        check_digest(model, address, "run again")
    assert str(error.value) == (
        f"{address} was changed after it was written: its content no longer has the digest {digest_in(address)[:12]}"
        "... in its name\nrun again"
    )
