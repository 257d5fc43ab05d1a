"""Each objective learns what it is for, seen on held-out rows of a generated task. `-s` shows the numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from learning.tasks import (
    LETTERS,
    LOADING,
    Run,
    Tokens,
    evaluate,
    style_preferences,
    successors,
    tokenize,
    train,
    words,
)

from configs.objectives import Objective
from configs.schema.train import RewardFunctionConfig, TrainConfig
from tasks.models.load import load_model, load_tokenizer

WORDS = words(712, 4, seed=2)
TRAIN, TEST = WORDS[:512], WORDS[512:]
STEPS = 24
CAPITALS = RewardFunctionConfig(kind="regex", pattern="^[A-J]+$")


def config_of(objective: Objective, **settings: Any) -> TrainConfig:
    defaults = {
        "objective": objective,
        "method": "full",
        "batch_size": 32,
        "micro_batch_size": 32,
        "learning_rate": 1e-3,
        "group_by_length": False,
        "watch": {"evaluations": 2},
    }
    return TrainConfig(**{**defaults, **settings})


def sampled(model: Path, tokens: Tokens) -> tuple[float, float]:
    """Return the shares of answers, sampled at temperature 1, that are in capitals, and that are also right."""
    rows = pd.read_parquet(tokens.test / "tokens.parquet").drop_duplicates("prompt")
    prompts = torch.tensor([list(ids[:n]) for ids, n in zip(rows.input_ids, rows.prompt_length, strict=True)])
    torch.manual_seed(0)
    with torch.no_grad():
        output = load_model(LOADING, model).generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, max_new_tokens=6
        )
    tokenizer = load_tokenizer(tokens.tokenizer)
    answers = tokenizer.batch_decode(output[:, prompts.shape[1] :], skip_special_tokens=True)
    right = [answer == prompt.upper() for prompt, answer in zip(rows.prompt, answers, strict=True)]
    return sum(answer.isupper() for answer in answers) / len(answers), sum(right) / len(right)


def show(what: str, **numbers: float | None) -> None:
    print(f"\n{what}: " + ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if value is not None))


def test_sft_raises_exact_match(blank: Path, tmp_path: Path) -> None:
    rows = [(text, successors(text)) for text in WORDS]
    tokens = tokenize("sft", blank, rows[:512], rows[512:], tmp_path / "tokens")
    run = train(config_of("sft", epochs=5, learning_rate=5e-3), blank, tokens, tmp_path)
    before, after = (evaluate(model, tokens).scores.exact_match for model in (blank, run.model))
    show("sft, exact match", before=before, after=after)
    assert before < 0.02
    assert after > 0.9


@pytest.mark.parametrize(
    ("objective", "settings"),
    # at higher rates or in more steps the margin goes on growing, and the chosen answers become less likely too
    [("dpo", {"epochs": 2}), ("kto", {"epochs": 1})],
)
def test_preferences_raise_the_margin_and_the_rate_of_the_chosen_style(
    objective: Objective, settings: dict[str, Any], copier: Path, tmp_path: Path
) -> None:
    rows = style_preferences(WORDS)
    tokens = tokenize(objective, copier, rows[:512], rows[512:], tmp_path / "tokens")
    run = train(config_of(objective, learning_rate=3e-4, **settings), copier, tokens, tmp_path)
    before, after = (evaluate(model, tokens).scores for model in (copier, run.model))
    (rate_before, _), (rate_after, right_after) = (sampled(model, tokens) for model in (copier, run.model))
    show(f"{objective}, margin", before=before.preference_margin, after=after.preference_margin)
    show(f"{objective}, rate of capitals", before=rate_before, after=rate_after, right_word=right_after)
    assert after.preference_margin > before.preference_margin + 2
    assert after.preference_accuracy > 0.95
    assert 0.3 < rate_before < 0.7
    assert rate_after > 0.9
    # the style has changed, and not the answer
    assert right_after > 0.85


@pytest.fixture(scope="module")
def judge(copier: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Tokens]:
    """A reward model that has learned to prefer capitals."""
    folder = tmp_path_factory.mktemp("judge")
    rows = style_preferences(WORDS)
    tokens = tokenize("reward", copier, rows[:512], rows[512:], folder / "tokens")
    return train(config_of("reward", epochs=2), copier, tokens, folder), tokens


def test_a_reward_model_prefers_the_chosen_answer_of_held_out_pairs(judge: tuple[Run, Tokens]) -> None:
    run, tokens = judge
    scores = evaluate(run.model, tokens).scores
    show("reward model", accuracy=scores.preference_accuracy, margin=scores.preference_margin)
    assert scores.preference_accuracy > 0.9
    assert scores.preference_margin > 0.5


def policy_run(
    objective: Objective, copier: Path, folder: Path, rewards: Sequence[dict[str, Any]], judges: Sequence[Path] = ()
) -> tuple[Run, Tokens]:
    rows = [(text, text.upper()) for text in WORDS]
    tokens = tokenize(objective, copier, rows[:512], rows[512:], folder / "tokens")
    policy = {"rewards": list(rewards), "max_new_tokens": 6}
    config = config_of(objective, batch_size=64, micro_batch_size=64, max_steps=STEPS, policy=policy, logging_steps=1)
    return train(config, copier, tokens, folder, judges), tokens


def assert_divergence_is_reported(run: Run) -> None:
    divergence = next(series for series in run.report.series if series.name == "kl")
    assert len(divergence.values) == STEPS
    assert all(math.isfinite(value) for value in divergence.values)
    # the policy begins as its reference, and moves away from it
    assert abs(divergence.values[0]) < 1e-4
    assert 0 < divergence.values[-1] < 10


@pytest.mark.parametrize(
    ("objective", "reward"),
    [("rloo", CAPITALS.model_dump()), ("grpo", CAPITALS.model_dump()), ("grpo", {"kind": "exact_match"})],
    ids=["rloo-regex", "grpo-regex", "grpo-exact_match"],
)
def test_a_policy_raises_the_mean_reward_of_a_function(
    objective: Objective, reward: dict[str, Any], copier: Path, tmp_path: Path
) -> None:
    run, tokens = policy_run(objective, copier, tmp_path, [reward])
    functions = [RewardFunctionConfig(**reward)]
    before, after = (evaluate(model, tokens, functions).scores.mean_reward for model in (copier, run.model))
    rates = [sampled(policy, tokens) for policy in (copier, run.model)]
    show(f"{objective}, mean reward of greedy answers", before=before, after=after)
    show(f"{objective}, sampled answers in capitals", before=rates[0][0], after=rates[1][0], right_word=rates[1][1])
    assert after > max(0.9, before)
    assert rates[0][0] < 0.7
    assert rates[1][0] > 0.9
    assert_divergence_is_reported(run)


def test_rloo_raises_the_mean_score_of_a_reward_model(copier: Path, judge: tuple[Run, Tokens], tmp_path: Path) -> None:
    model = judge[0].model
    run, tokens = policy_run("rloo", copier, tmp_path, [], [model])
    before, after = (evaluate(policy, tokens, [], [model]).scores.mean_reward for policy in (copier, run.model))
    rates = [sampled(policy, tokens) for policy in (copier, run.model)]
    show("rloo, mean score of greedy answers", before=before, after=after)
    show("rloo, sampled answers in capitals", before=rates[0][0], after=rates[1][0])
    assert after > before + 0.3
    assert rates[1][0] > 0.9
    assert_divergence_is_reported(run)


def chains(number: int, steps: tuple[int, int], seed: int) -> list[str]:
    """Return texts whose every letter is one of the two that `steps` allow after the one before: perplexity near 2."""
    rng = random.Random(seed)
    texts = []
    for _ in range(number):
        places = [rng.randrange(len(LETTERS))]
        while len(places) < 24:
            places.append((places[-1] + rng.choice(steps)) % len(LETTERS))
        texts.append("".join(LETTERS[place] for place in places))
    return texts


def test_cpt_lowers_the_perplexity_of_its_domain_and_raises_that_of_another(blank: Path, tmp_path: Path) -> None:
    domains = {name: chains(320, steps, seed=3) for name, steps in (("old", (1, 4)), ("new", (3, 8)))}
    tokens = {
        name: tokenize("cpt", blank, texts[:256], texts[256:], tmp_path / name) for name, texts in domains.items()
    }
    settings = {"epochs": 6, "learning_rate": 5e-3}
    base = train(config_of("cpt", **settings), blank, tokens["old"], tmp_path / "base").model
    tuned = train(config_of("cpt", **settings), base, tokens["new"], tmp_path / "tuned").model
    perplexity = {
        (domain, stage): evaluate(model, tokens[domain]).scores.perplexity
        for domain in domains
        for stage, model in (("before", base), ("after", tuned))
    }
    for domain in domains:
        show(
            f"cpt, perplexity of the {domain} domain",
            before=perplexity[domain, "before"],
            after=perplexity[domain, "after"],
        )
    assert perplexity["old", "before"] < 3
    assert perplexity["new", "before"] > 10
    assert perplexity["new", "after"] < 3
    # nothing of the old domain was among the rows: it is forgotten
    assert perplexity["old", "after"] > 2 * perplexity["old", "before"]
