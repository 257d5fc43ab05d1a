"""What the folder of a run says of its model, where a user names any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ModelError
from tasks.models.chat import base_of, template_arguments_of


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("[]", "run.json is not a JSON object"),
        ("{}", "run.json does not hold the config of a run; copy the folder of the run again"),
        ('{"config": {"model": 5}}', "run.json does not hold the config of a run"),
        ('{"config": {"model": {"name": 5}}}', "nothing says which model it began as"),
        ('{"config":' + "[" * 100_000, "run.json is nested more than 64 deep"),
    ],
)
def test_a_record_that_is_none_is_an_error_of_the_model(record: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(ModelError, match=words):
        base_of(tmp_path / "model")


def test_a_record_names_the_base_and_the_variables_of_the_template(tmp_path: Path) -> None:
    text = '{"config": {"model": {"name": "a/b"}, "tokenize": {"template_arguments": "{}"}}}'
    (tmp_path / "run.json").write_text(text)
    assert (base_of(tmp_path / "model"), template_arguments_of(tmp_path / "model")) == ("a/b", "{}")
