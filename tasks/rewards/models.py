"""Rewards from a model that was trained on preferences: it reads a prompt and an answer, and yields one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import ModelError
from configs.schema import ModelConfig
from tasks.models.load import device, is_reward_model, load_reward_model, load_tokenizer


@dataclass(frozen=True)
class RewardModel:
    """A sequence-classification model with one output, and the tokenizer of the token ids it is given."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16

    @torch.inference_mode()
    def score(self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]) -> list[float]:
        """Return the score of each answer, unbounded, read at the sequence's last token that is not padding.

        An answer that is given with its end token, as reward models are trained, is read at that token. Rows are put
        into batches of like length and padded right; a score does not depend on its batch.

        Raises:
            ModelError: a sequence without a token, or a score that is not a number.
        """
        rows = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completion_ids, strict=True)]
        if not all(rows):
            raise ModelError("a reward model was given an empty sequence; every row needs a token")
        scores = [0.0] * len(rows)
        was_training = self.model.training
        self.model.eval()
        for batch in self._batches(rows):
            scores_of_batch = self._forward([rows[position] for position in batch])
            for position, score in zip(batch, scores_of_batch, strict=True):
                scores[position] = score
        self.model.train(was_training)
        if not all(map(math.isfinite, scores)):
            raise ModelError("a reward model's score is not a number; its weights are damaged or diverged")
        return scores

    def _batches(self, rows: list[list[int]]) -> list[list[int]]:
        """Return positions of rows in batches of like length, or of one length where padding would be read."""
        by_length = sorted(range(len(rows)), key=lambda position: len(rows[position]))
        if self._pad_token_id() is None:
            # without a padding token the model takes one row at a time, and reads its last
            return [[position] for position in by_length]
        batches: list[list[int]] = []
        # behind virtual tokens the model is given embeddings, and reads the last one, padding or not
        one_length = isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning
        for position in by_length:
            last = batches[-1] if batches else []
            is_alike = bool(last) and (not one_length or len(rows[last[0]]) == len(rows[position]))
            if is_alike and len(last) < self.batch_size:
                last.append(position)
            else:
                batches.append([position])
        return batches

    def _forward(self, rows: list[list[int]]) -> list[float]:
        width = max(map(len, rows))
        # the model looks for its own padding token to find where a sequence ends
        ids = torch.full((len(rows), width), self._pad_token_id() or 0, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[number, : len(row)] = 1
        place = self.model.device
        logits = self.model(input_ids=ids.to(place), attention_mask=mask.to(place)).logits
        return [float(score) for score in logits[:, 0].float().cpu()]

    def _pad_token_id(self) -> int | None:
        return self.model.config.get_text_config().pad_token_id


def load_reward_models(
    config: ModelConfig, directories: Sequence[Path], tokenizer: PreTrainedTokenizerBase
) -> list[RewardModel]:
    """Return the reward models in `directories`, in evaluation mode on this process's device, for `tokenizer`'s ids.

    Raises:
        ModelError: a directory holds another kind of model, or one with another vocabulary or chat template.
    """
    models = []
    for directory in directories:
        if not is_reward_model(directory):
            raise ModelError(f"{directory} holds no reward model; train one with train.objective=reward")
        own = load_tokenizer(directory, config.trust_remote_code)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ModelError(
                f"the reward model in {directory} has another vocabulary than the model it scores: token ids would "
                "be other text\ntrain both from base models with one tokenizer, and with the same "
                "tokenize.new_special_tokens"
            )
        if own.chat_template and tokenizer.chat_template and own.chat_template != tokenizer.chat_template:
            raise ModelError(
                f"the reward model in {directory} has another chat template than the model it scores\n"
                "train both with the same tokenize.chat_template"
            )
        model = load_reward_model(config, directory).to(device()).eval()  # type: ignore[arg-type]
        models.append(RewardModel(model, tokenizer))
    return models
