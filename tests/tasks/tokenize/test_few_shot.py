"""The tokens of held-out rows with examples: what is written, what counts in the loss, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.token_rows import Row, canonical, labelled, preference
from support.vendor_templates import vendor_names, vendor_setup

from configs.errors import ConfigError, DataError
from configs.objectives import Objective
from configs.schema import TokenizeConfig
from configs.wire_few_shot import FewShotReport
from tasks.tokenize.few_shot import few_shot_tokens, longest_sequence
from tasks.tokenize.prepare import join_parts, tokenize_part
from tasks.tokenize.rows import Row as CanonicalRow
from tasks.tokenize.shots import make_shots, sequences_of

from .conftest import Family, marked

EXAMPLES: list[Row] = [("p1", "a1"), ("p2", "a2")]


class Shown:
    """The tokens of held-out rows as a run makes them, and with examples, by the tokenizer that the run saved."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        train: list[Row],
        test: list[Row],
        shots: int,
        template: str | None = None,
        objective: Objective = "sft",
        **settings: Any,
    ):
        from transformers import AutoTokenizer

        splits = {name: folder / f"{name}.parquet" for name in ("train", "test")}
        canonical(train).fillna("").to_parquet(splits["train"])
        frame = canonical(test).assign(row_id=lambda rows: "t" + rows.row_id).fillna("")
        self.given = frame if "dataset" in frame else frame.assign(dataset="held-out")
        self.given.to_parquet(splits["test"])
        outputs = {name: folder / name for name in ("train", "test", "tokenizer", "part", "shown")}
        for path in outputs.values():
            path.mkdir()
        config = TokenizeConfig(**settings)
        arguments = (config, objective, template, model, False)
        tokenize_part(*arguments, splits, 0, 1, outputs["part"])
        join_parts(*arguments, [outputs["part"]], outputs)
        self.alone = pd.read_parquet(outputs["test"] / "tokens.parquet")
        self.tokenizer = AutoTokenizer.from_pretrained(outputs["tokenizer"])
        self.report: FewShotReport = few_shot_tokens(
            config, objective, shots, template, outputs["tokenizer"], False, splits["train"], splits["test"],
            outputs["shown"],
        )  # fmt: skip
        self.rows = pd.read_parquet(outputs["shown"] / "tokens.parquet")

    def marked(self, row: int) -> str:
        """Return the text of a sequence with examples, with what counts in the loss between « and »."""
        return marked(self.rows.input_ids[row], self.rows.labels[row], self.tokenizer)


@pytest.fixture
def show(tiny_model: Path, tmp_path: Path) -> Callable[..., Shown]:
    def run(train: list[Row], test: list[Row], shots: int, model: Path = tiny_model, **settings: Any) -> Shown:
        return Shown(tmp_path, model, train, test, shots, **settings)

    return run


def test_without_a_template_examples_are_pairs_with_their_end_tokens(show: Callable[..., Shown]) -> None:
    shown = show(EXAMPLES, [("Why?", "So."), {"kind": "pair", "prompt": "Q", "completion": "A", "group": "g"}], 2)
    # the order of the two is decided by their hashes
    order = [row_id.removeprefix("f:") for row_id in shown.report.example_row_ids]
    assert sorted(order) == ["1", "2"]
    examples = "".join(f"p{n}\na{n}<eos>\n\n" for n in order)
    assert [shown.marked(n) for n in (0, 1)] == [f"{examples}Why?\n«So.<eos>»", f"{examples}Q\n«A<eos>»"]
    columns = ["row_id", "prompt", "expected", "dataset", "group", "is_wanted"]
    assert shown.rows[columns].equals(shown.alone[columns])
    assert list(shown.rows.group) == ["", "g"]
    # an example has 6 letters with its line break, an end token and two line breaks: 8 tokens; "Why?\n" has 5, "Q\n" 2
    assert list(shown.rows.prompt_length) == [16 + 5, 16 + 2]
    report = shown.report
    assert (report.shots, report.rows, report.left_out_rows, report.warnings) == (2, 2, 0, [])
    assert (report.example_tokens, report.prompt_tokens_zero_shot, report.prompt_tokens_few_shot) == (16, 3.5, 19.5)


