"""Properties of the masks over random conversations; the expected text is built without a template engine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

SYSTEM_HEAD = {"chatml": "<|im_start|>{}\n", "llama-3": "<|start_header_id|>{}<|end_header_id|>\n\n"}
END = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "mistral": "</s>"}
ALL_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
ALL_SPECIAL += ["<|end_header_id|>", "<s>", "</s>", "<eos>", "<pad>", "<think>"]
CONTENT = st.text(min_size=1, max_size=40).filter(lambda text: not any(token in text for token in ALL_SPECIAL))
TYPED = st.lists(st.one_of(st.text(max_size=5), st.sampled_from(ALL_SPECIAL)), min_size=1, max_size=4).map("".join)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def conversations(draw: st.DrawFn, content: st.SearchStrategy[str] = CONTENT) -> list[tuple[str, str]]:
    """Return turns in order: perhaps a system turn, then user and assistant, one to three times."""
    system = [("system", draw(content))] if draw(st.booleans()) else []
    turns = draw(st.integers(1, 3))
    return system + [(role, draw(content)) for _ in range(turns) for role in ("user", "assistant")]


def expected_spans(name: str, conversation: list[tuple[str, str]]) -> list[tuple[str, bool]]:
    """Return the conversation as (text, trained) spans, in plain Python."""
    spans: list[tuple[str, bool]] = []
    before = {"chatml": "", "llama-3": "<|begin_of_text|>", "mistral": "<s>"}[name]
    system = ""
    for role, content in conversation:
        if name == "mistral":
            if role == "system":
                system = content + "\n\n"
            elif role == "user":
                before, system = f"{before}[INST] {system}{content} [/INST]", ""
            else:
                spans += [(before, False), (f" {content.strip()}</s>", True)]
                before = ""
            continue
        before += SYSTEM_HEAD[name].format(role)
        content = content.strip() if name == "llama-3" else content
        after = "\n" if name == "chatml" else ""
        if role == "assistant":
            spans += [(before, False), (content + END[name], True)]
            before = after
        else:
            before += content + END[name] + after
    return spans + ([(before, False)] if before else [])


def decoded_spans(row, tokenizer) -> list[tuple[str, bool]]:
    spans: list[tuple[list[int], bool]] = []
    for token, label in zip(row.input_ids, row.labels, strict=True):
        if not spans or spans[-1][1] != (label != -100):
            spans.append(([], label != -100))
        spans[-1][0].append(token)
    return [(tokenizer.decode(ids), trained) for ids, trained in spans]


@FEW
@given(conversation=conversations())
def test_exactly_the_answers_are_trained(conversation, family) -> None:
    row = family.tokenize(conversation).rows.iloc[0]
    assert all(label in (-100, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    assert decoded_spans(row, family.tokenizer) == expected_spans(family.name, conversation)
    end = family.tokenizer.convert_tokens_to_ids(END[family.name])
    assert list(row.labels).count(end) == sum(role == "assistant" for role, _ in conversation)


@FEW
@given(conversation=conversations(TYPED))
def test_contents_of_any_text_add_no_control_token(conversation, family) -> None:
    harmless = [(role, "x") for role, _ in conversation]
    special = {family.tokenizer.convert_tokens_to_ids(token) for token in ALL_SPECIAL if token != "<think>"}
    special &= set(family.tokenizer.added_tokens_decoder)

    def control_tokens(row) -> list[tuple[int, bool]]:
        pairs = zip(row.input_ids, row.labels, strict=True)
        return [(token, label != -100) for token, label in pairs if token in special]

    assume(all(content.strip() for _, content in conversation))
    # refused, as reasoning that never ends
    assume(not any(role == "assistant" and content.lstrip().startswith("<think>") for role, content in conversation))
    row = family.tokenize(conversation).rows.iloc[0]
    assert control_tokens(row) == control_tokens(family.tokenize(harmless).rows.iloc[0])
    assert decoded_spans(row, family.tokenizer) == expected_spans(family.name, conversation)


@FEW
@given(conversation=conversations())
def test_training_on_the_last_answer_changes_labels_only(conversation, family) -> None:
    all_answers, last_answer = (
        family.tokenize(conversation, train_on=train_on).rows.iloc[0] for train_on in ("all_answers", "last_answer")
    )
    prompt_length = last_answer.prompt_length
    assert all_answers.input_ids == last_answer.input_ids
    assert last_answer.labels == [-100] * prompt_length + all_answers.labels[prompt_length:]


@FEW
@given(conversation=conversations(), cut=st.integers(1, 60))
def test_cutting_left_keeps_the_answer_whole(conversation, cut: int, family) -> None:
    whole = family.tokenize(conversation).rows.iloc[0]
    max_length = len(whole.input_ids) - cut
    assume(max_length >= 8)
    table = family.tokenize(conversation, max_length=max_length, over_length="cut_left")
    answer = whole.input_ids[whole.prompt_length :]
    opening = int(whole.input_ids[0] == family.tokenizer.bos_token_id)
    if opening + 1 + len(answer) > max_length:
        assert table.dropped == ["f:1"]
        return
    row = table.rows.iloc[0]
    assert len(row.input_ids) == max_length
    assert row.input_ids[:opening] == whole.input_ids[:opening]
    assert row.input_ids[opening:] == whole.input_ids[opening + cut :]
    assert row.labels[row.prompt_length :] == whole.labels[whole.prompt_length :]
    assert row.input_ids[row.prompt_length :] == answer


@pytest.mark.parametrize("text", ["\r\n", "\x00", "\u2028", "é🎉", "«", "{{ x }}", "[/INST]"])
def test_awkward_contents(text: str, family) -> None:
    conversation = [("user", text + "u"), ("assistant", "a" + text + "a")]
    row = family.tokenize(conversation).rows.iloc[0]
    assert decoded_spans(row, family.tokenizer) == expected_spans(family.name, conversation)
