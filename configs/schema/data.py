"""The data section of a config: where rows come from, how they are checked, and how they are split."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from configs.addresses import shown_address
from configs.foreign_json import JsonFault, parse_json
from configs.schema.section import Name, Section, without_outer_blanks

RowFormat = Literal[
    "auto",
    "prompt_completion",
    "messages",
    "sharegpt",
    "instruction",
    "text",
    "preference",
    "preference_implicit",
    "preference_sharegpt",
    "preference_chat",
    "preference_openai",
    "preference_messages",
    "kto",
    "kto_messages",
    "kto_sharegpt",
    "kto_instruction",
    "xlam",
]
CheckPolicy = Literal["fail", "quarantine", "warn"]
_TOOLS_EXAMPLE = 'a list of definitions, such as [{"name": "add", "parameters": {}}]'


class ColumnMap(Section):
    """Which columns of the data hold the fields of a format, where their names differ."""

    # a header of a CSV file may have line breaks, as in "prompt\n(English)"
    free_texts: ClassVar[Collection[str]] = ("*",)

    prompt: str | None = Field(None, description="Column read as `prompt`.")
    completion: str | None = Field(None, description="Column read as `completion`.")
    messages: str | None = Field(None, description="Column read as `messages`: a list of {role, content}.")
    instruction: str | None = Field(None, description="Column read as `instruction`.")
    input: str | None = Field(None, description="Column read as `input`, the optional context of an instruction.")
    output: str | None = Field(None, description="Column read as `output`.")
    text: str | None = Field(None, description="Column read as `text`.")
    conversations: str | None = Field(None, description="Column read as `conversations`: a list of {from, value}.")
    chosen: str | None = Field(None, description="Column read as `chosen`, the preferred answer.")
    rejected: str | None = Field(None, description="Column read as `rejected`, the other answer.")
    label: str | None = Field(None, description="Column read as `label`: true for a wanted completion.")
    tools: str | None = Field(None, description="Column read as `tools`: a list of tool definitions, or its JSON.")
    system: str | None = Field(None, description="Column read as `system`, the optional text of the system turn.")
    reasoning_content: str | None = Field(
        None, description="Column read as `reasoning_content`, the optional reasoning before an answer."
    )
    query: str | None = Field(None, description="Column read as `query`, the question of an xlam row.")
    answers: str | None = Field(None, description="Column read as `answers`, the calls of an xlam row.")
    history: str | None = Field(
        None, description="Column read as `history`, the optional earlier turns of an instruction: [question, answer]."
    )


class SourceConfig(Section):
    """One source of rows: a file, a hub data set, or the embedded one."""

    free_texts: ClassVar[Collection[str]] = ("tools",)

    path: str | list[str] | None = Field(
        None,
        description="A JSONL (.jsonl, .ndjson, .jsonlines), JSON, CSV, TSV, Parquet, Arrow or .txt file, each also "
        ".gz or .zst; a glob, a directory, also one of `save_to_disk`, or a list of these; local, or at s3://, gs:// "
        "or https://. Or a data set that the project makes itself: "
        "`embedded:english-to-sql[:rows]` or `embedded:english-to-sql-preferences[:rows]`.",
    )
    hub: Name | None = Field(None, description="Hub data set, `owner/name`.")
    name: str | None = Field(None, description="Configuration (subset) of the hub data set.")
    split: str = Field("train", description="Split of the hub data set.")
    revision: str | None = Field(
        None, description="Branch, tag or commit of the hub data set; when not set, the default branch."
    )
    format: RowFormat = Field("auto", description="Row format; `auto` detects it from the columns.")
    role: Literal["auto", "train", "test"] = Field(
        "auto",
        description="Which split the rows go to: all are trained on (`train`), or all are held out (`test`). `auto` "
        "follows the names of a folder's files, such as train and test; without these it splits rows by "
        "`test_fraction`, or trains on all of them if another source is `test`.",
    )
    weight: float = Field(
        1.0,
        gt=0.0,
        description="How often an epoch uses each training row of this source: 2 uses it twice, 0.5 leaves half of the "
        "rows out.",
    )
    tools: str = Field(
        "",
        description="Tool definitions for the rows that have no `tools` of their own, as the JSON of a list such as "
        '[{"name": "add", "description": "Add.", "parameters": {}}]. Empty for none.',
    )
    columns: ColumnMap = Field(ColumnMap(), description="Column names of the data that differ from the format's own.")

    @property
    def reads_files(self) -> bool:
        """Return whether the source is files, and not a hub or embedded data set."""
        return self.path is not None and not str(self.path).startswith("embedded:")

    @field_validator("path", mode="before")
    @classmethod
    def _path_is_text(cls, path: Any) -> Any:
        """Reject other types here, with one error: pydantic would give one error for each type of the union."""
        entries = path if isinstance(path, list) else [path]
        for number, entry in enumerate(entries if isinstance(path, list) else []):
            if entry is None or entry == "":
                raise ValueError(f"entry {number + 1} is empty; fill it in, or remove it from the list")
        if path is not None and not (entries and all(isinstance(entry, str) and entry.strip() for entry in entries)):
            raise ValueError(
                f"{shown_address(repr(path))} names no file; write a file, glob, directory or address as text, or a "
                "list of these"
            )
        for entry in entries if path is not None else []:
            without_outer_blanks(entry)
        if isinstance(path, list) and any(entry.startswith("embedded:") for entry in path):
            raise ValueError("an embedded data set must be a source of its own; take it out of the list")
        return path

    @field_validator("tools", mode="before")
    @classmethod
    def _tools_are_definitions(cls, value: Any) -> Any:
        """Check the JSON text; a file may hold the list itself, which a console's form cannot."""
        if isinstance(value, list | dict):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (TypeError, ValueError):
                raise ValueError("holds a value that JSON does not have; write it as text") from None
        if not isinstance(value, str) or not value.strip():
            return value
        try:
            tools = parse_json(value, is_strict=True)
        except JsonFault as fault:
            raise ValueError(f"{fault}; write {_TOOLS_EXAMPLE}") from None
        for number, tool in enumerate(tools if isinstance(tools, list) else [tools], 1):
            function = tool.get("function", tool) if isinstance(tool, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"tool {number} is not a function with a name; write {_TOOLS_EXAMPLE}")
        return value

    @model_validator(mode="after")
    def _exactly_one_place(self) -> SourceConfig:
        if self.path is None and self.hub is None:
            raise ValueError("names no rows; give exactly one of `path` and `hub`, or remove the entry")
        if self.path is not None and self.hub is not None:
            both = shown_address(f"path={self.path} and hub={self.hub}")
            raise ValueError(f"{both} are both set; give exactly one of `path` and `hub`")
        if self.path is not None and (self.name or self.revision):
            raise ValueError("`name` and `revision` belong to `hub`, not to `path`; remove them")
        if self.role == "test" and self.weight != 1.0:
            raise ValueError("`weight` applies to training rows, and a `test` source has none; remove it")
        return self


