"""Launch plans as a cluster gets them: read off what the real `pyflyte register` sent, and started by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, PyFlyte
from flyteidl.admin.launch_plan_pb2 import LaunchPlanSpec
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.literals_pb2 import Literal
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal as FlytekitLiteral
from rehearsal.admin import Admin
from rehearsal.store import Store

from configs.errors import ConfigError
from configs.load import PRESETS, load_align_config, load_config
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig

PLACE = ["--project", "flytesnacks", "--domain", "development"]
WORKFLOWS = (
    *("align", "evaluate", "fine_tune", "plan", "plan_align", "prepare_data", "prepare_tokens", "quick"),
    *("publish_at_once", "publish_if_approved"),
)
SMOKE_TESTS = ("nightly-smoke-test", "smoke-test")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pyflyte(tmp_path_factory: pytest.TempPathFactory) -> PyFlyte:
    return PyFlyte(tmp_path_factory.mktemp("home"), is_forked=True)


@pytest.fixture(scope="module")
def admin(pyflyte: PyFlyte) -> Iterator[Admin]:
    """A cluster on which this project is registered as version v1."""
    with Store() as store, Admin(store) as admin:
        env = admin.environment | {"FINE_TUNE_NOTIFY": "a@example.com, b@example.com,slack:team@example.com"}
        started = PyFlyte(pyflyte.home)
        result = started("register", *PLACE, "--version", "v1", "--destination-dir", ".", "workflows", env=env)
        assert result.returncode == 0, result.stdout + result.stderr
        yield admin


def spec(admin: Admin, name: str) -> LaunchPlanSpec:
    return admin.launch_plans[name, "v1"]


def parsed(literal: Literal, kind: type) -> FineTuneConfig | AlignConfig:
    context = FlyteContextManager.current_context()
    return TypeEngine.to_python_value(context, FlytekitLiteral.from_flyte_idl(literal), kind)


def preset_config(preset: str) -> FineTuneConfig | AlignConfig:
    path = PRESETS / f"{preset}.yaml"
    return load_align_config(path) if preset.startswith("align") else load_config(path)


def test_each_preset_has_a_launch_plan_and_nothing_is_active(admin: Admin) -> None:
    presets = {path.stem for path in PRESETS.glob("*.yaml")}
    named = {name for name, _ in admin.launch_plans if not name.startswith("workflows.")}
    of_presets = {f"{start}{preset.replace('.', '-')}" for preset in presets for start in ("", "plan-")}
    assert named == of_presets | {*SMOKE_TESTS, "prepare-demo-data"}
    assert not admin.active


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_preset_fills_the_form(preset: str, admin: Admin) -> None:
    config = preset_config(preset)
    run, only_plan = (
        ("align.align", "plan.plan_align") if preset.startswith("align") else ("fine_tune.fine_tune", "plan.plan")
    )
    for start, workflow in (("", run), ("plan-", only_plan)):
        launch = spec(admin, start + preset.replace(".", "-"))
        assert launch.workflow_id.name == f"workflows.{workflow}"
        assert not launch.fixed_inputs.literals
        assert parsed(launch.default_inputs.parameters["config"].default, type(config)) == config


@pytest.mark.parametrize(
    "name", ["fine_tune.fine_tune", "prepare_data.prepare_data", "plan.plan", "align.align", "plan.plan_align"]
)
def test_a_form_opens_with_a_whole_config(name: str, admin: Admin) -> None:
    # the console keeps what the workflow's own plan says when another plan is chosen
    parameters = spec(admin, f"workflows.{name}").default_inputs.parameters
    assert not any(parameter.required for parameter in parameters.values())
    config = preset_config("align-demo" if "align" in name else "demo")
    assert parsed(parameters["config"].default, type(config)) == config


@pytest.mark.parametrize("name", SMOKE_TESTS)
def test_a_smoke_test_is_always_the_same_and_never_from_the_cache(name: str, admin: Admin) -> None:
    plan = spec(admin, name)
    assert not plan.default_inputs.parameters
    assert parsed(plan.fixed_inputs.literals["config"], FineTuneConfig) == preset_config("demo")
    assert plan.overwrite_cache


def test_one_runs_by_the_clock(admin: Admin) -> None:
    schedules = {name: plan.entity_metadata.schedule for (name, _), plan in admin.launch_plans.items()}
    assert {name: schedule.cron_schedule.schedule for name, schedule in schedules.items() if schedule.ByteSize()} == {
        "nightly-smoke-test": "0 3 * * *"
    }


def test_the_short_form_asks_for_nothing(admin: Admin) -> None:
    parameters = spec(admin, "workflows.quick.quick").default_inputs.parameters
    assert not any(parameter.required for parameter in parameters.values())
    assert parameters["preset"].default.scalar.primitive.string_value == "demo"
    workflow = admin.workflows["workflows.quick.quick", "v1"]
    inner = {node.id: node.workflow_node.sub_workflow_ref.name for node in workflow.template.nodes}
    assert inner["fine-tune"] == "workflows.fine_tune.fine_tune"
    assert set(workflow.template.interface.outputs.variables) == {"config", "result"}


def test_failures_are_told(admin: Admin) -> None:
    email, slack = spec(admin, "nightly-smoke-test").entity_metadata.notifications
    assert list(email.email.recipients_email) == ["a@example.com", "b@example.com"]
    assert list(slack.slack.recipients_email) == ["team@example.com"]
    bad_ends = {WorkflowExecution.FAILED, WorkflowExecution.TIMED_OUT, WorkflowExecution.ABORTED}
    assert set(email.phases) == set(slack.phases) == bad_ends


def test_recipients_are_checked_and_not_repeated_in_the_error() -> None:
    from workflows.launch_plans import notifications

    assert notifications("") == []
    for recipients in ("someone", "a@example.com,sms:b@example.com", "a@b@example.com"):
        with pytest.raises(ConfigError, match=r"FINE_TUNE_NOTIFY: recipient [12] is not an e-mail address") as error:
            notifications(recipients)
        assert "example.com" not in str(error.value)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_console_describes_each_workflow_and_its_inputs(name: str, admin: Admin) -> None:
    workflow = admin.workflows[full_name(name), "v1"]
    assert len(workflow.description.short_description) > 20
    for key, variable in workflow.template.interface.inputs.variables.items():
        # flytekit puts the name where there is no description
        assert variable.description != key and len(variable.description) > 10, key


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_paragraph_that_the_console_shows_says_what_a_workflow_does(name: str, admin: Admin) -> None:
    # a workflow's page shows the second paragraph and not the first
    shown = admin.workflows[full_name(name), "v1"].description.long_description.value
    words = {
        "plan": "plan",
        "plan_align": "plan",
        "align": "align",
        "evaluate": "scores",
        "prepare_data": "split",
        "prepare_tokens": "tokenizes",
        "publish_at_once": "publishes",
        "publish_if_approved": "waits",
    }
    assert words.get(name, "fine-tun") in shown.lower() and len(shown) > 100


def full_name(workflow: str) -> str:
    # both plans are in one file, and so is what publishes
    module = {"plan_align": "plan", "publish_at_once": "push", "publish_if_approved": "push"}.get(workflow, workflow)
    return f"workflows.{module}.{workflow}"


def test_a_launch_plans_form_describes_its_input(admin: Admin) -> None:
    workflow = admin.workflows["workflows.fine_tune.fine_tune", "v1"].template.interface.inputs.variables["config"]
    assert spec(admin, "demo").default_inputs.parameters["config"].var == workflow


def test_what_is_started_by_name_runs_with_the_presets_config(admin: Admin, pyflyte: PyFlyte) -> None:
    result = pyflyte("run", *PLACE, "remote-launchplan", "demo:v1", env=admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert parsed(admin.execution_inputs[-1].literals["config"], FineTuneConfig) == preset_config("demo")


def test_a_launch_plan_of_the_file_runs_with_its_fixed_config(admin: Admin, pyflyte: PyFlyte) -> None:
    result = pyflyte("run", "--remote", *PLACE, "workflows/launch_plans.py", "smoke-test", env=admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not admin.executions[-1].inputs.literals
    assert parsed(admin.execution_inputs[-1].literals["config"], FineTuneConfig) == preset_config("demo")


def test_pyflyte_finds_each_plan_of_the_file_by_its_name() -> None:
    from flytekit.clis.sdk_in_container.run import load_naive_entity

    from workflows.launch_plans import PLANS

    for plan in PLANS:
        assert load_naive_entity("workflows.launch_plans", plan.name, str(ROOT)) is plan


def test_a_launch_plan_of_the_file_takes_another_config(admin: Admin, pyflyte: PyFlyte, tmp_path: Path) -> None:
    preset = (PRESETS / "align-demo.yaml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(preset.replace("name: align-demo", "name: mine"), encoding="utf-8")
    command = ["workflows/launch_plans.py", "align-demo", "--config", str(mine)]
    result = pyflyte("run", "--remote", *PLACE, *command, env=admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert parsed(admin.execution_inputs[-1].literals["config"], AlignConfig) == load_align_config(mine)


def test_pods_do_not_read_the_launch_plans() -> None:
    for path in (ROOT / "tasks").rglob("*.py"):
        assert "launch_plans" not in path.read_text(encoding="utf-8"), path


def test_every_node_has_a_name(admin: Admin) -> None:
    for (name, _), spec in admin.workflows.items():
        nodes = [node for node in spec.template.nodes if node.id not in ("start-node", "end-node")]
        branches = [node.branch_node.if_else for node in nodes if node.HasField("branch_node")]
        nodes += [node for branch in branches for node in (branch.case.then_node, branch.else_node)]
        names = [node.id for node in nodes]
        assert names and not [node for node in names if node.removeprefix("n").isdigit()], name
        # Flyte puts the node's name into labels of pods, of at most 63 characters, behind those of the nodes around it
        assert max(map(len, names)) <= 20, name
