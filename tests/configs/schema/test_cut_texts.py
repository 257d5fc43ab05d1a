"""A text is cleaned before it is cut: half an address or half a token would not be known as one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from configs.foreign_json import JsonFault, parse_object
from configs.foreign_yaml import YamlFault, parse_yaml
from configs.schema import FineTuneConfig
from configs.schema.section import describe_faults, faults_of
from tasks.files.waiting import waiting_for
from tasks.rows.rows import short_name

SMALLEST: dict[str, Any] = {"model": {"name": "owner/name"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
SECRET = "T" * 100


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"epochs": f"https://{SECRET}@host/x"}},
        {"train": {"batch_size": f"https://me:{SECRET}@host/x"}},
        {"train": {f"https://{SECRET}@host/x": 1}},
        {"push_to_hub": {"repository": "a" * 60 + "hf_" + "T" * 30}},
        {"name": "a" * 60 + "hf_" + "T" * 60},
        {"tokenize": {"max_length": "a" * 65 + " password=" + SECRET}},
    ],
)
def test_no_part_of_a_secret_is_in_a_message_about_a_setting(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        FineTuneConfig.model_validate(SMALLEST | changes)
    message = describe_faults(faults_of(caught.value, FineTuneConfig))
    assert "TT" not in message and message.startswith("config: ")


def test_no_part_of_a_secret_is_in_a_message_about_a_file() -> None:
    address = f"https://{SECRET}@host/x"
    with pytest.raises(JsonFault) as repeated:
        parse_object(f'{{"{address}": 1, "{address}": 2}}', is_strict=True)
    assert "https://host/x" in str(repeated.value) and "TT" not in str(repeated.value)
    with pytest.raises(YamlFault) as twice:
        parse_yaml(f'"{address}": 1\n"{address}": 2\n')
    assert "`https://host/x` is named twice" in str(twice.value)
    assert short_name(address) == "https://host/x"


def test_what_is_waited_for_is_shown_without_its_password() -> None:
    wait = waiting_for("https://me:SEC@hub.org to take 3 files, 1.00 GB", math.inf)
    assert wait.what == "https://hub.org to take 3 files, 1.00 GB"
