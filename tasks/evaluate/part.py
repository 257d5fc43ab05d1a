"""Score one model on one part of the rows, and write what was found: a table of rows, and facts on the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field

from configs.errors import DataError
from configs.schema import EvaluateConfig
from configs.wire import HELD_OUT, Parity, Part
from configs.wire_type import WireType
from tasks.evaluate.preferences import with_preferences
from tasks.evaluate.retained import not_counted, retained_tables
from tasks.evaluate.score import chosen_rows, rows_of_part, score_rows
from tasks.evaluate.subject import Subject
from tasks.evidence.table import join_tables, write_table
from tasks.measures.table import check_measures
from tasks.models.pace import doing, say
from tasks.models.parity import compare, kept_positions
from tasks.models.record import PARITY_FILE

TABLE_FILE, FACTS_FILE = "rows.parquet", "facts.json"


class ModelFacts(WireType):
    """What is known of a scored model, apart from its rows."""

    part: Part
    is_reward_model: bool
    size_bytes: int
    quantized_share: float | None
    sets: list[str] = Field(description="Names of the evaluation sets, in the order of all rows.")
    kept_row_ids: list[str] = Field(description="The rows on which saved models are compared with trained weights.")
    parity: Parity | None = None
    model_digest: str = ""
    not_counted: dict[str, dict[str, dict[str, int]]] = Field(
        {},
        description="For each set of `evaluate.retained` and each measure, the rows that do not count, by reason.",
    )
    unanswered: dict[str, int] = Field({}, description="Held-out rows that an endpoint did not answer, by reason.")


def check_rows(config: EvaluateConfig, rows: pd.DataFrame) -> None:
    """Check, before a model is loaded, that there are held-out rows and that the measures fit their answers.

    Raises:
        DataError: no held-out row is left.
        ConfigError: a measure fits no answer.
    """
    held_out = rows[rows.dataset == HELD_OUT].reset_index(drop=True)
    if held_out.empty:
        raise DataError("no held-out row is left: all are longer than tokenize.max_length; raise it")
    asked = held_out[chosen_rows(held_out, config.generate_rows)]
    check_measures(config.measures, list(asked.expected), list(asked.prompt))


def score_part(
    subject: Subject,
    model_directory: Path,
    rows: pd.DataFrame,
    training: Sequence[pd.DataFrame],
    part: Part,
    output: Path,
    model_digest: str = "",
) -> None:
    """Write `rows.parquet`, the table of one part of the rows of each set, and `facts.json` to the folder `output`.

    `rows` are all rows as the tokenize stage wrote them. Those whose column `dataset` is `held-out` are one set, those
    of every other value a further one. Which rows are answered does not depend on the parts. The first part also holds
    what is measured of the model as a whole. `training` holds training rows, where the config asks how many the model
    has memorized; `model_digest` is that of the model's files.

    Raises:
        ModelError: the loss is not a number.
        ConfigError: a reward function fails.
    """
    tables, kept_ids, reasons = [], [], {}
    for name in dict.fromkeys([HELD_OUT, *rows.dataset]):
        of_set = rows[rows.dataset == name].reset_index(drop=True)
        if name != HELD_OUT:
            say(f"evaluation set {name}, {len(of_set):,} rows", "evaluate")
        else:
            wanted = of_set[with_preferences(of_set).is_wanted]
            kept_ids = [str(wanted.row_id.iloc[place]) for place in kept_positions(len(wanted))]
        is_asked = pd.DataFrame({"is_asked": chosen_rows(of_set, subject.config.generate_rows)})
        own, own_asked = (rows_of_part(frame, part.number, part.of) for frame in (of_set, is_asked))
        tables.append(score_rows(subject, own, own_asked.is_asked.to_numpy(dtype=bool), name))
    if part.number == 0 and not subject.is_reward_model:
        held_out = rows[rows.dataset == HELD_OUT].reset_index(drop=True)
        retained = retained_tables(subject, training, held_out)
        reasons = {table["dataset"][0].as_py(): not_counted(table) for table in retained}
        tables += retained
    parity = None
    # weights that were quantized while they were loaded say nothing of those that are saved
    has_reference = subject.is_as_saved and (model_directory / PARITY_FILE).is_file()
    if part.number == 0 and not subject.is_reward_model and has_reference:
        with doing("comparing with the weights as training held them"):
            parity = compare(subject.model, model_directory / PARITY_FILE)
    facts = ModelFacts(
        part=part,
        is_reward_model=subject.is_reward_model,
        size_bytes=subject.size_bytes,
        quantized_share=subject.quantized_share,
        sets=list(dict.fromkeys([HELD_OUT, *rows.dataset])),
        kept_row_ids=kept_ids,
        parity=parity,
        model_digest=model_digest,
        not_counted=reasons,
    )
    write_table(join_tables(tables), output / TABLE_FILE)
    (output / FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")
