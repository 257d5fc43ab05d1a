"""The whole workflow as `pyflyte run` runs it, in a process of its own, with a hub on loopback."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import PyFlyte, error_lines
from huggingface_hub import HfApi
from support.hub_server import HubServer

TOKEN = "hf_write_secret"
QUICK = {
    "train": {"method": "full", "max_steps": 3, "learning_rate": 1e-2},
    "evaluate": {"generate_rows": 2, "max_new_tokens": 4},
    "quantize": {"methods": []},
}


PUSH = {"repository": "me/tuned"}


def hub_env(server: HubServer, home: Path, token: str = TOKEN) -> dict[str, str]:
    return {
        "HF_ENDPOINT": server.endpoint,
        "HF_TOKEN": token,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workflow")


@pytest.fixture(scope="module")
def first_run(shared_home: Path, tiny_model: Path, rows_file: Path):
    """A run with both quantizations and a push that fails, and then the same command again."""
    flyte = PyFlyte(shared_home, is_forked=True)
    config = {
        "name": "first",
        "model": {"name": str(tiny_model)},
        "data": {"sources": [{"path": str(rows_file)}]},
        **QUICK,
        "quantize": {"methods": ["8bit", "4bit"]},
        "gate": {"approval": True},
        "push_to_hub": {"repository": "me/tuned", "artifacts": ["model", "4bit"]},
    }
    with HubServer(tokens={TOKEN: "write"}, user="me") as server:
        server.fail_next("commit", status=418, times=1)
        broken = flyte.fine_tune(config, hub_env(server, shared_home))
        mended = flyte.fine_tune(config, hub_env(server, shared_home))
        yield flyte, config, server, broken, mended


def test_a_run_ends_with_the_table_and_the_two_paths(first_run) -> None:
    flyte, _, _, _, mended = first_run
    assert mended.returncode == 0, mended.stderr
    lines = mended.stdout.strip().splitlines()
    header = next(place for place, line in enumerate(lines) if line.startswith("model "))
    assert lines[header].split()[:4] == ["model", "eval_loss", "perplexity", "exact_match"]
    models = [line.split()[0] for line in lines[header + 1 : header + 5]]
    assert models == ["base", "tuned", "quantized_8bit", "quantized_4bit"]
    # general text is a set of its own, below
    assert any(line.split()[:3] == ["general", "text", "tuned"] for line in lines[header:])
    directory = flyte.home / "outputs" / "first"
    assert lines[-2].split() == ["report:", str(directory / "report.html")]
    assert lines[-1].split() == ["metrics:", str(directory / "metrics.json")]


def test_metrics_hold_every_model_and_the_counts(first_run) -> None:
    flyte = first_run[0]
    metrics = json.loads((flyte.home / "outputs" / "first" / "metrics.json").read_text())
    for name in ("base", "tuned", "quantized_8bit", "quantized_4bit"):
        assert {"eval_loss", "perplexity", "exact_match"} <= set(metrics[name])
    assert (metrics["train_rows"], metrics["test_rows"], metrics["quarantined_rows"]) == (54, 6, 0)
    assert metrics["tuned"]["eval_loss"] < metrics["base"]["eval_loss"]
    assert metrics["quantized_4bit"]["size_bytes"] < metrics["tuned"]["size_bytes"]
    assert metrics["quantized_8bit"]["eval_loss"] == pytest.approx(metrics["tuned"]["eval_loss"], rel=0.05)


def test_the_models_lie_beside_the_report_and_load(first_run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    flyte, _, _, _, mended = first_run
    directory = flyte.home / "outputs" / "first"
    assert f"models: {directory}/{{model,quantized_8bit,quantized_4bit}}" in mended.stdout
    for name in ("model", "quantized_8bit", "quantized_4bit"):
        prompt = AutoTokenizer.from_pretrained(directory / name)("What is", return_tensors="pt")
        answer = AutoModelForCausalLM.from_pretrained(directory / name).generate(**prompt, max_new_tokens=2)
        assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_tolerated_rows_and_the_adapter_lie_there_too(pyflyte: PyFlyte, tiny_model: Path, tmp_path: Path) -> None:
    """Of 22 rows, the data stage finds one invalid, and the chat template refuses one; both go to the quarantine."""
    rows = [{"prompt": f"q {n}", "completion": f"a {n}"} for n in range(20)] + [{"prompt": "bad", "completion": ""}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "SECRET", "completion": "b"}]))
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% if messages[0]['content'] == 'SECRET' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    result = pyflyte.fine_tune(
        {
            "name": "lora",
            "model": {"name": str(tiny_model)},
            "data": {"sources": [{"path": str(path)}], "max_invalid_rows": 2},
            "tokenize": {"chat_template": str(template)},
            **QUICK,
            "train": {"method": "lora", "max_steps": 1},
        }
    )
    assert result.returncode == 0, result.stderr
    directory = pyflyte.home / "outputs" / "lora"
    faults = [json.loads(line) for line in (directory / "quarantine.jsonl").read_text().splitlines()]
    assert [(fault["file"], fault["row"], fault["check"], fault["column"]) for fault in faults] == [
        ("rows.jsonl", 21, "format", "completion"),
        ("rows.jsonl", 22, "template", "(row)"),
    ]
    assert faults[1]["reason"] == "the chat template (tokenize.chat_template) refuses it (no)"
    assert faults[1]["value"] == "SECRET\nb\n"
    assert "SECRET" not in result.stdout + result.stderr
    page = (directory / "report.html").read_text()
    assert "22 rows read = 20 kept + 2 quarantined (1 of them by the chat template) + 0 deduplicated." in page
    assert (directory / "adapter" / "adapter_model.safetensors").exists()
    metrics = json.loads((directory / "metrics.json").read_text())
    assert (metrics["quarantined_rows"], metrics["refused_rows"]) == (2, 1)


def test_the_report_is_one_page_that_loads_nothing(first_run) -> None:
    page = (first_run[0].home / "outputs" / "first" / "report.html").read_text()
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#)[^"]+"', page)
    for words in ("Held-out scores", "Learning rate", "wrong ones first", "Resolved configuration", "<svg"):
        assert words in page


def test_a_failed_push_is_one_error_and_trains_nothing_again(first_run) -> None:
    flyte, _, server, broken, mended = first_run
    assert broken.returncode == 1
    lines = error_lines(broken)
    assert len(lines) <= 3
    assert lines[-1] == f"the trained model is kept at {flyte.home}/outputs/first.unfinished/model"
    assert "push_to_hub.repository=me/tuned" in lines[0] and "answered 418" in lines[0]
    assert "train: step" in broken.stdout and "train: step" not in mended.stdout
    # the hub's own first commit, and one push
    assert len(server.commits("me/tuned")) == 2
    assert len(server.commits("me/tuned-4bit")) == 2
    assert "quantization_config" in json.loads(server.files("me/tuned-4bit")["config.json"])


def test_a_run_without_a_console_asks_nobody_and_says_so(first_run) -> None:
    said = "approval: Nobody is asked to approve model, 4bit (gate.approval): a run on a laptop has no console."
    assert said in first_run[4].stdout.splitlines()


def test_the_token_appears_nowhere(first_run) -> None:
    flyte, _, server, broken, mended = first_run
    for result in (broken, mended):
        assert TOKEN not in result.stdout + result.stderr
    for repository in ("me/tuned", "me/tuned-4bit"):
        assert not any(TOKEN.encode() in content for content in server.files(repository).values())
    for file in flyte.home.rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file


def test_changing_the_quantization_does_not_train_again(first_run) -> None:
    flyte, config, _, _, _ = first_run
    changed = {**config, "quantize": {"methods": []}, "push_to_hub": {}}
    result = flyte.fine_tune(changed)
    assert result.returncode == 0, result.stderr
    assert "train: step" not in result.stdout
    assert "not pushed: push_to_hub.repository is not set" in result.stdout


@pytest.mark.parametrize("name", ["trained.xxh3-*/model.safetensors", "train.xxh3-*.parquet"])
def test_a_cached_result_that_was_changed_on_the_disk_is_made_again(first_run, name: str) -> None:
    """Four bytes of a trained model, or a table of rows: what is scored and exported is what was made."""
    flyte, config, _, _, _ = first_run
    exported = (flyte.home / "outputs" / "first" / "model" / "model.safetensors").read_bytes()
    for file in (flyte.home / "tmp").rglob(name):
        content = bytearray(file.read_bytes())
        content[-200:-196] = bytes(byte ^ 0xFF for byte in content[-200:-196])
        file.write_bytes(content)
    result = flyte.fine_tune({**config, "name": "checked", "quantize": {"methods": []}, "push_to_hub": {}})
    assert result.returncode == 0, result.stderr
    step = "train" if "model" in name else "get_data"
    assert f"step {step} runs (its result was changed on the disk: {flyte.home}/tmp/" in result.stdout
    assert "step get_model comes from the cache" in result.stdout
    again = flyte.home / "outputs" / "checked" / "model" / "model.safetensors"
    assert again.read_bytes() == exported


def test_steps_whose_outputs_were_deleted_run_again(first_run) -> None:
    flyte, config, _, _, _ = first_run
    shutil.rmtree(flyte.home / "tmp")
    result = flyte.fine_tune({**config, "quantize": {"methods": []}, "push_to_hub": {}})
    assert result.returncode == 0, result.stderr
    assert "step get_model runs (its result is no longer there)" in result.stdout
    assert "train: step" in result.stdout


@pytest.mark.slow
def test_two_processes_train_to_the_loss_of_one(pyflyte: PyFlyte, tiny_model: Path, rows_file: Path) -> None:
    losses = []
    for processes in (1, 2):
        config = {
            "name": f"x{processes}",
            "model": {"name": str(tiny_model)},
            "data": {"sources": [{"path": str(rows_file)}]},
            **QUICK,
            "train": {
                "method": "full",
                "processes_per_node": processes,
                "batch_size": 54,
                "micro_batch_size": 54 // processes,
                "max_steps": 4,
                "logging_steps": 1,
                "learning_rate": 1e-2,
            },
        }
        result = pyflyte.fine_tune(config)
        assert result.returncode == 0, result.stderr
        metrics = json.loads((pyflyte.home / "outputs" / f"x{processes}" / "metrics.json").read_text())
        curve = [float(loss) for loss in re.findall(r"train: step \d/4  loss ([\d.]+)", result.stdout)]
        losses.append([*curve, metrics["tuned"]["eval_loss"]])
    assert len(losses[0]) == 5
    # every step sees all 54 rows, whichever process they are on
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)


@pytest.mark.slow
def test_map_tasks_train_the_model_of_one_machine_and_a_further_set_is_scored(
    pyflyte: PyFlyte, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"prompt": f"other {n}", "completion": "z"}) + "\n" for n in range(5)))
    models = []
    for shards in (1, 3):
        config = {
            "name": f"of-{shards}",
            "model": {"name": str(tiny_model)},
            "data": {"sources": [{"path": str(rows_file)}], "evaluation": [{"path": str(other)}], "shards": shards},
            "tokenize": {"packing": "best_fit"},
            **QUICK,
        }
        result = pyflyte.fine_tune(config)
        assert result.returncode == 0, result.stderr
        folder = pyflyte.home / "outputs" / f"of-{shards}"
        metrics = json.loads((folder / "metrics.json").read_text())
        # 54 short rows in a few packed ones
        assert 0 < metrics["packed_rows"] < 27
        assert [metrics[model]["others"]["other.jsonl"]["loss_rows"] for model in ("base", "tuned")] == [5, 5]
        assert "evaluate tuned on other.jsonl: loss" in result.stdout
        models.append((folder / "model" / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_model_and_rows_come_from_a_hub(pyflyte: PyFlyte, tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    with HubServer(tokens={TOKEN: "write"}, user="me") as server:
        server.add_repo("owner/base", {file.name: file for file in tiny_model.iterdir()})
        server.add_repo("owner/rows", {"train.jsonl": rows_file}, repo_type="dataset")
        result = pyflyte.fine_tune(
            {"name": "hub", "model": {"name": "owner/base"}, "data": {"sources": [{"hub": "owner/rows"}]}, **QUICK},
            hub_env(server, tmp_path),
        )
    assert result.returncode == 0, result.stderr
    assert "60 rows read = 60 kept" in result.stdout


def test_a_model_that_is_not_better_is_not_pushed(
    pyflyte: PyFlyte, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    with HubServer(tokens={TOKEN: "write"}, user="me") as server:
        config = {
            "model": {"name": str(tiny_model)},
            "data": {"sources": [{"path": str(rows_file)}]},
            **QUICK,
            # so small a step leaves the weights as they are
            "train": {"method": "full", "max_steps": 1, "learning_rate": 1e-30},
            "push_to_hub": PUSH,
        }
        env = hub_env(server, tmp_path)
        result = pyflyte.fine_tune(config, env)
        assert result.returncode == 0, result.stderr
        assert "not pushed to me/tuned: " in result.stdout
        assert not [path for method, path in server.requests if path.startswith("/api/repos/create")]
        forced = pyflyte.fine_tune({**config, "push_to_hub": {**PUSH, "reason": "a trial", "private": False}}, env)
        assert forced.returncode == 0, forced.stderr
        assert not HfApi(endpoint=server.endpoint, token=TOKEN).repo_info("me/tuned").private


def test_a_model_with_code_of_its_own_runs_when_allowed_and_asks_nothing(
    pyflyte: PyFlyte, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "own"))
    (model / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    (model / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    settings = json.loads((model / "config.json").read_text())
    settings |= {"model_type": "own", "architectures": ["OwnForCausalLM"]}
    settings["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (model / "config.json").write_text(json.dumps(settings))
    result = pyflyte.fine_tune(
        {
            "model": {"name": str(model), "trust_remote_code": True},
            "data": {"sources": [{"path": str(rows_file)}]},
            **QUICK,
            "quantize": {"methods": ["4bit"]},
        }
    )
    assert result.returncode == 0, result.stderr
    assert "Do you wish" not in result.stdout
    assert "quantized_4bit" in result.stdout
