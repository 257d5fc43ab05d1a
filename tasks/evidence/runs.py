"""What a finished run left in its folder: its settings, the verdict, and the rows with the answers of all models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from configs.errors import ArtifactError
from configs.foreign_json import JsonFault, parse_json
from configs.printable import one_line
from configs.wire_evidence import Verdict
from tasks.evidence.joined import models_in
from tasks.files.kept_files import RECORD

METRICS, ROWS = "metrics.json", "rows.parquet"
_TEXTS = ("dataset", "row_id", "prompt", "expected")


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder as it was named, the settings in its `run.json`, the verdict and the joined table of rows.

    `revisions` are those of base model and data, as the run found them.
    """

    folder: Path
    settings: Mapping[str, Any]
    revisions: Mapping[str, Any]
    verdict: Verdict
    rows: pa.Table

    @property
    def models(self) -> list[str]:
        """The models of the table of rows."""
        return models_in(self.rows)

    @property
    def candidate(self) -> str:
        """The model that was judged; the last one where none was."""
        return next((artifact.model for artifact in self.verdict.artifacts), self.models[-1])

    @property
    def start(self) -> str | None:
        """The model that training began with: the first with which the judged one was compared; None if none was."""
        compared = (found.versus for found in self.verdict.differences if found.model == self.candidate)
        return next((name for name in compared if name in self.models), None)

    @property
    def measures(self) -> list[str]:
        """The keys of `evaluate.measures`; empty where the expected answers chose them."""
        evaluate = self.settings.get("evaluate")
        named = evaluate.get("measures") if isinstance(evaluate, dict) else None
        entries = [own for own in named if isinstance(own, dict)] if isinstance(named, list) else []
        return [str(own.get("title") or own.get("name")) for own in entries]


def read_run(folder: Path) -> FinishedRun:
    """Return what a run left in its folder.

    Raises:
        ArtifactError: a file is missing, or is not one of this project.
    """
    verdict = read_verdict(folder)
    record = _read_json(folder / RECORD)
    settings = record.get("config") if isinstance(record, dict) else None
    if not isinstance(settings, dict):
        raise ArtifactError(f"{one_line(folder / RECORD)} holds no config; name the folder of a run")
    revisions = {name: record.get(name) for name in ("base_model", "data")}
    return FinishedRun(folder, settings, revisions, verdict, read_rows(folder))


def read_rows(folder: Path) -> pa.Table:
    """Return the joined table of a run's rows.

    Raises:
        ArtifactError: there is none, or the file is not one of this project.
    """
    where = one_line(folder / ROWS)
    try:
        rows = pq.read_table(folder / ROWS)
    except OSError as error:
        raise ArtifactError(f"{where} cannot be read ({_cause(error)}); name the folder of a finished run") from None
    except pa.ArrowException:
        raise ArtifactError(f"{where} is not a Parquet file; run the config again") from None
    is_whole = all(name in rows.column_names and pa.types.is_string(rows.schema.field(name).type) for name in _TEXTS)
    if not is_whole or not models_in(rows):
        raise ArtifactError(f"{where} is not the table of rows of a run; run the config again with this version")
    return rows


def read_verdict(place: Path) -> Verdict:
    """Return the verdict in a run's folder, or in its metrics.json.

    Raises:
        ArtifactError: there is none, or the file is not one of this project.
    """
    path = place / METRICS if place.is_dir() else place
    content = _read_json(path)
    found = content.get("verdict") if isinstance(content, dict) else None
    try:
        return Verdict.model_validate(found)
    except ValidationError:
        raise ArtifactError(f"{one_line(path)} holds no verdict; run the config again with this version") from None


def _read_json(path: Path) -> Any:
    where = one_line(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{where} cannot be read ({error.strerror}); name the folder of a run") from None
    except (JsonFault, UnicodeDecodeError):
        raise ArtifactError(f"{where} is not JSON; name the folder of a run") from None


def _cause(error: OSError) -> str:
    # Arrow's own errors of damaged files are OSErrors without a number
    return error.strerror or "it is damaged"