class CheckConfig(Section):
    """What happens to rows that fail a check of their content.

    `fail`: the row is invalid, and the run stops if there are more invalid rows than `data.max_invalid_rows`.
    `quarantine`: the row is set aside and counted, and the run continues. `warn`: the row is kept and counted.
    """

    placeholder: CheckPolicy = Field(
        "fail",
        description="For rows that hold a leftover template placeholder, such as `{{name}}`. Code blocks, markup and "
        "rows about templates are left alone.",
    )
    replacement_character: CheckPolicy = Field(
        "fail", description="For rows that hold U+FFFD, which a wrong decoding leaves."
    )
    length: CheckPolicy = Field("fail", description="For rows shorter or longer than the two bounds in characters.")
    repeats_prompt: CheckPolicy = Field(
        "warn", description="For rows whose completion is, or begins with, the whole prompt."
    )
    same_answers: CheckPolicy = Field("fail", description="For preferences whose chosen and rejected answer are equal.")
    conflict: CheckPolicy = Field(
        "warn",
        description="For rows with the same prompt but different completions; prompts are compared as `deduplicate` "
        "says.",
    )
    system_prompts: Literal["warn", "off"] = Field(
        "warn",
        description="Warn if some conversations have a system turn and others none, or if there are 2 to 10 different "
        "system turns.",
    )
    unread_column: Literal["fail", "warn"] = Field(
        "fail",
        description="For columns and keys of turns that are known to carry meaning, such as `tools` or `images`, and "
        "that the rows' format does not read: stop, or train without them and say so.",
    )
    min_characters: int = Field(1, ge=1, description="Fewest characters of a completion or text.")
    max_characters: int | None = Field(
        None, ge=1, description="Most characters of a whole row, a conversation as JSON; when not set, no bound."
    )


