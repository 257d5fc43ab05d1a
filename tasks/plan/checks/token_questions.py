"""The questions about a config's rows and tokenizer: first each source alone, then what the rows must fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from configs.errors import DataError, ModelError
from configs.schema import FineTuneConfig
from tasks.files.places import find_files
from tasks.plan.checks import token_checks
from tasks.plan.checks.first_rows import check_kinds, check_validity, read_first_rows
from tasks.plan.checks.preflight import NETWORK_SECONDS, READING_SECONDS, Finding, NotCheckedError, Question, Shared
from tasks.plan.checks.surroundings import Base, Surroundings
from tasks.plan.checks.tokenizers import read_tokenizer
from tasks.plan.checks.watched import check_scored, check_watched
from tasks.plan.resolve import data
from tasks.tokenize.refused import InvalidRows
from tasks.tokenize.template import choose_template

WATCHED = "measures while training"
"""The question whose value is a hash of the functions of `train.watch.measures`."""


@dataclass
class _Rows:
    """The sources of one training: resolved together, their first rows read one by one."""

    config: FineTuneConfig
    token: str | None
    resolved: Shared[Any] = field(init=False)
    first_rows: dict[tuple[str, int], Shared[Any]] = field(init=False)

    def __post_init__(self) -> None:
        config = self.config.data
        self.resolved = Shared("data sources", lambda: data.resolve_data(config, self.token))
        places = [(name, n) for name in ("sources", "evaluation") for n in range(len(getattr(config, name)))]
        self.first_rows = {
            place: Shared(_first_rows_name(place, len(places)), self._reading_of(*place)) for place in places
        }

    def known_rows(self) -> list[dict[str, Any]]:
        """Return the valid ones of the first rows, of the sources that could be read."""
        found: list[dict[str, Any]] = []
        for shared in self.first_rows.values():
            with suppress(NotCheckedError):
                found += shared.needed().canonical
        return found

    def invalid(self) -> InvalidRows:
        """Return how many of the first rows are invalid, of the sources that could be read, and how many may be."""
        counted = 0
        for shared in self.first_rows.values():
            with suppress(NotCheckedError):
                counted += shared.needed().num_invalid
        return InvalidRows(counted, self.config.data.max_invalid_rows)

    def _reading_of(self, section: Any, number: int) -> Callable[[], Any]:
        def read() -> Any:
            source = getattr(self.config.data, section)[number]
            revision = ""
            if source.hub is not None:
                shards = self.resolved.needed().shards
                revision = next(
                    shard.revision for shard in shards if (shard.section, shard.number) == (section, number)
                )
            elif source.reads_files:
                try:
                    find_files(source.path)
                except DataError:
                    raise NotCheckedError("needs `data sources`") from None
            return read_first_rows(self.config.data, section, number, revision, self.token)

        return read


def _first_rows_name(place: tuple[str, int], num_places: int) -> str:
    return "first rows" if num_places == 1 else f"first rows of {place[0]}[{place[1]}]"


def token_questions(config: FineTuneConfig, base: Base, surroundings: Surroundings) -> list[Question]:
    """Return the questions about rows, tokenizer, template and lengths, in the order of the table."""
    rows = _Rows(config, surroundings.token)
    return _row_questions(config, rows, surroundings) + _tokenizer_questions(config, base, rows)


def row_questions(config: FineTuneConfig, surroundings: Surroundings) -> list[Question]:
    """Return the questions about rows alone."""
    return _row_questions(config, _Rows(config, surroundings.token), surroundings)


def _row_questions(config: FineTuneConfig, rows: _Rows, surroundings: Surroundings) -> list[Question]:
    def sources() -> Finding:
        if surroundings.trains and all(source.role == "test" for source in config.data.sources):
            raise DataError("data.sources: no rows are left to train on; add a source that is not `role: test`")
        resolved = rows.resolved.value()
        splits = data.shown_splits(resolved.shards)
        found = f"sources: {len(config.data.sources)}, shards: {len(resolved.shards)}"
        warning = data.split_warning(resolved.shards)
        return Finding(f"{found}; {splits}" if splits else found, resolved, warning, "set the role of each source")

    def check_of(shared: Shared[Any]) -> Callable[[], Finding]:
        def check() -> Finding:
            first_rows = shared.value()
            warning = check_validity(first_rows, config.data.max_invalid_rows)
            columns = ", ".join(f"{name} from {column}" for name, column in first_rows.columns.items())
            found = f"{first_rows.num_rows} rows of format {first_rows.row_format}" + (
                f", {columns}" if columns else ""
            )
            return Finding(found, first_rows, warning, "repair them, or see data.checks and data.max_invalid_rows")

        return check

    def objective() -> Finding:
        return Finding(check_kinds([shared.needed() for shared in rows.first_rows.values()], config.train.objective))

    limit = READING_SECONDS if any(source.reads_files for source in config.data.sources) else NETWORK_SECONDS
    questions = [Question("data sources", sources, limit)]
    questions += [Question(shared.name, check_of(shared), NETWORK_SECONDS) for shared in rows.first_rows.values()]
    questions.append(Question("objective and rows", objective))
    return questions


def _tokenizer_questions(config: FineTuneConfig, base: Base, rows: _Rows) -> list[Question]:
    template = Shared("chat template file", lambda: token_checks.read_checked_template(config.tokenize.chat_template))

    def read() -> Any:
        files = base.files.needed()
        if files is None:
            return None, {}, "made by the project itself, with its model"
        model_settings = files.settings.get("config.json", {})
        tokenizer: Any = read_tokenizer(files, f"model.name={config.model.name}")
        own_template = tokenizer.chat_template
        choose_template(tokenizer, template.needed(), has_messages=True)
        found = token_checks.check_tokenizer(tokenizer, model_settings, config.tokenize)
        tokenizer.chat_template = own_template
        return tokenizer, model_settings, found

    tokenizer = Shared("tokenizer", read)

    def check_tokenizer() -> Finding:
        return Finding(tokenizer.value()[2])

    def check_template() -> Finding:
        small_tokenizer, model_settings, _ = tokenizer.needed()
        if small_tokenizer is None:
            raise NotCheckedError("the tokenizer is made by the project itself; the tokenize stage checks both")
        if config.train.objective == "cpt":
            return Finding("not used: cpt trains on plain text")
        given = template.needed()
        found, warning = token_checks.check_template(
            small_tokenizer,
            model_settings,
            config.tokenize,
            given,
            rows.known_rows(),
            config.train.objective,
            rows.invalid(),
        )
        return Finding(found, warning=warning, fix="name another with tokenize.chat_template")

    def check_length() -> Finding:
        files = base.files.needed()
        model_settings = {} if files is None else files.settings.get("config.json", {})
        found, warning = token_checks.check_length(config.tokenize, config.train, model_settings)
        return Finding(found, warning=warning, fix="lower it, or tokenize.max_length")

    def known_answers() -> list[str]:
        expected: list[str] = []
        # other questions report why rows, tokenizer or template cannot be used
        with suppress(NotCheckedError, DataError, ModelError):
            small_tokenizer = tokenizer.needed()[0]
            if small_tokenizer is not None:
                expected = token_checks.expected_answers(
                    small_tokenizer, config.tokenize, template.needed(), rows.known_rows(), config.train.objective
                )
        return expected

    questions = [Question("tokenizer", check_tokenizer)]
    if config.tokenize.chat_template is not None:
        questions.append(Question("chat template file", lambda: Finding("read, and is Jinja", template.value())))
    questions += [Question("chat template", check_template), Question("sequence length", check_length)]
    if config.train.watch.measures:
        questions.append(Question(WATCHED, lambda: check_watched(config.train, known_answers())))
    if config.evaluate.measures:
        questions.append(Question("measures of answers", lambda: check_scored(config.evaluate, known_answers())))
    return questions


def first_rows_of(answers: Sequence[Any]) -> list[Any]:
    """Return the `FirstRows` of all sources that could be read, in order, from the answers to these questions."""
    return [
        answer.value
        for answer in answers
        if answer.check.name.rpartition(": ")[2].startswith("first rows") and answer.value is not None
    ]
