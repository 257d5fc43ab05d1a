"""Checks of the tokens before training. Errors name rows, counts and the fix, and never show a row's content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from configs.errors import DataError

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def message_of(error: pytest.ExceptionInfo[DataError]) -> list[str]:
    """Return the error's lines: one to three, with no content of a row."""
    lines = str(error.value).splitlines()
    assert 1 <= len(lines) <= 3
    assert "SECRET" not in str(error.value)
    return lines


def test_two_bos_are_refused(prepare, families) -> None:
    family = families["mistral"]
    row = [("user", "SECRET"), ("assistant", "a")]
    with pytest.raises(DataError) as error:
        prepare([row, row], "{{ bos_token }}" + family.template, family.directory)
    # the same two rows are in both splits
    first = "f:1: the sequence begins with more than one <s> (4 such rows); at most one is allowed"
    assert message_of(error)[0] == first


def test_a_plain_text_that_writes_bos_itself_is_refused(prepare, families) -> None:
    with pytest.raises(DataError, match=r"f:2: the sequence begins with more than one <s> \(2 such rows\)") as error:
        prepare(["aSECRET", "<s>SECRET"], None, families["mistral"].directory)
    message_of(error)


def test_a_row_without_an_end_token_is_refused(prepare) -> None:
    template = CHATML.replace("<eos>", "{% if m['content'] != 'SECRET' %}<eos>{% endif %}")
    good, bad = [("user", "u"), ("assistant", "a")], [("user", "u"), ("assistant", "SECRET")]
    with pytest.raises(DataError, match=r"f:2: no end-of-turn token is trained \(2 such rows\)") as error:
        prepare([good, bad], template)
    assert "{{ eos_token }}" in message_of(error)[1]


def test_rows_cut_by_over_length_need_no_end_token(prepare) -> None:
    report = prepare([("q", "a"), ("q", "a" * 20)], max_length=10, over_length="cut_right").report
    assert (report.truncated_rows, report.end_token_ids) == (2, [1])


def test_a_special_token_within_an_answer_does_not_end_it(prepare) -> None:
    template = CHATML.replace("{{ m['content'] }}<eos>", "<pad>{{ m['content'] }}<eos>")
    assert prepare([[("user", "u"), ("assistant", "a")]], template).report.end_token_ids == [1]


def test_a_row_whose_answer_the_template_drops_is_refused(prepare) -> None:
    template = "{% for m in messages %}{% if m['content'] != 'SECRET' %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    good, bad = [("user", "u"), ("assistant", "a")], [("user", "u"), ("assistant", "SECRET")]
    with pytest.raises(DataError, match=r"^f:2: the chat template .* \(2 such rows\)") as error:
        prepare([good, bad], template)
    message_of(error)


def test_cut_left_keeps_bos_and_the_answer(prepare, families) -> None:
    family = families["mistral"]
    # tokens: <s> 1, "[INST] " 7, the prompt 10, " [/INST]" 8, " abcd</s>" 6
    whole = prepare([("0123456789", "abcd")], family.template, family.directory)
    assert whole.marked(0) == "<s>[INST] 0123456789 [/INST]« abcd</s>»"
    length = len(whole.rows.input_ids[0])
    assert length == 1 + 7 + 10 + 8 + 6
    cut = prepare(
        [("0123456789", "abcd")], family.template, family.directory, max_length=length - 9, over_length="cut_left"
    )
    # the nine oldest tokens after BOS are cut: "[INST] 01"
    assert cut.marked(0) == "<s>23456789 [/INST]« abcd</s>»"
    assert cut.prompt(0) == "<s>23456789 [/INST]"
    assert (cut.report.truncated_rows, cut.report.dropped_train_rows) == (2, 0)


@pytest.mark.parametrize(("answer", "kept"), [(6, "q\n«aaaaaa<eos>»"), (8, "\n«aaaaaaaa<eos>»"), (9, None)])
def test_cut_left_never_cuts_the_last_answer(answer: int, kept: str | None, prepare) -> None:
    tokens = prepare([("q", "a"), ("q" * 20, "a" * answer)], max_length=10 if answer > 6 else 9, over_length="cut_left")
    assert [tokens.marked(n) for n in range(1, len(tokens.rows))] == ([] if kept is None else [kept])
    assert tokens.report.dropped_train_rows == (kept is None)


def test_cut_left_no_longer_trains_an_earlier_answer_that_loses_tokens(prepare) -> None:
    row = [("user", "U"), ("assistant", "abcdef"), ("user", "V"), ("assistant", "B")]
    whole = "<|user|>U<eos><|assistant|>«abcdef<eos>»<|user|>V<eos><|assistant|>«B<eos>»"
    assert prepare([row], CHATML).marked(0) == whole
    # <|user|>U<eos> is 10 tokens, <|assistant|> 13, abcdef<eos> 7, then 10, 13 and 2
    for cut_tokens, expected in [
        (22, ">«abcdef<eos>»<|user|>V<eos><|assistant|>«B<eos>»"),
        (23, "abcdef<eos><|user|>V<eos><|assistant|>«B<eos>»"),
        (25, "cdef<eos><|user|>V<eos><|assistant|>«B<eos>»"),
        (30, "<|user|>V<eos><|assistant|>«B<eos>»"),
    ]:
        tokens = prepare([row], CHATML, max_length=55 - cut_tokens, over_length="cut_left")
        assert tokens.marked(0) == expected
        assert tokens.prompt(0) == expected.rpartition("«")[0].replace("«", "").replace("»", "")


def test_cut_right_leaves_no_prompt_where_it_cuts_the_last_answer_away(prepare) -> None:
    row = [("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "B")]
    tokens = prepare([row], CHATML, max_length=30, over_length="cut_right")
    assert tokens.marked(0) == "<|user|>U<eos><|assistant|>«A<eos>»<|use"
    assert tokens.rows.prompt_length[0] == 0


def test_a_max_length_that_cuts_the_end_off_every_answer_is_refused(prepare) -> None:
    with pytest.raises(DataError, match=r"tokenize.max_length=30 cuts the end off every answer"):
        prepare([[("user", "U"), ("assistant", "a" * 20)]], CHATML, max_length=30, over_length="cut_right")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_saved_tokenizer_carries_the_reported_template(newline: str, prepare, families) -> None:
    from transformers import AutoTokenizer

    family = families["llama-3"]
    template = family.template.replace("\n", newline)
    prepared = prepare([[("user", "u"), ("assistant", "a")]], template, family.directory)
    saved = AutoTokenizer.from_pretrained(prepared.tokenizer_directory).chat_template
    assert hashlib.sha256(saved.encode()).hexdigest() == prepared.report.template_hash
    assert saved == family.template


def test_the_trained_model_carries_the_reported_template(prepare, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from configs.schema import ModelConfig, TrainConfig
    from tasks.train.fit import FitInputs, fit

    prepared = prepare([[("user", "u"), ("assistant", "a")]] * 4, CHATML)
    config = TrainConfig(method="full", max_steps=1, batch_size=4, micro_batch_size=4)
    model = tmp_path / "model"
    tokens = prepared.tokenizer_directory.parent / "train"
    fit(config, ModelConfig(name="tiny"), FitInputs(tiny_model, tokens, prepared.tokenizer_directory, [1]), model)
    saved = AutoTokenizer.from_pretrained(model).chat_template
    assert hashlib.sha256(saved.encode()).hexdigest() == prepared.report.template_hash
