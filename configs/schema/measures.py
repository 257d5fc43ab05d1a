"""The settings of measures of answers, of the judge, and of what a model should not lose."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from configs.foreign_json import JsonFault, parse_json
from configs.patterns import compiled
from configs.schema.section import Section

MeasureName = Literal[
    "exact_match",
    "normalized_match",
    "token_f1",
    "rouge_l",
    "chrf",
    "bleu",
    "accuracy",
    "macro_f1",
    "numeric_answer",
    "regex",
    "json_valid",
    "json_schema",
    "tool_calls",
    "sql",
    "function",
]
_SCHEMA_EXAMPLE = '{"type": "object"}'
NEEDED_SETTINGS: dict[str, str] = {
    "regex": "pattern",
    "json_schema": "schema_text",
    "sql": "database",
    "function": "function",
}
"""The setting that a measure cannot do without."""
_READ_BY: dict[str, tuple[str, ...]] = {
    "pattern": ("regex",),
    "schema_text": ("json_schema",),
    "database": ("sql",),
    "function": ("function",),
}


class MeasureConfig(Section):
    """A measure of generated answers. Its name alone, as text, stands for it where it has no other setting."""

    free_texts: ClassVar[Collection[str]] = ("pattern", "schema_text", "database")

    name: MeasureName = Field(description="The measure; docs/evaluation.md has the table of all.")
    title: str = Field(
        "",
        pattern=r"^([a-z][a-z0-9_]*)?$",
        description="Its name in tables and gate rules, where several measures have the same name; when empty, `name`.",
    )
    pattern: str | None = Field(
        None,
        min_length=1,
        description="Regular expression of the measure regex. With a group, the group of its last match in the answer "
        "must equal that in the expected answer; without one, it must match the answer.",
    )
    schema_text: str = Field(
        "", description="JSON Schema of the measure json_schema, as JSON text; a file may hold the object itself."
    )
    database: str = Field(
        "",
        description="Database of the measure sql: SQL statements that make its tables and rows in SQLite, or "
        "`embedded:english-to-sql`.",
    )
    function: str | None = Field(
        None,
        description="Python function of this project for the measure function, such as "
        "`tasks.rewards.numbers:last_number_matches`; it is called as reward functions are.",
    )
    lower_is_better: bool = Field(False, description="Direction of the measure function.")

    @property
    def key(self) -> str:
        """Its name in tables, rules and metrics.json."""
        return self.title or self.name

    @field_validator("schema_text", mode="before")
    @classmethod
    def _schema_is_json(cls, value: Any) -> Any:
        if isinstance(value, dict | bool):
            value = json.dumps(value, ensure_ascii=False)
        if isinstance(value, str) and value.strip():
            try:
                parse_json(value, is_strict=True)
            except JsonFault as fault:
                raise ValueError(f"{fault}; write a JSON Schema, such as {_SCHEMA_EXAMPLE}") from None
        return value

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, value: str | None) -> str | None:
        if value is not None:
            compiled(value)
        return value

    @model_validator(mode="after")
    def _settings_are_those_of_the_measure(self) -> MeasureConfig:
        if self.title != self.name and self.title in get_args(MeasureName):
            raise ValueError(f"title={self.title} is the name of another measure; choose another title")
        needed = NEEDED_SETTINGS.get(self.name)
        if needed and not getattr(self, needed):
            raise ValueError(f"the measure {self.name} needs `{needed}`; set it")
        for setting, names in _READ_BY.items():
            if getattr(self, setting) and self.name not in names:
                raise ValueError(f"`{setting}` is not read by the measure {self.name}; remove it")
        if self.lower_is_better and self.name != "function":
            raise ValueError(f"`lower_is_better` is for the measure function; {self.name} has its own direction")
        return self


def measures_from_names(value: Any) -> Any:
    """Return a list of measures in which a text stands for the measure of that name."""
    if not isinstance(value, list):
        return value
    return [{"name": entry} if isinstance(entry, str) else entry for entry in value]


def check_server(name: str, address: str) -> None:
    """Check the address of an endpoint.

    Raises:
        ValueError: it is no plain http(s) address, or holds a secret.
    """
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query or parts.fragment:
        # the message does not show the address, since it may hold a secret
        raise ValueError(f"{name} holds a user, a password, a query or a fragment; the key comes from the secret")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{name} is not the address of a server; write it as https://host:port/v1")


class JudgeConfig(Section):
    """A model as judge, over an OpenAI-compatible API. The key comes from the secret `judge/api_key`."""

    free_texts: ClassVar[Collection[str]] = ("rubric",)

    endpoint: str | None = Field(
        None, description="Address of the API, such as https://host/v1; when not set, there is no judge."
    )
    model: str = Field("", description="Name of the judge at the endpoint.")
    rubric: str = Field(
        "", description="What a good answer is, in words, for scores from 1 to 5; when empty, helpful and correct."
    )
    compare: bool = Field(
        True, description="Let the judge also choose between the answers of base and tuned model, in both orders."
    )
    refusals: bool = Field(
        False,
        description="Let the judge also say which answers to the prompts of evaluate.retained.refusals refuse.",
    )
    rows: int = Field(
        64, ge=1, description="Held-out rows whose answers are judged, and at most so many prompts of each set."
    )
    repeats: int = Field(1, ge=1, le=10, description="How often each question is asked, to report the agreement.")
    max_calls: int = Field(1000, ge=1, description="Most calls to the endpoint in one run; cached answers cost none.")
    concurrency: int = Field(4, ge=1, le=64, description="Calls at the same time.")
    timeout_seconds: float = Field(60.0, gt=0.0, le=600.0, description="Longest wait for one answer, in seconds.")

    @model_validator(mode="after")
    def _endpoint_is_whole(self) -> JudgeConfig:
        if self.endpoint is not None:
            check_server("evaluate.judge.endpoint", self.endpoint)
            if not self.model:
                raise ValueError("evaluate.judge.endpoint needs evaluate.judge.model, the name of the judge")
        elif self.model:
            raise ValueError("evaluate.judge.model is not read without evaluate.judge.endpoint; set it, or remove both")
        elif self.refusals:
            raise ValueError("evaluate.judge.refusals=true needs evaluate.judge.endpoint, which says who the judge is")
        return self


class HarnessTaskConfig(Section):
    """A task of lm-evaluation-harness."""

    task: str = Field(
        min_length=1,
        description="Name of a task of lm-evaluation-harness, or path of its YAML; `embedded:arithmetic` ships with "
        "the project.",
    )
    limit: int | None = Field(None, ge=1, description="Most documents of the task; when not set, all of them.")
    few_shot: int | None = Field(None, ge=0, description="Examples in each prompt; when not set, as the task says.")


class RetainedConfig(Section):
    """What a model should not lose in training. Each is measured of the base and of the tuned model."""

    general_text: str = Field(
        "embedded:general-text",
        description="Text whose perplexity is measured: a .txt file, or the small set of the project; `none` for none.",
    )
    refusals: bool = Field(
        False,
        description="Answer small sets of unsafe and of harmless prompts, and count what is refused, by rule.",
    )
    unsafe_prompts: str | None = Field(
        None, description="JSONL file of further unsafe prompts, with a key `prompt`; read with `refusals`."
    )
    harmless_prompts: str | None = Field(
        None, description="JSONL file of further harmless prompts, with a key `prompt`; read with `refusals`."
    )
    memorization_rows: int = Field(
        0,
        ge=0,
        description="Training rows, and as many held-out ones, whose answer's first half is given: the share that the "
        "model completes word for word. 0 for none.",
    )
    harness: list[HarnessTaskConfig] = Field([], description="Tasks of lm-evaluation-harness.")

    @model_validator(mode="after")
    def _prompts_are_read(self) -> RetainedConfig:
        if not self.refusals and (self.unsafe_prompts or self.harmless_prompts):
            raise ValueError(
                "evaluate.retained.unsafe_prompts and harmless_prompts are read with refusals: true; set it"
            )
        return self
