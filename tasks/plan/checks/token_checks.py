"""Checks that tokenizer, embedding and chat template fit each other, by the tokenize stage's own rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, cast

from configs.addresses import shown_address
from configs.effective.lengths import FEWEST_TOKENS, positions_of
from configs.errors import ConfigError, DataError, ModelError
from configs.objectives import ONLINE, Objective
from configs.schema import TokenizeConfig, TrainConfig
from configs.schema.train import PROMPT_METHODS
from tasks.plan.checks.settings import read_chat_template
from tasks.plan.checks.tokenizers import SmallTokenizer, template_fault
from tasks.tokenize.checks import check_refused, check_tokens, rendering_warnings
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.counts import FoundRows, SplitCounts, add_batch
from tasks.tokenize.files import token_table
from tasks.tokenize.refused import NONE_ALLOWED, InvalidRows, count_refused
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.template import choose_template, resolve_max_length
from tasks.tokenize.tokens import tokenize_rows
from tasks.tokenize.vocabulary import add_special_tokens, check_vocabulary, new_end_token

# described for all conversations, whatever the first rows hold
_NOT_WARNED = {"training_template": FoundRows(), "one_answer_each": FoundRows()}
_ANY_LENGTH = 2**20
UNKNOWN_POSITIONS = "an unknown number of positions"
_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "What is one and one?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "And two and two?"},
    {"role": "assistant", "content": "Four."},
]
_CALL = {"type": "function", "function": {"name": "add", "arguments": {"first": 1, "second": 1}}}
_TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]
_TURNS_WITH_TOOLS = [
    _TURNS[0],
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "add", "content": "2"},
    _TURNS[1],
]


def text_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the language model: a config.json, or its `text_config`."""
    return dict(settings.get("text_config") or settings)


def read_checked_template(path: str | None) -> str | None:
    """Return the content of the chat template file that a config names, or None if it names none.

    Raises:
        ConfigError: it cannot be read, never reads `messages`, or is not valid Jinja.
    """
    text = read_chat_template(path)
    fault = None if text is None else template_fault(text)
    if fault is not None:
        raise ConfigError(f"tokenize.chat_template={shown_address(str(path))}: {fault}; repair the template")
    return text


def check_tokenizer(tokenizer: SmallTokenizer, settings: dict[str, Any], config: TokenizeConfig) -> str:
    """Check that the model has an embedding for each token; return a description of both.

    The template must be set on `tokenizer`, to which the config's new tokens are added; `settings` is the model's
    config.json.

    Raises:
        ModelError: a token has no embedding, or an id in config.json is beyond the vocabulary.
        ConfigError: a new token is not a valid one.
    """
    size = text_settings(settings).get("vocab_size")
    check_vocabulary(cast(Any, tokenizer), size)
    num_tokens = len(tokenizer.get_vocab())
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = text_settings(settings).get(name)
        for token_id in ids if isinstance(ids, list) else [ids]:
            if isinstance(token_id, int) and size is not None and token_id >= size:
                raise ModelError(
                    f"config.json names {name}={token_id}, but the model's vocabulary has {size} tokens\n"
                    "copy the model again, or correct the id"
                )
    texts = config.new_special_tokens
    # without new tokens, transformers is not imported
    new = add_special_tokens(cast(Any, tokenizer), texts) if texts else []
    added = f", {len(new)} new" if new else ""
    rows = "an unknown number of" if size is None else f"{size}"
    return f"{num_tokens} tokens{added}, {rows} embeddings, answers end with {tokenizer.eos_token}"


def check_template(
    tokenizer: SmallTokenizer,
    settings: dict[str, Any],
    config: TokenizeConfig,
    given: str | None,
    rows: Sequence[dict[str, Any]] = (),
    objective: Objective = "sft",
    invalid: InvalidRows = NONE_ALLOWED,
) -> tuple[str, str]:
    """Render and check conversations, and the canonical `rows`, as the tokenize stage would; (description, warning).

    `given` is the template file that the config names, or None. `invalid` says how many of the rows may be refused.

    Raises:
        ModelError: the model's own template does not parse.
        DataError: no end-of-turn token is trained, no answer is found, or the template refuses plain questions, or
            more of the rows than the config allows.
    """
    own = tokenizer.chat_template
    if given is None and isinstance(own, str) and (fault := template_fault(own)):
        raise ModelError(f"the model's chat template: {fault}\nrepair it, or name another with tokenize.chat_template")
    setup = _setup(tokenizer, config, given)
    template = setup.template
    end_ids, _ = _checked_counts("a question and its answer", _TURNS[:2], setup)
    end_tokens = ", ".join(tokenizer.convert_ids_to_tokens(token_id) for token_id in end_ids)
    sources = {"config": "the config's", "model": "the model's own", "plain": "a plain one, as the model has none"}
    found = f"{sources[template.source]}; turns end with {end_tokens}"
    if (end_token := new_end_token(setup.tokenizer, config, end_ids)) is not None:
        found += f"; {end_token} becomes the saved tokenizer's eos_token (tokenize.replace_end_token)"
    try:
        _checked_counts("a question, a call and its result", _TURNS_WITH_TOOLS, setup, _TOOLS)
    except DataError:
        found += "; rows with tools will be refused"
    try:
        _, counts = _checked_counts("two questions and their answers", _TURNS, setup)
    except DataError as error:
        _refused_rows(rows, invalid, replace(setup, objective=objective))
        return found, f"conversations of several answers will be refused: {str(error).splitlines()[0]}"
    refused = _refused_rows(rows, invalid, replace(setup, objective=objective))
    if counts.training_template.num_rows:
        found += "; conversations of several answers are rendered by TRL's variant for training"
    elif counts.one_answer_each.num_rows:
        found += "; conversations of several answers become one sequence for each answer"
    return found, refused


