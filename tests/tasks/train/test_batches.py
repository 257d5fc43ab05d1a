"""Batches: padding, and packed rows in which no example's logits know of another."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from configs.errors import ConfigError
from tasks.train.batches import ExamplesAreApart, PackedCollator, PaddedCollator, examples_are_apart, packed_collator

SIZES = {"vocab_size": 258, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LLAMA = {**SIZES, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# the third row is the longest, so that the others are padded; an example of one token stands before padding
ROWS = [[4, 3, 2], [5, 1], [6, 6]]
ATTENTIONS = ["eager", "sdpa"]
FAMILIES = ["llama", "gpt2"]


def tiny(family: str, attention: str = "sdpa") -> PreTrainedModel:
    """Return a model of random weights, larger than usual so that attention matters, without dropout."""
    torch.manual_seed(0)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**LLAMA, initializer_range=0.2, attn_implementation=attention))
    else:
        sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        model = GPT2LMHeadModel(GPT2Config(**SIZES, **sizes, **dropouts, attn_implementation=attention))
    assert model.config._attn_implementation == attention
    return model.double().eval()


def examples(seed: int = 0) -> list[list[list[int]]]:
    """Return `ROWS` as rows of examples of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randint(2, 258, (n,), generator=generator).tolist() for n in row] for row in ROWS]


def packed(rows: list[list[list[int]]]) -> list[dict[str, list[int]]]:
    return [
        {
            "input_ids": [token for example in row for token in example],
            "labels": [label for example in row for label in [-100, *example[1:]]],
            "position_ids": [position for example in row for position in range(len(example))],
        }
        for row in rows
    ]


def logits_of_examples(model: PreTrainedModel, rows: list[list[list[int]]]) -> list[torch.Tensor]:
    """Return the logits, [tokens, vocab], of each example in a batch of packed rows."""
    batch = packed_collator(model, 0)(packed(rows))
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    lengths = [[*map(len, row), logits.shape[1] - sum(map(len, row))] for row in rows]
    return [part for number, row in enumerate(lengths) for part in logits[number].split(row)[:-1]]


def test_a_batch_by_hand() -> None:
    rows = [
        {"input_ids": [7, 8, 9], "labels": [-100, 8, -100], "position_ids": [0, 1, 0]},
        {"input_ids": [5, 6, 4, 3, 2], "labels": [-100, 6, 4, -100, 2], "position_ids": [0, 1, 2, 0, 1]},
    ]
    batch = PackedCollator(pad_token_id=1, is_flash=False)(rows)
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[7, 8, 9, 1, 1], [5, 6, 4, 3, 2]],
        "labels": [[-100, 8, -100, -100, -100], [-100, 6, 4, -100, 2]],
        "position_ids": [[0, 1, 0, 0, 1], [0, 1, 2, 0, 1]],
    }
    flash = PackedCollator(pad_token_id=1, is_flash=True)(rows)
    # 2, 1, padding 2 | 3, 2
    assert flash["cu_seq_lens_q"].tolist() == flash["cu_seq_lens_k"].tolist() == [0, 2, 3, 5, 8, 10]
    assert flash["cu_seq_lens_q"].dtype == torch.int32
    assert flash["max_length_q"] == flash["max_length_k"] == 3


def test_the_first_token_of_a_row_is_no_label() -> None:
    rows = [{"input_ids": [7, 8, 9], "labels": [7, 8, 9]}, {"input_ids": [5, 6], "labels": [-100, 6]}]
    batch = PaddedCollator(pad_token_id=1)(rows)
    assert batch["labels"].tolist() == [[-100, 8, 9], [-100, 6, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_in_a_pack_are_those_of_the_example_alone(family: str, attention: str) -> None:
    model = tiny(family, attention)
    rows = examples()
    for example, found in zip(itertools.chain(*rows), logits_of_examples(model, rows), strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([example])).logits[0]
        torch.testing.assert_close(found, alone, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changed", range(3))
def test_changing_one_example_changes_no_other_by_a_bit(family: str, attention: str, changed: int) -> None:
    model = tiny(family, attention)
    rows, other = examples(0), examples(1)
    before = logits_of_examples(model, rows)
    rows[0][changed] = other[0][changed]
    after = logits_of_examples(model, rows)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [number != changed for number in range(7)]


@pytest.mark.parametrize("family", FAMILIES)
def test_flash_attention_gets_the_bounds_of_every_row(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel needs a GPU; here stands its definition: causal attention inside each bound."""
    from transformers import modeling_flash_attention_utils as flash

    num_calls = 0

    def attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=True, **_):
        nonlocal num_calls
        num_calls += 1
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        lengths = cu_seqlens_q.diff().tolist()
        assert (sum(lengths), max(lengths)) == (len(q), max_seqlen_q)
        parts = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)), strict=True)
        outputs = [scaled_dot_product_attention(*part, is_causal=True, scale=softmax_scale) for part in parts]
        return torch.cat(outputs, dim=1).transpose(0, 1)

    def never(*_, **__):
        raise AssertionError("attention without bounds")

    def process(query_length, key_length, is_causal, softmax_scale=None, max_seqlen_q=None, max_seqlen_k=None, **_):
        bounds = {"max_seqlen_q": max_seqlen_q, "max_seqlen_k": max_seqlen_k}
        return {"causal": is_causal, "softmax_scale": softmax_scale, **bounds}

    functions = ((never, attend, None, None, None), (process, None))
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: functions)
    rows = examples()
    expected = logits_of_examples(tiny(family), rows)
    model = tiny(family)
    model.config._attn_implementation = "flash_attention_2"
    assert packed_collator(model, 0).is_flash
    found = logits_of_examples(model, rows)
    assert num_calls == 2  # layers
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)
    assert examples_are_apart(model, packed_collator(model, 0))


def test_a_model_without_position_ids_is_refused() -> None:
    model = BloomForCausalLM(BloomConfig(**SIZES, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(ConfigError, match=r"tokenize.packing=best_fit .*BloomForCausalLM does not\nset .* to none"):
        packed_collator(model, 0)


def leaking(kind: str) -> PreTrainedModel:
    if kind == "convolution":
        return Lfm2ForCausalLM(Lfm2Config(**LLAMA, num_key_value_heads=2, full_attn_idxs=[1]))
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(**SIZES, **sizes, word_embed_proj_dim=16, max_position_embeddings=64))


# both take position_ids: an LFM2 convolves over all of a row, and transformers' OPT makes its mask without them
@pytest.mark.parametrize("kind", ["convolution", "attention"])
def test_a_model_that_takes_position_ids_and_mixes_examples_is_found_out(kind: str) -> None:
    torch.manual_seed(0)
    model = leaking(kind).train()
    collator = packed_collator(model, 0)
    assert not examples_are_apart(model, collator)
    assert model.training
    arguments = type("Arguments", (), {"bf16": False})
    with pytest.raises(ConfigError, match=rf"tokenize.packing=best_fit: {type(model).__name__} carries one example"):
        ExamplesAreApart(collator).on_train_begin(arguments, None, None, model=model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_keep_examples_apart_pass(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    experts = MixtralForCausalLM(MixtralConfig(**LLAMA, num_key_value_heads=2, num_local_experts=4))
    for model in (tiny("llama"), tiny("gpt2", "eager"), experts):
        assert examples_are_apart(model.to(dtype), packed_collator(model, 0))
    assert examples_are_apart(tiny("llama").float(), PackedCollator(0, is_flash=False), autocast=torch.bfloat16)
