"""The tokens of each kind of row under each objective, worked out by hand: the tiny model has one token per byte."""

from __future__ import annotations

import json

import pytest
from support.token_rows import canonical, canonical_rows, labelled, preference

from configs.errors import ConfigError, DataError
from configs.objectives import Objective
from configs.schema import TokenizeConfig
from tasks.tokenize.checks import check_settings
from tasks.tokenize.tokens import tokenize_rows

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OBJECTIVES: tuple[Objective, ...] = ("sft", "cpt", "dpo", "kto", "reward", "rloo", "grpo")
ROW_OF_KIND = {
    "pair": ("q", "a"),
    "messages": [("user", "u"), ("assistant", "a")],
    "text": "t",
    "preference": preference("q", "good", "bad"),
    "kto": labelled("q", "a", True),
}
TAKEN_KINDS = {
    "sft": {"pair", "messages", "text"},
    "cpt": {"text"},
    "dpo": {"preference"},
    "kto": {"kto", "preference"},
    "reward": {"preference"},
    "rloo": {"pair", "messages", "preference"},
    "grpo": {"pair", "messages", "preference"},
}
HISTORY = [("user", "U"), ("assistant", "A"), ("user", "V")]


def columns(tokens, *names: str) -> list[tuple]:
    rows = tokens.rows
    values = ([v.tolist() if hasattr(v, "tolist") else v for v in rows[name]] for name in names)
    return list(zip(*values, strict=True))


def rejected(tokens, row: int) -> str:
    return tokens.tokenizer.decode(tokens.rows.rejected_ids[row])


@pytest.mark.parametrize("kind", ROW_OF_KIND)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_takes_its_kinds_and_refuses_the_others(objective: Objective, kind: str, prepare) -> None:
    if kind in TAKEN_KINDS[objective]:
        # kto needs rows of both labels
        rows = [ROW_OF_KIND[kind], labelled("r", "b", False) if kind == "kto" else ROW_OF_KIND[kind]]
        assert prepare(rows, objective=objective).report.trained_tokens > 0
        return
    with pytest.raises(DataError) as error:
        prepare([ROW_OF_KIND[kind]] * 2, objective=objective)
    first, fix = str(error.value).splitlines()
    # the same two rows are in both splits
    assert first.startswith(f"4 rows of f are of kind {kind}, and train.objective={objective} needs ")
    assert all(name in fix for name in OBJECTIVES if kind in TAKEN_KINDS[name])
    assert fix.endswith("with data.sources[].format and columns")


def test_the_error_of_a_pair_under_dpo(prepare) -> None:
    with pytest.raises(DataError) as error:
        prepare([("q", "a")], objective="dpo")
    assert str(error.value) == (
        "2 rows of f are of kind pair, and train.objective=dpo needs preference (prompt, chosen, rejected) rows\n"
        "set train.objective to sft, rloo or grpo for such rows, or map their columns to another kind with "
        "data.sources[].format and columns"
    )


@pytest.mark.parametrize("objective", ["dpo", "reward"])
def test_a_preference_is_one_prompt_with_two_answers(objective: Objective, prepare) -> None:
    tokens = prepare([preference("ab", "c", "de")], objective=objective)
    row = tokens.rows.iloc[0]
    a = tokens.tokenizer.convert_tokens_to_ids("a")
    new_line = tokens.tokenizer("\n")["input_ids"][0]
    # the ids of letters are in the order of the alphabet; 1 is <eos>
    assert list(row.input_ids) == [a, a + 1, new_line, a + 2, 1]
    assert list(row.labels) == [-100, -100, -100, a + 2, 1]
    assert list(row.rejected_ids) == [a + 3, a + 4, 1]
    assert (row.prompt_length, row.prompt, row.expected, bool(row.is_wanted)) == (3, "ab", "c", True)
    report = tokens.report
    assert (report.train_rows, report.preference_rows, report.end_token_ids) == (1, 1, [1])
    # the prompt counts in both sequences: 3 + 2 and 3 + 3 tokens
    assert (report.train_tokens, report.trained_tokens) == (11, 5)


def test_a_preference_in_a_template_ends_with_the_end_of_each_answer(prepare, families) -> None:
    """ChatML writes a line break after its end token; it is cut, so both answers end with the same token."""
    family = families["chatml"]
    row = preference([("system", "S"), *HISTORY], "good", "bad")
    tokens = prepare([row], family.template, family.directory, objective="dpo")
    prompt = (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"
    )
    # the earlier answer is not trained: for dpo, `train_on` is not read
    assert tokens.marked(0) == prompt + "«good<|im_end|>»"
    assert tokens.prompt(0) == prompt
    assert rejected(tokens, 0) == "bad<|im_end|>"
    assert tokens.rows.rejected_ids[0][-1] == tokens.rows.input_ids[0][-1] == tokens.report.end_token_ids[0]