def test_an_opening_token_stands_once_before_all_examples(
    show: Callable[..., Shown], families: dict[str, Family]
) -> None:
    shown = show(EXAMPLES, [("Why?", "So.")], 1, model=families["llama-3"].directory)
    assert shown.marked(0).count("<|begin_of_text|>") == 1
    assert shown.marked(0).startswith("<|begin_of_text|>p")
    assert shown.marked(0).endswith("<|eot_id|>\n\nWhy?\n«So.<|eot_id|>»")


def test_a_template_renders_examples_as_turns(show: Callable[..., Shown], families: dict[str, Family]) -> None:
    family = families["chatml"]
    train: list[Row] = [[("system", "Other."), ("user", "p1"), ("assistant", "a1")]]
    test: list[Row] = [("Why?", "So."), [("system", "Be brief."), ("user", "Q"), ("assistant", "A")]]
    shown = show(train, test, 1, model=family.directory, template=family.template)
    example = "<|im_start|>user\np1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
    asked = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n«{}<|im_end|>»\n"
    first, second = shown.marked(0), shown.marked(1)
    assert first.endswith(example + asked.format("Why?", "So."))
    assert second == "<|im_start|>system\nBe brief.<|im_end|>\n" + example + asked.format("Q", "A")


def test_a_base_model_with_conversations_is_shown_pairs_and_conversations_as_it_was_trained(
    show: Callable[..., Shown],
) -> None:
    test: list[Row] = [[("user", "Q"), ("assistant", "A")], ("Why?", "So.")]
    shown = show([("p1", "a1"), [("user", "Held"), ("assistant", "b")]], test, 2, max_length=128)
    order = [row_id.removeprefix("f:") for row_id in shown.report.example_row_ids]
    pairs = {"1": ("p1", "a1"), "2": ("Held", "b")}
    asked = "".join("User: {}\nAssistant: {}<eos>\n".format(*pairs[n]) for n in order)
    assert shown.marked(0) == asked + "User: Q\nAssistant:« A<eos>»\n"
    assert shown.marked(1) == "".join("{}\n{}<eos>\n\n".format(*pairs[n]) for n in order) + "Why?\n«So.<eos>»"


