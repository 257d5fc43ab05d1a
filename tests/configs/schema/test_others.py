"""The settings of other models: each is one thing, and no key goes to a server that it is not for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.evaluate import EvaluateConfig

SERVED = {"title": "served", "endpoint": "https://host/v1", "endpoint_model": "m"}


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([{"title": "previous"}], "exactly one of `model`, `adapter` and `endpoint`"),
        ([{"title": "previous", "model": "a/b", "adapter": "c/d"}], "exactly one of"),
        ([{"title": "tuned", "model": "a/b"}], "title=tuned is the name of a model of this run"),
        ([{"title": "quantized_4bit", "model": "a/b"}], "is the name of a model of this run"),
        ([{"title": "Old one", "model": "a/b"}], "title"),
        ([{"title": "a", "model": "a/b"}, {"title": "a", "model": "c/d"}], "names a more than once"),
        ([{"title": "served", "endpoint": "https://host/v1"}], "`endpoint` needs `endpoint_model`"),
        ([{"title": "a", "model": "a/b", "endpoint_model": "m"}], "`endpoint_model` is read with `endpoint`"),
        ([SERVED | {"revision": "v1"}], "`revision` is for `model` and `adapter`"),
        ([SERVED | {"endpoint": "host:80"}], "not the address of a server"),
        ([SERVED | {"endpoint": "https://u:hunter2@host/v1"}], "holds a user, a password"),
        (
            [SERVED, SERVED | {"title": "second", "endpoint": "https://another/v1"}],
            "endpoints of 2 servers, and there is one key",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(others: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EvaluateConfig.model_validate({"others": others})
    assert words in str(caught.value) and "hunter2" not in str(caught.value)


def test_two_models_of_one_server_share_its_key_and_no_other_setting_of_scores_depends_on_them() -> None:
    config = EvaluateConfig.model_validate({"others": [SERVED, SERVED | {"title": "second", "endpoint_model": "n"}]})
    assert config.for_scoring() == EvaluateConfig().for_scoring()


def test_another_model_is_scored_on_rows_and_general_text_and_prompting_on_rows() -> None:
    config = EvaluateConfig.model_validate({"retained": {"refusals": True, "memorization_rows": 8}})
    own, other, prompting = (config.for_scoring(of).retained for of in ("own", "other", "prompting"))
    assert own == config.retained
    assert (other.general_text, other.refusals, other.memorization_rows) == ("embedded:general-text", False, 0)
    assert (prompting.general_text, prompting.refusals) == ("none", False)