@pytest.mark.parametrize("prompt", ["Hi", [("user", "Hi")]])
def test_both_answers_have_the_same_tokens_as_in_rows_of_their_own(prompt, family) -> None:
    def records(row: dict, objective: Objective) -> list:
        return tokenize_rows(canonical_rows(canonical([row])), family.setup(objective)).records

    (pair,) = records(preference(prompt, "Ho", " Ha\n"), "dpo")
    for answer, ids in (("Ho", pair.input_ids[pair.prompt_length :]), (" Ha\n", pair.rejected_ids)):
        (alone,) = records(labelled(prompt, answer, True), "kto")
        assert alone.input_ids == pair.input_ids[: pair.prompt_length] + ids
        assert alone.prompt_length == pair.prompt_length


def test_control_tokens_in_both_answers_are_text(prepare) -> None:
    tokens = prepare([preference("a<eos>", "b<eos>c", "d<eos>e"), preference("a", "b", "<eos>")], objective="dpo")
    assert [list(ids).count(1) for ids in tokens.rows.input_ids] == [1, 1]
    assert [list(ids).count(1) for ids in tokens.rows.rejected_ids] == [1, 1]
    assert rejected(tokens, 0) == "d<eos>e<eos>"
    assert tokens.report.warnings[0].startswith("2 rows hold the text of special tokens in their content (f:1, f:1)")


def test_control_tokens_in_a_rejected_answer_alone_are_text(prepare) -> None:
    tokens = prepare([preference("a", "b", "c<eos>d")], CHATML, objective="dpo")
    assert rejected(tokens, 0) == "c<eos>d<eos>"
    assert list(tokens.rows.rejected_ids[0]).count(1) == 1
    assert tokens.report.warnings[0].startswith("2 rows hold the text of special tokens")


def test_kto_takes_labels(prepare) -> None:
    tokens = prepare([labelled("q", "a", True), labelled(HISTORY, "b", False)], CHATML, objective="kto")
    assert columns(tokens, "row_id", "is_wanted") == [("f:1", True), ("f:2", False)]
    assert tokens.marked(0) == "<|user|>q<eos><|assistant|>«a<eos>»"
    assert tokens.marked(1) == "<|user|>U<eos><|assistant|>A<eos><|user|>V<eos><|assistant|>«b<eos>»"
    assert [list(ids) for ids in tokens.rows.rejected_ids] == [[], []]
    assert (tokens.report.unwanted_rows, tokens.report.preference_rows) == (1, 0)


def test_kto_turns_a_preference_into_two_rows(prepare) -> None:
    tokens = prepare([preference("q", "good", "bad"), labelled("r", "a", True)], objective="kto")
    assert columns(tokens, "row_id", "is_wanted", "expected") == [
        ("f:1#chosen", True, "good"),
        ("f:1#rejected", False, "bad"),
        ("f:2", True, "a"),
    ]
    assert [tokens.marked(n) for n in range(3)] == ["q\n«good<eos>»", "q\n«bad<eos>»", "r\n«a<eos>»"]


@pytest.mark.parametrize(("label", "shown"), [(True, "true"), (False, "false")])
def test_kto_rows_of_one_label_are_refused(label: bool, shown: str, prepare) -> None:
    with pytest.raises(DataError, match=f"all 3 training rows have the label {shown}, and train.objective=kto needs"):
        prepare([labelled("q", "a", label)] * 3, objective="kto")


@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_online_objectives_get_prompts_and_expected_answers(objective: Objective, prepare) -> None:
    chat = [*HISTORY, ("assistant", "B")]
    tokens = prepare([("q", "a"), chat, preference("q", "good", "bad")], CHATML, objective=objective)
    turn = "<|user|>{}<eos><|assistant|>"
    assert [tokens.prompt(n) for n in range(3)] == [
        turn.format("q"),
        turn.format("U") + "A<eos>" + turn.format("V"),
        turn.format("q"),
    ]
    assert list(tokens.rows.expected) == ["a", "B", "good"]
    assert tokens.marked(1).endswith("A<eos><|user|>V<eos><|assistant|>«B<eos>»")
    assert [len(ids) for ids in tokens.rows.rejected_ids] == [0, 0, 0]


def test_equal_answers_are_a_warning(prepare) -> None:
    rows = [preference("q", "same", "same"), preference("q", "a", "b")]
    (warning,) = prepare(rows, objective="dpo").report.warnings
    assert warning.startswith("2 rows have a rejected answer with the same tokens as the chosen one (f:1, f:1)")


