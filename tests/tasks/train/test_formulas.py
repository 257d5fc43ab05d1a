"""Losses, rewards and advantages are those of the papers, computed here from logits with nothing of TRL's."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.training_steps import Steps, seen_steps
from trl import GRPOTrainer, RLOOTrainer

from configs.schema import ModelConfig
from configs.wire import TrainReport
from tasks.models.load import load_model, load_reward_model, load_tokenizer

Ids = list[int]
# one batch of all eleven rows, in the order of the file, one step; weights move after the loss is taken
ONE_STEP = {"batch_size": 11, "micro_batch_size": 11, "max_steps": 1, "warmup_fraction": 0.0, "max_grad_norm": 1e9}


def log_prob(model: Any, prompt: Ids, answer: Ids) -> torch.Tensor:
    """Return log p(token | all before) of each answer token, [tokens], float64: the row alone, without padding."""
    logits = model(torch.tensor([prompt + answer])).logits[0].double()
    probabilities = logits.exp() / logits.exp().sum(-1, keepdim=True)
    positions = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack([probabilities[at, token].log() for at, token in zip(positions, answer, strict=True)])


def rows_of(tokens: Path) -> list[tuple[Ids, Ids, Ids, bool]]:
    """Return prompt, answer and rejected answer, and whether the answer is wanted."""
    table = pd.read_parquet(tokens / "tokens.parquet")
    return [
        (ids[:asked].tolist(), ids[asked:].tolist(), rejected.tolist(), bool(wanted))
        for ids, asked, rejected, wanted in zip(
            table.input_ids, table.prompt_length, table.rejected_ids, table.is_wanted, strict=True
        )
    ]


@pytest.fixture
def reference(tiny_model: Path) -> Any:
    return load_model(ModelConfig(name="tiny"), tiny_model).eval()


def one_step(train: Any, noise: float = 0.1, **settings: Any) -> tuple[Steps, dict[str, float]]:
    """Return a step of a policy that is not its reference, and what the report says of it."""
    with seen_steps(noise) as seen:
        report, _ = train("out", **{**ONE_STEP, **settings})
    return seen, series_at_first_step(report)


def with_weights(model: Any, seen: Steps) -> Any:
    """Return a copy of `model`, as transformers has it and not as TRL changes it, with the step's first weights."""
    policy = copy.deepcopy(model)
    policy.load_state_dict(seen.weights)
    return policy


def series_at_first_step(report: TrainReport) -> dict[str, float]:
    return {series.name: series.values[0] for series in report.series if series.steps[0] == 1}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_sigmoid(chosen: float, rejected: float, beta: float, lengths: tuple[int, int]) -> float:
    """Rafailov et al. 2023, equation 7."""
    return -math.log(sigmoid(beta * chosen - beta * rejected))


def by_hinge(chosen: float, rejected: float, beta: float, lengths: tuple[int, int]) -> float:
    """Zhao et al. 2023, section 2.3."""
    return max(0.0, 1 - beta * (chosen - rejected))


def by_ipo(chosen: float, rejected: float, beta: float, lengths: tuple[int, int]) -> float:
    """Azar et al. 2023, equation 17, of means over tokens, as its authors have it."""
    return (chosen / lengths[0] - rejected / lengths[1] - 1 / (2 * beta)) ** 2