class ToleranceConfig(Section):
    """Which conversations are mended and not refused. The report counts the mended rows of each setting."""

    merge_consecutive_turns: bool = Field(
        False, description="Join neighbouring turns of one role, with a blank line between them."
    )
    drop_leading_assistant_turn: bool = Field(
        False, description="Drop an assistant's turn that comes before the first user's."
    )
    drop_trailing_user_turn: bool = Field(
        False, description="Drop a user's turn that no answer follows, at the end of a conversation."
    )
    fold_system_turn: bool = Field(
        False,
        description="Put the text of the system turn at the beginning of the first user turn, for chat templates that "
        "have no place for a system turn.",
    )


class DataConfig(Section):
    """Where rows come from, how they are checked, and how they are split."""

    free_texts: ClassVar[Collection[str]] = ("group_by",)

    sources: list[SourceConfig] = Field(
        min_length=1, description="Where rows come from; the rows of all sources are joined in this order."
    )
    evaluation: list[SourceConfig] = Field(
        [],
        description="Further evaluation sets, for example of another distribution; each is scored separately and never "
        "trained on.",
    )
    test_fraction: float = Field(0.1, gt=0.0, lt=1.0, description="Share of the rows held out for evaluation.")
    max_invalid_rows: int = Field(
        0,
        ge=0,
        description="The run stops if more rows than this, over all sources, are invalid, or refused by the chat "
        "template, which may leave out a part of them such as a call; such rows go to the quarantine, with reasons.",
    )
    deduplicate: Literal["none", "exact", "normalized", "near"] = Field(
        "exact",
        description="Remove rows that repeat an earlier row: `exact` compares every character (in Unicode form NFC), "
        "`normalized` ignores case and white space, and `near` also removes rows whose MinHash similarity reaches "
        "`near_threshold`.",
    )
    near_threshold: float = Field(
        0.8, gt=0.0, le=1.0, description="Jaccard similarity of word 3-grams; read when `deduplicate` is near."
    )
    contamination: list[SourceConfig] = Field(
        [], description="Evaluation sets whose texts must not be trained on; rows that share an n-gram are reported."
    )
    contamination_policy: CheckPolicy = Field(
        "quarantine", description="What happens to rows that share an n-gram with a set of `contamination`."
    )
    contamination_ngram: int = Field(
        13, ge=5, description="Number of words in an n-gram, as in Brown et al. 2020, appendix C."
    )
    group_by: str | None = Field(
        None, description="Column of the data; rows with the same value in it are all trained on or all held out."
    )
    shards: int = Field(
        1,
        ge=1,
        le=1000,
        description="Number of pods that read, check and tokenize the rows in parallel (Flyte map tasks); any number "
        "gives the same result. JSONL and text files are split by bytes; other files stay whole.",
    )
    seed: int = Field(
        0, description="Seed of the split, which depends on it and on the rows' content, not on their order."
    )
    checks: CheckConfig = Field(CheckConfig(), description="Checks of the rows' content.")
    tolerate: ToleranceConfig = Field(
        ToleranceConfig(), description="Conversations that break a rule and are mended instead of refused."
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _sources_are_a_list(cls, sources: Any) -> Any:
        if not isinstance(sources, list) or not sources:
            raise ValueError("must be a list of at least one source; write, for example, sources: [{path: rows.jsonl}]")
        return sources

    @model_validator(mode="after")
    def _evaluation_sets_are_whole(self) -> DataConfig:
        for number, source in enumerate(self.evaluation):
            if source.role != "auto" or source.weight != 1.0:
                raise ValueError(f"evaluation[{number}]: `role` and `weight` belong to `sources`; remove them")
        return self
