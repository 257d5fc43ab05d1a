"""The measures that suit a data set are chosen by its expected answers."""

from __future__ import annotations

import json

import pytest
from conftest import SHARED_DATA

from configs.embedded.english_to_sql import make_rows
from tasks.measures.defaults import suited_measures
from tasks.measures.table import check_measures

LONG = "A sentence of this text has many words, so that one word alone does not decide the score of an answer."
GSM8K = [
    json.loads(line)["answer"]
    for line in (SHARED_DATA / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()[:300]
]


@pytest.mark.parametrize(
    ("expected", "names", "words"),
    [
        (["positive", "Negative", "neutral."] * 4, ["accuracy", "macro_f1"], "are 3 labels: accuracy and macro-F1"),
        (["yes"] * 5, ["accuracy", "macro_f1"], "are one label"),
        # digits that repeat are labels
        (["0", "1"] * 10, ["accuracy", "macro_f1"], "are 2 labels"),
        (GSM8K, ["numeric_answer"], "end with #### and a number"),
        ([f"{n},000" for n in range(1, 40)], ["numeric_answer"], "are numbers"),
        ([f'{{"n": {n}}}' for n in range(9)], ["json_valid"], "are JSON"),
        (
            [f'<tool_call>{{"name": "f", "arguments": {{"a": {n}}}}}</tool_call>' for n in range(6)] + [LONG] * 4,
            ["tool_calls"],
            "are tool calls",
        ),
        ([row["completion"] for row in make_rows(50, seed=0)], ["exact_match"], "name sql in evaluate.measures"),
        ([f"{LONG} {n}" for n in range(9)], ["rouge_l", "chrf"], "are long texts: ROUGE-L and chrF"),
        (["这个句子没有空格" * 20 + str(n) for n in range(9)], ["rouge_l", "chrf"], "are long texts"),
        ([f"The capital city {n}" for n in range(9)], ["normalized_match", "token_f1"], "are short texts"),
        (["Select the best option from these", "With love, select one"], ["normalized_match", "token_f1"], "short"),
        (["yes", "no"], ["normalized_match", "token_f1"], "are short texts"),
        ([], [], "there are no expected answers"),
        ([" ", ""], [], "there are no expected answers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_suits(expected: list[str], names: list[str], words: str) -> None:
    configs, sentence = suited_measures(expected)
    assert [config.name for config in configs] == names and words in sentence
    # what is chosen passes the check before generation
    assert all(share > 0.5 for share in check_measures(configs, expected).values())