def by_robust(chosen: float, rejected: float, beta: float, lengths: tuple[int, int]) -> float:
    """Chowdhury et al. 2024, equation 9, where 0.2 of the preferences are wrong."""
    margin = beta * (chosen - rejected)
    return (-0.8 * math.log(sigmoid(margin)) + 0.2 * math.log(sigmoid(-margin))) / (1 - 2 * 0.2)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(
    ("loss", "formula", "more"),
    [
        ("sigmoid", by_sigmoid, {}),
        ("hinge", by_hinge, {}),
        ("ipo", by_ipo, {}),
        ("robust", by_robust, {"label_smoothing": 0.2}),
    ],
)
def test_dpo_is_the_formula_over_log_probabilities(
    loss: str, formula: Callable[..., float], more: dict, beta: float, train: Any, answers: Path, reference: Any
) -> None:
    seen, series = one_step(train, objective="dpo", dpo={"beta": beta, "loss": loss, **more})
    policy = with_weights(reference, seen)
    losses, rewards = [], []
    for prompt, chosen, rejected, _ in rows_of(answers):
        with torch.no_grad():
            ratios = [
                float(log_prob(policy, prompt, answer).sum() - log_prob(reference, prompt, answer).sum())
                for answer in (chosen, rejected)
            ]
        losses.append(formula(*ratios, beta, (len(chosen), len(rejected))))
        rewards.append([beta * ratio for ratio in ratios])
    # the policy is another model than its reference, row by row
    assert max(abs(chosen - rejected) for chosen, rejected in rewards) > 0.05
    assert seen.losses == [pytest.approx(sum(losses) / 11, rel=1e-5)]
    of_chosen, of_rejected = (sum(column) / 11 for column in zip(*rewards, strict=True))
    assert series["rewards/chosen"] == pytest.approx(of_chosen, rel=1e-4, abs=1e-5)
    assert series["rewards/rejected"] == pytest.approx(of_rejected, rel=1e-4, abs=1e-5)
    assert series["rewards/margins"] == pytest.approx(of_chosen - of_rejected, rel=1e-4, abs=1e-5)
    assert series["rewards/accuracies"] == pytest.approx(sum(c > r for c, r in rewards) / 11)


