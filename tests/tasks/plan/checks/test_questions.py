"""Each fault that shows on a CPU has a check of its own; all checks are made at once, and none loads torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from huggingface_hub import constants
from rehearsal.store import Store
from support.hub_server import HubServer
from support.resolved import resolve_model
from support.tracker_servers import wandb_server

from configs.errors import ConfigError, ModelError, UnreachableError, UnreachableStoreError
from configs.schema import FineTuneConfig, ModelConfig
from configs.wire_plan import Check
from tasks.plan.checks.preflight import Answer, answer, fail_together, text_table, value_of
from tasks.plan.checks.questions import (
    Surroundings,
    alignment_questions,
    first_rows_of,
    training_questions,
)
from tasks.plan.shapes.supported import check_architecture
from tasks.train.checkpoint.store import filesystem_of

ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_model: Path):
    with HubServer(tokens={"hf_w": "write", "hf_r": "read"}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        files = {file.name: file for file in tiny_model.iterdir()}
        card = b"---\nlicense: apache-2.0\n---\n"
        server.add_repo("owner/base", {**files, "README.md": card})
        server.add_repo("owner/gated", files, gated=True)
        yield server


def surroundings_in(tmp_path: Path, token: str | None = None, **others: Any) -> Surroundings:
    given = {"tracker_secrets": {}, "tracker_sources": "$X", "is_laptop": True, **others}
    return Surroundings(token=token, token_sources="$HF_TOKEN", filesystem_of=filesystem_of, scratch=tmp_path, **given)


def config(model: Path | str, rows: Path, tmp_path: Path, **others: Any) -> FineTuneConfig:
    sources = others.pop("sources", [{"path": str(rows)}])
    settings = {"quantize": {"methods": []}, "output_directory": str(tmp_path / "outputs"), **others}
    return FineTuneConfig(model={"name": str(model)}, data={"sources": sources}, **settings)


def ask(config: FineTuneConfig, surroundings: Surroundings) -> list[Answer]:
    return answer(training_questions(config, surroundings))


def by_name(answers: list[Answer]) -> dict[str, Check]:
    return {given.check.name: given.check for given in answers}


def test_a_good_config_passes_all_checks(model: Path, rows_file: Path, tmp_path: Path) -> None:
    answers = ask(config(model, rows_file, tmp_path), surroundings_in(tmp_path))
    checks = by_name(answers)
    assert {name for name, check in checks.items() if check.result != "ok"} == {"license"}
    assert list(checks)[:5] == ["model files", "architecture", "license", "remote code", "weights format"]
    assert checks["architecture"].found == "LlamaForCausalLM"
    assert value_of(answers, "model files") == resolve_model(ModelConfig(name=str(model)), None)
    assert len(value_of(answers, "data sources").shards) == 1
    assert [facts.rows for facts in first_rows_of(answers)] == [60]
    fail_together(answers, needs_network=True)


@pytest.mark.parametrize(
    ("file", "change", "name", "found"),
    [
        ("config.json", {"model_type": "gigallama"}, "architecture", "'gigallama', which transformers"),
        ("config.json", {"model_type": "vit"}, "architecture", "vit, which is not a causal language model"),
        ("config.json", {"auto_map": {"AutoModel": "a.B"}}, "remote code", "runs Python code of its own"),
        ("config.json", {"vocab_size": 100}, "tokenizer", "vocabulary of 100 tokens is smaller"),
        ("config.json", "{", "model files", "is not readable JSON"),
        ("tokenizer_config.json", {"chat_template": ENDLESS}, "chat template", "no end-of-turn token"),
    ],
)
def test_each_fault_of_a_model_fails_its_own_check(
    file: str, change: Any, name: str, found: str, model: Path, rows_file: Path, tmp_path: Path
) -> None:
    text = change if isinstance(change, str) else json.dumps({**json.loads((model / file).read_text()), **change})
    (model / file).write_text(text)
    answers = ask(config(model, rows_file, tmp_path), surroundings_in(tmp_path))
    failed = {check.name: check for check in by_name(answers).values() if check.result == "failed"}
    assert list(failed) == [name], text_table([given.check for given in answers])
    assert found in failed[name].found and failed[name].fix


def test_generation_settings_that_will_be_removed_are_named(model: Path, rows_file: Path, tmp_path: Path) -> None:
    name = "generation settings"
    # the file that transformers saved with the model
    assert by_name(ask(config(model, rows_file, tmp_path), surroundings_in(tmp_path)))[name].result == "ok"
    (model / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.6, "top_k": 50}))
    check = by_name(ask(config(model, rows_file, tmp_path), surroundings_in(tmp_path)))[name]
    assert check.result == "warning"
    assert check.found.endswith("refuses to save them: temperature=0.6 has no effect without do_sample: true")
    assert "set do_sample: true" in check.fix
    (model / "generation_config.json").unlink()
    assert by_name(ask(config(model, rows_file, tmp_path), surroundings_in(tmp_path)))[name].result == "ok"


@pytest.mark.parametrize(("tolerated", "result"), [(2, "warning"), (1, "failed")])
def test_invalid_rows_and_refused_ones_are_counted_together(
    tolerated: int, result: str, model: Path, tmp_path: Path
) -> None:
    """Of 12 rows, the second is invalid, and the template refuses the third."""
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(12)]
    rows[1]["completion"], rows[2]["prompt"] = "", "SECRET"
    path, template = tmp_path / "rows.jsonl", tmp_path / "template.jinja"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refuses = "{% if messages[0]['content'] == 'SECRET' %}{{ raise_exception('no') }}{% endif %}"
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    template.write_text(refuses + turns + "{% if add_generation_prompt %}assistant: {% endif %}")
    given = config(model, path, tmp_path, tokenize={"chat_template": str(template)})
    data = given.data.model_copy(update={"max_invalid_rows": tolerated})
    checks = by_name(ask(given.model_copy(update={"data": data}), surroundings_in(tmp_path)))
    assert checks["first rows"].result == "warning"
    check = checks["chat template"]
    assert (check.result, "rows.jsonl:3: the chat template" in check.found) == (result, True)
    assert "SECRET" not in check.found + check.fix
    if result == "failed":
        assert check.found.endswith("1 refused row, data.max_invalid_rows=1 tolerated, 1 already used by invalid rows")
        assert check.fix.startswith("set tokenize.chat_template to another template; or raise data.max_invalid_rows")


def test_pickled_weights_fail_a_check_of_their_own(model: Path, rows_file: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    answers = ask(config(model, rows_file, tmp_path), surroundings_in(tmp_path))
    assert [given.check.name for given in answers if given.check.result == "failed"] == ["weights format"]
    with pytest.raises(ModelError, match=r"has pickled weights only \(pytorch_model.bin\)"):
        fail_together(answers, needs_network=True)


def test_all_faults_are_reported_at_once(model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"p{n}", "completion": "c"}) + "\n" for n in range(20)))
    (model / "config.json").write_text(
        json.dumps({**json.loads((model / "config.json").read_text()), "model_type": "gigallama"})
    )
    wrong = config(
        model,
        rows,
        tmp_path,
        train={"objective": "dpo", "batch_size": 30, "micro_batch_size": 8, "tracking": {"tracker": "wandb"}},
        push_to_hub={"repository": "me/tuned"},
        tokenize={"max_length": 5000},
    )
    answers = ask(wrong, surroundings_in(tmp_path))
    failed = [given.check.name for given in answers if given.check.result == "failed"]
    assert failed == [
        "architecture",
        "batch and machines",
        "objective and rows",
        "sequence length",
        "hub access",
        "tracker",
    ]
    with pytest.raises(ConfigError) as caught:
        fail_together(answers, needs_network=True)
    lines = str(caught.value).splitlines()
    assert lines[3:] == ["6 checks failed before anything was started (3 more than these)"]
    assert lines[0].startswith("architecture: ")
    table = text_table([given.check for given in answers])
    assert all(f"\n{name} " in table for name in failed) and max(map(len, table.splitlines())) <= 110 + len(str(model))


def test_a_plan_for_other_machines_does_not_check_this_one(model: Path, rows_file: Path, tmp_path: Path) -> None:
    large = config(
        model,
        rows_file,
        tmp_path,
        train={"nodes": 5, "processes_per_node": 8, "batch_size": 320},
        quantize={"methods": ["gptq"]},
    )
    here = by_name(ask(large, surroundings_in(tmp_path)))
    assert here["processes here"].result == "failed"
    elsewhere = by_name(ask(large, surroundings_in(tmp_path, plans_elsewhere=True)))
    assert not {"processes here", "output folder", "disk"} & set(elsewhere)
    assert elsewhere["quantization"].result == "ok"


def test_a_model_of_the_hub_passes_all_checks(hub: HubServer, rows_file: Path, tmp_path: Path) -> None:
    checks = by_name(ask(config("owner/base", rows_file, tmp_path), surroundings_in(tmp_path)))
    assert {check.result for check in checks.values()} == {"ok"}
    assert checks["license"].found == "apache-2.0"
    assert checks["tokenizer"].found.startswith("258 tokens")


@pytest.mark.parametrize(
    ("name", "found"), [("owner/none", "is not on http"), ("owner/gated", "owner/gated is gated; ask for access")]
)
def test_a_model_that_cannot_be_had_fails_one_check_only(
    name: str, found: str, hub: HubServer, rows_file: Path, tmp_path: Path
) -> None:
    answers = ask(config(name, rows_file, tmp_path), surroundings_in(tmp_path))
    assert [given.check.name for given in answers if given.error] == ["model files"]
    assert found in str(answers[0].error)
    assert by_name(answers)["tokenizer"].found == "not checked: needs `model files`"
    assert by_name(answers)["first rows"].result == "ok"


def test_a_token_that_may_only_read_is_found(hub: HubServer, rows_file: Path, tmp_path: Path) -> None:
    wanted = config("owner/base", rows_file, tmp_path, push_to_hub={"repository": "owner/tuned"})
    check = by_name(ask(wanted, surroundings_in(tmp_path, "hf_r")))["hub access"]
    assert (check.result, check.fix) == ("failed", "create one with write access and set HF_TOKEN")
    assert by_name(ask(wanted, surroundings_in(tmp_path, "hf_w")))["hub access"].result == "ok"
    assert {method for method, _ in hub.requests} <= {"GET", "HEAD"}


def test_a_tracker_has_a_check_of_its_own(model: Path, rows_file: Path, tmp_path: Path) -> None:
    with wandb_server("k" * 40) as (address, known):
        tracked = config(model, rows_file, tmp_path, train={"tracking": {"tracker": "wandb", "address": address}})
        good = by_name(ask(tracked, surroundings_in(tmp_path, tracker_secrets={"WANDB_API_KEY": "k" * 40})))
        assert good["tracker"].result == "ok"
        bad = by_name(ask(tracked, surroundings_in(tmp_path, tracker_secrets={"WANDB_API_KEY": "wrong"})))
        assert bad["tracker"].result == "failed" and "wrong" not in str(bad["tracker"])
        assert known.runs == {}
    unreachable = by_name(ask(tracked, surroundings_in(tmp_path, tracker_secrets={"WANDB_API_KEY": "k" * 40})))
    assert unreachable["tracker"].found.startswith("not checked: no network")


def test_model_and_rows_in_a_store_are_checked_there(
    model: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        for file in model.iterdir():
            store.write(store.uri(f"model/{file.name}"), file.read_bytes())
        store.write(store.uri("rows.jsonl"), rows_file.read_bytes())
        stored = config(store.uri("model"), Path(), tmp_path, sources=[{"path": store.uri("rows.jsonl")}])
        checks = by_name(ask(stored, surroundings_in(tmp_path)))
        assert {name for name, check in checks.items() if check.result != "ok"} == {"license"}, checks
        assert checks["tokenizer"].found.startswith("258 tokens")
    monkeypatch.setenv("FLYTE_AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UnreachableStoreError, match="model cannot be read"):
        resolve_model(ModelConfig(name="s3://elsewhere/model"), None)


def test_without_a_network_local_checks_are_made(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    answers = ask(config("owner/base", rows_file, tmp_path), surroundings_in(tmp_path))
    checks = by_name(answers)
    assert checks["model files"].found.startswith("not checked: no network: model.name=owner/base")
    assert checks["license"].found == "not checked: no network (needs `model files`)"
    assert checks["first rows"].result == checks["batch and machines"].result == "ok"
    fail_together(answers, needs_network=False)
    with pytest.raises(UnreachableError, match=r"model.name=owner/base: .* cannot be reached"):
        fail_together(answers, needs_network=True)


def test_phases_share_the_model_and_have_their_own_rows(model: Path, rows_file: Path, tmp_path: Path) -> None:
    dpo = config(model, rows_file, tmp_path, train={"objective": "dpo"})
    asked = alignment_questions({"sft": config(model, rows_file, tmp_path), "policy": dpo}, surroundings_in(tmp_path))
    names = [question.name for question in asked]
    assert names.count("model files") == 1 and {"sft: first rows", "policy: first rows"} < set(names)
    answers = answer(asked)
    assert [given.check.name for given in answers if given.check.result == "failed"] == ["policy: objective and rows"]
    assert len(first_rows_of(answers)) == 2


def test_the_first_rows_of_every_source_are_checked(model: Path, rows_file: Path, tmp_path: Path) -> None:
    sources = [{"path": str(rows_file)}, {"path": str(rows_file), "columns": {"prompt": "question"}}]
    checks = by_name(ask(config(model, rows_file, tmp_path, sources=sources), surroundings_in(tmp_path)))
    assert checks["first rows of sources[0]"].result == "ok"
    assert checks["first rows of sources[1]"].result == "failed"
    assert checks["objective and rows"].found == "not checked: needs `first rows of sources[1]`"


def test_all_local_checks_take_seconds_and_no_torch(model: Path, rows_file: Path, tmp_path: Path) -> None:
    whole = config(model, rows_file, tmp_path, quantize={"methods": ["8bit"]})
    (tmp_path / "config.json").write_text(whole.model_dump_json())
    script = f"""
