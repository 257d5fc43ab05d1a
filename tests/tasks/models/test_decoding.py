"""Batched answers are those of one row at a time, token for token, and what rows share is computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from support.tiny_families import FAMILIES
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from tasks.models.batches import prompt_batches
from tasks.models.decoding import LEAST_SHARED, GreedyDecoder

PAD = 0
NEW = 12
SMALL = FAMILIES["llama"]
WINDOW = 8
# one of each kind of position, attention and cache; the window is shorter than the prompts
KINDS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "gpt2": FAMILIES["gpt2"],
    "falcon": FAMILIES["falcon"],
    "qwen2": SMALL,
    "qwen3_moe": FAMILIES["qwen3_moe"],
    "mistral": {**SMALL, "sliding_window": WINDOW, "head_dim": 16},
    "gemma2": {
        **SMALL,
        "sliding_window": WINDOW,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "tie_word_embeddings": False,
    },
    "gemma3_text": {
        **SMALL,
        "sliding_window": WINDOW,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "tie_word_embeddings": False,
    },
    "gpt_oss": {**FAMILIES["gpt_oss"], "sliding_window": WINDOW},
    "lfm2": {**SMALL, "layer_types": ["conv", "full_attention"]},
    "qwen3_next": {**FAMILIES["qwen2_moe"], "moe_intermediate_size": 32, "head_dim": 16, "num_experts": 4}
    | {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2}
    | {"linear_key_head_dim": 16, "linear_value_head_dim": 16},
    "bloom": {"hidden_size": 64, "n_head": 4, "n_layer": 2, "vocab_size": 101},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 101},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 101, "state_size": 8},
}


def model_of(kind: str, **changes: Any) -> PreTrainedModel:
    """Return a tiny model in float32, whose answers differ from prompt to prompt."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind].from_dict({"model_type": kind, **KINDS[kind], **changes})
    for name in ("initializer_range", "initializer_cfg"):
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.3)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def prompts_of(*lengths: int, seed: int = 0, shared: int = 0) -> list[list[int]]:
    """Return random prompts of these lengths after `shared` tokens that all have."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(2, 101, (shared,), generator=generator).tolist()
    return [start + torch.randint(2, 101, (length,), generator=generator).tolist() for length in lengths]


@torch.inference_mode()
def one_at_a_time(model: PreTrainedModel, prompt: list[int], new: int, ends: list[int]) -> list[int]:
    """Return the greedy answer to one prompt, without padding and without a cache: each token from all before it."""
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def ends_within(answers: list[list[int]]) -> list[int]:
    """Return two tokens at which the answers end after as many different lengths as possible."""
    pairs = itertools.combinations(sorted({token for answer in answers for token in answer}), 2)
    return list(max(pairs, key=lambda ends: len({len(cut(answer, ends)) for answer in answers})))


def cut(answer: list[int], ends: Iterable[int]) -> list[int]:
    """Return `answer` up to the first of the tokens `ends`, included."""
    return answer[: min((answer.index(end) for end in ends if end in answer), default=NEW) + 1]


def answers_of(decoder: GreedyDecoder, prompts: list[list[int]], new: int, size: int = 99) -> list[list[int]]:
    """Return the answers to `prompts` in batches of at most `size` rows, in the order of the prompts."""
    batches = prompt_batches([len(prompt) for prompt in prompts], size, 64, False)
    found: dict[int, list[int]] = {}
    for some in decoder.answers(prompts, [new] * len(prompts), batches):
        assert not found.keys() & some.keys()
        found |= some
    return [found[row] for row in range(len(prompts))]


@contextmanager
def counted_tokens(model: PreTrainedModel) -> Iterator[list[tuple[int, int]]]:
    """Yield a list of the shapes [rows, tokens] of the forward passes."""
    shapes: list[tuple[int, int]] = []
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, given, output: shapes.append(tuple(given[0].shape))
    )
    yield shapes
    handle.remove()


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("shared", [0, LEAST_SHARED + 3])
def test_a_batch_has_the_answers_of_one_row_at_a_time(kind: str, shared: int) -> None:
    model = model_of(kind)
    prompts = prompts_of(1, 14, 3, 9, 14, 2, 1, 5, shared=shared)
    whole = [one_at_a_time(model, prompt, NEW, []) for prompt in prompts]
    assert len({tuple(answer) for answer in whole}) > 4
    ends = ends_within(whole)
    expected = [one_at_a_time(model, prompt, NEW, ends) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 2
    decoder = GreedyDecoder(model, ends, PAD)
    for size in (8, 3, 1):
        assert answers_of(decoder, prompts, NEW, size) == expected
    # a further batch, after the same tokens: what was kept of the first has not changed
    assert answers_of(decoder, prompts[:3], NEW) == expected[:3]


def test_rows_that_ended_are_left_out_of_the_batch() -> None:
    model = model_of("llama")
    prompts = prompts_of(*[5] * 8)
    whole = [one_at_a_time(model, prompt, NEW, []) for prompt in prompts]
    ends = [answer[0] for answer in whole[:6]]
    ended = [answer[0] in ends for answer in whole]
    assert 6 <= sum(ended) < 8
    decoder = GreedyDecoder(model, ends, PAD)
    with counted_tokens(model) as shapes:
        answers_of(decoder, prompts, NEW)
    rows = [rows for rows, _ in shapes]
    # the first pass has all rows, the others at most those that did not end with their first token
    assert rows.count(8) == 1 and max(rows[rows.index(8) + 1 :]) == 8 - sum(ended)


def test_other_rows_join_a_batch_in_which_a_row_ended() -> None:
    model = model_of("llama")
    prompts = prompts_of(5, 5, 5)
    limits = [2, 6, 4]
    decoder = GreedyDecoder(model, [], PAD)
    with counted_tokens(model) as shapes:
        found = list(decoder.answers(prompts, limits, [[0, 1], [2]]))
    expected = [one_at_a_time(model, prompt, limit, []) for prompt, limit in zip(prompts, limits, strict=True)]
    assert found == [{0: expected[0]}, {2: expected[2]}, {1: expected[1]}]
    # by hand: two tokens of rows 0 and 1; the first of row 2; the third to fifth of row 1 with the last three of row 2;
    # the sixth of row 1
    assert shapes == [(2, 5), (2, 1), (1, 5), (2, 1), (2, 1), (2, 1), (1, 1)]


def test_columns_of_rows_that_left_are_left_out() -> None:
    model = model_of("gpt2")
    prompts = prompts_of(40, 20, 20)
    limits = [2, 44, 44]
    expected = {row: one_at_a_time(model, prompts[row], limits[row], []) for row in range(3)}
    widths: list[int] = []
    model.register_forward_hook(
        lambda module, given, named, output: widths.append(output.past_key_values.get_seq_length()), with_kwargs=True
    )
    decoder = GreedyDecoder(model, [], PAD)
    answers = {}
    for some in decoder.answers(prompts, limits, [[0, 1], [2]]):
        answers |= some
    # the 40 tokens and one of their answer; then 20 and 43, where there would be 20 more with the first row's columns
    assert 41 in widths and max(widths) == 63
    assert answers == expected


def test_what_prompts_share_is_computed_once_for_all_batches() -> None:
    model = model_of("llama")
    prompts = prompts_of(3, 5, 4, 2, 6, 1, shared=40)
    expected = [one_at_a_time(model, prompt, 1, []) for prompt in prompts]
    decoder = GreedyDecoder(model, [], PAD)
    with counted_tokens(model) as shapes:
        assert answers_of(decoder, prompts[:3], 1) + answers_of(decoder, prompts[3:], 1) == expected
    # by hand: the 40 tokens once, then what follows them in 3 rows of at most 5 tokens, and in 3 rows of at most 6
    assert shapes == [(1, 40), (3, 5), (3, 6)]


def test_a_prompt_that_is_wholly_shared_keeps_its_last_token() -> None:
    model = model_of("llama")
    (prompt,) = prompts_of(LEAST_SHARED + 1)
    prompts = [prompt, prompt, [*prompt, 7]]
    expected = [one_at_a_time(model, each, NEW, []) for each in prompts]
    assert answers_of(GreedyDecoder(model, [], PAD), prompts, NEW) == expected


def test_other_tokens_before_the_prompts_are_computed_anew() -> None:
    model = model_of("llama")
    batches = [prompts_of(3, 5, shared=LEAST_SHARED, seed=seed) for seed in (1, 2, 1)]
    decoder = GreedyDecoder(model, [], PAD)
    for batch in batches:
        assert answers_of(decoder, batch, NEW) == [one_at_a_time(model, prompt, NEW, []) for prompt in batch]


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "lfm2", "bloom"])
def test_a_window_or_a_position_by_column_shares_nothing(kind: str) -> None:
    # columns of padding between the shared tokens and a prompt would count as distance
    model = model_of(kind)
    decoder = GreedyDecoder(model, [], PAD)
    with counted_tokens(model) as shapes:
        answers_of(decoder, prompts_of(2, 4, shared=LEAST_SHARED + 1), 1)
    assert (2, LEAST_SHARED + 5) in shapes


def test_a_window_that_reaches_over_all_columns_shares() -> None:
    model = model_of("mistral", sliding_window=64)
    prompts = prompts_of(2, 4, shared=LEAST_SHARED)
    with counted_tokens(model) as shapes:
        answers = answers_of(GreedyDecoder(model, [], PAD), prompts, NEW)
    assert (1, LEAST_SHARED) in shapes
    assert answers == [one_at_a_time(model, prompt, NEW, []) for prompt in prompts]


def test_the_length_allowed_ends_answers() -> None:
    model = model_of("llama")
    prompts = prompts_of(4, 6)
    for new in (1, 2, 5):
        assert [len(answer) for answer in answers_of(GreedyDecoder(model, [], PAD), prompts, new)] == [new, new]


def test_answers_are_greedy_whatever_the_models_files_say_of_repetition() -> None:
    # such a penalty would count the padding as text, so that an answer depends on the rows beside it
    model = model_of("llama")
    prompts = prompts_of(4, 6, 9)
    expected = [one_at_a_time(model, prompt, NEW, []) for prompt in prompts]
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.min_new_tokens = 3
    assert answers_of(GreedyDecoder(model, [], PAD), prompts, NEW) == expected
    ends = [expected[0][0]]
    assert answers_of(GreedyDecoder(model, ends, PAD), prompts[:1], NEW) == [ends]


def test_an_adapter_answers_as_it_does_one_row_at_a_time() -> None:
    torch.manual_seed(1)
    tuned: Any = get_peft_model(
        model_of("llama"), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    prompts = prompts_of(2, 6, 4, 5, shared=LEAST_SHARED)
    whole = [one_at_a_time(tuned, prompt, NEW, []) for prompt in prompts]
    ends = ends_within(whole)
    decoder = GreedyDecoder(tuned, ends, PAD)
    assert answers_of(decoder, prompts, NEW, 2) == [cut(answer, ends) for answer in whole]


def test_a_cache_that_the_models_files_name_is_used() -> None:
    model = model_of("llama")
    prompts = prompts_of(2, 6, shared=LEAST_SHARED)
    model.generation_config.cache_implementation = "static"
    model.generation_config.disable_compile = True
    assert not GreedyDecoder(model, [], PAD)._drops_rows
    answers = answers_of(GreedyDecoder(model, [], PAD), prompts, NEW)
    assert answers == [one_at_a_time(model, prompt, NEW, []) for prompt in prompts]


def test_virtual_tokens_are_kept_for_all_of_a_batch() -> None:
    model: Any = model_of("llama")
    torch.manual_seed(1)
    tuned = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    torch.nn.init.normal_(tuned.prompt_encoder["default"].embedding.weight)
    prompts = prompts_of(2, 6, 6, 4, shared=LEAST_SHARED)
    alone = [answers_of(GreedyDecoder(tuned, [], PAD), [prompt], NEW)[0] for prompt in prompts]
    assert alone != [one_at_a_time(model, prompt, NEW, []) for prompt in prompts]
    ends = [alone[0][2], alone[1][5]]
    expected = [answers_of(GreedyDecoder(tuned, ends, PAD), [prompt], NEW)[0] for prompt in prompts]
    assert answers_of(GreedyDecoder(tuned, ends, PAD), prompts, NEW) == expected
