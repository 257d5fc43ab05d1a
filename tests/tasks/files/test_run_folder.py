"""The output folder of a laptop run: replaced as a whole, never mixed, never lost; real processes hold the locks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import ROOT

from configs.errors import ConfigError
from tasks.files.run_folder import RunFolder, claim, finish, release


def finished(parent: Path, identity: str, **files: str) -> Path:
    """Leave the folder of a run that has ended, with these files."""
    return written(claim(parent, "demo", identity, "number"), identity, **files)


def written(folder: RunFolder, identity: str, **files: str) -> Path:
    record = {"identity": identity, "files": sorted(files)}
    for name, text in {**files, "run.json": json.dumps(record)}.items():
        (folder.unfinished / name).write_text(text)
    return finish(folder)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "run.json"}


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if not path.name.startswith(".fine-tune"))


def test_the_same_config_replaces_the_whole_folder_silently(tmp_path: Path) -> None:
    finished(tmp_path, "a", report="1", quarantine="1")
    folder = claim(tmp_path, "demo", "a", "stop")
    assert (folder.place, folder.note) == (tmp_path / "demo", "")
    (folder.unfinished / "report").write_text("2")
    # until it ends, the old folder is whole
    assert texts(tmp_path / "demo") == {"report": "1", "quarantine": "1"}
    assert written(folder, "a", report="2") == tmp_path / "demo"
    assert texts(tmp_path / "demo") == {"report": "2"} and names(tmp_path) == ["demo"]


def test_files_that_a_user_put_there_stay(tmp_path: Path) -> None:
    place = finished(tmp_path, "a", report="1")
    (place / "notes").write_text("mine")
    finished(tmp_path, "a", report="2")
    assert texts(place) == {"report": "2", "notes": "mine"}


def test_another_config_gets_a_number_and_finds_it_again(tmp_path: Path) -> None:
    finished(tmp_path, "a", report="a")
    folder = claim(tmp_path, "demo", "b", "number")
    assert folder.place == tmp_path / "demo-2"
    assert folder.note == (
        f"{tmp_path}/demo holds a run of another config: this run's folder is {tmp_path}/demo-2 (output_exists: number)"
    )
    written(folder, "b", report="b")
    assert finished(tmp_path, "b", report="b again") == tmp_path / "demo-2"
    assert finished(tmp_path, "c", report="c") == tmp_path / "demo-3"
    assert [texts(tmp_path / name)["report"] for name in names(tmp_path)] == ["a", "b again", "c"]


def test_another_config_replaces_if_told_to_and_says_so(tmp_path: Path) -> None:
    finished(tmp_path, "a", report="a", quarantine="a")
    folder = claim(tmp_path, "demo", "b", "replace")
    assert folder.place == tmp_path / "demo"
    assert folder.note == (
        f"{tmp_path}/demo holds a run of another config: it is replaced when this run ends (output_exists: replace)"
    )
    assert texts(written(folder, "b", report="b")) == {"report": "b"}


@pytest.mark.parametrize("kind", ["link", "file", "files of a user"])
def test_only_the_folder_of_a_run_is_ever_replaced(tmp_path: Path, kind: str) -> None:
    """`output_directory: ~`, `name: Documents`, `output_exists: replace` must not delete the documents."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("mine")
    place = tmp_path / "demo"
    if kind == "link":
        (elsewhere / "run.json").write_text(json.dumps({"identity": "a", "files": ["thesis.txt"]}))
        place.symlink_to(elsewhere)
        words = "is a symbolic link"
    elif kind == "file":
        place.write_text("mine")
        words = "is not a folder"
    else:
        elsewhere.rename(place)
        words = "holds files of no run"
    with pytest.raises(ConfigError) as error:
        claim(tmp_path, "demo", "a", "replace")
    assert str(error.value) == (
        f"output_exists=replace: {place} {words}, and only the folder of a run is replaced; choose another `name`, or "
        "move it away"
    )
    with pytest.raises(ConfigError, match=f"output_exists=stop: {place} {words}; choose another `name`"):
        claim(tmp_path, "demo", "a", "stop")
    folder = claim(tmp_path, "demo", "a", "number")
    assert folder.note == f"{place} {words}: this run's folder is {place}-2 (output_exists: number)"
    written(folder, "a", report="1")
    kept = place if kind == "file" else (elsewhere if kind == "link" else place) / "thesis.txt"
    assert kept.read_text() == "mine" and place.is_symlink() == (kind == "link")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("report", "model", ".fine-tune.lock"):
        (theirs / name).write_text("mine")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "demo.unfinished").symlink_to(theirs)
    (runs / ".demo.replaced").symlink_to(theirs)
    folder = claim(runs, "demo", "a", "number")
    assert folder.unfinished == runs / "demo.unfinished-2"
    written(folder, "a", report="1")
    # a link within the folder of a failed run
    unfinished = runs / "demo.unfinished-2"
    unfinished.mkdir()
    (unfinished / ".fine-tune.lock").touch()
    for name in ("report", "models", "run.json"):
        (unfinished / name).symlink_to(theirs / "report" if name != "models" else theirs)
    again = claim(runs, "demo", "a", "number")
    assert again.unfinished == unfinished and names(unfinished) == []
    written(again, "a", report="2")
    assert {path.name: path.read_text() for path in theirs.iterdir()} == {
        "report": "mine",
        "model": "mine",
        ".fine-tune.lock": "mine",
    }
    (runs / ".fine-tune.lock").unlink()
    (runs / ".fine-tune.lock").symlink_to(theirs / "new")
    with pytest.raises(OSError, match="symbolic links"):
        claim(runs, "demo", "a", "number")
    assert not (theirs / "new").exists()