import sys, time
began = time.process_time()
from pathlib import Path
from configs.load import load_config
from tasks.plan.checks import questions as checks
from tasks.plan.checks import preflight
here = checks.Surroundings(True, None, "", {{}}, "", None, Path("{tmp_path}"))
answers = preflight.answer(checks.training_questions(load_config("{tmp_path / "config.json"}"), here))
preflight.fail_together(answers, needs_network=True)
# transformers asks whether torch is installed, and renders templates without it
assert not {{"torch", "transformers.modeling_utils"}} & sys.modules.keys()
print(time.process_time() - began)
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 3


@pytest.mark.parametrize(
    ("family", "objective", "fault"),
    [
        ("llama", "sft", None),
        ("llama", "reward", None),
        ("rwkv", "sft", None),
        ("rwkv", "reward", "has no variant that scores a text"),
        ("t5", "sft", "is not a causal language model"),
        (None, "sft", "has no model_type"),
    ],
)
def test_architectures_are_those_of_transformers(family: str | None, objective: Any, fault: str | None) -> None:
    settings = {"model_type": family} if family else {}
    if fault is None:
        assert check_architecture(ModelConfig(name="m"), settings, objective) == family
    else:
        with pytest.raises(ModelError, match=fault):
            check_architecture(ModelConfig(name="m"), settings, objective)


def test_a_file_that_makes_a_library_fail_is_named_at_once(model: Path, rows_file: Path, tmp_path: Path) -> None:
    """tokenizers panics in Rust, which is no `Exception` in Python."""
    path = model / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["normalizer"] = {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 1000}
    path.write_text(json.dumps(settings))
    began = time.monotonic()
    failed = [
        given.check for given in ask(config(model, rows_file, tmp_path), surroundings_in(tmp_path)) if given.error
    ]
    assert time.monotonic() - began < 60
    assert any("a file of the model makes the library that reads it fail" in check.found for check in failed), failed
