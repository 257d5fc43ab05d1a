"""Settings that are data keep their text in the records of a run, but for what is certainly a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from configs.schema import FineTuneConfig
from configs.schema.section import Section
from configs.settings_texts import DATA, PLACES, SERVERS, shown_setting
from tasks.decks.card import public_config
from tasks.files.run_record import identity, public_config_text

TOOLS = json.dumps([{"name": "add", "description": "a:bcde@x.org ?x=1", "url": "https://h/x"}], separators=(",", ":"))
SEPARATOR = " mailto:bob@example.org ?x=1 "
PATTERN = r"password=(\w+) root:hunter22@db.org /x\?sig=(.*) http://(.+)#(.*)"
SETTINGS: dict[str, Any] = {
    "model": {"name": "https://me:pw@h/model?k=1"},
    "data": {
        "sources": [{"path": "https://me:pw@h/rows.jsonl?k=1", "tools": TOOLS, "columns": {"prompt": "a:bcde@x.org"}}]
    },
    "tokenize": {"prompt_separator": SEPARATOR, "template_arguments": '{"a": "token=abc"}'},
    "train": {"method": "prompt_tuning", "prompt": {"init_text": PATTERN}},
}


def _sections(section: type[Section] = Section) -> list[type[Section]]:
    return [section, *(further for child in section.__subclasses__() for further in _sections(child))]


def test_every_free_text_is_data() -> None:
    free = {name for section in _sections() for name in section.free_texts}
    # all of a section's texts: those of the columns
    assert free - {"*"} == DATA - {"columns"}
    assert not {name.rpartition(".")[2] for name in PLACES | SERVERS} & DATA


def test_records_hold_the_text_of_data_and_no_password_of_places() -> None:
    config = FineTuneConfig.model_validate(SETTINGS)
    for text, path in ((public_config_text(config), "https://h/rows.jsonl"), (public_config(config), "rows.jsonl")):
        shown = yaml.safe_load(text)
        assert shown["tokenize"]["prompt_separator"] == SEPARATOR
        assert shown["tokenize"]["template_arguments"] == '{"a": "token=abc"}'
        assert shown["train"]["prompt"]["init_text"] == PATTERN
        source = shown["data"]["sources"][0]
        assert (source["tools"], source["columns"]["prompt"]) == (TOOLS, "a:bcde@x.org")
        assert source["path"] == path
        assert "pw" not in text


def test_two_separators_are_two_configs() -> None:
    first, second = (
        FineTuneConfig.model_validate(SETTINGS | {"tokenize": {"prompt_separator": f" a:bcde@{host}.org "}})
        for host in ("x", "y")
    )
    assert identity(first, "fine_tune") != identity(second, "fine_tune")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("see https://me:SEC@h/x now ", "see https://h/x now "),
        ('[{"a":"https://h/x?sig=SEC","b":1}]', '[{"a":"https://h/x","b":1}]'),
        (f" hf_{'S' * 30} ", " *** "),
        ("https://h/x?\n", "https://h/x?\n"),
    ],
)
def test_addresses_and_tokens_in_data_are_cleaned(value: str, shown: str) -> None:
    assert shown_setting("tokenize.prompt_separator", value) == shown
    assert shown_setting("data.sources.tools", value) == shown
