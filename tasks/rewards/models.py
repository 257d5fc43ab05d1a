"""Rewards from a model trained on preferences: it reads a prompt with an answer, and yields one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import ModelError
from configs.printable import one_line
from configs.schema import ModelConfig
from tasks.models.load import device, is_reward_model, load_reward_model, load_tokenizer
from tasks.models.placement import input_device, on_device


@dataclass(frozen=True)
class RewardModel:
    """A sequence-classification model with one output, and the tokenizer that made its token ids."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16

    @torch.inference_mode()
    def score(self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]) -> list[float]:
        """Return one unbounded score per answer, read at the sequence's last token that is not padding.

        Answers should hold their end token, as in the training of reward models: the score is then read there. Batches
        have rows of similar length, padded on the right; a score does not depend on its batch.

        Raises:
            ModelError: a sequence has no token, or a score is not a number.
        """
        rows = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
        if not all(rows):
            raise ModelError("a reward model was given an empty sequence; every row needs a token")
        scores = [0.0] * len(rows)
        was_training = self.model.training
        self.model.eval()
        for batch in self._batches(rows):
            batch_scores = self._forward([rows[position] for position in batch])
            for position, score in zip(batch, batch_scores, strict=True):
                scores[position] = score
        self.model.train(was_training)
        if not all(map(math.isfinite, scores)):
            raise ModelError("a reward model's score is not a number; its weights are damaged or diverged")
        return scores

    def _batches(self, rows: list[list[int]]) -> list[list[int]]:
        """Return positions of rows in batches of similar length, or of one length where padding would be scored."""
        by_length = sorted(range(len(rows)), key=lambda position: len(rows[position]))
        if self._pad_token_id() is None:
            # without a padding token the model takes one row at a time, and scores its last token
            return [[position] for position in by_length]
        batches: list[list[int]] = []
        # with virtual tokens the model gets embeddings, and scores the last one even if it is padding
        one_length = isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning
        for position in by_length:
            last = batches[-1] if batches else []
            may_join = bool(last) and (not one_length or len(rows[last[0]]) == len(rows[position]))
            if may_join and len(last) < self.batch_size:
                last.append(position)
            else:
                batches.append([position])
        return batches

    def _forward(self, rows: list[list[int]]) -> list[float]:
        width = max(map(len, rows))
        # the model finds the end of a sequence by its own padding token
        ids = torch.full((len(rows), width), self._pad_token_id() or 0, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[number, : len(row)] = 1
        device = input_device(self.model)
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return [float(score) for score in logits[:, 0].float().cpu()]

    def _pad_token_id(self) -> int | None:
        return self.model.config.get_text_config().pad_token_id


def load_reward_models(
    config: ModelConfig, directories: Sequence[Path], tokenizer: PreTrainedTokenizerBase, gpus: int = 1
) -> list[RewardModel]:
    """Return the reward models in `directories`, on this process's device, to score ids of `tokenizer`.

    With several `gpus` each is divided over them, as `load_model` says.

    Raises:
        ModelError: a directory holds another kind of model, or one with another vocabulary or chat template.
    """
    models = []
    for directory in directories:
        if not is_reward_model(directory):
            raise ModelError(f"{one_line(directory)} holds no reward model; train one with train.objective=reward")
        own = load_tokenizer(directory, config.trust_remote_code)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ModelError(
                f"the reward model in {one_line(directory)} has another vocabulary than the model it scores: the same "
                "token ids "
                "would mean different text\ntrain both from base models with one tokenizer, and with the same "
                "tokenize.new_special_tokens"
            )
        if own.chat_template and tokenizer.chat_template and own.chat_template != tokenizer.chat_template:
            raise ModelError(
                f"the reward model in {one_line(directory)} has another chat template than the model it scores\n"
                "train both with the same tokenize.chat_template"
            )
        model = load_reward_model(config, directory, gpus=gpus)
        models.append(RewardModel(on_device(model, device()).eval(), tokenizer))
    return models
