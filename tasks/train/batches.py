"""Batches of rows, and of packed rows: several examples in a row, none of which sees another.

Position ids separate the examples: those of each example begin at 0. transformers makes a mask from them
(`find_packed_sequence_indices`), but only without an attention mask; with flash attention, only for a batch of one
row. TRL's collator joins the whole batch into one row, and without flash attention the mask grows with the square of
its tokens; here rows stay apart. A model is tested for whether it keeps to position ids: recurrent and convolutional
layers accept them, and carry their state into the next example all the same.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, TrainerCallback
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from configs.errors import ConfigError

_IGNORED = -100
_NUM_PROBE_TOKENS = 8


class PaddedCollator(DataCollatorForLanguageModeling):
    """TRL's collator, without a label for the first token of each row, which no earlier token predicts.

    transformers divides the loss by the number of labels. It leaves the first labels out only for models whose class
    name contains that of a known loss, such as ForCausalLM; GPT-2's does not.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `input_ids`, `labels` and `attention_mask`, [batch, seq], int64, padded on the right."""
        batch = super().torch_call(examples)
        batch["labels"][:, 0] = _IGNORED
        return batch


@dataclass(frozen=True)
class PackedCollator:
    """Makes a batch of packed rows. `is_flash` says that the model uses a flash attention kernel."""

    pad_token_id: int
    is_flash: bool

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `input_ids`, `labels` and `position_ids`, [batch, seq], int64, and no attention mask.

        Rows are padded on the right to the longest: labels with -100, position ids with 0, 1, 2, ..., which makes the
        padding one more example, without a loss. For flash attention the batch also has the bounds of the examples in
        all rows laid end to end: `cu_seq_lens_q` and `cu_seq_lens_k`, [examples + 1], int32, and `max_length_q`,
        `max_length_k`.
        """
        length = max(len(row["input_ids"]) for row in rows)
        # held-out rows are not packed: each is one example
        unpadded = [row.get("position_ids") or range(len(row["input_ids"])) for row in rows]
        positions = [[*numbers, *range(length - len(numbers))] for numbers in unpadded]
        batch: dict[str, Any] = {
            "input_ids": _padded(rows, "input_ids", self.pad_token_id),
            "labels": _padded(rows, "labels", _IGNORED),
            "position_ids": torch.tensor(positions),
        }
        if self.is_flash:
            starts = (batch["position_ids"].flatten() == 0).nonzero().flatten()
            bounds = torch.cat([starts, torch.tensor([len(rows) * length])]).to(torch.int32)
            batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = bounds
            batch["max_length_q"] = batch["max_length_k"] = int(bounds.diff().max())
        return batch


def _padded(rows: list[dict[str, Any]], column: str, value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row[column]) for row in rows], batch_first=True, padding_value=value)


def packed_collator(model: PreTrainedModel, pad_token_id: int) -> PackedCollator:
    """Return the collator that makes batches of packed rows for `model`.

    Raises:
        ConfigError: the model takes no position ids.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"tokenize.packing=best_fit needs a model that takes position_ids, and {type(model).__name__} does not\n"
            "set tokenize.packing to none"
        )
    return PackedCollator(pad_token_id, is_flash="flash" in str(model.config._attn_implementation))


class ExamplesAreApart(TrainerCallback):
    """Refuses, before the first step, a model in which one example of a packed row changes the logits of the next.

    The check runs when training begins: before that, ZeRO 3 has not prepared the model to run.
    """

    def __init__(self, collator: PackedCollator) -> None:
        self._collator = collator

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Run the check.

        Raises:
            ConfigError: names the model's class.
        """
        model = kwargs["model"]
        if not examples_are_apart(model, self._collator, torch.bfloat16 if args.bf16 else None):
            base = model.get_base_model() if isinstance(model, PeftModel) else model
            raise ConfigError(
                f"tokenize.packing=best_fit: {type(base).__name__} carries one example of a packed row over into the "
                "next,\nas recurrent layers do, and attention that ignores position_ids; set tokenize.packing to none"
            )


def examples_are_apart(model: PreTrainedModel, collator: PackedCollator, autocast: torch.dtype | None = None) -> bool:
    """Return whether an example's logits are the same whatever comes before it in its row.

    Two batches of two rows, each of two examples, are run: [a, c], [b, c] and [d, c], [b, c]. The first c must not
    change. In a mixture of experts it may change by rounding, since other tokens share its experts; the second c then
    changes by as much. The model stays in its mode, and no random number is drawn.
    """
    vocab_size = model.get_input_embeddings().num_embeddings
    first, second, other, last = (
        [token % vocab_size for token in range(n * _NUM_PROBE_TOKENS, (n + 1) * _NUM_PROBE_TOKENS)] for n in range(4)
    )
    was_training = model.training
    model.eval()
    try:
        before, after = (
            _logits(model, collator, [[start, last], [other, last]], autocast) for start in (first, second)
        )
    finally:
        model.train(was_training)
    change = (before - after).abs()
    leaked, rounding = change[0, _NUM_PROBE_TOKENS:].max(), change[1].max()
    # NaN logits are not greater than anything: such a model passes, and the first loss stops it
    return not bool(leaked > 10 * rounding + 1e-5 * change[0].max())


def _logits(
    model: PreTrainedModel, collator: PackedCollator, rows: list[list[list[int]]], autocast: torch.dtype | None
) -> torch.Tensor:
    """Return the logits, [batch, seq, vocab], of rows, each of which is a list of examples."""
    packed = []
    for examples in rows:
        ids = [token for example in examples for token in example]
        positions = [position for example in examples for position in range(len(example))]
        packed.append({"input_ids": ids, "labels": ids, "position_ids": positions})
    device = next(model.parameters()).device
    batch = collator(packed)
    del batch["labels"]
    batch = {name: values.to(device) if torch.is_tensor(values) else values for name, values in batch.items()}
    with torch.no_grad(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        return model(**batch, use_cache=False).logits.float()
