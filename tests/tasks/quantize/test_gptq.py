"""GPTQ: which rows calibrate it and, where its packages are, a model really quantized, loaded again, and scored.

`make test-gptq` runs this file with the packages of the image of GPTQ, which clash with those of the other tests.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from configs.errors import ConfigError, ModelError
from configs.schema import EvaluateConfig, FineTuneConfig, ModelConfig
from tasks.evaluate.scores import evaluate_model
from tasks.models.load import load_model, load_tokenizer
from tasks.plan.checks.settings import check_quantization
from tasks.quantize.gptq import calibration_rows, group_size, quantize_model

MODEL = ModelConfig(name="tiny")
RUN = {"model": {"name": "a/b"}, "data": {"sources": [{"path": "r.jsonl"}]}}
HAS_GPTQ = importlib.util.find_spec("gptqmodel") is not None
needs_gptq = pytest.mark.skipif(not HAS_GPTQ, reason="gptqmodel has an image of its own; make test-gptq")


def tokens_folder(folder: Path, num_rows: int, row_group_size: int = 1000) -> Path:
    """Write rows of 20 tokens, the first of which is the row's number."""
    folder.mkdir()
    rows = [[number, *((5 + (7 * number + 3 * place) % 200) for place in range(19))] for number in range(num_rows)]
    pq.write_table(pa.table({"input_ids": rows}), folder / "tokens.parquet", row_group_size=row_group_size)
    return folder


def test_calibration_rows_are_spread_over_all_row_groups(tmp_path: Path) -> None:
    file = tokens_folder(tmp_path / "tokens", 10, row_group_size=4) / "tokens.parquet"
    # of 10 rows 4 at even steps of 3
    assert [row["input_ids"][0] for row in calibration_rows(file, 4)] == [0, 3, 6, 9]
    assert [row["input_ids"][0] for row in calibration_rows(file, 1)] == [0]
    assert [row["input_ids"][0] for row in calibration_rows(file, 11)] == list(range(10))
    assert {len(row["attention_mask"]) for row in calibration_rows(file, 4)} == {20}


@pytest.mark.parametrize(("hidden", "intermediate", "size"), [(4096, 11008, 128), (64, 128, 64), (96, 192, 32)])
def test_groups_divide_both_widths(hidden: int, intermediate: int, size: int, tmp_path: Path) -> None:
    settings = {"hidden_size": hidden, "intermediate_size": intermediate}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert group_size("m", tmp_path) == size


def test_widths_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 64, "intermediate_size": 100}')
    with pytest.raises(ModelError, match="64 and 100 are no multiples of 32"):
        group_size("m", tmp_path)


@pytest.mark.skipif(HAS_GPTQ, reason="gptqmodel is here")
def test_a_machine_without_gptqmodel_says_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run on a cluster, or choose 8bit"):
        quantize_model(MODEL, tiny_model, tokens_folder(tmp_path / "tokens", 4), 4, tmp_path / "small")


@pytest.mark.skipif(HAS_GPTQ, reason="gptqmodel is here")
def test_a_laptop_refuses_gptq_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"has its own image\nrun on a cluster"):
        check_quantization(FineTuneConfig.model_validate({**RUN, "quantize": {"methods": ["gptq"]}}))


def test_a_config_cannot_ask_for_gptq_of_a_reward_model_or_push_what_is_not_made() -> None:
    with pytest.raises(ValidationError, match="gptq, which is for language models"):
        FineTuneConfig.model_validate({**RUN, "quantize": {"methods": ["gptq"]}, "train": {"objective": "reward"}})
    with pytest.raises(ValidationError, match=r"names gptq, which quantize.methods does not make"):
        FineTuneConfig.model_validate({**RUN, "push_to_hub": {"repository": "a/b", "artifacts": ["gptq"]}})


@needs_gptq
def test_a_model_is_quantized_loaded_again_and_scored(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tokens_folder(tmp_path / "tokens", 32)
    quantize_model(MODEL, tiny_model, tokens, 16, tmp_path / "small")
    small = load_model(MODEL, tmp_path / "small").eval()
    packed = [name for name, _ in small.named_buffers() if name.endswith("qweight")]
    assert len(packed) == 2 * 7
    ids = torch.tensor([list(range(5, 45))])
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(tiny_model).eval()(ids).logits
        after = small(ids).logits.float()
    # 16 values for each of 64 weights, as NF4 has
    assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.97
    rows = pd.DataFrame(
        {
            "row_id": ["a", "b"],
            "input_ids": [[5, 6, 7, 8, 1], [9, 10, 11, 1]],
            "labels": [[-100, -100, 7, 8, 1], [-100, 10, 11, 1]],
            "prompt_length": [2, 1],
            "prompt": ["", ""],
            "expected": ["x", "y"],
            "dataset": ["held-out", "held-out"],
        }
    )
    evaluations = [
        evaluate_model(EvaluateConfig(max_new_tokens=4), MODEL, model, rows, tiny_model, [1], [], [])
        for model in (tiny_model, tmp_path / "small")
    ]
    # random weights: both are as far from the answers, nearly
    losses = [evaluation.scores.eval_loss for evaluation in evaluations]
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 0.1
    assert load_tokenizer(tmp_path / "small").get_vocab() == load_tokenizer(tiny_model).get_vocab()


@needs_gptq
def test_virtual_tokens_go_with_the_quantized_base(tiny_model: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    base.save_pretrained(tmp_path / "model")
    load_tokenizer(tiny_model).save_pretrained(tmp_path / "model")
    get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).save_pretrained(
        tmp_path / "model" / "adapter"
    )
    quantize_model(MODEL, tmp_path / "model", tokens_folder(tmp_path / "tokens", 8), 8, tmp_path / "small")
    small = load_model(MODEL, tmp_path / "small").eval()
    with torch.no_grad():
        # the virtual tokens stand before the row's 10
        assert small(torch.tensor([list(range(5, 15))])).logits.shape[1] == 15


@needs_gptq
def test_a_reward_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained(tmp_path / "reward")
    with pytest.raises(ModelError, match="GPTQ is for language models"):
        quantize_model(MODEL, tmp_path / "reward", tmp_path, 8, tmp_path / "small")
