"""The plan says how much of a model bitsandbytes can quantize, and refuses methods that quantize too little."""

from __future__ import annotations

from typing import Any

import pytest
from support.plan_inputs import LLAMA_3_8B
from support.tiny_families import settings_of

from configs.errors import ConfigError
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from configs.wire_plan import Check
from tasks.plan.build import build_plan
from tasks.plan.checks import quantized_share
from tasks.plan.checks.preflight import Answer
from tasks.plan.checks.quantized_share import check_quantized_share
from tasks.plan.hardware.target import Target
from tasks.plan.shapes.architectures import known_shape, shape_of
from tasks.plan.shapes.counted_shapes import count_shape
from tasks.plan.shapes.shape import ModelShape

CPU = Target("CPU", 10**12)
GPU = None


@pytest.fixture(autouse=True)
def _cpus_have_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_share, "cpu_has_avx512", lambda: True)


def config_of(method: str = "lora", **quantize: Any) -> FineTuneConfig:
    sources = {"sources": [{"path": "rows.jsonl"}]}
    train = {"method": method}
    return FineTuneConfig.model_validate(
        {"model": {"name": "a/b"}, "data": sources, "train": train, "quantize": quantize}
    )


def shape(family: str, **changes: Any) -> ModelShape:
    # activations take ten seconds to count, and are not asked for here
    return count_shape(settings_of(family, **changes), family, has_activations=False)


@pytest.mark.parametrize(
    ("family", "share"),
    [
        ("llama", 1.0),
        ("gpt2", 1.0),
        ("phi", 1.0),
        ("falcon", 0.0),
        # attention 12,288; four experts of 18,432, and a router of 256
        ("mixtral", 12_288 / 86_272),
        ("gpt_oss", 12_288 / 86_272),
        # four experts of 6,144
        ("qwen3_moe", 12_288 / 37_120),
    ],
)
def test_shares_by_hand(family: str, share: float) -> None:
    assert shape(family).quantizable.share == pytest.approx(share, abs=1e-12)


def test_the_share_of_a_known_mixture_is_known_without_its_weights() -> None:
    known = known_shape("mistralai/Mixtral-8x7B-v0.1")
    assert known is not None
    # of a layer: attention 2 x 4096 x 4096 and 2 x 4096 x 1024; experts 8 x 3 x 4096 x 14336; router 4096 x 8
    attention, experts, router = 41_943_040, 1_409_286_144, 32_768
    weights = shape_of(known.settings, known.name).quantizable
    assert weights.share == pytest.approx(attention / (attention + experts + router), abs=1e-12)
    assert weights.others == (("MixtralExperts", 32 * experts), ("MixtralTopKRouter", 32 * router))


def test_a_dense_model_passes() -> None:
    assert check_quantized_share(config_of(), LLAMA_3_8B, GPU) == (
        "quantize.methods 8bit and 4bit: 100.0% of the linear weights"
    )
    assert check_quantized_share(config_of("qlora", methods=[]), LLAMA_3_8B, GPU) == (
        "train.method=qlora: 100.0% of the linear weights"
    )


@pytest.mark.parametrize("family", ["falcon", "mixtral", "qwen3_moe", "gpt_oss"])
def test_methods_that_quantize_too_little_are_refused_by_name(family: str) -> None:
    kind = {"falcon": "FalconLinear", "mixtral": "MixtralExperts", "qwen3_moe": "Qwen3MoeExperts"}
    with pytest.raises(ConfigError) as refusal:
        check_quantized_share(config_of(), shape(family), GPU)
    text = str(refusal.value)
    assert text.startswith("quantize.methods names 8bit and 4bit: bitsandbytes quantizes ")
    assert kind.get(family, "GptOssExperts") in text
    assert text.endswith("\nset quantize.methods=[], or lower quantize.min_share")


def test_the_message_has_the_share_the_limit_and_the_layers() -> None:
    with pytest.raises(ConfigError) as refusal:
        check_quantized_share(config_of(methods=["4bit"]), shape("mixtral"), GPU)
    assert str(refusal.value) == (
        "quantize.methods names 4bit: bitsandbytes quantizes 14.2% of the linear weights of a/b (embeddings and output "
        "head do not count), and quantize.min_share is 50.0%; layers that it does not replace: MixtralExperts (85.5%) "
        "and MixtralTopKRouter (0.3%)\nset quantize.methods=[], or lower quantize.min_share"
    )


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_training_over_a_base_that_cannot_be_quantized_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=rf"train.method={method}: .* 14\.2% .*\nuse train.method=lora, or lower"):
        check_quantized_share(config_of(method, methods=[]), shape("mixtral"), GPU)
    assert check_quantized_share(config_of(method, methods=[], min_share=0.14), shape("mixtral"), GPU)