def test_a_preference_after_a_conversation_gets_the_plain_template_and_a_warning(prepare) -> None:
    from tasks.decks.tokens import render_tokens
    from tasks.tokenize.prepare import summary_lines

    tokens = prepare([preference(HISTORY, "good", "bad"), preference("q", "a", "b")], objective="dpo")
    assert tokens.report.template == "plain"
    assert tokens.marked(0) == "User: U\nAssistant: A<eos>\nUser: V\nAssistant:« good<eos>»"
    assert rejected(tokens, 0) == " bad<eos>"
    # a prompt that is a text is joined with its answer without a template, as in every run of a base model
    assert tokens.marked(1) == "q\n«a<eos>»"
    (warning,) = tokens.report.warnings
    assert warning.startswith("the model has no chat template")
    assert f"warning: {warning}" in summary_lines(tokens.report)
    assert "Warning: the model has no chat template" in render_tokens(tokens.report)


def test_a_template_that_renders_two_prompts_for_a_preference_is_refused(prepare) -> None:
    """The template writes the last answer before the first question too."""
    template = (
        "{{ messages[-1]['content'] }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] }}<eos>{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(DataError) as error:
        prepare([preference(HISTORY, "x", "y")], template, objective="dpo")
    assert str(error.value).startswith("f:1: the chat template renders a different prompt before the rejected answer")


def test_a_rejected_answer_without_an_end_is_refused(prepare) -> None:
    template = CHATML.replace("<eos>", "{% if m['content'] != 'SECRET' %}<eos>{% endif %}")
    with pytest.raises(DataError, match=r"^f:1: no end-of-turn token is trained \(2 such rows\)") as error:
        prepare([preference("q", "a", "SECRET")], template, objective="dpo")
    assert "SECRET" not in str(error.value)


def test_a_rejected_answer_that_the_template_drops_is_refused(prepare) -> None:
    template = CHATML.replace(
        "{{ m['content'] }}<eos>", "{% if m['content'] != 'SECRET' %}{{ m['content'] }}<eos>{% endif %}"
    )
    with pytest.raises(DataError, match=r"^f:1: the chat template .* does not render the content .* \(2 such rows\)"):
        prepare([preference("q", "a", "SECRET")], template, objective="dpo")


# a prompt of five bytes and a line break, then 3 + 1 chosen tokens and 6 + 1 rejected ones: 13 for the longer sequence
LONGER = preference("qrstu", "abc", "abcdef")


@pytest.mark.parametrize(
    ("max_length", "over_length", "expected"),
    [
        (13, "drop", ("qrstu\n«abc<eos>»", "abcdef<eos>")),
        (12, "drop", None),
        (12, "auto", None),
        # both prompts lose the tokens that the longer answer needs
        (12, "cut_left", ("rstu\n«abc<eos>»", "abcdef<eos>")),
        (8, "cut_left", ("\n«abc<eos>»", "abcdef<eos>")),
        # each answer is cut where it is too long
        (12, "cut_right", ("qrstu\n«abc<eos>»", "abcdef")),
        (8, "cut_right", ("qrstu\n«ab»", "ab")),
    ],
)
def test_a_pair_is_as_long_as_its_longer_sequence(max_length: int, over_length: str, expected, prepare) -> None:
    tokens = prepare(
        [preference("q", "a", "b"), LONGER], objective="dpo", max_length=max_length, over_length=over_length
    )
    shown = [(tokens.marked(n), rejected(tokens, n)) for n in range(1, len(tokens.rows))]
    assert shown == ([] if expected is None else [expected])
    is_cut = expected is not None and max_length < 13
    assert (tokens.report.dropped_train_rows, tokens.report.truncated_rows) == (expected is None, 2 * is_cut)


@pytest.mark.parametrize(("chosen", "other"), [("abcdef", "abc"), ("abc", "abcdef")])
def test_either_answer_may_be_the_longer(chosen: str, other: str, prepare) -> None:
    rows = [preference("qrstu", chosen, other)]
    tokens = prepare(rows, objective="reward", max_length=12, over_length="cut_left")
    assert tokens.marked(0) == f"rstu\n«{chosen}<eos>»"
    assert rejected(tokens, 0) == f"{other}<eos>"


def test_answers_that_leave_no_room_for_the_prompt_are_dropped(prepare) -> None:
    rows = [preference("q", "a", "b"), preference("qrstu", "abc", "abcdefgh")]
    tokens = prepare(rows, objective="dpo", max_length=9, over_length="cut_left")
    assert (len(tokens.rows), tokens.report.dropped_train_rows) == (1, 1)
    # with one token more, the line break of the prompt fits
    tokens = prepare(rows, objective="dpo", max_length=10, over_length="cut_left")
    assert tokens.marked(1) == "\n«abc<eos>»"


def test_a_prompt_that_leaves_no_room_for_answers_is_dropped_when_cut_right(prepare) -> None:
    rows = [preference("q", "a", "b"), preference("q" * 7, "abc", "abcdefgh")]
    tokens = prepare(rows, objective="dpo", max_length=8, over_length="cut_right")
    assert (len(tokens.rows), tokens.report.dropped_train_rows) == (1, 1)


def test_cut_left_keeps_the_bos_of_both(prepare, families) -> None:
    family = families["mistral"]
    rows = [preference("0123456789", "abcd", "abcdef")]
    whole = prepare(rows, family.template, family.directory, objective="dpo")
    assert whole.marked(0) == "<s>[INST] 0123456789 [/INST]« abcd</s>»"
    # prompt 1 + 7 + 10 + 8 tokens, and " abcdef</s>" 8: 34, of which nine are cut after <s>
    cut = prepare(rows, family.template, family.directory, objective="dpo", max_length=25, over_length="cut_left")
    assert cut.marked(0) == "<s>23456789 [/INST]« abcd</s>»"
    assert rejected(cut, 0) == " abcdef</s>"


def test_an_over_length_pair_can_stop_the_run_by_name(prepare) -> None:
    with pytest.raises(DataError) as error:
        prepare([preference("q", "a", "b"), LONGER], objective="dpo", max_length=12, over_length="error")
    assert str(error.value) == (
        "f:2: 13 tokens, tokenize.max_length=12\n"
        "raise tokenize.max_length, or set tokenize.over_length to drop, cut_left or cut_right"
    )


@pytest.mark.timeout(60)
def test_a_rejected_answer_far_too_long_is_not_encoded(prepare) -> None:
    rows = [preference("q", "a", "word " * 5_000_000), preference("q", "a", "b")]
    tokens = prepare(rows, objective="dpo", max_length=100)
    assert (list(tokens.rows.row_id), tokens.report.dropped_train_rows) == (["f:2"], 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("setting", "value"), [("over_length", "split"), ("packing", "best_fit")])
def test_whole_answers_are_neither_packed_nor_split(objective: Objective, setting: str, value: str) -> None:
    config = TokenizeConfig(**{setting: value})
    if objective in ("sft", "cpt"):
        check_settings(config, objective)
        return
    with pytest.raises(ConfigError, match=rf"^tokenize.{setting}={value} .*{objective} .*\nset tokenize.{setting} to "):
        check_settings(config, objective)


def test_settings_are_checked_before_rows_are_read(prepare) -> None:
    with pytest.raises(ConfigError, match=r"^tokenize.packing=best_fit"):
        prepare([("q", "a")], objective="dpo", packing="best_fit")


def test_the_deck_shows_both_answers_of_a_pair(prepare) -> None:
    from tasks.decks.tokens import render_tokens
    from tasks.tokenize.prepare import summary_lines

    report = prepare([preference("q", "good", "<b>"), preference("r", "c", "d")], objective="dpo").report
    assert [[(s.text, s.trained) for s in spans] for spans in report.rejected_samples] == [
        [("q\n", False), ("<b><eos>", True)],
        [("r\n", False), ("d<eos>", True)],
    ]
    page = render_tokens(report)
    assert "<pre>q\n<mark>good&lt;eos&gt;</mark></pre>" in page
    assert "<pre>q\n<mark>&lt;b&gt;&lt;eos&gt;</mark></pre>" in page
    assert "training pairs of answers" in page
    assert summary_lines(report)[0].startswith("tokens: 2 training pairs of answers, ")


def test_the_log_says_that_expected_answers_of_an_online_objective_are_not_trained(prepare) -> None:
    from tasks.tokenize.prepare import summary_lines

    report = prepare([("q", "a")], objective="rloo").report
    assert report.objective == "rloo"
    assert "of them in expected answers, which are not trained; max_length" in summary_lines(report)[0]
    supervised = prepare([("q", "a")]).report
    assert supervised.objective == "sft" and "of them trained; max_length" in summary_lines(supervised)[0]


def test_deck_and_log_count_unwanted_answers(prepare) -> None:
    from tasks.decks.tokens import render_tokens
    from tasks.tokenize.prepare import summary_lines

    report = prepare([preference("q", "good", "bad")], objective="kto").report
    assert "training answers that are not wanted" in render_tokens(report)
    assert summary_lines(report)[0].endswith("; 1 answers unwanted")


def test_a_weight_of_an_earlier_turn_in_the_prompt_changes_nothing(prepare) -> None:
    turns = [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A", "weight": 0}]
    turns.append({"role": "user", "content": "V"})
    row = {**preference("V", "good", "bad"), "messages": json.dumps(turns)}
    tokens = prepare([row], CHATML, objective="dpo")
    assert tokens.marked(0) == "<|user|>U<eos><|assistant|>A<eos><|user|>V<eos><|assistant|>«good<eos>»"
