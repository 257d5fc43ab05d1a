"""Loading in 4 bits and over several GPUs: what is quantized, and what is said where there are too few GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_families import tiny_model_of

from configs.effective.four_bit import is_plain_kernel_right
from configs.errors import ConfigError, ModelError
from configs.schema import ModelConfig
from tasks.models.load import load_model, load_reward_model
from tasks.models.placement import check_placed, input_device, is_divided, on_device, placement

CONFIG = ModelConfig(name="tiny")
FLOAT = torch.float32


def with_gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let torch see GPUs, which this machine may lack; nothing is loaded onto them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((number + 1) * 10**9, 2**40))


def layers_of(model: torch.nn.Module) -> set[str]:
    return {type(module).__name__ for name, module in model.named_modules() if name.rpartition(".")[2].endswith("proj")}


def test_a_model_as_saved_on_one_device_is_loaded_as_ever(tiny_model: Path) -> None:
    assert placement(tiny_model, "as_saved", 1, FLOAT) == {}


def test_linear_layers_are_loaded_in_nf4_with_double_quantization(tiny_model: Path) -> None:
    settings = placement(tiny_model, "4bit", 1, torch.bfloat16)["quantization_config"]
    assert (settings.bnb_4bit_quant_type, settings.bnb_4bit_use_double_quant) == ("nf4", True)
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    model = load_model(CONFIG, tiny_model, load_in="4bit")
    assert layers_of(model) == {"Linear4bit"}
    assert type(model.get_output_embeddings()) is torch.nn.Linear


def test_a_reward_head_is_not_quantized(tiny_model: Path) -> None:
    model = load_reward_model(CONFIG, tiny_model, new_head=True, load_in="4bit")
    assert layers_of(model) == {"Linear4bit"}
    assert type(model.score) is torch.nn.Linear


def test_a_width_that_the_cpu_unpacks_wrongly_is_refused(tmp_path: Path) -> None:
    # rows of 96 numbers in the down projections
    assert not is_plain_kernel_right(96)
    tiny_model_of("llama").save_pretrained(tmp_path)
    if torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("the kernel that is wrong is in CPUs with AVX-512")
    with pytest.raises(ModelError, match=r"model\.name=tiny: rows of 96 numbers are unpacked wrongly"):
        load_model(CONFIG, tmp_path, load_in="4bit")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_without_gpus_the_model_is_loaded_on_the_cpu_and_a_line_says_so(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(CONFIG, tiny_model, gpus=4)
    assert model.device.type == "cpu" and not is_divided(model)
    assert capsys.readouterr().out == (
        "evaluate: evaluate.gpus=4, and this machine has no GPU: the model is loaded on the CPU\n"
    )


@pytest.mark.parametrize(("here", "words"), [(1, "1 GPU is here"), (2, "2 GPUs are here")])
def test_fewer_gpus_than_asked_for_are_an_error(
    here: int, words: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, here)
    with pytest.raises(ConfigError) as caught:
        placement(tiny_model, "as_saved", 4, FLOAT)
    first, fix = str(caught.value).splitlines()
    assert first == f"evaluate.gpus=4, and {words}"
    assert fix.startswith(f"set evaluate.gpus to at most {here}, or raise the limit of GPUs")


def test_a_model_is_divided_over_what_is_free_on_so_many_gpus_and_on_nothing_else(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 4)
    assert placement(tiny_model, "as_saved", 2, FLOAT) == {
        "device_map": "auto",
        "max_memory": {0: 10**9, 1: 2 * 10**9},
    }
    assert placement(tiny_model, "4bit", 2, FLOAT)["device_map"] == "auto"
    assert placement(tiny_model, "4bit", 1, FLOAT)["device_map"] == {"": 0}


class Placed(torch.nn.Module):
    """A model whose parts transformers placed."""

    def __init__(self, **places: object) -> None:
        super().__init__()
        self.hf_device_map = places
        self.moved: list[torch.device] = []

    def to(self, place: torch.device) -> Placed:  # type: ignore[override]
        self.moved.append(place)
        return self


def test_parts_that_no_gpu_holds_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    check_placed(Placed(a=0, b=1), "big", 2)
    with pytest.raises(ModelError, match=r"evaluate\.gpus=2: 2 of 3 parts of model\.name=big do not fit"):
        check_placed(Placed(a=0, b="cpu", c="disk"), "big", 2)


def test_a_divided_model_is_not_moved() -> None:
    place, divided, whole = torch.device("cpu"), Placed(a=0, b=1), Placed(a="cpu")
    assert on_device(divided, place) is divided and divided.moved == []
    # a copy of gptqmodel is loaded on the CPU, and belongs on the GPU
    assert on_device(whole, place) is whole and whole.moved == [place]


def test_inputs_go_to_the_model_where_it_is_whole(tiny_model: Path) -> None:
    assert input_device(load_model(CONFIG, tiny_model)) == torch.device("cpu")
