"""The questions that a config's rows raise, and its tokenizer: each source by itself, then what they must fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import DataError
from configs.schema import FineTuneConfig
from tasks.files.places import find_files
from tasks.plan.checks import token_checks
from tasks.plan.checks.first_rows import look_at, refuse_invalid, refuse_wrong_kinds
from tasks.plan.checks.preflight import NETWORK_SECONDS, READING_SECONDS, Finding, NotCheckedError, Question, Shared
from tasks.plan.checks.surroundings import Base, Surroundings
from tasks.plan.checks.tokenizers import read_tokenizer
from tasks.plan.resolve import data
from tasks.tokenize.template import choose_template


@dataclass
class _Rows:
    """The sources of a stage: resolved together, looked at one by one."""

    config: FineTuneConfig
    token: str | None
    resolved: Shared[Any] = field(init=False)
    looks: dict[tuple[str, int], Shared[Any]] = field(init=False)

    def __post_init__(self) -> None:
        rows = self.config.data
        self.resolved = Shared("data sources", lambda: data.resolve_data(rows, self.token))
        places = [(name, n) for name in ("sources", "evaluation") for n in range(len(getattr(rows, name)))]
        self.looks = {place: Shared(_first_rows_name(place, len(places)), self._look(*place)) for place in places}

    def _look(self, section: Any, number: int) -> Callable[[], Any]:
        def look() -> Any:
            source = getattr(self.config.data, section)[number]
            revision = ""
            if source.hub is not None:
                shards = self.resolved.needed().shards
                revision = next(each.revision for each in shards if (each.section, each.number) == (section, number))
            elif source.reads_files:
                try:
                    find_files(source.path)
                except DataError:
                    raise NotCheckedError("needs `data sources`") from None
            return look_at(self.config.data, section, number, revision, self.token)

        return look


def _first_rows_name(place: tuple[str, int], num_places: int) -> str:
    return "first rows" if num_places == 1 else f"first rows of {place[0]}[{place[1]}]"


def token_questions(config: FineTuneConfig, base: Base, around: Surroundings) -> list[Question]:
    """Return the questions of rows, tokenizer, template and lengths, in the order in which they are shown."""
    rows = _Rows(config, around.token)

    def sources() -> Finding:
        resolved = rows.resolved.own()
        return Finding(f"sources: {len(config.data.sources)}, shards: {len(resolved.shards)}", resolved)

    def first(look: Shared[Any]) -> Callable[[], Finding]:
        def asked() -> Finding:
            found = look.own()
            warning = refuse_invalid(found, config.data.max_invalid_rows)
            columns = ", ".join(f"{name} from {column}" for name, column in found.columns.items())
            said = f"{found.num_rows} rows of format {found.row_format}" + (f", {columns}" if columns else "")
            return Finding(said, found, warning, "repair them, or see data.checks and data.max_invalid_rows")

        return asked

    def objective() -> Finding:
        found = [look.needed() for look in rows.looks.values()]
        return Finding(refuse_wrong_kinds(found, config.train.objective))

    limit = READING_SECONDS if any(each.reads_files for each in config.data.sources) else NETWORK_SECONDS
    asked = [Question("data sources", sources, limit)]
    asked += [Question(look.name, first(look), NETWORK_SECONDS) for look in rows.looks.values()]
    asked.append(Question("objective and rows", objective))
    return asked + _of_tokenizer(config, base, rows)


def _of_tokenizer(config: FineTuneConfig, base: Base, rows: _Rows) -> list[Question]:
    template = Shared("chat template file", lambda: token_checks.checked_template(config.tokenize.chat_template))

    def read() -> Any:
        found = base.files.needed()
        if found is None:
            return None, {}, "made by the project itself, with its model"
        model = found.settings.get("config.json", {})
        tokenizer: Any = read_tokenizer(found, f"model.name={config.model.name}")
        own = tokenizer.chat_template
        choose_template(tokenizer, template.needed(), has_messages=True)
        said = token_checks.check_tokenizer(tokenizer, model, config.tokenize)
        tokenizer.chat_template = own
        return tokenizer, model, said

    tokenizer = Shared("tokenizer", read)

    def check_tokenizer() -> Finding:
        return Finding(tokenizer.own()[2])

    def check_template() -> Finding:
        found, model, _ = tokenizer.needed()
        if found is None:
            raise NotCheckedError("the tokenizer is made by the project itself; the tokenize stage checks both")
        if config.train.objective == "cpt":
            return Finding("not used: plain text is trained on as it is")
        said, warning = token_checks.check_template(found, model, config.tokenize, template.needed())
        return Finding(said, warning=warning, fix="name another with tokenize.chat_template")

    def check_length() -> Finding:
        found = base.files.needed()
        model = {} if found is None else found.settings.get("config.json", {})
        said, warning = token_checks.check_length(config.tokenize, config.train, model)
        return Finding(said, warning=warning, fix="lower it, or tokenize.max_length")

    asked = [Question("tokenizer", check_tokenizer)]
    if config.tokenize.chat_template is not None:
        asked.append(Question("chat template file", lambda: Finding("read, and is Jinja", template.own())))
    return [*asked, Question("chat template", check_template), Question("sequence length", check_length)]


def row_facts(answers: Sequence[Any]) -> list[Any]:
    """Return the `FirstRows` of all sources that were looked at, in order, from the answers to `questions`."""
    return [
        each.value
        for each in answers
        if each.check.name.rpartition(": ")[2].startswith("first rows") and each.value is not None
    ]
