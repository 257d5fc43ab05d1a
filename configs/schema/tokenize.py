"""The tokenize section of a config: chat template, sequence length and masks."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from configs.effective.lengths import FEWEST_TOKENS, LONGEST_ROW
from configs.foreign_json import JsonFault, parse_object
from configs.objectives import WHOLE_TEXT, Objective
from configs.schema.section import Section


class TokenizeConfig(Section):
    """How rows become token ids and labels."""

    free_texts: ClassVar[Collection[str]] = ("template_arguments", "prompt_separator", "new_special_tokens")

    max_length: int | None = Field(
        None,
        ge=FEWEST_TOKENS,
        description=f"Longest sequence in tokens; when not set, the model's positions, at most {LONGEST_ROW}.",
    )
    over_length: Literal["auto", "error", "drop", "cut_left", "cut_right", "split"] = Field(
        "auto",
        description="What happens to rows longer than `max_length`: `error` stops the run; `drop` leaves them out, "
        "counted and reported; `cut_left` cuts the oldest tokens of the prompt or plain text, but not BOS; `cut_right` "
        "cuts the end; `split` makes consecutive pieces. `auto` drops rows with an answer and splits plain text.",
    )
    packing: Literal["none", "best_fit"] = Field(
        "none",
        description="`best_fit` joins several whole training rows into one sequence of at most `max_length` tokens; "
        "rows do not attend to one another. Held-out rows are never packed.",
    )
    train_on: Literal["all_answers", "last_answer"] = Field(
        "all_answers",
        description="Which assistant turns of a conversation are trained, each with its end token: all, or the last.",
    )
    chat_template: str | None = Field(
        None,
        description="Path or address of a file with a Jinja chat template; when not set, the model's own template, or "
        "a plain one for a base model.",
    )
    template_arguments: str = Field(
        "",
        description='Variables for the chat template, as a JSON object such as {"enable_thinking": false}; the same in '
        "training and evaluation, and named in the model card. Empty for none.",
    )
    train_on_reasoning: bool = Field(
        True,
        description="Whether the reasoning of an answer is trained where the chat template renders it; if not, only "
        "what follows it is.",
    )
    train_on_empty_reasoning: bool = Field(
        False,
        description="Whether an empty block for reasoning, which some chat templates write for answers without any, is "
        "trained; if not, it is part of the prompt.",
    )
    prompt_separator: str = Field(
        "\n", description="Text between prompt and completion where no chat template is used, as with a base model."
    )
    new_special_tokens: list[str] = Field(
        [], description="Tokens to add to the vocabulary, such as <|tool|>; their embeddings are trained and saved."
    )
    replace_end_token: Literal["auto", "keep"] = Field(
        "auto",
        description="Which eos_token the saved tokenizer has: with `auto`, the token that ends most of the trained "
        "answers if the tokenizer's own ends none and the chat template does not read it; with `keep`, its own.",
    )

    @field_validator("template_arguments", mode="before")
    @classmethod
    def _template_arguments_are_an_object(cls, value: Any) -> Any:
        """Check the JSON text; a file may hold the object itself, which a console's form cannot."""
        if isinstance(value, dict):
            value = json.dumps(value, ensure_ascii=False)
        if not isinstance(value, str) or not value.strip():
            return value
        try:
            arguments = parse_object(value, is_strict=True)
        except JsonFault as fault:
            raise ValueError(f'{fault}; write an object, such as {{"enable_thinking": false}}') from None
        reserved = sorted(_RESERVED & arguments.keys())
        if reserved:
            raise ValueError(f"is not allowed to set {', '.join(reserved)}, which come from the rows; remove them")
        return value

    @property
    def template_variables(self) -> dict[str, Any]:
        """The variables in `template_arguments`, by name."""
        return dict(json.loads(self.template_arguments)) if self.template_arguments.strip() else {}


_RESERVED = {"messages", "tools", "documents", "conversations", "chat_template", "add_generation_prompt"} | {
    "continue_final_message",
    "return_assistant_tokens_mask",
}


def fault_of_tokenize(config: TokenizeConfig, objective: Objective) -> str | None:
    """Return why `config` is invalid or contradicts `objective`, with the fix, or None; reads no row and no model."""
    tokens = config.new_special_tokens
    for token in tokens:
        if not token.strip():
            return f"tokenize.new_special_tokens holds {token!r}; a token must have at least one visible character"
        if tokens.count(token) > 1:
            return f"tokenize.new_special_tokens names {token} twice; name each token once"
    if objective in WHOLE_TEXT:
        return None
    if not config.train_on_reasoning:
        return (
            f"tokenize.train_on_reasoning=false is for train.objective sft; {objective} compares or scores whole "
            "answers\nset it to true, or remove the reasoning from the rows"
        )
    if config.packing != "none":
        return (
            f"tokenize.packing={config.packing} is for train.objective sft and cpt; {objective} needs each answer in a "
            "sequence with its own prompt only\nset tokenize.packing to none"
        )
    if config.over_length == "split":
        return (
            f"tokenize.over_length=split is for train.objective sft and cpt; with {objective} a piece of an answer "
            "would have no prompt\nset tokenize.over_length to auto, drop, cut_left or cut_right"
        )
    return None