def test_dpo_with_sft_adds_the_chosen_answers_negative_log_likelihood(
    train: Any, answers: Path, reference: Any
) -> None:
    plain, _ = one_step(train, objective="dpo")
    added, _ = one_step(train, objective="dpo", dpo={"sft_weight": 0.5})
    policy = with_weights(reference, plain)
    with torch.no_grad():
        tokens = torch.cat([log_prob(policy, prompt, chosen) for prompt, chosen, _, _ in rows_of(answers)])
    assert added.losses[0] == pytest.approx(plain.losses[0] - 0.5 * float(tokens.mean()), rel=1e-5)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_kto_is_the_formula_over_log_probabilities(loss: str, train: Any, answers: Path, reference: Any) -> None:
    kto = {"loss": loss, "beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    # with more noise these answers are less likely than before, and the estimate is 0
    seen, series = one_step(train, noise=0.01, objective="kto", kto=kto, group_by_length=False)
    policy = with_weights(reference, seen)
    # the KL divergence is taken of each prompt with the answer of the row before it in the batch
    rows = [rows_of(answers)[number] for number in seen.steps[0].rows]

    def ratio(prompt: Ids, answer: Ids) -> float:
        with torch.no_grad():
            return float(log_prob(policy, prompt, answer).sum() - log_prob(reference, prompt, answer).sum())

    others = [rows[number - 1][1] for number in range(11)]
    divergence = max(0.0, sum(ratio(row[0], other) for row, other in zip(rows, others, strict=True)) / 11)
    assert divergence > 0.05, "a divergence of 0 would not show that it is in the loss"
    tie = divergence if loss == "kto" else 0.0
    # Ethayarajh et al. 2024, equation 7: a wanted answer's value is sigmoid(r - z), an unwanted one's sigmoid(z - r)
    losses = [
        1.5 * (1 - sigmoid(0.5 * (ratio(prompt, answer) - tie)))
        if is_wanted
        else 0.7 * (1 - sigmoid(0.5 * (tie - ratio(prompt, answer))))
        for prompt, answer, _, is_wanted in rows
    ]
    assert seen.losses == [pytest.approx(sum(losses) / 11, rel=1e-5)]
    wanted = [0.5 * ratio(row[0], row[1]) for row in rows if row[3]]
    assert series["rewards/chosen"] == pytest.approx(sum(wanted) / len(wanted), rel=1e-4, abs=1e-5)
    if loss == "kto":
        assert series["kl"] == pytest.approx(divergence, rel=1e-4)


@pytest.mark.parametrize("center", [None, 0.3])
def test_a_reward_models_loss_is_bradley_terry(
    center: float | None, train: Any, answers: Path, tiny_model: Path
) -> None:
    seen, series = one_step(train, objective="reward", reward={"center_coefficient": center})
    model = with_weights(load_reward_model(ModelConfig(name="tiny"), tiny_model, new_head=True).eval(), seen)
    model.config.pad_token_id = 0
    losses, margins = [], []
    for prompt, chosen, rejected, _ in rows_of(answers):
        with torch.no_grad():
            one, other = (float(model(torch.tensor([prompt + answer])).logits) for answer in (chosen, rejected))
        losses.append(-math.log(sigmoid(one - other)) + (center or 0.0) * (one + other) ** 2)
        margins.append(one - other)
    assert max(map(abs, margins)) > 0.05
    assert seen.losses == [pytest.approx(sum(losses) / 11, rel=1e-5)]
    assert series["margin"] == pytest.approx(sum(margins) / 11, rel=1e-4, abs=1e-6)
    assert series["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 11)


BETA = 0.2
POLICY = {
    "kl_coefficient": BETA,
    "num_generations": 4,
    "max_new_tokens": 6,
    "rewards": [
        {"kind": "regex", "pattern": "[a-m]", "weight": 2.0},
        {"kind": "regex", "pattern": "[0-9]", "weight": -1.0},
    ],
}


def generated(trainer: type, train: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, Steps, dict[str, float]]:
    """Return what one step's answers were and were worth, as TRL has it; the step; and what the report says."""
    batches: list[dict[str, Any]] = []
    generate = trainer._generate_and_score_completions

    def note(self: Any, inputs: Any) -> dict[str, Any]:
        batches.append(generate(self, inputs))
        return dict(batches[-1])

    monkeypatch.setattr(trainer, "_generate_and_score_completions", note)
    objective = "rloo" if trainer is RLOOTrainer else "grpo"
    seen, series = one_step(train, objective=objective, policy=POLICY, batch_size=16, micro_batch_size=16)
    (batch,) = batches
    return batch, seen, series


def answers_of(batch: dict[str, torch.Tensor]) -> list[tuple[Ids, Ids]]:
    return [
        (prompt[prompt_mask.bool()].tolist(), answer[answer_mask.bool()].tolist())
        for prompt, prompt_mask, answer, answer_mask in zip(
            batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"], strict=True
        )
    ]


def reward_of(text: str) -> float:
    return 2.0 * bool(re.search("[a-m]", text)) - 1.0 * bool(re.search("[0-9]", text))


def assert_gradients_of(loss: torch.Tensor, policy: Any, seen: Steps) -> None:
    loss.backward()
    largest = max(float(gradient.abs().max()) for gradient in seen.steps[0].gradients.values())
    assert largest > 1e-3
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(
            seen.steps[0].gradients[name], parameter.grad, atol=1e-5 * largest, rtol=1e-4, msg=name
        )


def test_rloo_compares_an_answer_with_the_mean_of_the_others(
    train: Any, reference: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahmadian et al. 2024, section 2: R(y) = r - beta log(p / p_ref); advantage: R less the mean of the others'."""
    batch, seen, series = generated(RLOOTrainer, train, monkeypatch)
    policy, tokenizer = with_weights(reference, seen), load_tokenizer(tiny_model)
    rows = answers_of(batch)
    rewards, divergences, likelihoods = [], [], []
    for prompt, answer in rows:
        likelihoods.append(log_prob(policy, prompt, answer).sum())
        with torch.no_grad():
            divergences.append(float(likelihoods[-1] - log_prob(reference, prompt, answer).sum()))
        rewards.append(reward_of(tokenizer.decode(answer, skip_special_tokens=True)))
    assert len(set(rewards)) > 1 and max(map(abs, divergences)) > 0.1
    advantages = []
    for start in range(0, 16, 4):
        assert len({tuple(prompt) for prompt, _ in rows[start : start + 4]}) == 1
        values = [rewards[n] - BETA * divergences[n] for n in range(start, start + 4)]
        advantages += [value - (sum(values) - value) / 3 for value in values]
    assert batch["advantages"].tolist() == pytest.approx(advantages, rel=1e-3, abs=1e-4)
    assert series["reward"] == pytest.approx(sum(rewards) / 16)
    assert series["kl"] == pytest.approx(sum(divergences) / sum(len(answer) for _, answer in rows), rel=1e-3)
    # the gradient of REINFORCE
    assert_gradients_of(-torch.stack(likelihoods) @ torch.tensor(advantages).double() / 16, policy, seen)


def test_grpo_scales_an_answer_by_its_groups_spread(
    train: Any, reference: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shao et al. 2024, equations 3 and 4; the mean over the tokens of all answers of Yu et al. 2025; and the KL
    divergence weighted by the policy's ratio, of DeepSeek-V3.2 (https://arxiv.org/abs/2512.02556)."""
    batch, seen, series = generated(GRPOTrainer, train, monkeypatch)
    policy, tokenizer = with_weights(reference, seen), load_tokenizer(tiny_model)
    rows = answers_of(batch)
    rewards = [reward_of(tokenizer.decode(answer, skip_special_tokens=True)) for _, answer in rows]
    advantages: list[float] = []
    for start in range(0, 16, 4):
        group = torch.tensor(rewards[start : start + 4], dtype=torch.float64)
        advantages += ((group - group.mean()) / (group.std() + 1e-4)).tolist()
    assert len(set(advantages)) > 1
    assert batch["advantages"].tolist() == pytest.approx(advantages, rel=1e-4, abs=1e-5)
    terms, divergences = [], []
    for (prompt, answer), advantage in zip(rows, advantages, strict=True):
        likelihoods = log_prob(policy, prompt, answer)
        with torch.no_grad():
            of_reference = log_prob(reference, prompt, answer)
        change = of_reference - likelihoods
        divergence = change.exp() - change - 1
        divergences.append(divergence.detach())
        # the policy's ratio to itself is 1, and its gradient that of the log-likelihood
        ratio = (likelihoods - likelihoods.detach()).exp()
        terms.append(ratio * (BETA * divergence - advantage))
    loss = torch.cat(terms).mean()
    assert seen.losses == [pytest.approx(loss.item(), rel=1e-4)]
    assert series["kl"] == pytest.approx(float(torch.cat(divergences).mean()), rel=1e-4)
    assert_gradients_of(loss, policy, seen)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_an_untouched_policy_has_no_divergence_from_its_reference(objective: str, method: str, train: Any) -> None:
    report, _ = train(
        "out", **ONE_STEP | {"batch_size": 8, "micro_batch_size": 8}, objective=objective, method=method, policy=POLICY
    )
    assert series_at_first_step(report)["kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_untouched_policy_prefers_nothing(method: str, train: Any) -> None:
    report, _ = train("dpo", **ONE_STEP, objective="dpo", method=method)
    series = series_at_first_step(report)
    assert report.curve[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert [series[f"rewards/{name}"] for name in ("chosen", "rejected", "margins")] == pytest.approx([0] * 3, abs=1e-6)
    report, _ = train("kto", **ONE_STEP, objective="kto", method=method)
    assert series_at_first_step(report)["kl"] == pytest.approx(0.0, abs=1e-6)
    # sigmoid(0) for every row
    assert report.curve[0].loss == pytest.approx(0.5, abs=1e-6)
