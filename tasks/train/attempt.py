"""One attempt at a training: it takes an earlier attempt's model, or trains with a micro-batch that fits in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from configs.schema import ModelConfig
from configs.schema.train import TrainConfig
from configs.wire import TrainReport
from tasks.train.checkpoint import checkpoints
from tasks.train.checkpoint.store import CheckpointPlaces, Store, stores
from tasks.train.faults import is_out_of_memory
from tasks.train.fit import FitInputs, fit
from tasks.train.out_of_memory import fit_micro_batch, noted_micro_batch, out_of_memory
from tasks.train.sharding import data_parallel_size

FINISHED_FILE = "finished.json"


def finished(places: CheckpointPlaces | None) -> tuple[str, TrainReport] | None:
    """Return where an earlier attempt put the whole model, and its report; None if none has finished."""
    for store in [] if places is None else stores(places):
        text = store.read_text(FINISHED_FILE)
        if text is None:
            continue
        note = json.loads(text)
        if Store(note["uri"], store.filesystem).names():
            return str(note["uri"]), TrainReport.model_validate(note["report"])
    return None


def finish(places: CheckpointPlaces | None, uri: str, report: TrainReport) -> None:
    """Note for a later attempt that the whole model is at `uri`; then delete the checkpoints."""
    if places is None:
        return
    note = {"uri": uri, "report": report.model_dump(mode="json")}
    Store(places.destination, places.filesystem).write_text(FINISHED_FILE, json.dumps(note))
    checkpoints.forget(places)


def fit_once(
    config: TrainConfig, loading: ModelConfig, inputs: FitInputs, output: Path, places: CheckpointPlaces | None
) -> TrainReport:
    """Call `fit` with a micro-batch that divides the batch evenly, and is smaller than one that ran out of memory.

    Without `places` no attempt knows of another.

    Raises:
        RetryError: memory ran out, and the next attempt takes a smaller micro-batch; or as `fit` raises it.
        ConfigError: memory ran out, and a smaller micro-batch does not help; or as `fit` raises it.
    """
    num_copies = data_parallel_size(config)
    attempts = [] if places is None else stores(places)
    noted = noted_micro_batch(attempts)
    config, notes = fit_micro_batch(config, num_copies, noted)
    try:
        return fit(config, loading, replace(inputs, notes=[*inputs.notes, *notes]), output, places)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(config, num_copies, noted, attempts[0] if attempts else None) from error
