"""The saved tokenizer's eos_token is a token that ends the trained answers, unless that would change other text."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.token_rows import Row
from transformers import AutoTokenizer

from tasks.tokenize.prepare import summary_lines

END, OTHER = "<|im_end|>", "<|call|>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}"
    "{{ '<|call|>' if m['content'] == 'call' else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
ROW: Row = [("user", "U"), ("assistant", "A")]
CALL: Row = [("user", "V"), ("assistant", "call")]


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    """A base model's tokenizer, whose eos_token and only padding is <eos>, and which knows ChatML's tokens."""
    directory = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, pad_token="<eos>")
    tokenizer.add_special_tokens({"additional_special_tokens": [OTHER, "<|im_start|>", END]})
    tokenizer.save_pretrained(directory)
    (directory / "config.json").write_text('{"max_position_embeddings": 512}', encoding="utf-8")
    return directory


def test_the_end_token_of_the_answers_becomes_the_tokenizers(prepare, base: Path) -> None:
    tokens = prepare([ROW], CHATML, base)
    assert (tokens.tokenizer.eos_token, tokens.tokenizer.pad_token) == (END, "<eos>")
    assert (tokens.report.eos_token, tokens.report.replaced_eos_token) == (END, "<eos>")
    lines = [line for line in summary_lines(tokens.report) if "replace_end_token" in line]
    assert lines == [
        "tokens: answers end with <|im_end|>, so it is the eos_token of the saved tokenizer, in place of <eos> "
        "(tokenize.replace_end_token)"
    ]
    # the former one still controls, and is no text
    assert tokens.tokenizer.decode([1, 67], skip_special_tokens=True) == "".join(tokens.tokenizer.decode([67]))
    assert tokens.marked(0) == "<|im_start|>user U<|im_end|><|im_start|>assistant «A<|im_end|>»"


def test_keep_leaves_the_tokenizers_own(prepare, base: Path) -> None:
    tokens = prepare([ROW], CHATML, base, replace_end_token="keep")
    assert (tokens.tokenizer.eos_token, tokens.report.eos_token, tokens.report.replaced_eos_token) == ("<eos>",) * 2 + (
        "",
    )
    assert not [line for line in summary_lines(tokens.report) if "replace_end_token" in line]


def test_of_several_the_token_that_ends_most_answers_is_taken(prepare, base: Path) -> None:
    call, end = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids([OTHER, END])
    # the id of the call's end is the lower one
    assert call < end
    tokens = prepare([ROW, CALL, [("user", "W"), ("assistant", "B")]], CHATML, base)
    assert (tokens.tokenizer.eos_token, tokens.report.end_token_ids) == (END, [end, call])
    tokens = prepare([ROW, CALL, [("user", "W"), ("assistant", "call")]], CHATML, base)
    assert (tokens.tokenizer.eos_token, tokens.report.end_token_ids) == (OTHER, [call, end])


@pytest.mark.parametrize(
    ("rows", "template"),
    [
        # texts end with it
        ([ROW, "plain text"], CHATML),
        # pairs without a template end with it
        ([("Q", "A")], None),
        # the template would write another text than in training
        ([ROW], CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"),
        ([ROW], CHATML.replace("{{ m['content'] }}", "{{ m['content'].replace(eos_token, '') }}")),
    ],
    ids=["texts", "pairs", "template", "template's condition"],
)
def test_a_token_that_ends_rows_or_that_the_template_reads_stays(rows, template, prepare, base: Path) -> None:
    tokens = prepare(rows, template, base)
    assert (tokens.tokenizer.eos_token, tokens.report.replaced_eos_token) == ("<eos>", "")


def test_a_later_phase_with_other_ends_has_the_same_tokenizer(prepare, base: Path, tmp_path: Path) -> None:
    from tasks.tokenize.checks import check_same_tokenizer

    first = prepare([ROW], CHATML, base)
    saved = tmp_path / "first"
    first.tokenizer_directory.rename(saved)
    second = prepare([CALL], None, saved)
    assert (first.tokenizer.eos_token, second.tokenizer.eos_token) == (END, OTHER)
    check_same_tokenizer([first.report, second.report.model_copy(update={"template_hash": first.report.template_hash})])
