"""One training for every objective and method, on one process or many: TRL's trainers over tokenized rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from configs.schema import ModelConfig
from configs.schema_train import ONLINE, TrainConfig
from configs.wire import HELD_OUT, Choice, CurvePoint, TrainReport
from tasks.models.load import load_tokenizer
from tasks.models.quiet import quiet_libraries
from tasks.models.vocabulary import fit_vocabulary
from tasks.rewards.functions import reward_functions
from tasks.rewards.models import load_reward_models
from tasks.train import choices as choosing
from tasks.train import merge, methods
from tasks.train.arguments import learning_rate, optimizer_steps, prompts_left_out, training_arguments, world_size
from tasks.train.batches import ExamplesAreApart, packed_collator
from tasks.train.checkpoint_store import CheckpointPlaces
from tasks.train.checkpoints import fingerprint
from tasks.train.collectives import broadcast, rank
from tasks.train.diagnose import diagnose, series_of
from tasks.train.held_out import (
    evaluated_rows,
    evaluation_arguments,
    held_out_sample,
    remove_checkpoints,
    watch_callbacks,
    watch_choices,
)
from tasks.train.objectives import (
    FORMS,
    example_lengths,
    longest_sequence,
    read_examples,
    trained_tokens,
    trainer_class,
)
from tasks.train.order import EpochOrder, num_fill_rows, without_fill
from tasks.train.progress import Progress
from tasks.train.resume import restore
from tasks.train.row_numbers import row_ids_of, with_row_numbers
from tasks.train.saver import Recoverable, Saver, stop_signals
from tasks.train.saving import save_whole
from tasks.train.sharding import Divided, connect, data_parallel_size
from tasks.train.universal import load_universal
from tasks.train.watch import Watched

_TOKENS_FILE = "tokens.parquet"


@dataclass(frozen=True)
class FitInputs:
    """What training reads: folders of the base model, of the tokens of both splits, and of the tokenizer.

    Without `test_tokens` nothing is evaluated during training. `reward_models` are folders with a tokenizer each.
    `deepspeed_json` is the text of a DeepSpeed config that runs in the place of a shipped one. `notes` go into the
    report beside the choices.
    """

    model: Path
    train_tokens: Path
    tokenizer: Path
    end_token_ids: list[int]
    test_tokens: Path | None = None
    new_token_ids: list[int] = field(default_factory=list)
    reward_models: list[Path] = field(default_factory=list)
    deepspeed_json: str = ""
    notes: list[Choice] = field(default_factory=list)


def fit(
    config: TrainConfig,
    loading: ModelConfig,
    inputs: FitInputs,
    output: Path,
    places: CheckpointPlaces | None = None,
) -> TrainReport:
    """Train and, on rank 0, write the model or the adapter, with its tokenizer, to `output`. All ranks call this.

    With `places`, the run goes on from the newest whole checkpoint there, and saves its own; on a CPU its weights are
    those of a run that was never disturbed.

    The loss of a supervised step is the mean over the answers' tokens of the whole batch, over all processes and
    accumulation passes; that of a preference, the mean over its pairs: neither depends on how the batch was divided.

    Rows with `position_ids` are packed: each example of a row is trained as if it were alone.

    Raises:
        ConfigError: a method that the model cannot take, a batch that does not divide, or a model that cannot train on
            packed rows.
        DivergedError: the loss is not a number, or far above what it was.
        ArtifactError: what was saved is empty, or three checkpoints in a row could not be saved.
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
    tokens_file = inputs.train_tokens / _TOKENS_FILE
    num_rows = pq.read_metadata(tokens_file).num_rows
    num_steps = optimizer_steps(config, num_rows)
    own = _held_out_rows(config, inputs)
    held_out = [own[number] for number in held_out_sample(len(own), evaluated_rows(config, num_steps))]
    is_packed = "position_ids" in pq.read_schema(tokens_file).names
    model_type = json.loads((inputs.model / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    choices = choosing.choose(config, loading, choosing.detect(), is_packed, model_type)
    lines = [*choices.lines, *inputs.notes, *watch_choices(config, len(own), len(held_out))]
    if left_out := prompts_left_out(config, num_rows):
        reason = "the last batch is not full; others in each epoch"
        lines.append(Choice(name="prompts left out", value=f"{left_out} of {num_rows} an epoch", reason=reason))
    evaluation = evaluation_arguments(config, num_steps, bool(held_out))
    arguments = training_arguments(config, choices, num_rows, output, evaluation, inputs.deepspeed_json)
    if arguments.process_index == 0:
        for line in choosing.log_lines(choices):
            print(line, flush=True)
    connect(config)
    tokenizer = load_tokenizer(inputs.tokenizer, loading.trust_remote_code)
    load = partial(_load, config, loading, inputs, tokenizer, choices)
    model = load()
    methods.check_method(config, model, longest_sequence(config, tokens_file))
    trainer = make_trainer(config, loading, arguments, model, tokenizer, inputs, held_out, load)
    trainer.remove_callback(PrinterCallback)
    restored = None
    if places is not None:
        trainer.saver = saver = _saver(config, inputs, output, places, stop_signal)
        restored = restore(saver, output)
    if restored is not None:
        trainer.restore(restored.extras["trainer"])
        if restored.is_universal:
            load_universal(trainer)
    trainer.train(resume_from_checkpoint=None if restored is None else str(restored.directory))
    save_whole(trainer, config, loading, inputs.model, output)
    seconds = time.monotonic() - started
    if trainer.saver is not None:
        lines += trainer.saver.lines()
        seconds = trainer.saver.seconds
    report = _report(trainer, config, num_rows, lines, seconds)
    if trainer.is_world_process_zero():
        _complete(trainer, config, loading, report, output)
        for finding in report.findings:
            print(f"finding: {finding}", flush=True)
    return report


def _saver(
    config: TrainConfig, inputs: FitInputs, output: Path, places: CheckpointPlaces, stop_signal: Callable[[], str]
) -> Saver:
    """Return what saves the run's state; its folder on this machine lies beside `output`."""
    identity = broadcast(fingerprint(config, inputs) if rank() == 0 else "")
    return Saver(config, places, identity, output.parent / f"{output.name}-checkpoints", stop_signal)


def _complete(trainer: Trainer, config: TrainConfig, loading: ModelConfig, report: TrainReport, output: Path) -> None:
    """Put beside the saved weights what else belongs to them, and take away what does not."""
    remove_checkpoints(output)
    # transformers' record of its own arguments: a pickle, and it names paths of this machine
    (output / "training_args.bin").unlink(missing_ok=True)
    # peft's stub of a card, with a temporary folder for a base; a push writes a card of its own
    (output / "README.md").unlink(missing_ok=True)
    if config.method != "full":
        merge.name_base(loading, output)
        if config.objective != "reward":
            # where answers end; peft saves nothing of it
            trainer.accelerator.unwrap_model(trainer.model).get_base_model().generation_config.save_pretrained(output)
    record = report.model_dump(include={"objective", "method", "choices", "steps", "best_step", "learning_rate"})
    (output / merge.RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _load(
    config: TrainConfig,
    loading: ModelConfig,
    inputs: FitInputs,
    tokenizer: PreTrainedTokenizerBase,
    choices: choosing.Choices,
) -> PreTrainedModel:
    """Return the base as it is trained."""
    attention = {"attn_implementation": choices.attn_implementation} if choices.attn_implementation else {}
    model = methods.trainable_model(config, loading, inputs.model, inputs.new_token_ids, len(tokenizer), **attention)
    methods.set_end_tokens(model, inputs.end_token_ids, tokenizer.pad_token_id)
    return model


def make_trainer(
    config: TrainConfig,
    loading: ModelConfig,
    arguments: TrainingArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: FitInputs,
    held_out: list[int],
    load: Callable[[], PreTrainedModel],
) -> Trainer:
    """Return the objective's trainer of `model`. `held_out` are rows of the test tokens; `load` loads the base anew.

    Raises:
        ConfigError: the rows are packed, and the model takes no position ids.
    """
    form = FORMS[config.objective]
    tokens_file = inputs.train_tokens / _TOKENS_FILE
    cache = Path(arguments.output_dir).parent / f"{Path(arguments.output_dir).name}-cache"
    is_online = config.objective in ONLINE
    num_rows = pq.read_metadata(tokens_file).num_rows
    num_copies = data_parallel_size(config)
    num_fill = 0 if is_online else num_fill_rows(num_rows, config.micro_batch_size * num_copies, num_copies)
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": read_examples(config.objective, tokens_file, cache, num_fill),
        "processing_class": tokenizer,
        "peft_config": methods.adapter_config(config, model, inputs.new_token_ids),
        "callbacks": [Progress(), *watch_callbacks(config)],
    }
    if held_out and inputs.test_tokens is not None:
        test_file = inputs.test_tokens / _TOKENS_FILE
        settings["eval_dataset"] = held_out_rows = read_examples(config.objective, test_file, cache, rows=held_out)
    if is_online:
        settings["reward_funcs"] = _rewards(config, loading, inputs, tokenizer)
        arguments.reward_weights = [r.weight for r in config.policy.rewards] + [1.0] * len(inputs.reward_models)
    elif form.collator is not None:
        collator: Any = form.collator(tokenizer.pad_token_id)
        if "position_ids" in pq.read_schema(tokens_file).names:
            packed = packed_collator(model, tokenizer.pad_token_id)
            settings["callbacks"].append(ExamplesAreApart(packed))
            collator = packed
        settings["data_collator"] = with_row_numbers(without_fill(collator))
    if config.objective in ("dpo", "kto") and config.method == "full":
        settings["ref_model"] = load()
    trainer = trainer_class(config.objective, Recoverable, Watched, Divided)(**settings)
    trainer.start_dividing(config)
    if config.method != "full":
        methods.keep_trained_in_float32(trainer.model)
        methods.show_head_bias(trainer.model)
    elif is_online and trainer.ref_model is not None:
        # TRL loads it anew by its path, where new tokens have no rows
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        fit_vocabulary(reference, loading, inputs.model, inputs.new_token_ids, len(tokenizer))
    if "eval_dataset" in settings and "labels" in held_out_rows.column_names:
        trainer.held_out_tokens_per_row = trained_tokens(held_out_rows) / len(held_out_rows)
    trainer.start_watch(config, row_ids_of(tokens_file))
    if not is_online:
        lengths = example_lengths(config.objective, tokens_file) if config.group_by_length else None
        trainer.epoch_sampler = EpochOrder(num_rows, num_fill, lengths, config.batch_size, config.seed)
    return trainer


def _held_out_rows(config: TrainConfig, inputs: FitInputs) -> list[int]:
    """Return the numbers of the held-out rows that a loss, or a reward, can be taken of during training."""
    if inputs.test_tokens is None:
        return []
    table = pq.read_table(inputs.test_tokens / _TOKENS_FILE, columns=["dataset", "prompt_length"])
    is_own = pc.equal(table["dataset"], HELD_OUT)
    if config.objective in ONLINE:
        is_own = pc.and_(is_own, pc.greater(table["prompt_length"], 0))
    return np.flatnonzero(is_own.to_numpy()).tolist()


def _rewards(
    config: TrainConfig, loading: ModelConfig, inputs: FitInputs, tokenizer: PreTrainedTokenizerBase
) -> list[Callable[..., list[float]]]:
    """Return what TRL calls with the generated answers: the config's functions, then the reward models."""
    calls: list[Callable[..., list[float]]] = []
    for settings, function in zip(config.policy.rewards, reward_functions(config.policy.rewards), strict=True):

        def by_function(completions: list[str], _call: Any = function, **columns: Any) -> list[float]:
            return _call(prompts=columns["prompt_text"], completions=completions, expected=columns["expected"])

        by_function.__name__ = (settings.function or settings.kind).rpartition(":")[2]
        calls.append(by_function)
    for judge in load_reward_models(loading, inputs.reward_models, tokenizer):

        def by_model(
            prompts: list[list[int]], completion_ids: list[list[int]], _judge: Any = judge, **_: Any
        ) -> list[float]:
            return _judge.score(prompts, completion_ids)

        by_model.__name__ = "reward_model"
        calls.append(by_model)
    return calls


def _report(trainer: Trainer, config: TrainConfig, num_rows: int, choices: list[Choice], seconds: float) -> TrainReport:
    history = trainer.state.log_history
    curve = [
        CurvePoint(
            step=entry["step"],
            loss=entry["loss"],
            learning_rate=entry.get("learning_rate", 0.0),
            grad_norm=float(entry.get("grad_norm") or 0.0),
        )
        for entry in history
        if "loss" in entry
    ]
    series = series_of(history)
    parameters = [
        # under ZeRO 3 a parameter's own size is that of its local part
        (getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad)
        for parameter in trainer.model.parameters()
    ]
    return TrainReport(
        objective=config.objective,
        method=config.method,
        curve=curve,
        series=series,
        choices=choices,
        findings=diagnose(config.objective, config, curve, series, num_rows),
        best_step=trainer.state.best_global_step if trainer.state.best_model_checkpoint else None,
        steps=trainer.state.global_step,
        epochs=trainer.state.epoch or 0.0,
        seconds=seconds,
        parameters=sum(size for size, _ in parameters),
        trainable_parameters=sum(size for size, trained in parameters if trained),
        world_size=world_size(),
        batch_size=config.batch_size,
        learning_rate=learning_rate(config),
        device=trainer.args.device.type,
        precision="bfloat16" if trainer.args.bf16 else "float32",
    )
