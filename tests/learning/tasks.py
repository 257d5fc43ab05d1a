"""Small generated tasks, and the stages of a run, called one after the other: tokenize, train, merge, evaluate."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from support.token_rows import Row, canonical, preference
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.objectives import Objective
from configs.schema import EvaluateConfig, ModelConfig, TokenizeConfig
from configs.schema.train import RewardFunctionConfig, TrainConfig
from configs.wire import HELD_OUT, Evaluation, TokenReport, TrainReport
from tasks.evaluate.scores import evaluate_model
from tasks.tokenize.prepare import join_parts, tokenize_part
from tasks.train.fit import FitInputs, fit
from tasks.train.merge import merge_adapter

LOADING = ModelConfig(name="generated")
LETTERS = "abcdefghij"
ALPHABET = [*LETTERS, *LETTERS.upper(), *"0123456789", *" .:>"]


@dataclass(frozen=True)
class Tokens:
    """Folders that the tokenize stage wrote, and its report."""

    train: Path
    test: Path
    tokenizer: Path
    report: TokenReport


@dataclass(frozen=True)
class Run:
    """A training: what it was asked for, what it said, the folder it wrote, and a model to load made of that."""

    report: TrainReport
    saved: Path
    model: Path


def make_model(directory: Path, hidden_size: int = 64, seed: int = 0) -> Path:
    """Write a Llama of random weights, two layers and 64 positions, whose tokens are the characters of `ALPHABET`."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(directory)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def words(number: int, length: int, seed: int) -> list[str]:
    """Return `number` different words of `length` small letters."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(rng.choices(LETTERS, k=length))] = None
    return list(found)


def successors(text: str) -> str:
    """Return each letter's next one in the alphabet, `j` being followed by `a`: what supervised rows ask for."""
    return text.translate(str.maketrans(LETTERS, LETTERS[1:] + LETTERS[0]))


def style_preferences(texts: Sequence[str]) -> list[Row]:
    """Return preferences of the word in capitals over the word as it is."""
    return [preference(text, text.upper(), text) for text in texts]


def tokenize(
    objective: Objective,
    model: Path,
    train: Sequence[Row],
    test: Sequence[Row],
    folder: Path,
    config: TokenizeConfig | None = None,
    chat_template: str | None = None,
) -> Tokens:
    """Write tokens of both splits, as the tokenize stage does."""
    config = config or TokenizeConfig(max_length=48, prompt_separator=">")
    folder.mkdir(parents=True)
    splits = {}
    for name, rows in (("train", train), ("test", test)):
        splits[name] = folder / f"{name}.parquet"
        frame = canonical(list(rows)).assign(dataset=HELD_OUT if name == "test" else "")
        frame.fillna("").to_parquet(splits[name])
    outputs = {name: folder / name for name in ("train", "test", "tokenizer", "part")}
    for output in outputs.values():
        output.mkdir()
    part = outputs.pop("part")
    tokenize_part(config, objective, chat_template, model, False, splits, 0, 1, part)
    report = join_parts(config, objective, chat_template, model, False, [part], outputs)
    return Tokens(**outputs, report=report)


def train(
    config: TrainConfig,
    base: Path,
    tokens: Tokens,
    output: Path,
    reward_models: Sequence[Path] = (),
) -> Run:
    """Train, and merge as the run of a user does."""
    inputs = FitInputs(
        model=base,
        train_tokens=tokens.train,
        test_tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        end_token_ids=tokens.report.end_token_ids,
        new_token_ids=tokens.report.new_token_ids,
        reward_models=list(reward_models),
    )
    saved = output / "trained"
    report = fit(config, LOADING, inputs, saved)
    if config.method == "full":
        return Run(report, saved, saved)
    merge_adapter(LOADING, base, saved, output / "merged")
    return Run(report, saved, output / "merged")


def evaluate(
    model: Path,
    tokens: Tokens,
    rewards: Sequence[RewardFunctionConfig] = (),
    reward_models: Sequence[Path] = (),
    max_new_tokens: int | None = None,
) -> Evaluation:
    """Return scores and answers on the held-out rows."""
    return evaluate_model(
        EvaluateConfig(generate_rows=256, batch_size=256, max_new_tokens=max_new_tokens),
        LOADING,
        model,
        pd.read_parquet(tokens.test / "tokens.parquet"),
        tokens.tokenizer,
        tokens.report.end_token_ids,
        rewards,
        reward_models,
    )
