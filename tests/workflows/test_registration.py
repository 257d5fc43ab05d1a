"""`make register` and `make run-remote` as a user runs them, against a flyteadmin and a store on loopback.

They run in a copy of this project that is a git repository of its own, so that what is committed is known.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from conftest import ROOT
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal
from rehearsal.admin import Admin
from rehearsal.store import Store

from configs.load import PRESETS, load_config
from configs.schema import FineTuneConfig
from tasks.runtime.refusals import refusal_message

VENV = Path(sys.executable).parent.parent
CLUSTER = {"FLYTE_PROJECT": "flytesnacks", "FLYTE_DOMAIN": "development", "IMAGE_REGISTRY": "registry.invalid/me"}
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed copy of the project's files, without its tests."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if not name.startswith(("tests/", ".ci/", ".gitignore")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture(scope="module")
def admin(store: Store) -> Iterator[Admin]:
    with Admin(store) as admin:
        yield admin


@pytest.fixture(scope="module")
def shell(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in the copy, with its modules and this interpreter's packages."""
    home = tmp_path_factory.mktemp("home")

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        hidden = ("HF_", "FLYTE", "_FSEC", "IMAGE_", "VERSION", "MAKE", "GIT_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
        environment |= {"HOME": str(home), "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            command, cwd=checkout, env=environment | variables, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="module")
def make(shell: Run) -> Run:
    """Runs `make`, with the environment as it is installed."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return shell("make", f"VENV={VENV}", f"--old-file={VENV}/.installed", *arguments, **variables)

    return run


def in_the_guide() -> list[str]:
    """Return what docs/cluster.md says that a user may see, as patterns: capitals and `...` stand for anything."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    seen = re.findall(r"^\| (?:[^`|]*)`([^`]+)`", page, re.M)
    return [re.sub(r"\b(?:NAME|HOST|P|D)\b", r"\\S+", re.escape(entity.removesuffix("..."))) for entity in seen]


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Check the form of a refusal, and return its lines without make's own last one."""
    assert result.returncode != 0
    assert "Traceback" not in result.stdout + result.stderr
    # the guide has a row for it
    assert any(re.search(row, result.stderr) for row in in_the_guide()), result.stderr
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("make: ***")]
    starts = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    assert starts and 1 <= len(lines[starts[-1] :]) <= 3, result.stderr
    return "\n".join(lines[starts[-1] :])


@pytest.mark.parametrize("target", ["register", "run-remote"])
@pytest.mark.parametrize("name", sorted(CLUSTER))
def test_what_is_not_set_is_named_with_an_example(target: str, name: str, make: Run) -> None:
    message = refused(make(target, **{key: value for key, value in CLUSTER.items() if key != name}))
    assert message.startswith(f"Error: {name} is not set; ") and f"export {name}=" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("target", ["register", "run-remote"])
def test_only_what_is_committed_names_a_version(target: str, make: Run, checkout: Path) -> None:
    new, known = checkout / "tasks" / "new.py", checkout / "README.md"
    before = known.read_text(encoding="utf-8")
    for file, content in ((new, "mine = 1\n"), (known, before + "\n")):
        file.write_text(content, encoding="utf-8")
        try:
            message = refused(make(target, **CLUSTER))
        finally:
            new.unlink(missing_ok=True)
            known.write_text(before, encoding="utf-8")
    assert message == (
        "Error: files differ from the last commit, which names the version; "
        f"commit them, or: make {target} VERSION=name"
    )


def test_without_git_a_version_must_be_named(make: Run) -> None:
    assert refused(make("register", GIT_DIR="/nowhere", **CLUSTER)) == (
        "Error: there is no git commit to name the version by; name one: make register VERSION=name"
    )


def test_a_version_that_no_cluster_would_take(make: Run) -> None:
    for version in ("a:b", "feature/x"):
        assert f"VERSION={version} has a character" in refused(make("register", f"VERSION={version}", **CLUSTER))


def test_a_workflow_that_is_not_there(make: Run) -> None:
    message = refused(make("run-remote", "WORKFLOW=nosuch", **CLUSTER))
    rule = "is not a workflow that takes a config; use fine_tune, align, evaluate or prepare_data"
    assert message == f"Error: WORKFLOW=nosuch {rule}"


def test_help_lists_both(make: Run) -> None:
    listed = make("help").stdout
    assert "make register" in listed and "make run-remote" in listed


@pytest.fixture(scope="module")
def commit(make: Run, admin: Admin, checkout: Path) -> str:
    """The commit, which is registered."""
    result = make("register", **CLUSTER, **admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    images = {spec.template.container.image for spec in admin.tasks.values()}
    assert images and all(image.startswith("registry.invalid/me/fine-tune-") for image in images)
    # what cannot be looked up is taken for granted, and said
    assert all(f"assumes the image {image} already exists" in result.stdout for image in images)
    return git(checkout, "rev-parse", "HEAD").strip()


def test_the_version_is_the_commit(admin: Admin, commit: str) -> None:
    assert {version for _, version in [*admin.tasks, *admin.workflows, *admin.launch_plans]} == {commit}
    assert not admin.active


def test_the_same_version_is_registered_again_without_a_word_and_activated_when_told(
    make: Run, admin: Admin, commit: str
) -> None:
    result = make("register", "ACTIVATE=1", **CLUSTER, **admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert ("nightly-smoke-test", commit) in admin.active


def test_a_run_is_of_what_was_registered(make: Run, admin: Admin, commit: str) -> None:
    registered = len(admin.tasks)
    result = make("run-remote", **CLUSTER, **admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "to see execution in the console" in result.stdout
    execution = admin.executions[-1]
    started = execution.spec.launch_plan
    assert (started.name, started.version) == ("workflows.fine_tune.fine_tune", commit)
    literal = Literal.from_flyte_idl(execution.inputs.literals["config"])
    sent = TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, FineTuneConfig)
    assert sent == load_config(PRESETS / "demo.yaml")
    assert len(admin.tasks) == registered


def test_a_users_own_files_are_neither_code_nor_sent_with_it(
    make: Run, admin: Admin, store: Store, checkout: Path, commit: str
) -> None:
    own = {"my.yaml": "name: mine\n", "rows.jsonl": '{"prompt": "a", "completion": "b"}\n'}
    config = (checkout / "configs" / "presets" / "demo.yaml").read_text(encoding="utf-8")
    own["my.yaml"] = config.replace("embedded:english-to-sql:8000", "rows.jsonl").replace("name: demo", "name: mine")
    for name, content in own.items():
        (checkout / name).write_text(content, encoding="utf-8")
    try:
        result = make("run-remote", "CONFIG=my.yaml", **CLUSTER, **admin.environment)
    finally:
        for name in own:
            (checkout / name).unlink()
    assert result.returncode == 0, result.stdout + result.stderr
    assert admin.executions[-1].spec.launch_plan.version == commit
    arguments = list(admin.tasks["tasks.plan.task.make_plan", commit].template.container.args)
    archive = store.read(arguments[arguments.index("--additional-distribution") + 1]) or b""
    with tarfile.open(fileobj=io.BytesIO(archive)) as source:
        assert {name.partition("/")[0] for name in source.getnames()} & {"rows.jsonl", "docs", "tests"} == set()


def test_another_workflow_runs_its_own_preset(make: Run, admin: Admin, commit: str) -> None:
    result = make("run-remote", "WORKFLOW=align", **CLUSTER, **admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert admin.executions[-1].spec.launch_plan.name == "workflows.align.align"


def test_a_plain_pyflyte_run_sends_all_files_too(shell: Run, admin: Admin, store: Store) -> None:
    place = ["--project", "flytesnacks", "--domain", "development"]
    command = ["workflows/fine_tune.py", "fine_tune", "--config", "configs/presets/demo.yaml"]
    result = shell(str(VENV / "bin" / "pyflyte"), "run", "--remote", *place, *command, **admin.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    version = admin.executions[-1].spec.launch_plan.version
    arguments = list(admin.tasks["tasks.plan.task.make_plan", version].template.container.args)
    archive = store.read(arguments[arguments.index("--additional-distribution") + 1]) or b""
    with tarfile.open(fileobj=io.BytesIO(archive)) as source:
        needed = {
            "constraints.txt",
            "configs/deepspeed/zero3.json",
            "tasks/quantize/bitsandbytes.py",
            "tasks/train/fit.py",
        }
        assert needed <= set(source.getnames())


def test_a_version_of_other_code(make: Run, admin: Admin, checkout: Path, commit: str) -> None:
    file = checkout / "tasks" / "train" / "fit.py"
    before = file.read_text(encoding="utf-8")
    file.write_text(before + "\n# changed\n", encoding="utf-8")
    try:
        for target in ("register", "run-remote"):
            message = refused(make(target, f"VERSION={commit}", **CLUSTER, **admin.environment))
            assert re.match(r"Error: this version of \S+ is registered already, with other code \(project", message)
            assert "commit and register again, or name another version: make register VERSION=..." in message
    finally:
        file.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("name", ["FLYTE_PROJECT", "FLYTE_DOMAIN"])
def test_a_place_that_is_not_there(name: str, make: Run, admin: Admin) -> None:
    message = refused(make("register", "VERSION=elsewhere", **CLUSTER | {name: "nowhere"}, **admin.environment))
    assert "correct FLYTE_PROJECT and FLYTE_DOMAIN, or create the project with\nflytectl create project" in message
    assert "[nowhere]" in message


def test_more_than_the_platform_allows(make: Run, store: Store) -> None:
    with Admin(store, limits={"GPU": "4"}) as admin:
        message = refused(make("register", "VERSION=large", **CLUSTER, **admin.environment))
    assert "Requested GPU default [8] is greater than" in message and "current limit" in message
    assert "raise the platform's task_resources.limits" in message


def test_a_cluster_that_is_not_there(make: Run, store: Store) -> None:
    with Admin(store) as admin:
        environment = admin.environment
    message = refused(make("register", "VERSION=lost", **CLUSTER, **environment))
    assert f"{environment['FLYTE_PLATFORM_URL']} cannot be reached" in message and "FLYTECTL_CONFIG" in message


def test_a_launch_plan_without_its_input(shell: Run, admin: Admin, commit: str) -> None:
    pyflyte = [str(VENV / "bin" / "pyflyte"), "run", "--project", "flytesnacks", "--domain", "development"]
    tokens = "workflows.prepare_tokens.prepare_tokens"
    for plan, said in (
        (f"{tokens}:{commit}", f"launch plan {tokens} needs --"),
        (
            f"no-such-plan:{commit}",
            "launch plan no-such-plan is not registered (project flytesnacks, domain development",
        ),
    ):
        assert said in refused(shell(*pyflyte, "remote-launchplan", plan, **admin.environment))


def test_other_answers_are_passed_on() -> None:
    def words(code: grpc.StatusCode, details: str) -> str:
        return refusal_message(code, details, place="project p, domain d", endpoint="flyte.example:443", entity="it")

    status = grpc.StatusCode
    assert words(status.INTERNAL, "failed to compile\nmore") == "flyte.example:443 answered INTERNAL: failed to compile"
    assert words(status.INTERNAL, "") == "flyte.example:443 answered INTERNAL: INTERNAL"
    assert words(status.PERMISSION_DENIED, "no") == (
        "flyte.example:443 refuses this login for project p, domain d\nthe cluster says: no"
    )
    assert words(status.INVALID_ARGUMENT, "expected_inputs config missing").startswith(
        "expected_inputs config missing\n"
    )
