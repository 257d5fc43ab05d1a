"""Small watched runs, for tests: an untied model of one layer, rows of three tokens in their order, TRL's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from configs.schema.train import TrainConfig
from tasks.train.batches import PaddedCollator
from tasks.train.row_numbers import with_row_numbers
from tasks.train.seams import Watched
from tasks.train.watch.held_out import evaluation_arguments, watch_callbacks
from tasks.train.watch.progress import Progress
from tasks.train.watch.watch import start_watch

BAD_TOKEN = 200


class InOrder:
    """Mixin: rows as they come."""

    def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def untied_model(bad_token: int | None = None) -> LlamaForCausalLM:
    """A small model; an input with `bad_token` gives logits that are not numbers, and no other input does."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=258, tie_word_embeddings=False, pad_token_id=0, **sizes))
    if bad_token is not None:
        with torch.no_grad():
            model.model.embed_tokens.weight[bad_token] = float("nan")
    return model


def numbered_rows(first_tokens: list[int]) -> datasets.Dataset:
    rows = [
        {"input_ids": [token, 20, 30], "labels": [-100, 20, 30], "row_number": n}
        for n, token in enumerate(first_tokens)
    ]
    return datasets.Dataset.from_list(rows)


def watched_trainer(
    model: Any,
    rows: datasets.Dataset,
    config: TrainConfig,
    directory: Path,
    tokenizer: Any,
    held_out: Any = None,
    **more,
) -> Any:
    steps = config.max_steps or 1
    arguments = {
        "per_device_train_batch_size": config.micro_batch,
        "per_device_eval_batch_size": config.micro_batch,
        "gradient_accumulation_steps": config.batch_size // config.micro_batch,
        **evaluation_arguments(config, steps, held_out is not None),
    }
    trainer = type("OurTrainer", (Watched, InOrder, SFTTrainer), {})(
        model=model,
        args=SFTConfig(
            output_dir=str(directory),
            max_steps=steps,
            learning_rate=config.learning_rate or 1e-3,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            **arguments,
        ),
        data_collator=with_row_numbers(PaddedCollator(0)),
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[Progress(), *watch_callbacks(config)],
        **more,
    )
    start_watch(trainer, config, lambda numbers: [f"d:{number}" for number in numbers])
    return trainer