def test_all_answers_of_a_row_count_and_none_of_an_example(
    show: Callable[..., Shown], families: dict[str, Family]
) -> None:
    family = families["chatml"]
    test: list[Row] = [[("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]]
    shown = show(EXAMPLES, test, 2, model=family.directory, template=family.template)
    assert shown.marked(0).count("«") == 2
    assert [token for token in shown.rows.labels[0] if token != -100] == [
        token for token in shown.alone.labels[0] if token != -100
    ]


def test_a_preference_keeps_its_rejected_answer(show: Callable[..., Shown]) -> None:
    shown = show([preference("Hi", "Ho", "No")], [preference("Why?", "So.", "Never.")], 1, objective="dpo")
    assert shown.marked(0) == "Hi\nHo<eos>\n\nWhy?\n«So.<eos>»"
    assert shown.tokenizer.decode(shown.rows.rejected_ids[0]) == "Never.<eos>"


def test_a_preference_is_two_rows_of_one_group_for_kto(show: Callable[..., Shown], families: dict[str, Family]) -> None:
    family = families["chatml"]
    train: list[Row] = [labelled("p0", "bad", False), preference("p1", "a1", "b1")]
    shown = show(
        train, [preference("Why?", "So.", "Never.")], 1, model=family.directory, template=family.template,
        objective="kto",
    )  # fmt: skip
    assert list(shown.rows.row_id) == list(shown.alone.row_id) == ["tf:1#chosen", "tf:1#rejected"]
    assert list(shown.rows.group) == ["tf:1", "tf:1"] and list(shown.rows.is_wanted) == [True, False]
    assert all("a1" in shown.marked(n) and "b1" not in shown.marked(n) for n in (0, 1))


def test_rows_with_one_id_are_told_apart(show: Callable[..., Shown]) -> None:
    """Two files may have one name, so a row id may occur twice."""
    test = [{"kind": "pair", "prompt": f"Q{n}", "completion": f"A{n}", "row_id": "same:1"} for n in (1, 2)]
    shown = show(EXAMPLES, test, 1)
    assert list(shown.rows.row_id) == ["tsame:1"] * 2
    assert [shown.marked(n).splitlines()[-2:] for n in (0, 1)] == [["Q1", "«A1<eos>»"], ["Q2", "«A2<eos>»"]]


def test_only_the_held_out_rows_are_written(show: Callable[..., Shown]) -> None:
    test = [
        {"kind": "pair", "prompt": f"Q{n}", "completion": "A", "dataset": name}
        for n, name in enumerate(("held-out", "gsm8k", "held-out"))
    ]
    shown = show(EXAMPLES, test, 1)
    assert list(shown.rows.prompt) == ["Q0", "Q2"] and set(shown.rows.dataset) == {"held-out"}


def test_the_longest_sequence_is_four_times_the_training_length_within_the_models_positions() -> None:
    assert longest_sequence(32768, 2048) == 8192
    assert longest_sequence(4096, 2048) == 4096
    assert longest_sequence(None, 100) == 400


# with max_length 20 a sequence with examples may have 80 tokens; an example of 10 + 1 + 1 letters, an end token and two
# line breaks has 15, so four take 60 and leave 20
LONG: list[Row] = [(f"long row {n}", "a") for n in range(4)]


def test_a_row_that_does_not_fit_is_left_out_whole_and_counted(show: Callable[..., Shown]) -> None:
    # "q" * n, a line break, a letter and an end token: n + 3 tokens, and 17 is the most that fits with four examples
    shown = show(LONG, [("q" * n, "b") for n in (5, 17, 16)], 4, max_length=20)
    assert list(shown.rows.prompt) == ["q" * 5, "q" * 17, "q" * 16] and shown.report.left_out_rows == 0
    assert max(map(len, shown.rows.input_ids)) == 80


def test_the_error_says_how_many_examples_fit(show: Callable[..., Shown]) -> None:
    with pytest.raises(DataError) as caught:
        show([*LONG, ("long row 4", "a")], [("q" * n, "b") for n in (5, 14, 16)], 5, max_length=20)
    assert str(caught.value) == (
        "evaluate.few_shot=5: with 5 examples before them, 3 of 3 held-out rows exceed 80 tokens, "
        "4 x tokenize.max_length\nset it to 4, with which most of them fit"
    )


def test_turns_that_do_not_fit_are_never_cut(show: Callable[..., Shown], families: dict[str, Family]) -> None:
    # a token for each letter: a question of n letters has 8 + n with its role, an answer 13 + n. The row has 23, an
    # example 25, and 4 x 25 tokens are allowed: 23 + 3 x 25 fit
    family, examples = families["chatml"], [(f"p{n}", f"a{n}") for n in range(4)]
    with pytest.raises(DataError, match="4 examples before them, 1 of 1 held-out rows exceed 100 tokens") as caught:
        show(examples, [("Q", "A")], 4, model=family.directory, template=family.template, max_length=25)
    assert str(caught.value).endswith("\nset it to 3, with which most of them fit")


def test_a_minority_that_does_not_fit_is_counted(show: Callable[..., Shown]) -> None:
    # 75 tokens of five examples leave 5: "q" with 3 more has 4, and "qqq" with 3 more has 6
    shown = show([*LONG, ("long row 4", "a")], [("q", "b"), ("qqq", "b")], 5, max_length=20)
    assert list(shown.rows.prompt) == ["q"]
    assert (shown.report.rows, shown.report.left_out_rows) == (1, 1)
    assert shown.report.warnings == ["1 held-out rows are left out: they exceed 80 tokens with examples"]
    assert shown.report.prompt_tokens_zero_shot == 2


def test_a_model_without_room_for_one_example_is_said(show: Callable[..., Shown], families: dict[str, Family]) -> None:
    positions = families["chatml"].directory / "config.json"
    given = positions.read_text(encoding="utf-8")
    positions.write_text(json.dumps({"max_position_embeddings": 20}), encoding="utf-8")
    try:
        with pytest.raises(DataError, match="exceed 20 tokens, the model's positions\nset it to 0: not one example"):
            show(LONG, [("q" * 14, "b")], 1, model=families["chatml"].directory)
    finally:
        positions.write_text(given, encoding="utf-8")


def test_a_row_that_was_cut_and_one_without_a_prompt_are_left_out_and_counted(show: Callable[..., Shown]) -> None:
    test: list[Row] = [("Why?", "So."), ("q" * 50, "b"), "Some text."]
    shown = show(EXAMPLES, test, 1, max_length=20, over_length="cut_left")
    assert len(shown.alone) == 3 and list(shown.rows.prompt) == ["Why?"]
    assert shown.report.left_out_rows == 2
    assert shown.report.warnings == [
        "1 held-out rows are left out: they were cut or split at tokenize.max_length",
        "1 held-out rows are left out: they are plain texts without a prompt",
    ]


def test_a_row_that_was_dropped_for_its_length_is_no_held_out_row(show: Callable[..., Shown]) -> None:
    shown = show(EXAMPLES, [("Why?", "So."), ("q" * 50, "b")], 1, max_length=20)
    assert len(shown.alone) == 1 and shown.report.left_out_rows == 0 and shown.report.warnings == []


def test_a_template_that_takes_one_question_is_named(show: Callable[..., Shown], families: dict[str, Family]) -> None:
    refuses = "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
    template = refuses + families["chatml"].template
    with pytest.raises(DataError) as caught:
        show(EXAMPLES, [("Why?", "So.")], 1, model=families["chatml"].directory, template=template)
    first, second = str(caught.value).splitlines()
    assert first.startswith("evaluate.few_shot=1: the chat template refuses 1 of 1 held-out rows with 1 example before")
    assert second == "set it to 0, or tokenize.chat_template to a template that takes several questions"


def test_rows_that_are_refused_with_examples_alone_are_counted(
    show: Callable[..., Shown], families: dict[str, Family]
) -> None:
    refuses = "{% if messages | length > 2 and messages[-2]['content'] == 'Q' %}{{ raise_exception('no') }}{% endif %}"
    template = refuses + families["chatml"].template
    shown = show(EXAMPLES, [("Why?", "So."), ("Q", "A")], 1, model=families["chatml"].directory, template=template)
    assert list(shown.rows.prompt) == ["Why?"] and shown.report.left_out_rows == 1
    (warning,) = shown.report.warnings
    assert warning.startswith("1 held-out rows are left out: they are refused with examples: ")


def test_answers_that_the_template_writes_otherwise_after_examples_are_said(
    show: Callable[..., Shown], families: dict[str, Family]
) -> None:
    template = families["chatml"].template.replace(
        "message['content'] +", "('! ' if messages | length > 2 else '') + message['content'] +"
    )
    shown = show(EXAMPLES, [("Why?", "So.")], 1, model=families["chatml"].directory, template=template)
    assert "«! So.<|im_end|>»" in shown.marked(0)
    assert shown.report.warnings == [
        "the chat template writes the answers of 1 held-out rows otherwise after examples, so their loss is over other "
        "tokens"
    ]


def test_a_row_that_is_too_long_for_training_is_no_example(show: Callable[..., Shown]) -> None:
    # both are at most as long as the median of their class; one has more tokens than letters
    shown = show([("p1", "a1"), ("\N{GRINNING FACE}" * 5, "b")], [("Why?", "So.")], 1, max_length=16)
    assert shown.report.example_row_ids == ["f:1"]


def test_new_special_tokens_are_in_the_saved_tokenizer_already(show: Callable[..., Shown]) -> None:
    shown = show([("p1", "<|new|>")], [("Why?", "So.")], 1, new_special_tokens=["<|new|>"])
    assert shown.marked(0).startswith("p1\n<|new|>")


def test_an_objective_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^evaluate.few_shot=2: train.objective=reward trains a reward model"):
        few_shot_tokens(TokenizeConfig(), "reward", 2, None, tmp_path, False, tmp_path, tmp_path, tmp_path)


def test_the_task_hands_on_the_tokens_and_the_report(
    show: Callable[..., Shown], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flytekit.types.directory import FlyteDirectory
    from flytekit.types.structured import StructuredDataset

    from tasks.tokenize import task

    shown = show(EXAMPLES, [("Why?", "So.")], 2)
    train, test = (
        StructuredDataset(uri=str(tmp_path / f"{name}.parquet"), file_format="parquet") for name in ("train", "test")
    )
    found = task.few_shot_tokens(
        config=TokenizeConfig(),
        objective="sft",
        shots=2,
        chat_template=None,
        tokenizer=FlyteDirectory(str(tmp_path / "tokenizer")),
        trust_remote_code=False,
        train=train,
        test=test,
    )
    assert found.report == shown.report
    assert pd.read_parquet(Path(found.tokens.path) / "tokens.parquet").equals(shown.rows)
    assert (
        "few-shot: 1 held-out rows with 2 examples before each, which add 16 tokens to a prompt of 5; 0 rows left out"
    ) in capsys.readouterr().out


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


VENDOR_ROWS = {
    "one answer": [user("Hi"), answer("Ho")],
    "two answers": [user("Hi"), answer("Ho"), user("Why?"), answer("So.")],
    "reasoning": [user("Hi"), answer("Ho", reasoning_content="Greet back.")],
}


# a process of its own renders each template first, which takes half a second; the others are slow tests
FAST = ("cohere2", "gemma3", "gptoss", "llama3_1", "qwen3")
VENDORS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in vendor_names()]


@cache
def vendor(name: str) -> Any:
    return vendor_setup(name)


@pytest.mark.parametrize("case", VENDOR_ROWS)
@pytest.mark.parametrize("name", VENDORS)
def test_with_each_vendors_template_the_same_tokens_count_after_examples(name: str, case: str) -> None:
    setup = vendor(name)
    example = CanonicalRow("f:1", "pair", "Example?", "Shown.", "")
    shots = make_shots([example, example._replace(prompt="More?", completion="Given.")], setup, setup.max_length)
    row = CanonicalRow("f:2", "messages", "Hi", "Ho", json.dumps(VENDOR_ROWS[case]))
    found = list(sequences_of([row], shots))
    if not found:
        pytest.skip("the template refuses the row alone")
    for _, alone, shown, refusal in found:
        assert shown is not None, refusal
        assert shown.expected == alone.expected and shown.row_id == alone.row_id
        assert [label for label in shown.labels if label != -100] == [label for label in alone.labels if label != -100]
        prompt = setup.tokenizer.decode(shown.input_ids[: shown.prompt_length])
        assert [prompt.count(text) for text in ("Example?", "Shown.", "More?", "Given.")] == [1, 1, 1, 1]
        # templates have texts of their own, in which the question may occur too
        assert prompt.index("Given.") < prompt.rindex("Hi")
        # the answer itself and what follows it are the same
        assert shown.input_ids[shown.prompt_length :] == alone.input_ids[alone.prompt_length :]
