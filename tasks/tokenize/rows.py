"""Canonical rows as this stage reads them, and what each objective makes of them: one row, or two answers apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from configs.objectives import OBJECTIVES, ONLINE, WHOLE_TEXT, Objective
from configs.schema import TokenizeConfig
from tasks.tokenize.control_tokens import ControlTokens
from tasks.tokenize.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Row(NamedTuple):
    """A canonical row; `messages` is JSON: a conversation, or what precedes the answers of a preference or kto row.

    `completion` is the chosen answer of a preference; `label` is `true` or `false` in kto rows. `dataset` is empty for
    training rows.
    """

    row_id: str
    kind: str
    prompt: str
    completion: str
    messages: str
    dataset: str = ""
    rejected: str = ""
    label: str = ""


@dataclass(frozen=True)
class Setup:
    """What all rows of a run share: the tokenizer with its template, its control tokens, the settings.

    `new_token_ids` are those of `tokenize.new_special_tokens`, for which the model is given embeddings;
    `vocabulary_size` is the number of those that it has, None where its configuration does not say.
    """

    tokenizer: PreTrainedTokenizerBase
    control: ControlTokens
    template: Template
    config: TokenizeConfig
    max_length: int
    objective: Objective
    new_token_ids: tuple[int, ...] = ()
    vocabulary_size: int | None = None

    @property
    def train_on(self) -> Literal["all_answers", "last_answer"]:
        """Which answers are trained: the setting says it where single tokens are trained."""
        return self.config.train_on if self.objective in WHOLE_TEXT else "last_answer"

    @property
    def ends_with_answer(self) -> bool:
        """Whether a sequence ends where its answer does: answers are compared by themselves, and by no line break."""
        return self.objective not in WHOLE_TEXT


def rows_to_train(row: Row, objective: Objective) -> list[Row]:
    """Return what `objective` learns from a row: kto takes the answers of a preference apart, wanted and unwanted.

    Objectives that generate answers themselves only compare them with the chosen one.
    """
    if row.kind != "preference":
        return [row]
    if OBJECTIVES[objective].learns_from_labels:
        return [
            row._replace(row_id=f"{row.row_id}#chosen", kind="kto", rejected="", label="true"),
            row._replace(
                row_id=f"{row.row_id}#rejected", kind="kto", completion=row.rejected, rejected="", label="false"
            ),
        ]
    return [row._replace(rejected="")] if objective in ONLINE else [row]
