"""Makes the trainer of an objective, with its rows, collator, rewards and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from configs.effective.training import has_reference
from configs.objectives import ONLINE
from configs.schema import ModelConfig
from configs.schema.train import TrainConfig
from tasks.models.vocabulary import fit_vocabulary
from tasks.rewards.functions import reward_functions
from tasks.rewards.models import load_reward_models
from tasks.train import methods
from tasks.train.batches import ExamplesAreApart, packed_collator
from tasks.train.inputs import TOKENS_FILE, FitInputs
from tasks.train.objectives import FORMS, example_lengths, read_examples, trained_tokens, trainer_class
from tasks.train.order import EpochOrder, RowWeights, num_fill_rows, without_fill
from tasks.train.row_numbers import row_ids_of, with_row_numbers
from tasks.train.sharding import configure_fsdp, data_parallel_size
from tasks.train.watch.held_out import keys_of, watch_callbacks
from tasks.train.watch.progress import Progress
from tasks.train.watch.watch import start_watch


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
    """Return the trainer of `model` for the config's objective.

    `held_out` are numbers of rows of the test tokens; `load` returns another copy of the base, as a reference.

    Raises:
        ConfigError: the rows are packed, and the model takes no position ids.
    """
    form = FORMS[config.objective]
    tokens_file = inputs.train_tokens / TOKENS_FILE
    cache = Path(arguments.output_dir).parent / f"{Path(arguments.output_dir).name}-cache"
    is_online = config.objective in ONLINE
    num_rows = pq.read_metadata(tokens_file).num_rows
    num_copies = data_parallel_size(config)
    num_fill = 0 if is_online else num_fill_rows(num_rows, config.micro_batch * num_copies, num_copies)
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": read_examples(config.objective, tokens_file, cache, num_fill),
        "processing_class": tokenizer,
        "peft_config": methods.adapter_config(config, model, inputs.new_token_ids),
        "callbacks": [Progress(keys_of(config)), *inputs.observers, *watch_callbacks(config)],
    }
    if held_out and inputs.test_tokens is not None:
        test_file = inputs.test_tokens / TOKENS_FILE
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
    if has_reference(config) and not is_online and config.method == "full":
        settings["ref_model"] = load()
    trainer = trainer_class(config.objective)(**settings)
    configure_fsdp(trainer, config)
    if config.method != "full":
        methods.keep_trained_in_float32(trainer.model)
        methods.show_head_bias(trainer.model)
    elif is_online and trainer.ref_model is not None:
        # TRL loads the reference from the base's folder, without embeddings of new tokens
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        fit_vocabulary(reference, loading, inputs.model, inputs.new_token_ids, len(tokenizer))
    start_watch(trainer, config, row_ids_of(tokens_file))
    if not is_online:
        tokens_per_row = None
        if "eval_dataset" in settings and "labels" in held_out_rows.column_names:
            tokens_per_row = trained_tokens(held_out_rows) / len(held_out_rows)
        trainer.row_weights = RowWeights(form.mean_over_rows, tokens_per_row)
        lengths = example_lengths(config.objective, tokens_file) if config.group_by_length else None
        trainer.epoch_sampler = EpochOrder(num_rows, num_fill, lengths, config.batch_size, config.seed)
    return trainer


def _rewards(
    config: TrainConfig, loading: ModelConfig, inputs: FitInputs, tokenizer: PreTrainedTokenizerBase
) -> list[Callable[..., list[float]]]:
    """Return the functions that TRL calls with generated answers: the config's own, then those of the reward models."""
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
