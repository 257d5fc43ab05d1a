"""Scores against values worked out by hand or by another path through the library."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from configs.errors import DataError
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.evaluate import RetainedConfig
from configs.schema.train import RewardFunctionConfig
from configs.wire import Evaluation
from tasks.evaluate.likelihood import IGNORED, mean_loss, token_log_probabilities
from tasks.evaluate.scores import evaluate_model, score_line
from tasks.models.generation import Answer, generate_answers
from tasks.models.load import load_model, load_tokenizer


def rows_of(*rows: tuple[list[int], int]) -> pd.DataFrame:
    """Return token rows of (ids, length of the prompt)."""
    return pd.DataFrame(
        [
            {
                "row_id": f"r:{n}",
                "input_ids": ids,
                "labels": [-100] * prompt + ids[prompt:],
                "prompt_length": prompt,
                "prompt": "p",
                "expected": "e",
                "dataset": "held-out",
            }
            for n, (ids, prompt) in enumerate(rows)
        ]
    )


def held_out_loss(
    model: PreTrainedModel, rows: pd.DataFrame, pad_token_id: int, batch_size: int
) -> tuple[float | None, int]:
    """Return the mean over the trained tokens of `rows`, and their number, as the stage takes it of its own rows."""
    counted = [np.asarray(labels) != IGNORED for labels in rows.labels]
    values = token_log_probabilities(model, list(rows.input_ids), counted, pad_token_id, batch_size)
    return mean_loss(values, counted)


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    return load_model(ModelConfig(name="tiny"), tiny_model).eval()


def test_loss_is_the_mean_over_completion_tokens_of_all_rows(model) -> None:
    rows = rows_of(([5, 6, 7, 8, 9], 3), ([9, 10, 11], 1), ([20, 21, 22, 23, 24, 25, 26], 2))
    negative_log_likelihoods = []
    for ids, prompt in zip(rows.input_ids, rows.prompt_length, strict=True):
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
        negative_log_likelihoods += [-log_probs[t - 1, ids[t]].item() for t in range(prompt, len(ids))]
    assert len(negative_log_likelihoods) == 2 + 2 + 5
    for batch_size in (1, 2, 3):
        loss, count = held_out_loss(model, rows, pad_token_id=0, batch_size=batch_size)
        assert count == 9
        assert loss == pytest.approx(sum(negative_log_likelihoods) / 9, rel=1e-5)


def test_the_head_sees_only_the_places_that_are_asked_for(model) -> None:
    seen: list[tuple[int, ...]] = []
    handle = model.lm_head.register_forward_hook(lambda module, given, logits: seen.append(tuple(logits.shape)))
    held_out_loss(model, rows_of((list(range(5, 205)), 197), ([5, 6, 7], 1)), 0, 2)
    handle.remove()
    # 3 answer tokens of 200, and 2 of 3; the vocabulary is 258
    assert seen == [(1, 5, 258)]


def test_logits_are_capped_as_the_model_does_it() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
        num_key_value_heads=2, final_logit_softcapping=0.05, attn_implementation="eager",
    )  # fmt: skip
    capped = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        log_probs = capped(torch.tensor([[5, 6, 7, 8]])).logits.log_softmax(-1)[0]
    by_hand = -(log_probs[1, 7] + log_probs[2, 8]).item() / 2
    assert held_out_loss(capped, rows_of(([5, 6, 7, 8], 2)), 0, 1)[0] == pytest.approx(by_hand, rel=1e-6)


def test_rows_whose_logits_do_not_fit_together_are_passed_apart(model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(*[([5, 6, 7, 8, 9], 1)] * 6)
    whole = held_out_loss(model, rows, 0, 6)
    seen: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda module, given, logits: seen.append(logits.shape[1]))
    # room for the 4 answer tokens of two rows, and not of three
    monkeypatch.setattr("tasks.evaluate.likelihood._MOST_LOGITS", 258 * 9)
    assert held_out_loss(model, rows, 0, 6) == (pytest.approx(whole[0]), 24)
    handle.remove()
    assert seen == [8, 8, 8]


def test_a_loss_of_no_token_is_none(model) -> None:
    assert held_out_loss(model, rows_of(([5, 6, 7], 3)), 0, 4) == (None, 0)


def test_a_first_token_is_never_counted(model) -> None:
    assert held_out_loss(model, rows_of(([5, 6, 7], 0)), 0, 4)[1] == 2


def test_answers_do_not_depend_on_the_batch(model, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    rows = rows_of(*[(list(range(5, 8 + 3 * n)), 3 + 3 * n - 1) for n in range(1, 6)])
    alone = EvaluateConfig(batch_size=1, max_new_tokens=5)
    together = EvaluateConfig(batch_size=5, max_new_tokens=5)
    answers = generate_answers(model, tokenizer, rows, alone, [1])
    assert answers == generate_answers(model, tokenizer, rows, together, [1])
    assert len(answers) == 5


def test_answers_end_where_the_models_positions_end(tiny_model: Path) -> None:
    # learned positions, as in GPT-2: one token beyond the last is an index error, not a worse answer
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    short = GPT2LMHeadModel(GPT2Config(vocab_size=258, n_positions=16, n_embd=8, n_layer=1, n_head=1)).eval()
    rows = rows_of(*[(list(range(5, 5 + length)), length - 1) for length in (4, 8, 15, 16)])
    config = EvaluateConfig(max_new_tokens=10)
    answers = generate_answers(short, load_tokenizer(tiny_model), rows, config, [1])
    assert len(answers) == 4
    assert [len(answer.text) > 0 for answer in answers] == [True] * 4
    assert [len(answer.ids) for answer in answers] == [10, 9, 2, 1]


def test_generation_stops_at_the_end_token(model, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    rows = rows_of(([5, 6, 7, 8], 3))
    config = EvaluateConfig(max_new_tokens=6)
    ids = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=6, do_sample=False, eos_token_id=999, pad_token_id=0)
    third = int(ids[0, 5])
    first_place = ids[0, 3:].tolist().index(third)
    answer = generate_answers(model, tokenizer, rows, config, [third])[0]
    assert answer.ids == ids[0, 3 : 3 + first_place + 1].tolist()
    assert answer.text == tokenizer.decode(answer.ids, skip_special_tokens=True).strip()


def test_an_answer_ends_at_the_models_own_end_tokens_too(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_tokenizer(tiny_model)
    # not a special token, so that answers show it
    tokenizer.add_tokens(["<stop>"])
    tokenizer.save_pretrained(tmp_path)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=259, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    with torch.no_grad():
        # the last norm yields ones, and only token 258 has a weight for them
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.transformer.wte.weight.zero_()
        model.transformer.wte.weight[258] = 1.0
    for eos, expected in ((1, "<stop>" * 3), ([1, 258], "<stop>")):
        model.generation_config.eos_token_id = eos
        model.save_pretrained(tmp_path)
        config = EvaluateConfig(max_new_tokens=3)
        rows = rows_of(([5, 6, 7, 8], 3))
        evaluation = evaluate_model(config, ModelConfig(name="tiny"), tmp_path, rows, tmp_path, [1])
        assert [prediction.answer for prediction in evaluation.predictions] == [expected]


def test_text_rows_have_loss_but_no_answers(tiny_model: Path) -> None:
    evaluation = evaluate_model(
        EvaluateConfig(), ModelConfig(name="tiny"), tiny_model, rows_of(([5, 6, 7], 0)), tiny_model, [1]
    )
    assert evaluation.scores.exact_match is None
    assert evaluation.scores.answers == []
    assert evaluation.predictions == []
    assert evaluation.scores.perplexity == pytest.approx(math.exp(evaluation.scores.eval_loss))


def test_generate_rows_limits_answers_and_not_loss(tiny_model: Path) -> None:
    rows = rows_of(*[([5, 6, 7, 8], 2)] * 4)
    config = EvaluateConfig(generate_rows=3, max_new_tokens=2)
    scores = evaluate_model(config, ModelConfig(name="tiny"), tiny_model, rows, tiny_model, [1]).scores
    assert (scores.loss_rows, scores.loss_tokens, scores.generated_rows) == (4, 8, 3)


def test_rewards_see_the_reasoning_and_exact_match_does_not(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [Answer([5, 1], "e", "Hm.", "<think>Hm.</think>e", True), Answer([5, 1], "f", "", "f", True)]
    monkeypatch.setattr("tasks.evaluate.score.generate_answers", lambda *_: given)
    rows = rows_of(([5, 6, 7, 8], 2), ([5, 6, 7, 8], 2))
    reward = RewardFunctionConfig(kind="regex", pattern="<think>")
    found = evaluate_model(
        EvaluateConfig(), ModelConfig(name="tiny"), tiny_model, rows, tiny_model, [1], rewards=[reward]
    )
    # the first of two answers is right, and the first alone has a block
    assert (found.scores.exact_match, found.scores.mean_reward) == (0.5, 0.5)
    assert [(row.answer, row.reasoning) for row in found.predictions] == [("e", "Hm."), ("f", "")]


def test_further_sets_are_scored_apart_as_if_alone(tiny_model: Path) -> None:
    rows = rows_of(([5, 6, 7, 8], 2), ([9, 10, 11], 1), ([20, 21, 22, 23], 3), ([30, 31], 1))
    config = EvaluateConfig(max_new_tokens=2, retained=RetainedConfig(general_text="none"))

    def scores(part: pd.DataFrame) -> Evaluation:
        return evaluate_model(config, ModelConfig(name="tiny"), tiny_model, part, tiny_model, [1])

    together = scores(rows.assign(dataset=["held-out", "held-out", "books", "news"]))
    assert together.scores == scores(rows[:2]).scores
    assert [other.name for other in together.others] == ["books", "news"]
    assert together.others[0].scores == scores(rows[2:3].reset_index(drop=True)).scores
    with pytest.raises(DataError, match="no held-out row is left"):
        scores(rows.assign(dataset="books"))
    assert [prediction.row_id for prediction in together.predictions] == ["r:0", "r:1"]


def test_the_line_of_the_log_has_what_is_known(tiny_model: Path) -> None:
    scores = evaluate_model(
        EvaluateConfig(generate_rows=0), ModelConfig(name="tiny"), tiny_model, rows_of(([5, 6, 7], 1)), tiny_model, [1]
    ).scores
    assert score_line(scores) == f"loss {scores.eval_loss:.4f} over 1 rows"
    assert score_line(scores.model_copy(update={"mean_reward": 0.5})).endswith(", mean reward 0.5000")
    assert score_line(scores.model_copy(update={"eval_loss": None})) == "no score"
