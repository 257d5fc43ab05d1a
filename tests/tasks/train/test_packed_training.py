"""Training on packs: loss, every gradient, and what is learnt are those of the examples alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer

from configs.errors import ConfigError
from configs.schema import ModelConfig, TrainConfig
from tasks.models.load import load_model
from tasks.tokenize.packing import pack_tokens
from tasks.train import trainer as trainer_module
from tasks.train.batches import ExamplesAreApart, PackedCollator
from tasks.train.fit import FitInputs, fit
from tasks.train.watch.progress import Progress

LOADING = ModelConfig(name="tiny")
ROOT = Path(__file__).parent.parent.parent.parent


class Step:
    """What one optimizer step of `fit` saw: its loss, and every parameter's gradient."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.gradients: dict[str, torch.Tensor] = {}


def inputs(model: Path, tokens: Path, tokenizer: Path) -> FitInputs:
    return FitInputs(model=model, train_tokens=tokens, tokenizer=tokenizer, end_token_ids=[1])


@pytest.fixture
def one_step(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that takes one step of `fit` over all rows of a tokens file, and what it saw."""

    def run(name: str, model: Path, tokens: Path, batch_size: int, passes: int = 1, **settings: object) -> Step:
        step = Step()

        class Watch(Progress):
            def on_pre_optimizer_step(self, *_, model: torch.nn.Module, **__) -> None:
                step.gradients = {key: value.grad.clone() for key, value in model.named_parameters()}

        compute_loss = SFTTrainer.compute_loss

        def watched(self, *arguments, **kwargs):
            loss = compute_loss(self, *arguments, **kwargs)
            step.loss += loss.item()
            return loss

        with monkeypatch.context() as patch:
            patch.setattr(trainer_module, "Progress", Watch)
            patch.setattr(SFTTrainer, "compute_loss", watched)
            shape = {"batch_size": batch_size, "micro_batch_size": batch_size // passes}
            rest = {"max_grad_norm": 1e9, "weight_decay": 0.0, "max_steps": 1, "method": "full", **settings}
            config = TrainConfig(**shape, **rest)
            fit(config, LOADING, inputs(model, tokens, tiny_model), tmp_path / f"out-{name}")
        return step

    return run


@pytest.fixture
def token_files(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of twelve examples alone and in four packs. Lengths, and so padding, differ; so do masks."""
    generator = torch.Generator().manual_seed(0)
    # four packs of 30, by hand: 20 + 10, 18 + 12, 16 + 9 + 5, 15 + 8 + 3 + 2 + 2
    rows = []
    for number, length in enumerate([2, 20, 3, 18, 5, 16, 8, 15, 9, 12, 10, 2]):
        ids = torch.randint(2, 258, (length,), generator=generator).tolist()
        # every second one is all trained, its first token too, as plain texts are
        labels = ids if number % 2 else [-100] * (length // 2) + ids[length // 2 :]
        rows.append({"row_id": f"rows.jsonl:{number}", "input_ids": ids, "labels": labels})
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    pd.DataFrame(rows).to_parquet(alone / "tokens.parquet")
    assert pack_tokens(alone / "tokens.parquet", together / "tokens.parquet", 30) == (12, 4, 1.0)
    return alone, together


def saved(family: str, attention: str, directory: Path) -> Path:
    """Save a model of random weights, larger than usual so that attention matters, without dropout."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 258, "initializer_range": 0.2, "attn_implementation": attention}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if family == "llama":
        layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(**sizes, **layers)).save_pretrained(directory)
    else:
        layers = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        GPT2LMHeadModel(GPT2Config(**sizes, **layers, **dropouts)).save_pretrained(directory)
    return directory


def assert_same_step(one: Step, other: Step) -> None:
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, other.gradients[name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_and_gradients_of_packs_are_those_of_the_examples_alone(
    family: str, attention: str, one_step, token_files: tuple[Path, Path], tmp_path: Path
) -> None:
    model = saved(family, attention, tmp_path / "model")
    alone, together = token_files
    expected = one_step("alone", model, alone, 12)
    # the mean over trained tokens, each example by itself
    losses = []
    loaded = load_model(LOADING, model).double().eval()
    for row in pd.read_parquet(alone / "tokens.parquet").itertuples():
        with torch.no_grad():
            log_probs = loaded(torch.tensor([list(row.input_ids)])).logits.log_softmax(-1)[0]
        losses += [-log_probs[t - 1, row.input_ids[t]] for t in range(1, len(row.labels)) if row.labels[t] != -100]
    assert expected.loss == pytest.approx(float(sum(losses)) / len(losses), rel=1e-5)
    assert max(gradient.abs().max() for gradient in expected.gradients.values()) > 1e-2
    for passes in (1, 2):
        assert_same_step(one_step(f"packed-{passes}", model, together, 4, passes), expected)
    assert_same_step(one_step("alone-2", model, alone, 12, passes=2), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_without_position_ids_the_same_test_fails_and_training_is_refused(
    family: str, one_step, token_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(family, "sdpa", tmp_path / "model")
    alone, together = token_files
    expected = one_step("alone", model, alone, 12)
    collate = PackedCollator.__call__

    def as_one_example(self, rows):
        batch = collate(self, rows)
        return {**batch, "position_ids": torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])}

    monkeypatch.setattr(PackedCollator, "__call__", as_one_example)
    with pytest.raises(ConfigError, match="carries one example of a packed row over into the next"):
        one_step("refused", model, together, 4)
    monkeypatch.setattr(ExamplesAreApart, "on_train_begin", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        assert_same_step(one_step("mixed", model, together, 4), expected)


@pytest.mark.parametrize("grouped", [True, False])
def test_packs_train_an_adapter_with_checkpointing_in_either_order(
    grouped: bool, tiny_model: Path, token_files: tuple[Path, Path], tmp_path: Path
) -> None:
    config = TrainConfig(
        batch_size=2, micro_batch_size=1, efficiency={"gradient_checkpointing": "on"}, group_by_length=grouped
    )
    output = tmp_path / "out"
    report = fit(config, LOADING, inputs(tiny_model, token_files[1], tiny_model), output)
    # four packed rows, two of them a step
    assert (report.steps, report.epochs) == (2, 1.0)


def test_a_small_model_overfits_eight_packed_examples(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"row_id": f"{n}", "input_ids": ids, "labels": [-100] * 3 + ids[3:]}
        for n, ids in enumerate([n + 10, 7, 8, n + 20, n + 30, 1] for n in range(8))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "alone.parquet")
    # 4 + 4 of 6 tokens in 26
    assert pack_tokens(tmp_path / "alone.parquet", tmp_path / "tokens.parquet", 26).num_packed == 2
    config = TrainConfig(method="full", batch_size=2, micro_batch_size=2, max_steps=60, learning_rate=5e-3)
    output = tmp_path / "out"
    report = fit(config, LOADING, inputs(tiny_model, tmp_path, tiny_model), output)
    assert report.curve[0].loss > 4
    assert report.curve[-1].loss < 0.05
    # and each of them alone, as it will be asked
    model = load_model(LOADING, output).eval()
    for row in rows:
        with torch.no_grad():
            answers = model(torch.tensor([row["input_ids"]])).logits[0].argmax(-1)
        assert answers[2:-1].tolist() == row["input_ids"][3:]


TWO_PROCESSES = """
import os, sys
from pathlib import Path
from configs.schema import ModelConfig, TrainConfig
from tasks.train.fit import FitInputs, fit
tokens, model, output, sharding = sys.argv[1:]
settings = {"method": "full", "batch_size": 4, "micro_batch_size": 1, "max_steps": 3, "learning_rate": 2e-3}
config = TrainConfig(**settings, logging_steps=1, sharding=sharding, processes_per_node=2)
inputs = FitInputs(model=Path(model), train_tokens=Path(tokens), tokenizer=Path(model), end_token_ids=[1])
report = fit(config, ModelConfig(name="tiny"), inputs, Path(output))
if os.environ["RANK"] == "0":
    print("losses", *[point.loss for point in report.curve], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero3"])
def test_two_processes_train_packs_as_one_does(
    sharding: str, tiny_model: Path, token_files: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = {"method": "full", "batch_size": 4, "micro_batch_size": 1, "max_steps": 3, "learning_rate": 2e-3}
    config = TrainConfig(**settings, logging_steps=1)
    report = fit(config, LOADING, inputs(tiny_model, token_files[1], tiny_model), tmp_path / "one")
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(
        [*launcher, *map(str, (token_files[1], tiny_model, tmp_path / "two", sharding))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("losses")]
    assert [float(loss) for loss in line.split()[1:]] == pytest.approx([p.loss for p in report.curve], abs=2e-4)
