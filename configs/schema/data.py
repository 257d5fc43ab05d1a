"""The data section of a config: where rows come from, what is checked, and how they are split."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.schema.section import Section

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
    "kto",
]
CheckPolicy = Literal["fail", "quarantine", "warn"]


class ColumnMap(Section):
    """Names that the data uses for the columns of a format."""

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


class SourceConfig(Section):
    """One source of rows: a file, a hub data set, or the embedded one."""

    path: str | list[str] | None = Field(
        None,
        description="JSONL, JSON, CSV, TSV, Parquet, Arrow or .txt file, each also .gz or .zst; a glob, a directory, "
        "or a list of these; local, s3://, gs:// or https://; or `embedded:english-to-sql[:rows]` or "
        "`embedded:english-to-sql-preferences[:rows]`.",
    )
    hub: str | None = Field(None, description="Hub data set, `owner/name`.")
    name: str | None = Field(None, description="Configuration (subset) of the hub data set.")
    split: str = Field("train", description="Split of the hub data set.")
    revision: str | None = Field(None, description="Hub branch, tag or commit of the data set.")
    format: RowFormat = Field("auto", description="Row format; `auto` detects it from the columns.")
    columns: ColumnMap = Field(ColumnMap(), description="Other names for the columns of the format.")
    role: Literal["auto", "train", "test"] = Field(
        "auto",
        description="Given splits: rows of a `train` source are all trained on, those of a `test` source all held out; "
        "`auto` is divided by `test_fraction`, or all trained on when another source is `test`.",
    )
    weight: float = Field(
        1.0, gt=0.0, description="How often each training row is used in an epoch: 2 doubles, 0.5 leaves a half out."
    )

    @property
    def is_of_files(self) -> bool:
        """Return whether the source is files, and not a hub or embedded data set."""
        return self.path is not None and not str(self.path).startswith("embedded:")

    @field_validator("path", mode="before")
    @classmethod
    def _a_path_is_text(cls, path: Any) -> Any:
        """Reject what is not text here: pydantic would name each branch of the union in an error of its own."""
        entries = path if isinstance(path, list) else [path]
        if path is not None and not (entries and all(isinstance(entry, str) and entry.strip() for entry in entries)):
            raise ValueError("write a file, glob, directory or address as text, or a list of these")
        if isinstance(path, list) and any(entry.startswith("embedded:") for entry in path):
            raise ValueError("an embedded data set is a source of its own; take it out of the list")
        return path

    @model_validator(mode="after")
    def _exactly_one_place(self) -> SourceConfig:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` and `hub`")
        if self.path is not None and (self.name or self.revision):
            raise ValueError("`name` and `revision` belong to `hub`, not to `path`")
        if self.role == "test" and self.weight != 1.0:
            raise ValueError("`weight` is of training rows, and a `test` source has none; remove it")
        return self


class CheckConfig(Section):
    """What happens to rows that fail a check of their content.

    `fail`: the row is invalid; the run stops when there are more such rows than `data.max_invalid_rows`.
    `quarantine`: the row is set aside and counted, and the run goes on. `warn`: the row is kept, and counted.
    """

    placeholder: CheckPolicy = Field("fail", description="A leftover template placeholder, such as `{{name}}`.")
    replacement_character: CheckPolicy = Field("fail", description="U+FFFD: text that was decoded wrongly before.")
    length: CheckPolicy = Field("fail", description="Fewer or more characters than the bounds below.")
    repeats_prompt: CheckPolicy = Field("warn", description="The completion is, or begins with, the whole prompt.")
    same_answers: CheckPolicy = Field("fail", description="Chosen and rejected answers are equal.")
    conflict: CheckPolicy = Field("warn", description="Rows of one prompt have different completions.")
    system_prompts: Literal["warn", "off"] = Field(
        "warn", description="Some conversations have a system turn and some none, or there are 2 to 10 different ones."
    )
    min_characters: int = Field(1, ge=1, description="Fewest characters of a completion or text.")
    max_characters: int | None = Field(
        None, ge=1, description="Most characters of a whole row, a conversation as JSON; no bound when not set."
    )


class DataConfig(Section):
    """Where rows come from, how many bad ones are tolerated, and how they are split."""

    sources: list[SourceConfig] = Field(min_length=1, description="Sources; their rows are put together in order.")
    evaluation: list[SourceConfig] = Field(
        [], description="Further evaluation sets, such as of another distribution: scored one by one, never trained on."
    )
    test_fraction: float = Field(0.1, gt=0.0, lt=1.0, description="Share of the rows held out for evaluation.")
    max_invalid_rows: int = Field(
        0, ge=0, description="Invalid rows tolerated over all sources; they go to the quarantine, with reasons."
    )
    checks: CheckConfig = Field(CheckConfig(), description="Checks of the rows' content.")
    deduplicate: Literal["none", "exact", "near"] = Field(
        "exact",
        description="Remove rows equal to an earlier one, case and white space aside; `near` also those whose MinHash "
        "similarity reaches `near_threshold`.",
    )
    near_threshold: float = Field(0.8, gt=0.0, le=1.0, description="Jaccard similarity of word 3-grams; for `near`.")
    contamination: list[SourceConfig] = Field(
        [], description="Evaluation sets that no row should contain; rows that share an n-gram with one are reported."
    )
    contamination_policy: CheckPolicy = Field(
        "quarantine", description="What happens to rows that share an n-gram with one."
    )
    contamination_ngram: int = Field(13, ge=5, description="Words in an n-gram, as in Brown et al. 2020, appendix C.")
    group_by: str | None = Field(
        None, description="Column of the data whose equal values are never divided between train and test."
    )
    shards: int = Field(
        1,
        ge=1,
        le=1000,
        description="Pods that read, check and tokenize the rows side by side (Flyte map tasks). Any number gives the "
        "same result; JSONL and text files are divided by bytes, others are whole.",
    )
    seed: int = Field(
        0, description="Seed of the split. The split depends on the rows' content and this, not on order."
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _sources_are_a_list(cls, sources: Any) -> Any:
        if not isinstance(sources, list) or not sources:
            raise ValueError("is a list of at least one source; write, for example, sources: [{path: rows.jsonl}]")
        return sources

    @model_validator(mode="after")
    def _evaluation_sets_are_whole(self) -> DataConfig:
        for number, source in enumerate(self.evaluation):
            if source.role != "auto" or source.weight != 1.0:
                raise ValueError(f"evaluation[{number}]: `role` and `weight` belong to `sources`; remove them")
        return self
