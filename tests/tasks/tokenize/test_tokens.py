"""Masks worked out by hand: the tiny model's tokenizer has one token per byte, so texts are as long as their tokens."""

from __future__ import annotations

from collections import Counter

import pytest

from configs.errors import DataError, ModelError
from tasks.tokenize.prepare import summary_lines
from tasks.tokenize.report import histogram

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_labels_mask_prompt_tokens_and_train_the_end(prepare) -> None:
    tokens = prepare([("2+2?", "four")])
    assert tokens.text(0) == "2+2?\nfour<eos>"
    assert tokens.trained(0) == "_____four<eos>"
    assert tokens.prompt(0) == "2+2?\n"
    # 5 masked, 4 + 1 trained
    assert (tokens.report.train_tokens, tokens.report.trained_tokens) == (10, 5)
    assert tokens.report.end_token_ids == [1]


def test_labels_equal_input_ids_where_trained(prepare) -> None:
    row = prepare([("ab", "cd")]).rows.iloc[0]
    assert list(row.labels) == [-100, -100, -100, *row.input_ids[3:]]


def test_the_separator_is_configurable_and_masked(prepare) -> None:
    tokens = prepare([("a", "b")], prompt_separator=" => ")
    assert (tokens.text(0), tokens.trained(0)) == ("a => b<eos>", "_____b<eos>")


def test_every_assistant_turn_is_trained_and_the_prompt_precedes_the_last(prepare) -> None:
    tokens = prepare([[("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "B")]], CHATML)
    assert tokens.text(0) == "<|system|>S<eos><|user|>U<eos><|assistant|>A<eos><|user|>V<eos><|assistant|>B<eos>"
    # <|system|>S<eos> is 10 + 1 + 1 tokens; <|user|>U<eos> 8 + 1 + 1; <|assistant|> 13
    assert tokens.trained(0) == "_" * (12 + 10 + 13) + "A<eos>" + "_" * (10 + 13) + "B<eos>"
    assert tokens.prompt(0).endswith("V<eos><|assistant|>")
    assert tokens.report.template == "config"
    assert tokens.tokenizer.chat_template == CHATML


def test_base_models_get_a_plain_template_for_messages(prepare) -> None:
    tokens = prepare([[("user", "Hi"), ("assistant", "Ho")]])
    assert tokens.text(0) == "User: Hi\nAssistant: Ho<eos>\n"
    # the answer begins after the generation prompt; its end token is trained, the template's line break after it is not
    assert tokens.trained(0) == "_" * len("User: Hi\nAssistant:") + " Ho<eos>_"
    assert tokens.report.template == "plain"
    assert len(tokens.report.template_hash) == 64


def test_a_given_template_also_renders_prompts_and_completions(prepare) -> None:
    tokens = prepare([("Q", "A")], CHATML)
    assert tokens.text(0) == "<|user|>Q<eos><|assistant|>A<eos>"
    assert tokens.trained(0) == "_" * 23 + "A<eos>"


def test_a_template_that_rewrites_earlier_turns_is_refused(prepare) -> None:
    counting = "{{ messages | length }}" + CHATML
    with pytest.raises(DataError, match="changes earlier turns"):
        prepare([[("user", "U"), ("assistant", "A")]], counting)


def test_a_template_without_an_end_token_is_refused(prepare) -> None:
    with pytest.raises(DataError, match="would never stop"):
        prepare([[("user", "U"), ("assistant", "A")]], CHATML.replace("<eos>", ";"))


def test_plain_text_is_trained_whole_and_split_without_loss(prepare) -> None:
    tokens = prepare(["a" * 7, "b" * 20], max_length=8)
    assert [tokens.text(n) for n in range(4)] == ["a" * 7 + "<eos>", "b" * 8, "b" * 8, "b" * 4 + "<eos>"]
    assert list(tokens.rows.row_id) == ["f:1", "f:2#1", "f:2#2", "f:2#3"]
    assert set(tokens.rows.prompt_length) == {0}
    # the loss does not count the first token of a sequence: 8 + 21 tokens less 4
    assert (tokens.report.train_tokens, tokens.report.trained_tokens) == (29, 25)
    assert tokens.report.split_rows == 2  # the row, in train and in test


def test_no_piece_of_a_text_is_one_token(prepare) -> None:
    tokens = prepare(["c" * 16], max_length=8)
    assert [len(ids) for ids in tokens.rows.input_ids] == [8, 7, 2]


@pytest.mark.parametrize(("over_length", "kept"), [("drop", [9, 10]), ("cut_right", [9, 10, 10])])
def test_rows_over_max_length_are_counted(over_length: str, kept: list[int], prepare) -> None:
    rows = [("q", "a" * 6), ("q", "a" * 7), ("q", "a" * 8)]
    tokens = prepare(rows, max_length=10, over_length=over_length)
    assert [len(ids) for ids in tokens.rows.input_ids] == kept
    dropped, truncated = (1, 0) if over_length == "drop" else (0, 2)
    assert (tokens.report.dropped_train_rows, tokens.report.truncated_rows) == (dropped, truncated)
    assert any("over tokenize.max_length" in line for line in summary_lines(tokens.report))


def test_a_row_whose_answer_would_be_cut_away_is_dropped(prepare) -> None:
    tokens = prepare([("q", "a"), ("q" * 40, "a")], max_length=10, over_length="cut_right")
    assert (len(tokens.rows), tokens.report.dropped_train_rows, tokens.report.truncated_rows) == (1, 1, 0)


def test_an_over_length_row_can_stop_the_run_by_name(prepare) -> None:
    with pytest.raises(DataError, match=r"f:2: 11 tokens, tokenize.max_length=10"):
        prepare([("q", "a"), ("q", "a" * 8)], max_length=10, over_length="error")


def test_all_rows_too_long_is_an_error(prepare) -> None:
    with pytest.raises(DataError, match=r"all 1 train rows are longer than tokenize.max_length=8"):
        prepare([("q" * 20, "a")], max_length=8)


def test_answers_that_all_lose_their_end_are_an_error(prepare) -> None:
    with pytest.raises(DataError, match=r"tokenize.max_length=8 cuts the end off every answer"):
        prepare([("q", "a" * 20)], max_length=8, over_length="cut_right")


def test_max_length_beyond_the_models_positions_is_refused(prepare) -> None:
    with pytest.raises(ModelError, match=r"tokenize.max_length=257 exceeds the model's 256 positions"):
        prepare([("q", "a")], max_length=257)


def test_max_length_defaults_to_the_models_positions(prepare) -> None:
    assert prepare([("q", "a")]).report.max_length == 256


def test_samples_mark_what_is_trained(prepare) -> None:
    spans = prepare([("q", "a")]).report.samples[0]
    assert [(span.text, span.trained) for span in spans] == [("q\n", False), ("a<eos>", True)]


@pytest.mark.parametrize(
    ("lengths", "edges", "counts"),
    [([], [], []), ([1, 2, 4], [2, 4], [2, 1]), ([4], [2, 4], [0, 1])],
)
def test_histogram_counts_every_row(lengths: list[int], edges: list[int], counts: list[int]) -> None:
    assert histogram(Counter(lengths), num_bins=2) == (edges, counts)
