"""Training: what the loss counts, that it learns, and that what is saved is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import ArtifactError, ConfigError, DivergedError
from configs.schema import ModelConfig, TrainConfig
from configs.wire import TrainReport
from tasks.models.load import load_model, load_tokenizer
from tasks.models.record import RECORD_FILE
from tasks.train.fit import FitInputs, fit
from tasks.train.merge import check_saved, merge_adapter

LOADING = ModelConfig(name="tiny")
PAIRS = [("1+1?", "two"), ("2+2?", "four"), ("3+3?", "six"), ("4+4?", "eight")] * 2


@pytest.fixture(scope="module")
def tokens(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows; prompts masked."""
    tokenizer = load_tokenizer(tiny_model)
    rows = []
    for prompt, completion in PAIRS:
        asked, answer = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id]
        rows.append({"input_ids": asked + answer, "labels": [-100] * len(asked) + answer})
    directory = tmp_path_factory.mktemp("tokens")
    pd.DataFrame(rows).to_parquet(directory / "tokens.parquet")
    return directory


def inputs(model: Path, tokens: Path, tokenizer: Path) -> FitInputs:
    return FitInputs(model=model, train_tokens=tokens, tokenizer=tokenizer, end_token_ids=[1])


@pytest.fixture
def run(tiny_model: Path, tokens: Path, tmp_path: Path):
    def train(name: str = "out", **settings: object) -> tuple[TrainReport, Path]:
        defaults = {"batch_size": 8, "micro_batch_size": 8, "logging_steps": 1, "epochs": 1}
        config = TrainConfig(**{**defaults, **settings})
        output = tmp_path / name
        return fit(config, LOADING, inputs(tiny_model, tokens, tiny_model), output), output

    return train


def expected_loss(model: torch.nn.Module, tokens: Path) -> float:
    """The mean over the completion tokens of all eight rows, each token once."""
    losses = []
    for ids, labels in pd.read_parquet(tokens / "tokens.parquet").itertuples(index=False):
        with torch.no_grad():
            log_probs = model(torch.tensor([list(ids)])).logits.log_softmax(-1)[0]
        losses += [-log_probs[t - 1, ids[t]].item() for t in range(1, len(ids)) if labels[t] != -100]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("micro_batch_size", [8, 4, 2, 1])
def test_the_loss_is_the_mean_over_completion_tokens_however_the_batch_is_divided(
    micro_batch_size: int, run, tiny_model: Path, tokens: Path
) -> None:
    report, _ = run(method="full", micro_batch_size=micro_batch_size)
    by_hand = expected_loss(load_model(LOADING, tiny_model).eval(), tokens)
    assert report.steps == 1
    assert report.curve[0].loss == pytest.approx(by_hand, rel=2e-4)


def test_a_small_model_overfits_eight_rows(run, tokens: Path) -> None:
    report, output = run(method="full", max_steps=80, learning_rate=5e-3)
    assert report.curve[0].loss > 4
    assert report.curve[-1].loss < 0.05
    assert expected_loss(load_model(LOADING, output).eval(), tokens) < 0.05


def test_a_model_published_in_bfloat16_is_trained_in_32_bits_and_stays_in_bfloat16(
    tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    base, output = tmp_path / "base", tmp_path / "out"
    load_model(LOADING, tiny_model, dtype=torch.bfloat16).save_pretrained(base)
    config = TrainConfig(method="full", max_steps=40, learning_rate=1e-5, batch_size=8)
    report = fit(config, LOADING, inputs(base, tokens, tiny_model), output)
    assert report.precision == "float32"
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.bfloat16}
    # steps of 1e-5 are lost one by one in bfloat16 weights, and add up in 32 bits
    before = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    after = load_file(output / "model.safetensors")["model.embed_tokens.weight"]
    assert (before != after).float().mean() > 0.1


def test_a_run_of_one_step_learns(run, tiny_model: Path) -> None:
    report, output = run(method="full", max_steps=1, learning_rate=1e-2)
    assert report.curve[0].learning_rate == 1e-2
    before, after = (load_file(path / "model.safetensors") for path in (tiny_model, output))
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_the_curve_ends_with_the_last_step(run) -> None:
    report, _ = run(method="full", max_steps=7, logging_steps=3)
    assert [point.step for point in report.curve] == [1, 3, 6, 7]


def test_constant_is_the_shape_after_warm_up(run) -> None:
    report, _ = run(method="full", max_steps=4, lr_scheduler="constant", warmup_fraction=0.5, learning_rate=1e-3)
    assert [point.learning_rate for point in report.curve] == pytest.approx([0.0, 5e-4, 1e-3, 1e-3])


