"""What a laptop's config names reaches the pods of a remote run: `pyflyte run --remote` against a loopback cluster."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PyFlyte, error_lines
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal, LiteralMap
from rehearsal.admin import Admin
from rehearsal.store import BUCKET, Store
from support.pods import Pod

from configs.schema import FineTuneConfig, TrainConfig
from tasks.get_data.task import scan_shard
from tasks.get_model.task import get_model
from tasks.plan.task import make_plan

ADDRESS = re.compile(rf"s3://{BUCKET}/flytesnacks/development/[0-9a-f]{{32}}")


TEMPLATE = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture
def admin(store: Store) -> Iterator[Admin]:
    with Admin(store) as admin:
        yield admin


def start(pyflyte: PyFlyte, admin: Admin, config: dict[str, Any], workflow: str = "fine_tune") -> Any:
    """Run a workflow remotely with the config in a file."""
    pyflyte.home.mkdir(parents=True, exist_ok=True)
    file = pyflyte.home / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    place = ["--project", "flytesnacks", "--domain", "development"]
    path = f"workflows/{workflow}.py"
    return pyflyte("run", "--remote", *place, path, workflow, "--config", str(file), env=admin.environment)


def sent(admin: Admin) -> FineTuneConfig:
    """Return the config of the execution that was started last."""
    literals = LiteralMap.from_flyte_idl(admin.executions[-1].inputs).literals
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), literals["config"], FineTuneConfig)


def output(pod: Pod, name: str) -> Any:
    """Return one output of a pod as the next task gets it."""
    literal = Literal.from_flyte_idl(pod.outputs[name])
    return TypeEngine.to_python_value(
        FlyteContextManager.current_context(), literal, pod.task.python_interface.outputs[name]
    )


def write_rows(path: Path, first: int, count: int = 20) -> Path:
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(first, first + count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow
def test_what_a_config_names_is_uploaded_and_read_by_the_pods(
    pyflyte: PyFlyte, admin: Admin, store: Store, tiny_model: Path, tmp_path: Path
) -> None:
    single = write_rows(tmp_path / "my rows.jsonl", 0)
    parts = [write_rows(tmp_path / "parts" / name, first) for name, first in (("b.jsonl", 100), ("a.jsonl", 200))]
    model = Path(shutil.copytree(tiny_model, tmp_path / "my-model"))
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE)
    config = {
        "name": "remote",
        "model": {"name": str(model)},
        "data": {"sources": [{"path": str(single)}, {"path": f"{tmp_path}/parts/*.jsonl"}]},
        "tokenize": {"chat_template": str(template)},
    }
    result = start(pyflyte, admin, config)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "uploading data.sources[0].path: my rows.jsonl (" in result.stdout
    assert "uploading data.sources[1].path: 2 files (" in result.stdout

    found = sent(admin)
    paths = [str(source.path) for source in found.data.sources]
    assert ADDRESS.fullmatch(paths[0].removesuffix("/my rows.jsonl"))
    assert ADDRESS.fullmatch(paths[1].removesuffix("/*.jsonl"))
    assert ADDRESS.fullmatch(found.model.name.removesuffix("/my-model"))
    assert store.read(paths[0]) == single.read_bytes()
    for part in parts:
        assert store.read(paths[1].replace("*.jsonl", part.name)) == part.read_bytes()
    for file in model.iterdir():
        assert store.read(f"{found.model.name}/{file.name}") == file.read_bytes()

    # the machine on which the pods run does not have them
    for place in (single, tmp_path / "parts", model, template):
        shutil.move(place, tmp_path / "elsewhere" / place.name) if place.is_dir() else place.unlink()
    plan = Pod(make_plan, tmp_path / "plan", {"config": found}, environment=store.environment).run()
    outputs = {name: output(plan, name) for name in ("plan", "config", "mapped_shards")}
    # but for what the plan settles
    assert outputs["config"].model_copy(update={"train": found.train, "evaluate": found.evaluate}) == found
    assert outputs["plan"].chat_template == TEMPLATE
    names = [part.name for shard in outputs["mapped_shards"] for part in shard.ranges]
    assert names == ["my rows.jsonl", "a.jsonl", "b.jsonl"]
    scan = Pod(
        scan_shard,
        tmp_path / "scan",
        {"config": found.data, "contamination": [], "shard": outputs["mapped_shards"][1]},
        environment=store.environment,
    ).run()
    assert scan.outputs, scan.log[-2000:]
    fetched = Pod(
        get_model,
        tmp_path / "model",
        {"config": found.model, "revision": outputs["plan"].model_revision},
        environment=store.environment,
    ).run()
    copy = Path(fetched.outputs["model"].scalar.blob.uri.removeprefix("file://"))
    weights = tmp_path / "elsewhere" / "my-model" / "model.safetensors"
    assert (copy / "model.safetensors").read_bytes() == weights.read_bytes()


def test_what_is_not_there_is_refused_before_anything_is_registered(
    pyflyte: PyFlyte, admin: Admin, store: Store
) -> None:
    before = store.keys()
    config = {"model": {"name": "owner/name"}, "data": {"sources": [{"path": "none/*.jsonl"}]}}
    result = start(pyflyte, admin, config)
    assert result.returncode == 1
    [line] = error_lines(result)
    assert line.startswith("Error: data.sources[0].path=none/*.jsonl has no file that ends in .jsonl")
    assert "Traceback" not in result.stderr + result.stdout and "owner/name" not in result.stderr
    assert not admin.workflows and not admin.executions and store.keys() == before


def test_a_wrong_number_of_a_form_is_named_by_the_pod(store: Store, tmp_path: Path) -> None:
    config = FineTuneConfig.model_validate(
        {"model": {"name": "owner/name"}, "data": {"sources": [{"path": "s3://b/rows.jsonl"}]}}
    )
    wrong = config.model_copy(update={"train": TrainConfig().model_copy(update={"batch_size": 3.7})})
    with pytest.warns(UserWarning, match="serialized value"):
        pod = Pod(make_plan, tmp_path, {"config": wrong}, environment=store.environment).run()
    message = "config: train.batch_size=3.7 is not a whole number; write one, such as 16"
    assert pod.error.message.strip().endswith(message)
    assert "owner/name" not in pod.error.message and len(pod.error.message.splitlines()) < 10


@pytest.mark.slow
def test_a_registered_launch_plan_checks_and_uploads_as_a_workflow_of_this_folder(
    pyflyte: PyFlyte, admin: Admin, store: Store, tmp_path: Path
) -> None:
    place = ["--project", "flytesnacks", "--domain", "development"]
    result = pyflyte("register", *place, "--version", "v1", "workflows", env=admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    rows, file = write_rows(tmp_path / "rows.jsonl", 0), tmp_path / "config.yaml"
    config = {"model": {"name": "owner/name"}, "data": {"sources": [{"path": str(rows)}]}, "train": {"batch_size": 32}}
    file.write_text(yaml.safe_dump(config))
    result = pyflyte("run", *place, "remote-launchplan", "demo", "--config", str(file), env=admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    found = sent(admin)
    assert found.train.batch_size == 32
    assert store.read(str(found.data.sources[0].path)) == rows.read_bytes()
    file.write_text(yaml.safe_dump({**config, "trian": {}}))
    result = pyflyte("run", *place, "remote-launchplan", "demo", "--config", str(file), env=admin.environment)
    assert result.returncode == 1
    assert "trian is not a setting (did you mean train?)" in "\n".join(error_lines(result))
