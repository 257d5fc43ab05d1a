"""4-bit layers on a CPU: widths that its kernels cannot take, and training after an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes import functional, nn
from peft import get_peft_model
from support.tiny_families import tiny_model_of
from transformers import AutoModelForCausalLM

from configs.effective.four_bit import is_plain_kernel_right, takes_fast_kernel
from configs.errors import ModelError
from configs.schema import ModelConfig, TrainConfig
from tasks.models.four_bit_kernels import choose_kernels
from tasks.models.load import load_model
from tasks.models.quantized_loading import bitsandbytes_config
from tasks.train.methods import adapter_config, trainable_model

# the kernels that the rules are about are in CPUs with these instructions only
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
HAS_FAST_KERNEL = bool(functional.has_avx512bf16())


def layer(outputs: int, inputs: int) -> nn.Linear4bit:
    torch.manual_seed(0)
    made = nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    made.weight = nn.Params4bit(torch.randn(outputs, inputs), requires_grad=False, quant_type="nf4", module=made)
    return made.to("cpu").eval()


@pytest.mark.parametrize(
    ("outputs", "inputs", "fits"),
    [(64, 64, True), (32, 128, True), (96, 64, True), (36, 64, False), (64, 36, False), (64, 96, False)],
)
def test_the_fast_kernel_takes_only_these_widths(outputs: int, inputs: int, fits: bool) -> None:
    assert takes_fast_kernel(inputs, outputs) == fits
    if HAS_FAST_KERNEL:
        with torch.no_grad():
            if fits:
                layer(outputs, inputs)(torch.ones(2, inputs))
            else:
                with pytest.raises((AssertionError, RuntimeError)):
                    layer(outputs, inputs)(torch.ones(2, inputs))


@pytest.mark.parametrize("inputs", [16, 34, 36, 48, 64, 80, 96, 100, 128, 176, 192, 320, 352])
def test_the_plain_kernel_is_right_at_these_widths(inputs: int) -> None:
    weights = torch.randn(8, inputs)
    packed, state = functional.quantize_4bit(weights, quant_type="nf4")
    # one row of all numbers is cut into the same blocks, none of which crosses a row
    blocks = functional.quantize_4bit(weights.reshape(-1, 8), quant_type="nf4")
    assert torch.equal(packed, blocks[0])
    expected = functional.dequantize_4bit(*blocks).reshape(8, inputs)
    is_right = torch.equal(functional.dequantize_4bit(packed, state), expected)
    # sixteen at a time, within blocks of 64 that begin with each row
    assert is_plain_kernel_right(inputs) == (inputs not in (16, 48, 80, 96, 176, 352))
    assert is_right == (is_plain_kernel_right(inputs) or not HAS_AVX512)


@pytest.mark.parametrize(("outputs", "inputs"), [(36, 64), (64, 36), (144, 36), (33, 64)])
def test_other_widths_fall_back_to_the_plain_kernel(outputs: int, inputs: int) -> None:
    chosen, x = layer(outputs, inputs), torch.randn(5, inputs)
    weights = functional.dequantize_4bit(chosen.weight.data, chosen.weight.quant_state)
    choose_kernels(torch.nn.Sequential(chosen), "m")
    with torch.no_grad():
        assert torch.allclose(chosen(x), x @ weights.T, atol=1e-4)


def test_widths_that_fit_keep_the_fast_kernel() -> None:
    kept = layer(64, 64)
    before = kept.support_avx512bf16_for_cpu
    choose_kernels(torch.nn.Sequential(kept), "m")
    assert kept.support_avx512bf16_for_cpu == before


@pytest.mark.skipif(not HAS_AVX512, reason="only AVX-512 code has the fault")
def test_widths_at_which_the_plain_kernel_is_wrong_are_refused() -> None:
    with pytest.raises(ModelError, match=r"m: rows of 96 numbers .* a multiple of 16 and not of 64"):
        choose_kernels(torch.nn.Sequential(layer(64, 96)), "m")


def test_a_narrow_model_quantized_to_4_bits_is_loaded_and_runs(tmp_path: Path) -> None:
    narrow = {"hidden_size": 36, "intermediate_size": 100, "num_attention_heads": 2, "num_key_value_heads": 2}
    tiny_model_of("llama", **narrow).save_pretrained(tmp_path / "model")
    settings = bitsandbytes_config("4bit", torch.float32)
    AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=settings).save_pretrained(tmp_path)
    loaded = load_model(ModelConfig(name="m"), tmp_path).eval()
    with torch.no_grad():
        assert loaded(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_an_evaluation_leaves_the_gradients_of_qlora_as_they_were(tiny_model: Path) -> None:
    """The fast kernel repacks a weight for inference, after which it has no gradient."""
    config = TrainConfig.model_validate({"method": "qlora"})
    model = trainable_model(config, ModelConfig(name="tiny"), tiny_model, [], 258)
    torch.manual_seed(0)
    tuned = get_peft_model(model, adapter_config(config, model, []))
    ids = torch.tensor([list(range(5, 25))])

    def gradients() -> list[float]:
        tuned.zero_grad()
        tuned.train()(ids, labels=ids).loss.backward()
        return [float(p.grad.norm()) if p.grad is not None else 0.0 for n, p in tuned.named_parameters() if "_B" in n]

    before = gradients()
    with torch.no_grad():
        tuned.eval()(ids)
    assert all(norm > 0 for norm in before)
    assert gradients() == pytest.approx(before, rel=1e-3)
