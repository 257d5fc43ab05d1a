"""Preferences and rewards of answers, against values from one forward pass for each row alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from configs.errors import ModelError
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.train import RewardFunctionConfig
from configs.wire import Scores
from tasks.evaluate.preferences import gap_of_labels, values_of_pairs
from tasks.evaluate.scores import evaluate_model
from tasks.measures.measured import score
from tasks.models.generation import generate_answers
from tasks.models.load import load_model, load_tokenizer

MODEL = ModelConfig(name="tiny")


def token_rows(*rows: dict) -> pd.DataFrame:
    """Return token rows with a prompt of two tokens; all but `input_ids` may be left out."""
    return pd.DataFrame(
        [
            {
                "row_id": f"r:{n}",
                "labels": [-100, -100, *row["input_ids"][2:]],
                "prompt_length": 2,
                "prompt": "p",
                "expected": "e",
                "dataset": "held-out",
                "rejected_ids": [],
                "is_wanted": True,
                **row,
            }
            for n, row in enumerate(rows)
        ]
    )


def scores_of(directory: Path, rows: pd.DataFrame, tokenizer: Path, **options) -> Scores:
    config = EvaluateConfig(generate_rows=options.pop("generate_rows", 0), max_new_tokens=4, batch_size=3)
    return evaluate_model(config, MODEL, directory, rows, tokenizer, [1], **options).scores


def log_likelihood(model, ids: list[int], prompt_length: int = 2) -> float:
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits.double().log_softmax(-1)[0, -len(ids) :]
    return sum(log_probs[t - 1, ids[t]].item() for t in range(prompt_length, len(ids)))


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    return load_model(MODEL, tiny_model).eval()


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reward-model")
    torch.manual_seed(1)
    scorer = LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    scorer.config.pad_token_id = 0
    scorer.save_pretrained(directory)
    load_tokenizer(tiny_model).save_pretrained(directory)
    return directory


PAIRS = token_rows(
    {"input_ids": [5, 6, 7, 8, 1], "rejected_ids": [30, 31, 32, 33, 34, 1]},
    {"input_ids": [9, 10, 11, 1], "rejected_ids": [12, 1]},
    {"input_ids": [20, 21, 22, 23, 24, 25, 1], "rejected_ids": [26, 1]},
    # the same answer twice: half
    {"input_ids": [40, 41, 42, 1], "rejected_ids": [42, 1]},
)


def by_hand(value_of) -> tuple[float, float]:
    """Return accuracy and margin of `PAIRS`, each sequence alone."""
    chosen = [value_of(row.input_ids) for row in PAIRS.itertuples()]
    rejected = [value_of(row.input_ids[:2] + row.rejected_ids) for row in PAIRS.itertuples()]
    wins = sum(first > second for first, second in list(zip(chosen, rejected, strict=True))[:3])
    return (wins + 0.5) / 4, sum(chosen) / 4 - sum(rejected) / 4


def test_pairs_are_scored_by_the_likelihood_of_the_whole_answers(model, tiny_model: Path) -> None:
    scores = scores_of(tiny_model, PAIRS, tiny_model)
    accuracy, margin = by_hand(lambda ids: log_likelihood(model, ids))
    assert scores.preference_accuracy == accuracy
    assert scores.preference_margin == pytest.approx(margin, rel=1e-5)
    # the loss is that of the chosen answers: 3 + 2 + 5 + 2 tokens
    assert scores.loss_tokens == 12
    total = sum(log_likelihood(model, ids) for ids in PAIRS.input_ids)
    assert scores.eval_loss == pytest.approx(-total / 12, rel=1e-5)
    assert scores.mean_reward is None


def test_all_of_a_chosen_answer_counts_in_its_pair_whatever_is_trained(model, tiny_model: Path) -> None:
    rows = token_rows({"input_ids": [5, 6, 7, 8, 1], "labels": [-100, 6, -100, 8, 1], "rejected_ids": [9, 1]})
    scores = scores_of(tiny_model, rows, tiny_model)
    margin = log_likelihood(model, [5, 6, 7, 8, 1]) - log_likelihood(model, [5, 6, 9, 1])
    assert scores.preference_margin == pytest.approx(margin, rel=1e-5)
    assert scores.loss_tokens == 3


def test_unwanted_answers_are_in_no_loss_and_no_generation(model, tiny_model: Path) -> None:
    rows = token_rows(
        {"input_ids": [5, 6, 7, 8, 1]},
        {"input_ids": [9, 10, 11, 1], "is_wanted": False},
        {"input_ids": [12, 13, 14, 1]},
        {"input_ids": [15, 16, 17, 18, 19, 1], "is_wanted": False},
    )
    scores = scores_of(tiny_model, rows, tiny_model, generate_rows=4)
    wanted = (log_likelihood(model, [5, 6, 7, 8, 1]) + log_likelihood(model, [12, 13, 14, 1])) / 5
    unwanted = (log_likelihood(model, [9, 10, 11, 1]) + log_likelihood(model, [15, 16, 17, 18, 19, 1])) / 6
    assert (scores.loss_rows, scores.loss_tokens, scores.generated_rows) == (2, 5, 2)
    assert scores.eval_loss == pytest.approx(-wanted, rel=1e-5)
    assert scores.preference_accuracy is None
    assert scores.preference_margin == pytest.approx(wanted - unwanted, rel=1e-5)


def test_two_rows_of_one_preference_are_a_pair_again(model, tiny_model: Path) -> None:
    rows = token_rows(
        {"input_ids": [5, 6, 7, 8, 1], "row_id": "a:1#chosen"},
        {"input_ids": [5, 6, 9, 1], "row_id": "a:1#rejected", "is_wanted": False},
        {"input_ids": [5, 6, 10, 1], "row_id": "a:2#chosen"},
    )
    scores = scores_of(tiny_model, rows, tiny_model)
    margin = log_likelihood(model, [5, 6, 7, 8, 1]) - log_likelihood(model, [5, 6, 9, 1])
    assert scores.preference_accuracy == float(margin > 0)
    assert scores.preference_margin == pytest.approx(margin, rel=1e-5)


def test_rows_that_are_all_unwanted_have_no_loss(tiny_model: Path) -> None:
    scores = scores_of(tiny_model, token_rows({"input_ids": [5, 6, 7], "is_wanted": False}), tiny_model)
    assert (scores.eval_loss, scores.perplexity, scores.loss_rows, scores.preference_margin) == (None, None, 0, None)


def test_tables_without_the_columns_of_preferences_are_plain_answers(tiny_model: Path) -> None:
    rows = PAIRS.drop(columns=["rejected_ids", "is_wanted"])
    scores = scores_of(tiny_model, rows, tiny_model)
    assert scores.loss_rows == 4
    assert (scores.preference_accuracy, scores.preference_margin) == (None, None)


def test_token_files_are_read_back_as_they_were_written(tiny_model: Path, tmp_path: Path) -> None:
    PAIRS.to_parquet(tmp_path / "tokens.parquet")
    read = pd.read_parquet(tmp_path / "tokens.parquet")
    assert scores_of(tiny_model, read, tiny_model) == scores_of(tiny_model, PAIRS, tiny_model)


def test_a_reward_model_has_preferences_and_no_loss(tiny_model: Path, reward_model: Path) -> None:
    scorer = LlamaForSequenceClassification.from_pretrained(reward_model).eval()

    def score(ids: list[int]) -> float:
        with torch.no_grad():
            return scorer(torch.tensor([ids])).logits.item()

    evaluation = evaluate_model(EvaluateConfig(batch_size=3), MODEL, reward_model, PAIRS, tiny_model, [1])
    accuracy, margin = by_hand(score)
    scores = evaluation.scores
    assert scores.preference_accuracy == accuracy
    assert scores.preference_margin == pytest.approx(margin, abs=1e-6)
    assert (scores.eval_loss, scores.perplexity, scores.exact_match, scores.generated_rows) == (None, None, None, 0)
    assert scores.size_bytes > 0 and evaluation.predictions == []


def test_the_mean_reward_is_of_the_greedy_answers_with_their_end(model, tiny_model: Path, reward_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    rows = token_rows({"input_ids": [5, 6, 7, 8, 1]}, {"input_ids": [9, 10, 11, 1]}, {"input_ids": [60, 61, 62, 1]})
    answers = generate_answers(model, tokenizer, rows, EvaluateConfig(max_new_tokens=4), [1])
    rows = rows.assign(expected=[answers[0].text, "no", answers[2].text])
    scorer = LlamaForSequenceClassification.from_pretrained(reward_model).eval()
    with torch.no_grad():
        given = [
            scorer(torch.tensor([ids[:2] + answer.ids])).logits.item()
            for ids, answer in zip(rows.input_ids, answers, strict=True)
        ]
    rewards = [RewardFunctionConfig(kind="exact_match", weight=3.0)]
    options = {"rewards": rewards, "reward_models": [reward_model], "generate_rows": 3}
    both = scores_of(tiny_model, rows, tiny_model, **options).mean_reward
    # two of three match, at weight 3
    assert both == pytest.approx(2.0 + sum(given) / 3, abs=1e-5)
    assert scores_of(tiny_model, rows, tiny_model, rewards=rewards, generate_rows=3).mean_reward == pytest.approx(2.0)
    assert scores_of(tiny_model, rows, tiny_model, rewards=rewards, generate_rows=0).mean_reward is None


def test_a_reward_model_of_another_vocabulary_is_refused(tiny_model: Path, reward_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(reward_model, tmp_path / "other")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(other)
    tokenizer.add_tokens(["<|tool|>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ModelError, match="another vocabulary"):
        scores_of(tiny_model, PAIRS, tiny_model, reward_models=[other])
    tokenizer = load_tokenizer(reward_model)
    tokenizer.chat_template = "{{ messages }}"
    policy = tmp_path / "policy"
    tokenizer.save_pretrained(policy)
    tokenizer.chat_template = "{{ messages | length }}"
    tokenizer.save_pretrained(other := shutil.copytree(reward_model, tmp_path / "template"))
    with pytest.raises(ModelError, match="another chat template"):
        scores_of(tiny_model, PAIRS, policy, reward_models=[other])


def test_a_language_model_is_no_reward_model(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no reward model; train one with train\.objective=reward"):
        scores_of(tiny_model, PAIRS, tiny_model, reward_models=[tiny_model])


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_models_with_virtual_tokens_are_scored_and_answer_whatever_their_batch(
    kind, tiny_model: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_model, tmp_path / "model")
    torch.manual_seed(2)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    # as large as after training, so that a shift of positions changes answers
    for parameter in base.parameters():
        parameter.data *= 5 if parameter.dim() > 1 else 1
    base.save_pretrained(directory)
    tuned = get_peft_model(base, kind(task_type="CAUSAL_LM", num_virtual_tokens=7))
    for parameter in tuned.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    tuned.save_pretrained(directory / "adapter")
    tuned.eval()
    scores = scores_of(directory, PAIRS, tiny_model)
    accuracy, margin = by_hand(lambda ids: log_likelihood(tuned, ids))
    assert scores.preference_accuracy == accuracy
    assert scores.preference_margin == pytest.approx(margin, rel=1e-4)
    assert scores.eval_loss != pytest.approx(scores_of(tiny_model, PAIRS, tiny_model).eval_loss, rel=1e-3)

    tokenizer = load_tokenizer(tiny_model)
    rows = token_rows(*[{"input_ids": list(range(5, 9 + n)), "prompt_length": 3 + n} for n in range(4)] * 2)
    model = load_model(MODEL, directory).eval()
    alone = generate_answers(model, tokenizer, rows, EvaluateConfig(batch_size=1, max_new_tokens=5), [1])
    together = generate_answers(model, tokenizer, rows, EvaluateConfig(batch_size=8, max_new_tokens=5), [1])
    assert together == alone
    assert together[:4] == together[4:]
    # one token after another, without any cache
    ids = rows.input_ids[2][: rows.prompt_length[2]]
    with torch.no_grad():
        for _ in alone[2].ids:
            ids = [*ids, int(tuned(torch.tensor([ids])).logits[0, -1].argmax())]
    assert ids[rows.prompt_length[2] :] == alone[2].ids


def test_accuracy_and_margin_by_hand() -> None:
    chosen, rejected = [1.0, 2.0, 3.0, -1.0], [0.0, 2.0, 4.0, -2.0]
    found = values_of_pairs([*chosen, *rejected], [(place, place + 4) for place in range(4)], 5)
    # the last row is no chosen answer
    np.testing.assert_array_equal(found["preference_accuracy"].values, [1, 0.5, 0, 1, np.nan])
    np.testing.assert_array_equal(found["preference_margin"].values, [1, 0, -1, 1, np.nan])


def test_the_gap_of_labels_is_by_token() -> None:
    # wanted: (-2 - 4) / (1 + 2) = -2; unwanted: -9 / 3 = -3
    found = gap_of_labels(np.array([-2.0, -4.0, -9.0]), np.array([1.0, 2.0, 3.0]), np.array([True, True, False]))
    margin = found["preference_margin"]
    assert score(margin.sums.sum(axis=0), margin.reduction) == pytest.approx(1.0)
    assert gap_of_labels(np.array([-2.0]), np.array([1.0]), np.array([True])) == {}
