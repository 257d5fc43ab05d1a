"""One try of a training: with the micro-batch that fits, from the last checkpoint on; or what an earlier one made."""

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
    """Return where an earlier try put the whole model, and its report: it was killed before Flyte had heard of it."""
    for store in [] if places is None else stores(places):
        text = store.read_text(FINISHED_FILE)
        if text is None:
            continue
        made = json.loads(text)
        if Store(made["uri"], store.filesystem).names():
            return str(made["uri"]), TrainReport.model_validate(made["report"])
    return None


def finish(places: CheckpointPlaces | None, uri: str, report: TrainReport) -> None:
    """Note that the whole model is at `uri`, for a try after this one; then delete what only training needed."""
    if places is None:
        return
    note = {"uri": uri, "report": report.model_dump(mode="json")}
    Store(places.destination, places.filesystem).write_text(FINISHED_FILE, json.dumps(note))
    checkpoints.forget(places)


def fit_once(
    config: TrainConfig, loading: ModelConfig, inputs: FitInputs, output: Path, places: CheckpointPlaces | None
) -> TrainReport:
    """Call `fit` with a micro-batch that divides among the processes there are, and that did not run out of memory in
    an earlier try. Without `places` no try knows of another.

    Raises:
        RetryError: memory ran out, and the next try takes a smaller micro-batch; or what `fit` raises it for.
        ConfigError: memory ran out, and a smaller micro-batch does not help; or what `fit` raises it for.
    """
    num_parts = data_parallel_size(config)
    found = [] if places is None else stores(places)
    noted = noted_micro_batch(found)
    config, notes = fit_micro_batch(config, num_parts, noted)
    try:
        return fit(config, loading, replace(inputs, notes=[*inputs.notes, *notes]), output, places)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(config, num_parts, noted, found[0] if found else None) from error
