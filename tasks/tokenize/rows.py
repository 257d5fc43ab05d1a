"""Canonical rows as this stage reads them, the kinds that each objective takes, and the rows it learns from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from configs.objectives import OBJECTIVES, ONLINE, WHOLE_TEXT, Objective
from configs.schema import TokenizeConfig
from tasks.tokenize.control_tokens import ControlTokens
from tasks.tokenize.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Row(NamedTuple):
    """A canonical row, as the data stage writes it; an empty text stands for a value that the row does not have.

    `messages` is JSON: the whole conversation of a `messages` row, or the turns before the answer of a `preference` or
    `kto` row. `completion` is the answer, the chosen one in a `preference` row. `label` is `true` or `false` in a `kto`
    row. `dataset` is empty for training rows. `tools` is the JSON of the tool definitions. `answer` and
    `rejected_answer` are the JSON of the answers' turns, where these are more than the text in `completion` and
    `rejected`. Rows of one `group` are not independent, such as those of one customer; a row without one stands alone.
    """

    row_id: str
    kind: str
    prompt: str
    completion: str
    messages: str
    dataset: str = ""
    rejected: str = ""
    label: str = ""
    tools: str = ""
    answer: str = ""
    rejected_answer: str = ""
    group: str = ""

    @property
    def has_rejected(self) -> bool:
        return bool(self.rejected or self.rejected_answer)

    @property
    def has_turns(self) -> bool:
        """Whether a template must render the row: it holds more than the texts of a prompt and an answer."""
        return bool(self.messages or self.tools or self.answer or self.rejected_answer)

    @property
    def group_of_parts(self) -> str:
        """The group of the sequences that the row is taken apart into: its own, or else its id, which they share."""
        return self.group or self.row_id

    def without_rejected(self) -> Row:
        return self._replace(rejected="", rejected_answer="")

    def with_rejected_as_answer(self) -> Row:
        """Return the row with its rejected answer in the place of the chosen one."""
        return self._replace(completion=self.rejected, answer=self.rejected_answer).without_rejected()


@dataclass(frozen=True)
class Setup:
    """What all rows of a run share: the tokenizer with its template, its control tokens, and the settings.

    `new_token_ids` are the ids of `tokenize.new_special_tokens`; training adds their embeddings to the model.
    `vocabulary_size` is the number of embeddings that the model has already, None where its config does not say.
    `suffixes` remembers, for each template's text, what it writes after a last turn only, and `ends_answers` whether it
    writes a special token after an answer.
    """

    tokenizer: PreTrainedTokenizerBase
    control: ControlTokens
    template: Template
    config: TokenizeConfig
    max_length: int
    objective: Objective
    new_token_ids: tuple[int, ...] = ()
    vocabulary_size: int | None = None
    suffixes: dict[str, str] = field(default_factory=dict, compare=False)
    ends_answers: dict[str, bool] = field(default_factory=dict, compare=False)

    @property
    def train_on(self) -> Literal["all_answers", "last_answer"]:
        """Which answers are trained: `tokenize.train_on` where an objective trains single tokens, else the last one."""
        return self.config.train_on if self.objective in WHOLE_TEXT else "last_answer"

    @property
    def ends_with_answer(self) -> bool:
        """Whether a sequence is cut after its answer's end token, as objectives that compare or score answers need."""
        return self.objective not in WHOLE_TEXT


def rows_to_train(row: Row, objective: Objective) -> list[Row]:
    """Return the rows that `objective` learns from in place of `row`.

    For kto, a preference becomes two rows: its chosen answer is wanted, its rejected answer unwanted. For online
    objectives, which generate their own answers, a preference keeps its chosen answer only, as the expected one.
    """
    if row.kind != "preference":
        return [row]
    if OBJECTIVES[objective].learns_from_labels:
        judged = row._replace(kind="kto", group=row.group_of_parts)
        return [
            judged.without_rejected()._replace(row_id=f"{row.row_id}#chosen", label="true"),
            judged.with_rejected_as_answer()._replace(row_id=f"{row.row_id}#rejected", label="false"),
        ]
    return [row.without_rejected()] if objective in ONLINE else [row]
