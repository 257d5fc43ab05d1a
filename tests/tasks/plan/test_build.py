"""What a plan finds when the answers of its checks and the model's shape come together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from support.hub_server import HubServer

from configs.errors import ModelError
from configs.schema import FineTuneConfig
from tasks.plan.build import BuiltPlan, build_plan
from tasks.plan.checks.preflight import answer, fail_together
from tasks.plan.checks.questions import Surroundings, training_questions


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def plan_of(model: Path | str, rows: Path, scratch: Path, **settings: Any) -> BuiltPlan:
    config = FineTuneConfig(
        model={"name": str(model)},
        data={"sources": [{"path": str(rows)}]},
        quantize={"methods": []},
        output_directory=str(scratch / "outputs"),
        **settings,
    )
    surroundings = Surroundings(
        is_laptop=False,
        token=None,
        token_sources="$HF_TOKEN",
        tracker_secrets={},
        tracker_sources="$X",
        filesystem_of=lambda address: None,
        scratch=scratch,
    )
    return build_plan({"train": config}, answer(training_questions(config, surroundings)), None)


def weights_of(built: BuiltPlan) -> tuple[str, str]:
    (check,) = [check for check in built.plan.checks if check.name == "weights"]
    return check.result, check.found


def without(model: Path, name: str) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors[name]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def test_more_gpus_for_scoring_than_a_machine_has_are_a_warning(model: Path, rows_file: Path, tmp_path: Path) -> None:
    for gpus, expected in ((8, []), (16, ["evaluate.gpus=16; usual machines have 8 A100-80GB at most"])):
        train, evaluate = {"cluster": {"gpu": "A100-80GB"}}, {"gpus": gpus}
        checks = plan_of(model, rows_file, tmp_path, train=train, evaluate=evaluate).plan.checks
        assert [check.found for check in checks if check.name == "GPUs of the evaluation"] == expected
        assert all(check.result != "failed" for check in checks)


def test_weights_that_are_missing_stop_the_run_in_its_plan(model: Path, rows_file: Path, tmp_path: Path) -> None:
    # 2 layers of 4 + 3 linear maps and 2 norms, the embedding, the last norm; the head is tied
    assert weights_of(plan_of(model, rows_file, tmp_path)) == ("ok", "20 tensors")
    without(model, "model.layers.1.mlp.up_proj.weight")
    built = plan_of(model, rows_file, tmp_path)
    lacks = "lacks 1 weights that its config.json asks for, first model.layers.1.mlp.up_proj.weight"
    assert weights_of(built) == ("failed", f"model.name={model} {lacks}")
    with pytest.raises(ModelError, match="part of it would be random"):
        fail_together(built.answers, needs_network=True)


def test_architectures_that_cannot_be_trained_are_refused_by_name(model: Path, rows_file: Path, tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": 258, "d_model": 16}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    pegasus = transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(**sizes, **layers, **widths))
    xlnet = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**sizes, n_layer=2, n_head=2, d_inner=32))
    for other, reason in (
        (pegasus, "'pegasus', which is an encoder-decoder model"),
        (xlnet, "'xlnet', which reads text in both directions"),
    ):
        other.save_pretrained(model)
        (failed,) = [check for check in plan_of(model, rows_file, tmp_path).plan.checks if check.result == "failed"]
        assert failed.name == "memory"
        assert failed.found == f"model.name={model}: config.json is of architecture {reason}"


def test_weights_on_a_hub_are_compared_by_their_headers(
    model: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer(tokens={}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        server.add_repo("owner/whole", {file.name: file for file in model.iterdir()})
        assert weights_of(plan_of("owner/whole", rows_file, tmp_path)) == ("ok", "20 tensors")
        without(model, "model.norm.weight")
        server.add_repo("owner/part", {file.name: file for file in model.iterdir()})
        assert weights_of(plan_of("owner/part", rows_file, tmp_path))[0] == "failed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "not checked: they are quantized already"),
        ({"auto_map": {"AutoModel": "a.B"}}, "not checked: the model's own code decides which it needs"),
    ],
)
def test_weights_that_no_config_json_describes_are_not_compared(
    change: dict[str, Any], reason: str, model: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, **change}))
    assert weights_of(plan_of(model, rows_file, tmp_path)) == ("not checked", reason)
