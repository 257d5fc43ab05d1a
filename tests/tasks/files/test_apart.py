"""A run never writes over what it reads: inputs and outputs are compared by their real paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.schema import FineTuneConfig
from tasks.files.apart import check_apart


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run `self`, which has ended, with a model, rows and a template; and rows elsewhere."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "outputs" / "self"
    for folder in ("model", "adapter"):
        (place / folder).mkdir(parents=True)
        (place / folder / "config.json").write_text("{}")
    for name in ("train.jsonl", "template.jinja"):
        (place / name).write_text("{}")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text("{}")
    return tmp_path / "outputs"


def config(name: str = "self", path: Any = "rows/rows.jsonl", model: str = "x/y", **settings: Any) -> FineTuneConfig:
    values = {"output_directory": "outputs", "name": name, "model": {"name": model}, **settings}
    return FineTuneConfig.model_validate({"data": {"sources": [{"path": path}]}, **values})


def refused(config: FineTuneConfig) -> str:
    with pytest.raises(ConfigError) as error:
        check_apart(config)
    return str(error.value)


def test_what_lies_elsewhere_is_no_fault(outputs: Path) -> None:
    check_apart(config())
    # another run's model and rows are inputs like any other
    check_apart(config("other", path="outputs/self/train.jsonl", model="outputs/self/model"))
    check_apart(config("self-2", path=["outputs/self/*.jsonl", "s3://bucket/outputs/self/train.jsonl"]))
    # a hub's id that has the form of a folder, and a folder that does not exist
    check_apart(config("model", model="outputs/model"))


@pytest.mark.parametrize("model", ["outputs/self/model", "outputs/../outputs/self/model/", "outputs/self", "linked"])
def test_a_base_model_in_the_runs_own_folder_is_refused(outputs: Path, model: str) -> None:
    (outputs.parent / "linked").symlink_to(outputs / "self" / "model")
    for exists in ("number", "replace", "stop"):
        assert refused(config(model=model, output_exists=exists)) == (
            f"model.name={model} lies in outputs/self, the folder that this run writes to; choose another `name`, or "
            "move it"
        )


def test_a_model_of_links_into_the_runs_own_folder_is_refused(outputs: Path) -> None:
    linked = outputs.parent / "links"
    linked.mkdir()
    (linked / "config.json").symlink_to(outputs / "self" / "model" / "config.json")
    assert refused(config(model="links")).startswith("model.name=links lies in outputs/self,")


def test_the_folder_of_an_unfinished_or_replaced_run_counts_too(outputs: Path) -> None:
    for folder in ("self.unfinished", "self.unfinished-3", ".self.replaced"):
        (outputs / folder / "model").mkdir(parents=True)
        (outputs / folder / "model" / "config.json").write_text("{}")
        assert refused(config(model=f"outputs/{folder}/model")).startswith(
            f"model.name=outputs/{folder}/model lies in outputs/self,"
        )


@pytest.mark.parametrize(
    "path",
    ["outputs/self/train.jsonl", "outputs/self", "outputs/self/*.jsonl", "outputs/*/train.jsonl", "linked.jsonl"],
)
def test_rows_of_the_runs_own_folder_are_refused(outputs: Path, path: str) -> None:
    (outputs.parent / "linked.jsonl").symlink_to(outputs / "self" / "train.jsonl")
    fault = f"data.sources[0].path={path} lies in outputs/self, the folder that this run writes to; "
    assert refused(config(path=path)) == f"{fault}choose another `name`, or move it"
    assert refused(config(path=["rows/rows.jsonl", path])).startswith("data.sources[0].path=")


@pytest.mark.parametrize("path", [".", "outputs", "**/*.jsonl", "outputs/**", "outputs/*/*.jsonl"])
def test_a_folder_or_glob_that_would_find_the_runs_own_rows_next_time_is_refused(outputs: Path, path: str) -> None:
    """The first run would read 60 rows, and the second its own 54 besides."""
    assert refused(config("new", path=path)) == (
        f"data.sources[0].path={path} would find what this run writes to outputs/new; name the files, or set "
        "output_directory to a folder elsewhere"
    )


def test_other_inputs_are_compared_too(outputs: Path) -> None:
    template = {"tokenize": {"chat_template": "outputs/self/template.jinja"}}
    assert refused(config(**template)).startswith("tokenize.chat_template=outputs/self/template.jinja lies in")
    held_out = {"data": {"sources": [{"path": "rows/rows.jsonl"}], "evaluation": [{"path": "outputs/self"}]}}
    assert refused(config(**held_out)).startswith("data.evaluation[0].path=outputs/self lies in")


def test_an_output_folder_within_the_base_model_is_refused(outputs: Path) -> None:
    assert refused(config("new", model="outputs/self/model", output_directory="outputs/self/model/runs")) == (
        "output_directory=outputs/self/model/runs lies in model.name=outputs/self/model; set it to a folder elsewhere"
    )


def test_a_repository_that_is_the_base_model_is_refused_unless_a_commit_is_named(outputs: Path) -> None:
    push = {"push_to_hub": {"repository": "Me/Chat", "artifacts": ["model"]}}
    assert refused(config(model="me/chat", **push)) == (
        "push_to_hub.repository=Me/Chat is the base model itself (model.name); name another repository, or the commit "
        "to start from in model.revision"
    )
    push["push_to_hub"]["repository"] = "me/other"
    check_apart(config(model="me/chat", **push))
    push |= {"quantize": {"methods": ["8bit"]}, "push_to_hub": {"repository": "me/chat", "artifacts": ["8bit"]}}
    assert refused(config(model="me/chat-8bit", **push)).startswith("push_to_hub.repository=me/chat: me/chat-8bit is")
    pinned = FineTuneConfig.model_validate(
        {
            "model": {"name": "me/chat", "revision": "0123456789abcdef0123456789abcdef01234567"},
            "data": {"sources": [{"path": "rows/rows.jsonl"}]},
            "push_to_hub": {"repository": "me/chat"},
        }
    )
    check_apart(pinned)