def test_the_limit_is_the_users() -> None:
    exact = 12_288 / 37_120
    assert check_quantized_share(config_of(min_share=exact), shape("qwen3_moe"), GPU)
    with pytest.raises(ConfigError, match=r"quantize.min_share is 33\.2%"):
        check_quantized_share(config_of(min_share=0.332), shape("qwen3_moe"), GPU)
    # a copy of which nothing is quantized is none
    with pytest.raises(ConfigError, match=r"quantizes 0\.0%"):
        check_quantized_share(config_of(min_share=0.0), shape("falcon"), GPU)


def test_what_quantizes_nothing_is_not_asked() -> None:
    assert check_quantized_share(config_of(methods=[]), shape("falcon"), GPU) == ""
    # gptqmodel has rules of its own
    assert check_quantized_share(config_of(methods=["gptq"]), shape("falcon"), GPU) == ""
    assert check_quantized_share(config_of("full", methods=[]), shape("mixtral"), GPU) == ""


def test_other_cpus_unpack_all_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_share, "cpu_has_avx512", lambda: False)
    assert check_quantized_share(config_of(), shape("llama"), CPU)


def test_widths_that_a_cpu_unpacks_wrongly_are_refused_there_in_4_bits() -> None:
    # the MLP's 96 are inputs of its last map
    narrow = shape("llama")
    with pytest.raises(ConfigError, match=r"quantize.methods names 4bit: rows of 96 numbers .*\nuse a GPU, or 8 bits"):
        check_quantized_share(config_of(), narrow, CPU)
    with pytest.raises(ConfigError, match=r"train.method=qlora: rows of 96 numbers"):
        check_quantized_share(config_of("qlora", methods=[]), narrow, CPU)
    assert check_quantized_share(config_of(), narrow, GPU)
    assert check_quantized_share(config_of(methods=["8bit"]), narrow, CPU)
    assert check_quantized_share(config_of(), shape("llama", intermediate_size=128), CPU)
    # nor of 36: these are unpacked one by one
    assert check_quantized_share(
        config_of(), shape("llama", hidden_size=36, intermediate_size=100, num_attention_heads=2), CPU
    )


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_the_plan_has_both_checks_and_their_failures(family: str) -> None:
    settings = Answer(Check(name="architecture", result="ok", found=""), value=settings_of(family))
    built = build_plan({"train": config_of("qlora")}, [settings], GPU)
    results = {check.name: check.result for check in built.plan.checks if check.name.startswith("quantized")}
    result = "ok" if family == "llama" else "failed"
    assert results == {"quantized share": result, "quantized base": result}
    failed = {answer.check.name for answer in built.answers if answer.error is not None}
    assert failed == (set(results) if family == "falcon" else set())


def test_every_phase_of_an_alignment_has_the_users_limit() -> None:
    phase = {"data": {"sources": [{"path": "rows.jsonl"}]}}
    policy = {**phase, "train": {"objective": "dpo"}}
    quantize = {"methods": ["4bit"], "min_share": 0.25}
    config = AlignConfig.model_validate(
        {"model": {"name": "a/b"}, "sft": {**phase, "train": {}}, "policy": policy, "quantize": quantize}
    )
    found = {name: config.phase(name).quantize for name in config.phases()}
    assert {name: (copies.methods, copies.min_share) for name, copies in found.items()} == {
        "sft": ([], 0.25),
        "policy": (["4bit"], 0.25),
    }


def test_scores_in_4_bits_need_enough_that_is_quantized() -> None:
    scored = config_of(methods=[])
    scored = scored.model_copy(update={"evaluate": scored.evaluate.model_copy(update={"load_in": "4bit"})})
    assert check_quantized_share(scored, shape("llama"), GPU) == "evaluate.load_in=4bit: 100.0% of the linear weights"
    with pytest.raises(ConfigError, match=r"evaluate\.load_in=4bit.*\n?.*divide the model with evaluate\.gpus"):
        check_quantized_share(scored, shape("falcon"), GPU)
    # rows of 96 numbers, which a CPU unpacks wrongly
    with pytest.raises(ConfigError, match=r"^evaluate\.load_in=4bit: rows of 96 numbers"):
        check_quantized_share(scored, shape("llama"), CPU)
