"""Every kind of model, really quantized with bitsandbytes, loaded again, and close to what it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from configs.schema import ModelConfig
from tasks.models.load import is_reward_model, load_model, load_reward_model, load_tokenizer
from tasks.quantize.bitsandbytes import quantize_model
from tasks.rewards.models import RewardModel

MODEL = ModelConfig(name="tiny")
PROMPTS = [list(range(5, 9 + n)) for n in range(12)]
ANSWERS = [[20 + 3 * n, 30 + n, 1] for n in range(12)]
# NF4 keeps 16 values for a weight, LLM.int8() 256
CLOSENESS = {"8bit": 0.999, "4bit": 0.97}


def quantized_layers(model) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ in ("Linear8bitLt", "Linear4bit")}


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


@pytest.mark.parametrize("method", ["8bit", "4bit"])
def test_a_reward_model_keeps_its_head_and_nearly_its_scores(method, tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    scorer = LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    scorer.config.pad_token_id = 0
    scorer.save_pretrained(tmp_path / "reward")
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.save_pretrained(tmp_path / "reward")
    quantize_model(method, MODEL, tmp_path / "reward", tmp_path / "small")
    assert is_reward_model(tmp_path / "small")
    small = load_reward_model(MODEL, tmp_path / "small")
    assert len(quantized_layers(small)) == 2 * 7 and "score" not in quantized_layers(small)
    assert torch.equal(small.score.weight, scorer.score.weight)
    before = torch.tensor(RewardModel(scorer, tokenizer).score(PROMPTS, ANSWERS))
    after = torch.tensor(RewardModel(small, tokenizer).score(PROMPTS, ANSWERS))
    assert correlation(before, after) > CLOSENESS[method]
    assert load_tokenizer(tmp_path / "small").get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("method", ["8bit", "4bit"])
@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_go_with_the_quantized_base(kind, method, tiny_model: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model, tmp_path / "model")
    torch.manual_seed(2)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    tuned = get_peft_model(base, kind(task_type="CAUSAL_LM", num_virtual_tokens=5))
    for parameter in tuned.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tuned.save_pretrained(directory / "adapter")
    quantize_model(method, MODEL, directory, tmp_path / "small")
    small = load_model(MODEL, tmp_path / "small").eval()
    assert isinstance(small, PeftModel) and len(quantized_layers(small)) == 2 * 7
    ids = torch.tensor([list(range(5, 25))])
    with torch.no_grad():
        before, after = tuned.eval()(ids).logits, small(ids).logits
        without = AutoModelForCausalLM.from_pretrained(tiny_model)(ids).logits
    assert correlation(before, after) > CLOSENESS[method]
    # and not because the virtual tokens made no difference
    assert correlation(before[:, -20:], without) < correlation(before, after)


def test_a_language_model_keeps_its_tied_head(tiny_model: Path, tmp_path: Path) -> None:
    quantize_model("4bit", MODEL, tiny_model, tmp_path / "small")
    small = load_model(MODEL, tmp_path / "small")
    assert len(quantized_layers(small)) == 2 * 7
    assert small.lm_head.weight is small.get_input_embeddings().weight
    assert not (tmp_path / "small" / "adapter").exists()
