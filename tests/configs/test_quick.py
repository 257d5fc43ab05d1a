"""The short form's config: the preset, with what was given and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import PRESETS, load_config
from configs.quick import Preset, check_quick_arguments, place_of_rows, quick_config
from configs.schema import FineTuneConfig


def changes(before: FineTuneConfig, after: FineTuneConfig) -> dict[str, object]:
    """Return the values of `after` that differ, by their dotted paths; lists are compared whole."""
    found: dict[str, object] = {}

    def walk(old: object, new: object, path: str) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for key in new:
                walk(old.get(key), new[key], f"{path}.{key}".lstrip("."))
        elif old != new:
            found[path] = new

    walk(before.model_dump(), after.model_dump(), "")
    return found


def test_every_preset_of_fine_tune_can_be_chosen() -> None:
    aligned = {"align-demo", "align-rloo-demo"}
    assert {preset.value for preset in Preset} == {path.stem for path in PRESETS.glob("*.yaml")} - aligned


@pytest.mark.parametrize("preset", [preset.value for preset in Preset])
def test_empty_fields_leave_the_preset(preset: str) -> None:
    assert quick_config(preset) == load_config(PRESETS / f"{preset}.yaml")


def test_what_is_given_is_all_that_changes() -> None:
    config = quick_config("llama-3.1-8b-lora", model="a/b", epochs=3, learning_rate=1e-5, repository="me/mine")
    assert changes(load_config(PRESETS / "llama-3.1-8b-lora.yaml"), config) == {
        "model.name": "a/b",
        "train.epochs": 3.0,
        "train.learning_rate": 1e-5,
        "push_to_hub.repository": "me/mine",
    }


def test_data_replaces_the_presets_rows_and_their_columns() -> None:
    [source] = quick_config("llama-3.1-8b-lora", data="s3://b/rows.csv", prompt_column="q").data.sources
    assert (source.path, source.hub, source.name) == ("s3://b/rows.csv", None, None)
    assert (source.columns.prompt, source.columns.completion) == ("q", None)
    [source] = quick_config("llama-3.1-8b-lora", data="owner/rows").data.sources
    assert (source.path, source.hub) == (None, "owner/rows")


def test_columns_alone_are_those_of_the_presets_rows() -> None:
    [source] = quick_config("llama-3.1-8b-lora", completion_column="final").data.sources
    assert (source.hub, source.name) == ("openai/gsm8k", "main")
    assert (source.columns.prompt, source.columns.completion) == ("question", "final")


def test_epochs_count_where_the_preset_counts_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "model: {name: a/b}\ndata: {sources: [{path: r.jsonl}]}\ntrain: {max_steps: 7}\n"
    (tmp_path / "of-steps.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("configs.quick.PRESETS", tmp_path)
    assert quick_config("of-steps").train.max_steps == 7
    train = quick_config("of-steps", epochs=2).train
    assert (train.max_steps, train.epochs) == (None, 2)


def test_hub_data_sets_and_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "rows").mkdir(parents=True)
    assert place_of_rows("owner/name.v2") == {"hub": "owner/name.v2"}
    assert place_of_rows("openai/gsm8k:main") == {"hub": "openai/gsm8k", "name": "main"}
    assert place_of_rows("https://huggingface.co/datasets/openai/gsm8k") == {"hub": "openai/gsm8k"}
    files = ("my/rows", "data/rows.csv", "data/rows.jsonl.gz", "/a/b", "rows")
    for place in (*files, "s3://b/rows", "https://example.org/rows.csv", "embedded:english-to-sql"):
        assert place_of_rows(place) == {"path": place}


def test_blanks_that_were_copied_with_a_text_are_not_part_of_it() -> None:
    config = quick_config("demo", model=" a/b ", data="\ts3://b/rows.csv", repository="me/mine ", name=" mine")
    [source] = config.data.sources
    assert (config.model.name, source.path) == ("a/b", "s3://b/rows.csv")
    assert (config.push_to_hub.repository, config.name) == ("me/mine", "mine")
    assert quick_config("demo", model="  ") == quick_config("demo")


def test_a_file_of_this_machine_is_refused_for_a_cluster(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.touch()
    command = ["/bin/pyflyte", "run", "--remote", "workflows/quick.py", "quick", "--data", str(rows)]
    with pytest.raises(ConfigError, match=r"^--data .*rows.csv is on this machine, and the short form uploads nothing"):
        check_quick_arguments(command)
    with pytest.raises(ConfigError, match="is on this machine"):
        check_quick_arguments([*command[:-2], f"--data={rows}"])
    check_quick_arguments([word for word in command if word != "--remote"])
    check_quick_arguments([*command[:-1], "owner/name"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": -1}, "config: train.epochs=-1 is not above 0; raise it"),
        ({"learning_rate": -0.1}, "config: train.learning_rate=-0.1 is not above 0; raise it"),
        ({"repository": "mine"}, "config: push_to_hub.repository='mine' is not of the form owner/name"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(given: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        quick_config("demo", **given)
    assert str(error.value) == message