def test_an_unfinished_folder_that_no_run_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo.unfinished").mkdir()
    (tmp_path / "demo.unfinished" / "thesis.txt").write_text("mine")
    (tmp_path / "demo.unfinished-2").write_text("mine")
    folder = claim(tmp_path, "demo", "a", "number")
    assert folder.unfinished == tmp_path / "demo.unfinished-3"
    written(folder, "a", report="1")
    assert (tmp_path / "demo.unfinished" / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "demo.unfinished-2").read_text() == "mine"


def test_what_a_user_changed_is_known_by_its_content_alone(tmp_path: Path) -> None:
    """`chmod -R`, a restored backup or `cp -a` make times say nothing."""
    folder = claim(tmp_path, "demo", "a", "number")
    (folder.unfinished / "rows").write_text("ours")
    record = {"identity": "a", "files": ["rows"], "sha256": {"rows": sha256(b"ours").hexdigest()}}
    (folder.unfinished / "run.json").write_text(json.dumps(record))
    place = finish(folder)
    (place / "rows").write_text("edited")
    (place / "run.json").chmod(0o640)
    finished(tmp_path, "a", rows="new")
    assert (texts(place), (tmp_path / "demo.kept" / "rows").read_text()) == ({"rows": "new"}, "edited")


def test_what_a_user_changed_or_put_into_a_models_folder_is_moved_aside(tmp_path: Path) -> None:
    folder = claim(tmp_path, "demo", "a", "number")
    (folder.unfinished / "model" / "onnx").mkdir(parents=True)
    own = {
        "report": "1",
        "page": "1",
        "model/README.md": "ours",
        "model/onnx/a": "ours",
        "model/.gitattributes": "ours",
    }
    for name, text in own.items():
        (folder.unfinished / name).write_text(text)
    record = {"identity": "a", "files": ["model", "page", "report"]}
    record["sha256"] = {name: sha256(text.encode()).hexdigest() for name, text in own.items()}
    (folder.unfinished / "run.json").write_text(json.dumps(record))
    place = finish(folder)
    # of another run or program: changed, put beside, and a folder where a file was
    (place / "model" / "README.md").write_text("edited")
    (place / "model" / "notes.txt").write_text("mine")
    (place / "model" / ".env").write_text("mine")
    (place / "page").unlink()
    (place / "page").mkdir()
    (place / "page" / "inner").write_text("mine")
    (place / "notes").write_text("mine")
    again = claim(tmp_path, "demo", "a", "number")
    (again.unfinished / "model").mkdir()
    for name in ("report", "page", "model/README.md"):
        (again.unfinished / name).write_text("2")
    (again.unfinished / "run.json").write_text(json.dumps({**record, "sha256": {}}))
    finish(again)
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: text for name, text in found.items() if "lock" not in name and "run.json" not in name} == {
        "demo/report": "2",
        "demo/page": "2",
        "demo/model/README.md": "2",
        "demo/notes": "mine",
        "demo.kept/model/README.md": "edited",
        "demo.kept/model/notes.txt": "mine",
        "demo.kept/model/.env": "mine",
        "demo.kept/page/inner": "mine",
    }


