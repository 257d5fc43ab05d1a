"""The plan as users ask for it: any preset in seconds, offline and without torch; a misfit with what would fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, PyFlyte, clean_environment, error_lines
from support import forked_programs
from support.hub_server import HubServer

from configs.load import PRESETS

_SCRIPT = f"""
import runpy, sys
runpy.run_path({str(ROOT / "tests" / "support" / "without_torch.py")!r})
from flytekit.clis.sdk_in_container.pyflyte import main
sys.argv[0] = "pyflyte"
main()
"""
# nobody listens there: as good as no network
_OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9"}


def planned(
    config: Path, home: Path, *options: str, workflow: str = "", is_forked: bool = forked_programs.IS_SUPPORTED
) -> subprocess.CompletedProcess[str]:
    """Run what `make plan` runs, where torch cannot be loaded and no server answers."""
    plan = "plan_align" if "\nsft:" in config.read_text(encoding="utf-8") else "plan"
    words = ["run", f"workflows/{workflow or 'plan'}.py", workflow or plan, "--config", str(config), *options]
    home.mkdir(exist_ok=True)
    environment = clean_environment() | {"HOME": str(home), "TMPDIR": str(home), **_OFFLINE}
    if is_forked:
        server = forked_programs.WITHOUT_TORCH
        return forked_programs.run_script(["pyflyte", *words], ROOT, environment, 300, server)
    command = [sys.executable, "-c", _SCRIPT, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_planned_offline_and_without_torch(preset: Path, tmp_path: Path) -> None:
    # one as a user starts it
    started = {"is_forked": False} if preset.stem == "demo" else {}
    result = planned(preset, tmp_path / "home", **started)
    assert result.returncode == 0, result.stdout + result.stderr
    text = result.stdout
    for words in ("parameters", "GB per GPU", "fits: ", "assumed, and not measured here:", "check  ", "A100-80GB"):
        assert words in text, text
    assert "does not fit" not in text
    assert text.rstrip().splitlines()[-1].startswith("plan.html: ")
    is_embedded = "embedded:" in preset.read_text(encoding="utf-8").partition("data:")[0]
    assert ("not checked: no network" in text) == (not is_embedded)


@pytest.mark.parametrize("is_forked", [True, False] if forked_programs.IS_SUPPORTED else [False])
def test_torch_cannot_be_loaded_there(is_forked: bool, tmp_path: Path) -> None:
    # the launcher of trainings loads it
    result = planned(PRESETS / "demo.yaml", tmp_path, workflow="fine_tune", is_forked=is_forked)
    assert result.returncode == 1 and "torch is not to be loaded here" in result.stdout + result.stderr


def write(path: Path, **sections: Any) -> Path:
    rows = path / "rows.jsonl"
    # all of one length: how many there are is reckoned by the bytes of the first
    pairs = [{"prompt": f"{n:03} + {n:03}?", "completion": f"{2 * n:03}"} for n in range(200)]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = {
        "model": {"name": "meta-llama/Llama-2-7b-hf"},
        "data": {"sources": [{"path": str(rows)}]},
        "tokenize": {"max_length": 1024},
        "evaluate": {"batch_size": 4},
        "output_directory": str(path / "outputs"),
        **sections,
    }
    file = path / "config.json"
    file.write_text(json.dumps(config))
    return file


def test_a_plan_that_does_not_fit_names_three_that_would(tmp_path: Path) -> None:
    train = {"method": "full", "micro_batch_size": 1, "cluster": {"gpu": "nvidia-a100-80gb"}}
    result = planned(write(tmp_path, train=train), tmp_path / "home", is_forked=False)
    assert result.returncode == 1
    first, second, third = error_lines(result)
    assert first.startswith("Error: train: training needs 1") and "and A100-80GB has 80 GB" in first
    assert len(second.removeprefix("it would fit with ").split(" | ")) == 3
    assert "train.method: lora" in second and "train.sharding: " in second
    assert third == "to run it anyway, set plan.if_too_large=warn"
    # all of it, before it stops
    assert "what would fit:" in result.stdout and "A100-80GB  80" in result.stdout


def test_a_misfit_may_be_tried(tmp_path: Path) -> None:
    train = {"method": "full", "micro_batch_size": 1, "cluster": {"gpu": "nvidia-a100-80gb"}}
    result = planned(write(tmp_path, train=train, plan={"if_too_large": "warn"}), tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert re.search(r"\nmemory +warning ", result.stdout) and "does not fit" in result.stdout


def test_rows_give_steps_time_and_cost(tmp_path: Path) -> None:
    train = {"batch_size": 8, "epochs": 2, "cluster": {"gpu": "nvidia-h100"}}
    result = planned(write(tmp_path, train=train), tmp_path / "home")
    assert result.returncode == 0, result.stderr
    # 200 rows, a tenth held out, 8 a step: 23 steps an epoch, the last one of 4 rows; twice
    assert ": 46 steps, " in result.stdout
    assert "$6.88 an hour for each H100-SXM (AWS p5.48xlarge; on demand)" in result.stdout
    assert "about 180 training rows of " in result.stdout


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"gpu": "nvidia-b300"}, "train.cluster.gpu=nvidia-b300 is not in the table of GPU types (T4, "),
        ({"gpus_per_process": 0}, "0 GPUs per process: training pods need at least one"),
    ],
    ids=["unknown type", "zero GPUs"],
)
def test_what_no_plan_can_be_made_for_is_said(cluster: dict[str, Any], words: str, tmp_path: Path) -> None:
    result = planned(write(tmp_path, train={"cluster": cluster}), tmp_path / "home")
    assert result.returncode == 1
    assert words in error_lines(result)[0]


def test_a_gpu_type_of_ones_own_is_planned_for(tmp_path: Path) -> None:
    mine = {"name": "B300", "memory_gb": 288, "peak_teraflops": 2500, "memory_gb_per_second": 8000}
    config = write(tmp_path, train={"method": "full", "cluster": {"gpu": "b300"}}, plan={"gpu_types": [mine]})
    result = planned(config, tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert "on B300 of 288 GB" in result.stdout
    # no price was given, and none is made up
    assert "$" not in result.stdout.partition("GPU type")[0]


def test_this_machine_is_planned_for_on_request(tmp_path: Path) -> None:
    result = planned(PRESETS / "demo.yaml", tmp_path / "home", "--machines", "here")
    assert result.returncode == 0, result.stderr
    assert "GB per process" in result.stdout and "on CPU of" in result.stdout
    assert "GPU type" not in result.stdout


def test_all_failures_show_at_once(pyflyte: PyFlyte, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        model={"name": "owner/none"},
        push_to_hub={"repository": "owner/tuned"},
        train={"objective": "dpo", "batch_size": 15, "micro_batch_size": 4},
    )
    with HubServer(tokens={"hf_read": "read"}) as server:
        env = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": "hf_read"}
        result = pyflyte("run", "workflows/plan.py", "plan", "--config", str(config), env=env)
        assert {request.method for request in server.requests} <= {"GET", "HEAD"}
    assert result.returncode == 1
    lines = [line for line in result.stdout.splitlines() if "  failed  " in line]
    assert [line.split("  ")[0] for line in lines] == [
        "model files",
        "batch and machines",
        "objective and rows",
        "hub access",
    ]
    lines = error_lines(result)
    assert lines[0].startswith("Error: model files: ")
    assert lines[-1] == "4 checks failed before anything was started (1 more than these)"
    assert "hf_read" not in result.stdout + result.stderr


def test_bad_rows_are_named_in_the_log_and_shown_in_the_page_alone(pyflyte: PyFlyte, tmp_path: Path) -> None:
    config = write(tmp_path, model={"name": "embedded:english-to-sql"}, tokenize={"max_length": 256})
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_text().splitlines()
    lines[3] = json.dumps({"prompt": "7 + 7?", "completion": ["<b>SECRET</b>"]})
    rows.write_text("\n".join(lines) + "\n")
    result = pyflyte("run", "workflows/plan.py", "plan", "--config", str(config))
    assert result.returncode == 1
    assert "rows.jsonl row 4, column completion: is a " in error_lines(result)[0]
    assert "SECRET" not in result.stdout + result.stderr
    page = (tmp_path / "outputs" / "fine-tune.plan.html").read_text()
    assert "SECRET" in page and "<b>" not in page


def shape_folder(path: Path, **settings: Any) -> Path:
    """Write a model's folder that has settings alone; the weights' header is all that is read of them."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(settings))
    return path


LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**LLAMA}, "1,100,048,384 parameters"),
        ({**LLAMA, "tie_word_embeddings": True}, "1,034,512,384 parameters, tied embeddings"),
        ({**LLAMA, "model_type": "gigallama"}, "'gigallama', which transformers"),
        ({**LLAMA, "hidden_size": -5}, "hidden_size"),
    ],
    ids=["llama", "tied", "unknown", "negative"],
)
def test_a_local_config_json_is_enough_for_a_plan(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    config = write(tmp_path, model={"name": str(shape_folder(tmp_path / "model", **settings))})
    result = planned(config, tmp_path / "home")
    # there are no weights, which is a failure of its own
    assert result.returncode == 1
    assert words in result.stdout, result.stdout


def test_a_mixture_of_experts_says_how_many_a_token_passes_through(tmp_path: Path) -> None:
    # bitsandbytes leaves experts as they are, so the default of quantize.min_share would refuse it
    few = {"methods": [], "min_share": 0.02}
    model = {"name": "mistralai/Mixtral-8x7B-v0.1"}
    config = write(tmp_path, model=model, train={"method": "qlora"}, quantize=few)
    result = planned(config, tmp_path / "home")
    assert "46,702,792,704 parameters (12,8" in result.stdout and "8 experts)" in result.stdout
    # it is scored in 16 bits on one GPU, for which no type of the table is large enough with long rows
    assert "experts" in result.stdout.partition("assumed")[2]
