"""Score one model on the held-out rows: loss and preferences over all of them, greedy answers to some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import DataError, ModelError
from configs.measures import MEASURES
from configs.paired_rows import spaced
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.train import RewardFunctionConfig
from configs.wire import HELD_OUT, Evaluation, Prediction, Scores, SetScores
from tasks.evaluate.answers import Answer, generate_answers
from tasks.evaluate.likelihood import IGNORED, mean_loss, token_log_probabilities
from tasks.evaluate.metrics import OF_ANSWERS
from tasks.evaluate.preferences import paired_rows, preference_accuracy, preference_margin, with_preferences
from tasks.models.end_tokens import end_tokens
from tasks.models.linear_layers import quantized_share
from tasks.models.load import device, is_reward_model, load_model, load_reward_model, load_tokenizer, weights_size
from tasks.models.loading import counted_loading
from tasks.models.pace import doing, say
from tasks.models.parity import compare
from tasks.models.quiet import quiet_libraries
from tasks.models.record import PARITY_FILE
from tasks.models.vocabulary import make_room
from tasks.rewards.functions import RewardFunction, reward_functions, total_reward
from tasks.rewards.models import RewardModel, load_reward_models


@dataclass(frozen=True)
class _Subject:
    """The model that is scored, with everything that scoring it needs except rows."""

    config: EvaluateConfig
    name: str
    model: PreTrainedModel
    is_reward_model: bool
    tokenizer: PreTrainedTokenizerBase
    end_token_ids: list[int]
    size_bytes: int
    quantized_share: float | None
    rewards: Sequence[RewardFunctionConfig]
    functions: Sequence[RewardFunction]
    reward_models: Sequence[RewardModel]


class _Preferences(NamedTuple):
    accuracy: float | None
    margin: float | None


def evaluate_model(
    config: EvaluateConfig,
    model_config: ModelConfig,
    model_directory: Path,
    rows: pd.DataFrame,
    tokenizer_directory: Path,
    end_token_ids: list[int],
    rewards: Sequence[RewardFunctionConfig] = (),
    reward_models: Sequence[Path] = (),
) -> Evaluation:
    """Return the scores of the model on `rows` (as the tokenize stage wrote them), and its answers.

    A language model has loss and perplexity on wanted answers, measures of its greedy answers (`OF_ANSWERS`), and the
    mean reward that these answers get from `rewards` and from the models in the directories `reward_models`. A language
    model and a reward model both have preference accuracy and margin, where rows hold preferences.

    Answers end at one of `end_token_ids` or of the model's own end tokens, where a saved model stops too.

    Rows whose column `dataset` is `held-out` are scored together; those of every other value are a further set, scored
    by itself.

    Raises:
        ModelError: the model cannot be loaded, its loss or a score is not a number, or a reward model has another
            vocabulary.
        ConfigError: a reward function cannot be used.
        DataError: no held-out row is left.
    """
    quiet_libraries()
    held_out = rows[rows.dataset == HELD_OUT].reset_index(drop=True)
    names = [name for name in dict.fromkeys(rows.dataset) if name != HELD_OUT]
    others = [rows[rows.dataset == name].reset_index(drop=True) for name in names]
    if held_out.empty:
        raise DataError("no held-out row is left: all are longer than tokenize.max_length; raise it")
    tokenizer = load_tokenizer(tokenizer_directory, model_config.trust_remote_code)
    is_reward = is_reward_model(model_directory)
    load = load_reward_model if is_reward else load_model
    with doing("loading the model"), counted_loading("load"):
        model = load(model_config, model_directory)
    make_room(model, model_config, model_directory, len(tokenizer))
    subject = _Subject(
        config,
        model_config.name,
        model.to(device()).eval(),  # type: ignore[arg-type]
        is_reward,
        tokenizer,
        # the base is asked to stop where the tuned model is, and at its own end tokens
        end_token_ids if is_reward else end_tokens(model, tokenizer, end_token_ids),
        weights_size(model_directory),
        quantized_share(model),
        rewards,
        reward_functions(rewards),
        [] if is_reward else load_reward_models(model_config, reward_models, tokenizer),
    )
    scores, predictions = _score(subject, held_out)
    further = []
    for name, rows_of_set in zip(names, others, strict=True):
        say(f"evaluation set {name}, {len(rows_of_set):,} rows", "evaluate")
        further.append(SetScores(name=name, scores=_score(subject, rows_of_set)[0]))
    parity = None
    if not is_reward and (model_directory / PARITY_FILE).is_file():
        with doing("comparing with the weights as training held them"):
            parity = compare(model, model_directory / PARITY_FILE)
    return Evaluation(scores=scores, predictions=predictions, others=further, parity=parity)


def _score(subject: _Subject, tokens: pd.DataFrame) -> tuple[Scores, list[Prediction]]:
    rows = with_preferences(tokens)
    if subject.is_reward_model:
        preferences = _score_preferences(subject, rows)
        return _reward_model_scores(subject, preferences), []
    counted = [np.asarray(labels) != IGNORED for labels in rows.labels]
    values, preferences = _likelihood_preferences(subject, rows, counted)
    wanted = np.flatnonzero(rows.is_wanted).tolist()
    loss, num_tokens = mean_loss([values[row] for row in wanted], [counted[row] for row in wanted])
    row_losses = [-float(values[row][1:][counted[row][1:]].sum(dtype=np.float64)) for row in wanted]
    if loss is not None and not math.isfinite(loss):
        raise ModelError(f"{subject.name}: the held-out loss is {loss}; its weights are damaged or diverged")
    asked = _evenly_spaced(rows[rows.is_wanted & (rows.prompt_length > 0)], subject.config.generate_rows)
    answers = generate_answers(subject.model, subject.tokenizer, asked, subject.config, subject.end_token_ids)
    texts, expected = [answer.text for answer in answers], list(asked.expected)
    predictions = [
        Prediction(
            row_id=row.row_id, prompt=row.prompt, expected=row.expected, answer=answer.text, reasoning=answer.reasoning
        )
        for row, answer in zip(asked.itertuples(), answers, strict=True)
    ]
    scores = Scores(
        eval_loss=loss,
        perplexity=None if loss is None else math.exp(min(loss, 700.0)),
        preference_accuracy=preferences.accuracy,
        preference_margin=preferences.margin,
        mean_reward=_mean_reward(subject, asked, answers),
        **{name: score(texts, expected) for name, score in OF_ANSWERS.items()},
        row_losses=spaced(row_losses),
        loss_rows=len(wanted),
        loss_tokens=num_tokens,
        generated_rows=len(asked),
        size_bytes=subject.size_bytes,
        quantized_share=subject.quantized_share,
    )
    return scores, predictions


def _reward_model_scores(subject: _Subject, preferences: _Preferences) -> Scores:
    measured = {"preference_accuracy": preferences.accuracy, "preference_margin": preferences.margin}
    return Scores(
        **{**dict.fromkeys(MEASURES), **measured},
        loss_rows=0,
        loss_tokens=0,
        generated_rows=0,
        size_bytes=subject.size_bytes,
        quantized_share=subject.quantized_share,
    )


def _likelihood_preferences(
    subject: _Subject, rows: pd.DataFrame, counted: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], _Preferences]:
    """Return the log-probabilities of all rows' trained tokens, [seq] a row, and a language model's preferences.

    In a pair, an answer's value is the sum of log p over its tokens, the end token included. Without pairs, the margin
    is the mean log p of a token over all wanted answers, minus that over all unwanted ones.
    """
    tokenizer, model, size = subject.tokenizer, subject.model, subject.config.rows_per_pass
    sequences, masks = [list(ids) for ids in rows.input_ids], list(counted)
    with_rejected = [row for row, ids in enumerate(rows.rejected_ids) if ids]
    for row in with_rejected:
        prompt = int(rows.prompt_length[row])
        sequences.append(sequences[row][:prompt] + rows.rejected_ids[row])
        masks.append(_mask_from(prompt, len(sequences[-1])))
        # the whole chosen answer counts for the preference, also where the loss counts only some of it
        masks[row] = counted[row] | _mask_from(prompt, len(sequences[row]))
    values = token_log_probabilities(model, sequences, masks, tokenizer.pad_token_id, size)
    sums = [
        float(value[int(rows.prompt_length[row]) :].sum(dtype=np.float64))
        for row, value in zip([*range(len(rows)), *with_rejected], values, strict=True)
    ]
    pairs = [(row, len(rows) + number) for number, row in enumerate(with_rejected)] or paired_rows(rows)
    if pairs:
        return values[: len(rows)], _of_pairs(
            [sums[first] for first, _ in pairs], [sums[second] for _, second in pairs]
        )
    groups = [np.flatnonzero(rows.is_wanted == kind).tolist() for kind in (True, False)]
    losses = [mean_loss([values[row] for row in group], [counted[row] for row in group])[0] for group in groups]
    margin = None if losses[0] is None or losses[1] is None else losses[1] - losses[0]
    return values[: len(rows)], _Preferences(None, margin)


def _score_preferences(subject: _Subject, rows: pd.DataFrame) -> _Preferences:
    """Return a reward model's preferences; without pairs, the margin is that of the mean scores of rows."""
    scorer = RewardModel(subject.model, subject.tokenizer, subject.config.rows_per_pass)
    prompts = [list(ids)[:length] for ids, length in zip(rows.input_ids, rows.prompt_length, strict=True)]
    answers = [list(ids)[length:] for ids, length in zip(rows.input_ids, rows.prompt_length, strict=True)]
    with_rejected = [row for row, ids in enumerate(rows.rejected_ids) if ids]
    asked = [*prompts, *(prompts[row] for row in with_rejected)]
    with doing(f"scoring {len(asked):,} sequences"):
        scores = scorer.score(asked, [*answers, *(rows.rejected_ids[row] for row in with_rejected)])
    pairs = [(row, len(rows) + number) for number, row in enumerate(with_rejected)] or paired_rows(rows)
    if pairs:
        return _of_pairs([scores[first] for first, _ in pairs], [scores[second] for _, second in pairs])
    wanted, unwanted = (
        [score for score, is_wanted in zip(scores, rows.is_wanted, strict=True) if is_wanted == kind]
        for kind in (True, False)
    )
    return _Preferences(None, mean(wanted) - mean(unwanted) if wanted and unwanted else None)


