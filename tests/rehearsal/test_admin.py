"""The loopback flyteadmin takes what the real `pyflyte register` sends, and refuses as flyteadmin does."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import grpc
import pytest
from conftest import PyFlyte
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest
from flyteidl.admin.launch_plan_pb2 import LaunchPlanCreateRequest
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.identifier_pb2 import LAUNCH_PLAN, TASK, WORKFLOW, Identifier
from flyteidl.core.literals_pb2 import Literal, LiteralMap, Primitive, Scalar
from flyteidl.core.tasks_pb2 import Resources
from flyteidl.core.types_pb2 import SimpleType
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from rehearsal.admin import Admin
from rehearsal.store import BUCKET, Store

PLACE = {"project": "flytesnacks", "domain": "development"}


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


def number(value: int) -> Literal:
    return Literal(scalar=Scalar(primitive=Primitive(integer=value)))


def refusal(call: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    return call.code(), call.details()


def test_pyflyte_registers_all_workflows_and_uploads_their_source(pyflyte: PyFlyte, store: Store) -> None:
    with Admin(store) as admin:
        place = ["--project", "flytesnacks", "--domain", "development", "--version", "v1"]
        result = pyflyte("register", *place, "workflows", env=admin.environment)
        assert result.returncode == 0, result.stdout + result.stderr
        workflows = {f"workflows.{name}.{name}" for name in ("fine_tune", "align", "prepare_data", "prepare_tokens")}
        assert workflows <= {name for name, _ in admin.workflows}
        assert ("tasks.train.task.train_5", "v1") in admin.tasks
        assert {version for _, version in [*admin.tasks, *admin.workflows, *admin.launch_plans]} == {"v1"}
        container = admin.tasks["tasks.plan.task.make_plan", "v1"].template.container
        archive = container.args[list(container.args).index("--additional-distribution") + 1]
        assert archive.startswith(f"s3://{BUCKET}/flytesnacks/development/")
        with tarfile.open(fileobj=io.BytesIO(store.read(archive) or b"")) as source:
            assert {"workflows/fine_tune.py", "configs/presets/demo.yaml"} <= set(source.getnames())
    with pytest.raises(grpc.FutureTimeoutError), grpc.insecure_channel(admin.endpoint) as channel:
        grpc.channel_ready_future(channel).result(timeout=1)


@pytest.fixture
def admin(store: Store) -> Iterator[Admin]:
    with Admin(store, limits={"MEMORY": "16Gi"}) as admin:
        yield admin


@pytest.fixture
def stub(admin: Admin) -> Iterator[AdminServiceStub]:
    with grpc.insecure_channel(admin.endpoint) as channel:
        yield AdminServiceStub(channel)


def task_request(memory: str = "16Gi", version: str = "v1", image: str = "x:1") -> TaskCreateRequest:
    identifier = Identifier(resource_type=TASK, name="train", version=version, **PLACE)
    request = TaskCreateRequest(id=identifier)
    request.spec.template.container.image = image
    request.spec.template.container.resources.requests.add(name=Resources.MEMORY, value=memory)
    return request


def workflow_request() -> WorkflowCreateRequest:
    request = WorkflowCreateRequest(id=Identifier(resource_type=WORKFLOW, name="flow", version="v1", **PLACE))
    request.spec.template.interface.inputs.variables["epochs"].type.simple = SimpleType.INTEGER
    return request


def plan_request(name: str = "flow") -> LaunchPlanCreateRequest:
    identifier = Identifier(resource_type=LAUNCH_PLAN, name=name, version="v1", **PLACE)
    request = LaunchPlanCreateRequest(id=identifier)
    request.spec.workflow_id.CopyFrom(workflow_request().id)
    return request


def execution_request(name: str, **inputs: int) -> ExecutionCreateRequest:
    request = ExecutionCreateRequest(**PLACE, inputs=LiteralMap(literals={k: number(v) for k, v in inputs.items()}))
    request.spec.launch_plan.CopyFrom(plan_request(name).id)
    return request


def test_a_version_is_registered_once(admin: Admin, stub: AdminServiceStub) -> None:
    stub.CreateTask(task_request())
    with pytest.raises(grpc.RpcError) as same:
        stub.CreateTask(task_request())
    assert refusal(same.value) == (grpc.StatusCode.ALREADY_EXISTS, "task with identical structure already exists")
    with pytest.raises(grpc.RpcError) as other:
        stub.CreateTask(task_request(image="x:2"))
    code, details = refusal(other.value)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("train task with different structure already exists. (Please register a new version of")
    assert admin.tasks["train", "v1"].template.container.image == "x:1"


@pytest.mark.parametrize(
    ("place", "details"),
    [
        (
            {"project": "nowhere"},
            "failed to validate that project [nowhere] and domain [development] are registered, "
            "err: [project [nowhere] not found]",
        ),
        ({"domain": "nowhere"}, "domain [nowhere] is unrecognized by system"),
    ],
)
def test_a_project_and_a_domain_must_exist(stub: AdminServiceStub, place: dict[str, str], details: str) -> None:
    request = task_request()
    for name, value in place.items():
        setattr(request.id, name, value)
    with pytest.raises(grpc.RpcError) as error:
        stub.CreateTask(request)
    assert refusal(error.value) == (grpc.StatusCode.INVALID_ARGUMENT, details)


def test_requests_stay_within_the_platforms_limits(stub: AdminServiceStub) -> None:
    stub.CreateTask(task_request("16Gi"))
    with pytest.raises(grpc.RpcError) as error:
        stub.CreateTask(task_request("17Gi", "v2"))
    assert refusal(error.value)[1].startswith("Requested MEMORY default [17Gi] is greater than  current limit")


def test_a_workflow_needs_its_tasks(stub: AdminServiceStub) -> None:
    request = workflow_request()
    request.spec.template.nodes.add(id="n0").task_node.reference_id.CopyFrom(task_request().id)
    with pytest.raises(grpc.RpcError) as error:
        stub.CreateWorkflow(request)
    assert refusal(error.value)[0] == grpc.StatusCode.INTERNAL
    stub.CreateTask(task_request())
    stub.CreateWorkflow(request)


def test_inputs_of_executions(admin: Admin, stub: AdminServiceStub) -> None:
    stub.CreateWorkflow(workflow_request())
    stub.CreateLaunchPlan(plan_request("flow"))
    fixed = plan_request("fixed")
    fixed.spec.fixed_inputs.literals["epochs"].CopyFrom(number(3))
    stub.CreateLaunchPlan(fixed)
    default = plan_request("default")
    default.spec.default_inputs.parameters["epochs"].var.type.simple = SimpleType.INTEGER
    default.spec.default_inputs.parameters["epochs"].default.CopyFrom(number(4))
    stub.CreateLaunchPlan(default)
    refused = [
        (execution_request("flow"), "expected_inputs epochs missing"),
        (execution_request("flow", epochs=1, rows=2), "invalid input rows"),
        # a fixed input is not among those that are expected
        (execution_request("fixed", epochs=1), "invalid input epochs"),
    ]
    for request, details in refused:
        with pytest.raises(grpc.RpcError) as error:
            stub.CreateExecution(request)
        assert refusal(error.value) == (grpc.StatusCode.INVALID_ARGUMENT, details)
    for request in (execution_request("flow", epochs=1), execution_request("fixed"), execution_request("default")):
        stub.CreateExecution(request)
    assert [len(request.inputs.literals) for request in admin.executions] == [1, 0, 0]
    assert [inputs.literals["epochs"] for inputs in admin.execution_inputs] == [number(1), number(3), number(4)]
    with pytest.raises(grpc.RpcError) as error:
        stub.CreateExecution(execution_request("unknown"))
    assert refusal(error.value)[0] == grpc.StatusCode.NOT_FOUND


def test_a_schedule_needs_all_inputs(stub: AdminServiceStub) -> None:
    stub.CreateWorkflow(workflow_request())
    request = plan_request("nightly")
    request.spec.entity_metadata.schedule.cron_schedule.schedule = "0 2 * * *"
    with pytest.raises(grpc.RpcError) as error:
        stub.CreateLaunchPlan(request)
    assert "Cannot create a launch plan with a schedule" in refusal(error.value)[1]
