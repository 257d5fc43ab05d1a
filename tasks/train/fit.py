"""The training of every objective and method, in one process or many: TRL's trainers on tokenized rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.parquet as pq
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_callback import PrinterCallback

from configs.printable import print_line
from configs.schema import ModelConfig
from configs.schema.train import TrainConfig
from configs.wire import Choice, TrainReport
from tasks.files.model_settings import read_settings
from tasks.models.companions import copy_companions, stated_license
from tasks.models.load import load_tokenizer
from tasks.models.pace import doing
from tasks.models.quiet import quiet_libraries
from tasks.models.record import RECORD_FILE
from tasks.train import choices as choosing
from tasks.train import merge, methods
from tasks.train.arguments import optimizer_steps, prompts_left_out, training_arguments
from tasks.train.checkpoint.checkpoints import fingerprint
from tasks.train.checkpoint.resume import restore
from tasks.train.checkpoint.saver import Saver, restore_extra_state, stop_signals
from tasks.train.checkpoint.store import CheckpointPlaces
from tasks.train.checkpoint.universal import load_universal
from tasks.train.collectives import broadcast, rank
from tasks.train.inputs import TOKENS_FILE, FitInputs, answered_rows, held_out_rows
from tasks.train.kept_settings import KeptSettings, kept_settings
from tasks.train.objectives import longest_sequence
from tasks.train.predictions import is_sharded, keep_predictions
from tasks.train.saving import save_whole
from tasks.train.sharding import prepare_process
from tasks.train.trainer import make_trainer
from tasks.train.watch.diagnose import diagnose
from tasks.train.watch.held_out import (
    evaluated_rows,
    evaluation_arguments,
    held_out_sample,
    remove_checkpoints,
    watch_choices,
)
from tasks.train.watch.measures import COLUMNS, AnswerMeasures, counted_rows, measure_choices, measured_rows
from tasks.train.watch.report import report_of


def fit(
    config: TrainConfig,
    loading: ModelConfig,
    inputs: FitInputs,
    output: Path,
    places: CheckpointPlaces | None = None,
) -> TrainReport:
    """Train and, on rank 0, write the model or the adapter, with its tokenizer, to `output`. All ranks call this.

    With `places`, the run resumes from the newest whole checkpoint there and saves its own. On a CPU its weights then
    equal those of an undisturbed run.

    The loss of a supervised step is the mean over all answer tokens of the batch; that of a preference step, the mean
    over its pairs. Neither depends on how the batch is split over processes and forward passes.

    Rows with `position_ids` are packed: each example of a row is trained as if it were alone.

    Raises:
        ConfigError: the model cannot be trained by the method or on packed rows, or the batch does not divide evenly;
            a measure of `train.watch.measures` counts no held-out row.
        DivergedError: the loss is not a number, or far above what it was.
        ArtifactError: the saved model is not whole, or three checkpoints in a row could not be saved.
        RetryError: the run was asked to stop, by SIGTERM or SIGINT.
    """
    with stop_signals() as stop_signal:
        return _fit(config, loading, inputs, output, places, stop_signal)


def _fit(
    config: TrainConfig,
    loading: ModelConfig,
    inputs: FitInputs,
    output: Path,
    places: CheckpointPlaces | None,
    stop_signal: Callable[[], str],
) -> TrainReport:
    started = time.monotonic()
    quiet_libraries()
    datasets.disable_progress_bars()
    tokens_file = inputs.train_tokens / TOKENS_FILE
    num_rows = pq.read_metadata(tokens_file).num_rows
    num_steps = optimizer_steps(config, num_rows)
    usable = held_out_rows(config, inputs)
    held_out = [usable[number] for number in held_out_sample(len(usable), evaluated_rows(config, num_steps))]
    is_packed = "position_ids" in pq.read_schema(tokens_file).names
    model_type = read_settings(inputs.model / "config.json").get("model_type") or ""
    choices = choosing.choose(config, loading, choosing.detect(), is_packed, model_type)
    lines = [*choices.lines, *inputs.notes, *watch_choices(config, len(usable), len(held_out))]
    if left_out := prompts_left_out(config, num_rows):
        reason = "the last batch is not full; others in each epoch"
        lines.append(Choice(name="prompts left out", value=f"{left_out} of {num_rows} an epoch", reason=reason))
    asked = _asked_rows(config, inputs, len(usable), lines)
    evaluation = evaluation_arguments(config, num_steps, bool(held_out))
    arguments = training_arguments(config, choices, num_rows, output, evaluation, inputs.deepspeed_json)
    if arguments.process_index == 0:
        for line in choosing.log_lines(choices):
            print_line(line)
    prepare_process(config)
    tokenizer = load_tokenizer(inputs.tokenizer, loading.trust_remote_code)
    load = partial(_load, config, loading, inputs, tokenizer, choices)
    with doing("loading the model"):
        model = load()
    kept = kept_settings(model)
    methods.check_method(config, model, longest_sequence(config, tokens_file))
    if arguments.process_index == 0:
        for note in methods.method_notes(config, model):
            print_line(note)
    trainer = make_trainer(config, loading, arguments, model, tokenizer, inputs, held_out, load)
    trainer.remove_callback(PrinterCallback)
    if asked is not None:
        trainer.answer_measures = AnswerMeasures(config, asked, tokenizer, inputs.end_token_ids)
    checkpoint = None if places is None else _resumed(trainer, config, inputs, output, places, stop_signal)
    trainer.train(resume_from_checkpoint=checkpoint)
    with doing("saving the model"):
        save_whole(trainer, config, loading, inputs.model, kept, output)
    seconds = time.monotonic() - started
    if trainer.saver is not None:
        lines += trainer.saver.lines()
        seconds = trainer.saver.seconds
    report = _report(trainer, config, num_rows, lines, seconds)
    if trainer.is_world_process_zero():
        _complete(config, loading, report, kept, inputs.model, output)
        if inputs.test_tokens is not None and not is_sharded(trainer):
            with doing("keeping predictions of the trained weights"):
                keep_predictions(trainer, inputs.test_tokens / TOKENS_FILE, output)
        for finding in report.findings:
            print_line(f"finding: {finding}")
    return report


def _asked_rows(config: TrainConfig, inputs: FitInputs, num_held_out: int, lines: list[Choice]) -> pd.DataFrame | None:
    """Return the held-out rows that are answered for `train.watch.measures`, and add the report's lines on them.

    None without measures, or without held-out rows, of which the report has a line already.
    """
    if not config.watch.measures or inputs.test_tokens is None or not num_held_out:
        return None
    tokens_file = inputs.test_tokens / TOKENS_FILE
    numbers = answered_rows(tokens_file)
    rows = measured_rows(config, pq.read_table(tokens_file, columns=COLUMNS).to_pandas().iloc[numbers])
    counted = counted_rows(config, rows, num_held_out)
    lines += measure_choices(config, counted, len(rows), len(numbers))
    return rows


def _resumed(
    trainer: Any,
    config: TrainConfig,
    inputs: FitInputs,
    output: Path,
    places: CheckpointPlaces,
    stop_signal: Callable[[], str],
) -> str | None:
    """Give `trainer` a saver and restore the newest checkpoint; return its folder, or None to begin at step 1."""
    identity = broadcast(fingerprint(config, inputs) if rank() == 0 else "")
    trainer.saver = Saver(config, places, identity, output.parent / f"{output.name}-checkpoints", stop_signal)
    if rank() == 0:
        print_line(f"train: checkpoints {trainer.saver.interval}, in {places.destination}")
    with doing("looking for a checkpoint to resume from"):
        restored = restore(trainer.saver, output)
    if restored is None:
        return None
    restore_extra_state(trainer, restored.extras["trainer"])
    if restored.is_universal:
        load_universal(trainer)
    return str(restored.directory)


def _complete(
    config: TrainConfig, loading: ModelConfig, report: TrainReport, kept: KeptSettings, base: Path, output: Path
) -> None:
    """Add the record of the training and the base's licence to the saved model; remove what only training needed."""
    remove_checkpoints(output)
    # transformers' arguments: a pickle with paths of this machine
    (output / "training_args.bin").unlink(missing_ok=True)
    # peft's model card, whose base is a temporary folder; the push writes its own
    (output / "README.md").unlink(missing_ok=True)
    if config.method != "full":
        merge.name_base(loading, output)
        if kept.generation is not None:
            # it has the tokens that end an answer, which peft does not save
            kept.generation.save_pretrained(output)
    record = report.model_dump(include={"objective", "method", "choices", "steps", "best_step", "learning_rate"})
    record["license"] = stated_license(base)
    (output / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    copy_companions(base, output)


def _load(
    config: TrainConfig,
    loading: ModelConfig,
    inputs: FitInputs,
    tokenizer: PreTrainedTokenizerBase,
    choices: choosing.Choices,
) -> PreTrainedModel:
    """Return the base model, ready to be trained."""
    attention = {"attn_implementation": choices.attn_implementation} if choices.attn_implementation else {}
    model = methods.trainable_model(config, loading, inputs.model, inputs.new_token_ids, len(tokenizer), **attention)
    methods.stop_at_end_tokens(model, tokenizer, inputs.end_token_ids)
    return model


def _report(trainer: Trainer, config: TrainConfig, num_rows: int, choices: list[Choice], seconds: float) -> TrainReport:
    report = report_of(config, trainer.args, trainer.state, trainer.model, seconds, choices)
    findings = diagnose(config.objective, config, report.curve, report.series, num_rows)
    return report.model_copy(update={"findings": findings})