def _of_pairs(chosen: list[float], rejected: list[float]) -> _Preferences:
    return _Preferences(preference_accuracy(chosen, rejected), preference_margin(chosen, rejected))


def _mean_reward(subject: _Subject, asked: pd.DataFrame, answers: list[Answer]) -> float | None:
    """Return the mean of an answer's weighted rewards plus the reward models' scores; None without any of them."""
    if not answers or not (subject.functions or subject.reward_models):
        return None
    with doing(f"rewarding {len(answers):,} answers"):
        rewards = total_reward(
            subject.rewards,
            subject.functions,
            list(asked.prompt),
            [answer.whole_text for answer in answers],
            list(asked.expected),
        )
    prompts = [list(ids)[:length] for ids, length in zip(asked.input_ids, asked.prompt_length, strict=True)]
    for scorer in subject.reward_models:
        with doing(f"scoring {len(answers):,} answers by a reward model"):
            scores = scorer.score(prompts, [answer.ids for answer in answers])
        rewards = [reward + score for reward, score in zip(rewards, scores, strict=True)]
    return mean(rewards)


def _mask_from(start: int, length: int) -> np.ndarray:
    """Return [length] bool: True from `start` on."""
    return np.arange(length) >= start


def _evenly_spaced(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return `number` of `rows` at even distances, so that every source is represented."""
    chosen = np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)
    return rows.iloc[chosen]