def test_another_config_stops_if_told_to(tmp_path: Path) -> None:
    finished(tmp_path, "a", report="a")
    with pytest.raises(ConfigError, match=r"output_exists=stop: .*/demo holds a run of another config; name another"):
        claim(tmp_path, "demo", "b", "stop")
    assert names(tmp_path) == ["demo"]


def test_a_folder_of_something_else_is_left_alone_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert finished(tmp_path, "a", report="a") == tmp_path / "demo"
    (tmp_path / "demo" / "run.json").write_text("no JSON")
    assert finished(tmp_path, "a", report="a") == tmp_path / "demo-2"


_HOLD = """
import sys, time
from pathlib import Path
from tasks.files.run_folder import claim, finish
folder = claim(Path(sys.argv[1]), "demo", "a", "number")
(folder.unfinished / "model").mkdir()
print(folder.place, flush=True)
time.sleep(100)
"""


def held(parent: Path) -> subprocess.Popen[str]:
    """Start a process that claims the folder, and return it when it has."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, parent], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == str(parent / "demo")
    return process


def test_two_runs_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    process = held(tmp_path)
    try:
        # not even with the same config, or told to replace it
        for rule in ("number", "replace"):
            folder = claim(tmp_path, "demo", "a", rule)
            assert folder.place == tmp_path / "demo-2"
            assert folder.note.startswith(f"another run is writing {tmp_path}/demo: this run's folder is")
            release(folder)
        with pytest.raises(ConfigError, match=r"output_exists=stop: another run is writing .*/demo; wait"):
            claim(tmp_path, "demo", "a", "stop")
    finally:
        process.kill()
        process.wait()


def test_a_killed_run_leaves_the_old_folder_whole_and_its_model_to_be_found(tmp_path: Path) -> None:
    finished(tmp_path, "a", report="1")
    process = held(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert texts(tmp_path / "demo") == {"report": "1"} and (tmp_path / "demo.unfinished" / "model").is_dir()
    # it had not written its config yet, so its model is not known to be this run's
    folder = claim(tmp_path, "demo", "a", "number")
    assert (folder.place, folder.unfinished) == (tmp_path / "demo", tmp_path / "demo.unfinished-2")
    (folder.unfinished / "run.json").write_text(json.dumps({"identity": "a"}))
    (folder.unfinished / "adapter").mkdir()
    (folder.unfinished / "plan.html").write_text("old")
    release(folder)
    # the next try of the same config keeps the model until it has one
    again = claim(tmp_path, "demo", "a", "number")
    assert again.unfinished == folder.unfinished
    # and its record, which says whose it is
    assert sorted(path.name for path in again.unfinished.iterdir() if path.name[0] != ".") == ["adapter", "run.json"]


def test_a_replacement_that_was_killed_halfway_is_mended(tmp_path: Path) -> None:
    place = finished(tmp_path, "a", report="1")
    place.rename(tmp_path / ".demo.replaced")
    release(claim(tmp_path, "demo", "b", "number"))
    assert texts(place) == {"report": "1"}
    place.rename(tmp_path / ".demo.replaced")
    (tmp_path / ".demo.replaced" / "notes").write_text("mine")
    place.mkdir()
    (place / "report").write_text("2")
    release(claim(tmp_path, "demo", "b", "number"))
    assert texts(place) == {"report": "2", "notes": "mine"} and not (tmp_path / ".demo.replaced").exists()