def expected_answers(
    tokenizer: SmallTokenizer,
    config: TokenizeConfig,
    given: str | None,
    rows: Sequence[dict[str, Any]],
    objective: Objective,
) -> list[str]:
    """Return the expected answers of the canonical `rows` that have a prompt and a wanted answer, as the tokenize stage
    writes them. Rows that the template refuses are left out.

    Raises:
        ModelError, DataError: as `check_template`.
    """
    batch = tokenize_rows(_known_rows(rows), replace(_setup(tokenizer, config, given), objective=objective))
    return [record.expected for record in batch.records if record.prompt_length and record.is_wanted]


def _setup(tokenizer: SmallTokenizer, config: TokenizeConfig, given: str | None) -> Setup:
    """Return how rows of any length are tokenized; `given` is the template file that the config names, or None."""
    # a copy: the template is set on it, and another question may read the tokenizer at the same time
    own = cast(Any, copy(tokenizer))
    template = choose_template(own, given, has_messages=True, arguments=config.template_variables)
    return Setup(
        tokenizer=own,
        control=find_control_tokens(own),
        template=template,
        config=config.model_copy(update={"over_length": "drop"}),
        max_length=_ANY_LENGTH,
        objective="sft",
        vocabulary_size=None,
    )


def _known_rows(rows: Sequence[dict[str, Any]]) -> list[Row]:
    return [Row(**{name: row[name] or "" for name in Row._fields if name in row}) for row in rows]


def _refused_rows(rows: Sequence[dict[str, Any]], invalid: InvalidRows, setup: Setup) -> str:
    """Return a warning about those of the canonical `rows` that the template refuses, or loses reasoning of.

    Raises:
        DataError: with the invalid rows, there are more of them than `data.max_invalid_rows`.
    """
    batch = tokenize_rows(_known_rows(rows), setup)
    counts = SplitCounts()
    add_batch(counts, batch, token_table(batch.records), setup)
    refused = count_refused(batch.refused)
    check_refused(refused, invalid)
    return "; ".join(rendering_warnings(counts.model_copy(update=_NOT_WARNED), refused, setup))


def _checked_counts(
    name: str, turns: Sequence[dict[str, Any]], setup: Setup, tools: Sequence[dict[str, Any]] = ()
) -> tuple[list[int], SplitCounts]:
    """Return the ids of the tokens that end the answers of a conversation, and its counts; raise what a check finds."""
    row = Row(name, "messages", "", "", json.dumps(turns), tools=json.dumps(tools) if tools else "")
    batch = tokenize_rows([row], setup)
    counts = SplitCounts()
    add_batch(counts, batch, token_table(batch.records), setup)
    return check_tokens({"train": counts}, count_refused(batch.refused), NONE_ALLOWED, setup), counts


def check_length(tokenize: TokenizeConfig, train: TrainConfig, settings: dict[str, Any]) -> tuple[str, str]:
    """Check that sequences fit the model's positions; return (description, warning).

    Raises:
        ModelError: `tokenize.max_length` exceeds the positions.
        ConfigError: virtual tokens or generated answers leave no room.
    """
    model = text_settings(settings)
    length = resolve_max_length(model, tokenize.max_length)
    positions = positions_of(model)
    found = f"{length} tokens of {f'{positions} positions' if positions else UNKNOWN_POSITIONS}"
    reserved, setting = 0, ""
    if train.method in PROMPT_METHODS:
        reserved, setting = train.prompt.num_virtual_tokens, "train.prompt.num_virtual_tokens"
    elif train.objective in ONLINE:
        reserved, setting = train.policy.max_new_tokens, "train.policy.max_new_tokens"
    if not positions or not reserved:
        return found, ""
    left = positions - reserved
    if left < FEWEST_TOKENS:
        raise ConfigError(f"{setting}={reserved} leaves {max(0, left)} of the model's {positions} positions\nlower it")
    if length > left:
        return found, (
            f"{setting}={reserved} leaves {left} of {positions} positions, but rows may have {length}: a row of more "
            f"than {left} tokens will stop the run"
        )
    return found, ""