def test_an_adapter_fits_gpt2s_own_kind_of_linear_layer(tokens: Path, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_positions=256, n_embd=16, n_layer=1, n_head=2, eos_token_id=1, bos_token_id=1)
    ).save_pretrained(tmp_path / "gpt2")
    config = TrainConfig(method="lora", max_steps=1, batch_size=8, lora={"target_modules": ["c_attn"]})
    fit(config, LOADING, inputs(tmp_path / "gpt2", tokens, tiny_model), tmp_path / "out")
    assert any("c_attn" in name for name in load_file(tmp_path / "out" / "adapter_model.safetensors"))


def test_the_saved_model_stops_where_rows_end_and_has_its_tokenizer(run) -> None:
    _, output = run(method="full")
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == 1
    assert load_tokenizer(output).decode(load_tokenizer(output)("four")["input_ids"]) == "four"
    assert not (output / "training_args.bin").exists()


def test_what_training_used_is_kept_beside_the_model(run) -> None:
    report, output = run(method="full")
    stored = json.loads((output / RECORD_FILE).read_text(encoding="utf-8"))
    assert (stored["objective"], stored["method"], stored["steps"]) == ("sft", "full", 1)
    assert {line["name"] for line in stored["choices"]} >= {"device", "precision", "attention", "optimizer"}
    assert stored["choices"] == [line.model_dump() for line in report.choices]


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(run) -> None:
    weights = [
        load_file(run(name, method="full", batch_size=2, micro_batch_size=2, seed=seed)[1] / "model.safetensors")
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_an_adapter_is_small_not_empty_and_merges_to_the_same_logits(run, tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    report, adapter = run(method="lora", max_steps=20, learning_rate=1e-2, lora={"rank": 4, "alpha": 8})
    # 2 layers of q, k, v, o (64 to 64: 4 x 128), gate, up (64 to 128: 4 x 192) and down (128 to 64: 4 x 192)
    assert report.trainable_parameters == 2 * (4 * 4 * 128 + 3 * 4 * 192)
    assert all(tensor.abs().sum() > 0 for tensor in load_file(adapter / "adapter_model.safetensors").values())
    merged = tmp_path / "merged"
    merge_adapter(LOADING, tiny_model, adapter, merged)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        base = load_model(LOADING, tiny_model).eval()(ids).logits
        unmerged = PeftModel.from_pretrained(load_model(LOADING, tiny_model), adapter).eval()(ids).logits
        after = load_model(LOADING, merged).eval()(ids).logits
    assert not torch.allclose(base, unmerged, atol=1e-2)
    torch.testing.assert_close(after, unmerged, atol=1e-4, rtol=1e-4)
    # the adapter's scaling is alpha / r = 2
    assert (merged / "generation_config.json").exists()
    assert load_tokenizer(merged).eos_token == "<eos>"


def test_qlora_trains_an_adapter_and_leaves_the_base_alone(run, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    report, adapter = run(method="qlora", max_steps=20, learning_rate=1e-2)
    assert report.curve[-1].loss < report.curve[0].loss - 1
    merged = tmp_path / "merged"
    merge_adapter(LOADING, tiny_model, adapter, merged)
    # merged into the unquantized base
    assert {tensor.dtype for tensor in load_file(merged / "model.safetensors").values()} == {torch.float32}
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())


def test_gradient_checkpointing_changes_memory_and_not_weights(run) -> None:
    weights = [
        load_file(run(on, method="full", efficiency={"gradient_checkpointing": on})[1] / "model.safetensors")
        for on in ("off", "on")
    ]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=1e-5)


def test_target_modules_that_match_nothing_are_named(run) -> None:
    with pytest.raises(ConfigError, match=r"train.lora.target_modules: q_porj matches no linear layer.*q_proj"):
        run(method="lora", lora={"target_modules": ["q_porj"]})


def test_a_diverging_run_stops_with_step_and_fix(run) -> None:
    with pytest.raises(DivergedError, match=r"is (nan|inf) at step \d+.*; lower train.learning_rate"):
        run(method="full", max_steps=30, learning_rate=1e30, warmup_fraction=0.0, max_grad_norm=1e30)


def test_an_empty_tensor_is_not_called_saved(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no weights"):
        check_saved(tmp_path)
    save_file({"lora_A": torch.zeros(0, 4)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="empty lora_A"):
        check_saved(tmp_path)
