"""A flyteadmin on loopback, enough for the real `pyflyte register` and `pyflyte run --remote`.

It keeps what is registered and what is started, and refuses as flyteadmin does; it runs nothing.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import RLock
from types import TracebackType
from typing import Any

import grpc
from flyteidl.admin import common_pb2, execution_pb2, launch_plan_pb2, project_pb2, task_pb2, workflow_pb2
from flyteidl.core.compiler_pb2 import CompiledTask, CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import LAUNCH_PLAN, TASK, Identifier, WorkflowExecutionIdentifier
from flyteidl.core.interface_pb2 import Parameter, ParameterMap
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.service import admin_pb2_grpc, dataproxy_pb2, dataproxy_pb2_grpc
from rehearsal import admin_rules
from rehearsal.admin_rules import RefusedError
from rehearsal.store import Store

Key = tuple[str, str]


class Admin:
    """Entities by (name, version), of whatever project; a context manager that stops when its block ends.

    `limits` are the platform's, by CPU, MEMORY, GPU or EPHEMERAL_STORAGE; none by default.
    """

    def __init__(
        self, store: Store, projects: dict[str, list[str]] | None = None, limits: dict[str, str] | None = None
    ) -> None:
        self.store = store
        self.projects = {"flytesnacks": ["development"]} if projects is None else projects
        self.limits = limits or {}
        self.tasks: dict[Key, task_pb2.TaskSpec] = {}
        self.workflows: dict[Key, workflow_pb2.WorkflowSpec] = {}
        self.launch_plans: dict[Key, launch_plan_pb2.LaunchPlanSpec] = {}
        self.active: set[Key] = set()
        self.executions: list[execution_pb2.ExecutionCreateRequest] = []
        """Requests that were accepted, in order; `inputs` as they were sent."""
        self.execution_inputs: list[LiteralMap] = []
        """What each of `executions` would run with: as sent, then its launch plan's defaults and fixed inputs."""
        self.lock = RLock()

    def __enter__(self) -> Admin:
        size = 20 * 1024 * 1024
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=8), options=[("grpc.max_receive_message_length", size)]
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(_AdminService(self), self._server)
        dataproxy_pb2_grpc.add_DataProxyServiceServicer_to_server(_DataProxyService(self), self._server)
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(grace=None).wait()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which `pyflyte` talks to this server."""
        return {"FLYTE_PLATFORM_URL": self.endpoint, "FLYTE_PLATFORM_INSECURE": "true"}


def _answered(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """Turn a refusal into a gRPC status, and let one request at a time change what is kept."""

    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            with self.admin.lock:
                return method(self, request)
        except RefusedError as refusal:
            context.abort(refusal.code, refusal.details)

    return answer


class _DataProxyService(dataproxy_pb2_grpc.DataProxyServiceServicer):
    """flyteadmin/dataproxy/service.go: an address for one upload, by the content's MD5; any project will do."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin

    @_answered
    def CreateUploadLocation(
        self, request: dataproxy_pb2.CreateUploadLocationRequest
    ) -> dataproxy_pb2.CreateUploadLocationResponse:
        if not request.project or not request.domain:
            admin_rules.invalid("project and domain are required parameters")
        if not request.filename_root and not request.content_md5:
            admin_rules.invalid("content_md5 or filename_root is a required parameter")
        root = request.filename_root or base64.b32encode(request.content_md5).decode()
        key = "/".join((request.project, request.domain, root, request.filename or uuid.uuid4().hex))
        store = self.admin.store
        return dataproxy_pb2.CreateUploadLocationResponse(
            signed_url=store.upload_address(key), native_url=store.uri(key)
        )


class _AdminService(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, admin: Admin) -> None:
        self.admin = admin

    def _check_project(self, place: Any) -> None:
        admin_rules.check_project(self.admin.projects, place.project, place.domain)

    # registration

    @_answered
    def CreateTask(self, request: task_pb2.TaskCreateRequest) -> task_pb2.TaskCreateResponse:
        self._check_project(request.id)
        admin_rules.check_resources(request.spec, self.admin.limits)
        request.spec.template.id.CopyFrom(request.id)
        known = self.admin.tasks.get(_key(request.id))
        if known is not None:
            admin_rules.check_known("task", request.id.name, known.template == request.spec.template)
        self.admin.tasks[_key(request.id)] = request.spec
        return task_pb2.TaskCreateResponse()

    @_answered
    def CreateWorkflow(self, request: workflow_pb2.WorkflowCreateRequest) -> workflow_pb2.WorkflowCreateResponse:
        self._check_project(request.id)
        request.spec.template.id.CopyFrom(request.id)
        for needed in admin_rules.needed_entities(request.spec):
            kept: dict[Key, Any] = self.admin.launch_plans if needed.resource_type == LAUNCH_PLAN else self.admin.tasks
            if _key(needed) not in kept:
                raise RefusedError(
                    grpc.StatusCode.INTERNAL,
                    f"failed to compile workflow for [{request.id}] with err missing entity of type "
                    f"{'LAUNCH_PLAN' if needed.resource_type == LAUNCH_PLAN else 'TASK'} with identifier {needed}",
                )
        known = self.admin.workflows.get(_key(request.id))
        if known is not None:
            same = known.template == request.spec.template and known.sub_workflows == request.spec.sub_workflows
            admin_rules.check_known("workflow", request.id.name, same)
        self.admin.workflows[_key(request.id)] = request.spec
        return workflow_pb2.WorkflowCreateResponse()

    @_answered
    def CreateLaunchPlan(
        self, request: launch_plan_pb2.LaunchPlanCreateRequest
    ) -> launch_plan_pb2.LaunchPlanCreateResponse:
        workflow = self.admin.workflows.get(_key(request.spec.workflow_id))
        if workflow is None:
            admin_rules.missing("WORKFLOW", request.spec.workflow_id)
        self._check_project(request.id)
        expected = admin_rules.expected_inputs(workflow.template.interface.inputs, request.spec)
        request.spec.default_inputs.CopyFrom(expected)
        known = self.admin.launch_plans.get(_key(request.id))
        if known is not None:
            # flyteadmin calls those the same whose defaults are, whatever else was changed
            same = known == request.spec or known.default_inputs == request.spec.default_inputs
            admin_rules.check_known("launch plan", request.id.name, same)
        self.admin.launch_plans[_key(request.id)] = request.spec
        return launch_plan_pb2.LaunchPlanCreateResponse()

    @_answered
    def UpdateLaunchPlan(
        self, request: launch_plan_pb2.LaunchPlanUpdateRequest
    ) -> launch_plan_pb2.LaunchPlanUpdateResponse:
        if _key(request.id) not in self.admin.launch_plans:
            admin_rules.missing("LAUNCH_PLAN", request.id)
        # one version of a name is active at a time
        self.admin.active = {key for key in self.admin.active if key[0] != request.id.name}
        if request.state == launch_plan_pb2.ACTIVE:
            self.admin.active.add(_key(request.id))
        return launch_plan_pb2.LaunchPlanUpdateResponse()

    # reading

    @_answered
    def GetTask(self, request: common_pb2.ObjectGetRequest) -> task_pb2.Task:
        spec = self.admin.tasks.get(_key(request.id))
        if spec is None:
            admin_rules.missing("TASK", request.id)
        closure = task_pb2.TaskClosure(compiled_task=CompiledTask(template=spec.template))
        return task_pb2.Task(id=request.id, closure=closure)

    @_answered
    def GetWorkflow(self, request: common_pb2.ObjectGetRequest) -> workflow_pb2.Workflow:
        spec = self.admin.workflows.get(_key(request.id))
        if spec is None:
            admin_rules.missing("WORKFLOW", request.id)
        tasks = {_key(entity): entity for entity in admin_rules.needed_entities(spec) if entity.resource_type == TASK}
        compiled = CompiledWorkflowClosure(
            primary=CompiledWorkflow(template=spec.template),
            sub_workflows=[CompiledWorkflow(template=template) for template in spec.sub_workflows],
            tasks=[CompiledTask(template=self.admin.tasks[key].template) for key in tasks],
        )
        return workflow_pb2.Workflow(id=request.id, closure=workflow_pb2.WorkflowClosure(compiled_workflow=compiled))

    def _launch_plan(self, identifier: Identifier) -> launch_plan_pb2.LaunchPlan:
        spec = self.admin.launch_plans[_key(identifier)]
        interface = self.admin.workflows[_key(spec.workflow_id)].template.interface
        state = launch_plan_pb2.ACTIVE if _key(identifier) in self.admin.active else launch_plan_pb2.INACTIVE
        closure = launch_plan_pb2.LaunchPlanClosure(
            state=state, expected_inputs=spec.default_inputs, expected_outputs=interface.outputs
        )
        return launch_plan_pb2.LaunchPlan(id=identifier, spec=spec, closure=closure)

    @_answered
    def GetLaunchPlan(self, request: common_pb2.ObjectGetRequest) -> launch_plan_pb2.LaunchPlan:
        if _key(request.id) not in self.admin.launch_plans:
            admin_rules.missing("LAUNCH_PLAN", request.id)
        return self._launch_plan(request.id)

    @_answered
    def GetActiveLaunchPlan(self, request: launch_plan_pb2.ActiveLaunchPlanRequest) -> launch_plan_pb2.LaunchPlan:
        for name, version in self.admin.active:
            if name == request.id.name:
                return self._launch_plan(_identifier(request.id, (name, version), LAUNCH_PLAN))
        raise RefusedError(grpc.StatusCode.NOT_FOUND, f"No active launch plan could be found: {request.id}")

    @_answered
    def ListTasks(self, request: common_pb2.ResourceListRequest) -> task_pb2.TaskList:
        found = _newest(self.admin.tasks, request)
        return task_pb2.TaskList(tasks=[task_pb2.Task(id=_identifier(request.id, key, TASK)) for key in found])

    @_answered
    def ListWorkflows(self, request: common_pb2.ResourceListRequest) -> workflow_pb2.WorkflowList:
        found = [self.admin.workflows[key].template.id for key in _newest(self.admin.workflows, request)]
        return workflow_pb2.WorkflowList(workflows=[workflow_pb2.Workflow(id=version) for version in found])

    @_answered
    def ListLaunchPlans(self, request: common_pb2.ResourceListRequest) -> launch_plan_pb2.LaunchPlanList:
        found = [_identifier(request.id, key, LAUNCH_PLAN) for key in _newest(self.admin.launch_plans, request)]
        return launch_plan_pb2.LaunchPlanList(launch_plans=[self._launch_plan(version) for version in found])

    @_answered
    def ListLaunchPlanIds(
        self, request: common_pb2.NamedEntityIdentifierListRequest
    ) -> common_pb2.NamedEntityIdentifierList:
        names = dict.fromkeys(name for name, _ in self.admin.launch_plans)
        place = {"project": request.project, "domain": request.domain}
        entities = [common_pb2.NamedEntityIdentifier(name=name, **place) for name in names]
        return common_pb2.NamedEntityIdentifierList(entities=entities)

    @_answered
    def ListProjects(self, request: project_pb2.ProjectListRequest) -> project_pb2.Projects:
        return project_pb2.Projects(
            projects=[project_pb2.Project(id=project, name=project) for project in self.admin.projects]
        )

    # executions

    @_answered
    def CreateExecution(self, request: execution_pb2.ExecutionCreateRequest) -> execution_pb2.ExecutionCreateResponse:
        self._check_project(request)
        entity = request.spec.launch_plan
        kept: dict[Key, Any] = self.admin.tasks if entity.resource_type == TASK else self.admin.launch_plans
        if _key(entity) not in kept:
            admin_rules.missing("TASK" if entity.resource_type == TASK else "LAUNCH_PLAN", entity)
        if entity.resource_type == TASK:
            variables = kept[_key(entity)].template.interface.inputs.variables
            required = {name: Parameter(var=variable, required=True) for name, variable in variables.items()}
            expected, fixed = ParameterMap(parameters=required), LiteralMap()
        else:
            spec = kept[_key(entity)]
            expected, fixed = spec.default_inputs, spec.fixed_inputs
        inputs = admin_rules.execution_inputs(request.inputs, fixed, expected)
        request.name = request.name or f"f{uuid.uuid4().hex[:19]}"
        self.admin.executions.append(request)
        self.admin.execution_inputs.append(inputs)
        return execution_pb2.ExecutionCreateResponse(id=_execution_identifier(request))

    @_answered
    def GetExecution(self, request: execution_pb2.WorkflowExecutionGetRequest) -> execution_pb2.Execution:
        for execution in self.admin.executions:
            if execution.name == request.id.name:
                closure = execution_pb2.ExecutionClosure(
                    phase=WorkflowExecution.QUEUED, workflow_id=execution.spec.launch_plan
                )
                return execution_pb2.Execution(id=request.id, spec=execution.spec, closure=closure)
        admin_rules.missing("execution", request.id)


def _key(identifier: Any) -> Key:
    return identifier.name, identifier.version


def _identifier(place: Any, key: Key, kind: Any) -> Identifier:
    return Identifier(resource_type=kind, project=place.project, domain=place.domain, name=key[0], version=key[1])


def _execution_identifier(request: execution_pb2.ExecutionCreateRequest) -> WorkflowExecutionIdentifier:
    return WorkflowExecutionIdentifier(project=request.project, domain=request.domain, name=request.name)


def _newest(kept: dict[Key, Any], request: common_pb2.ResourceListRequest) -> list[Key]:
    """Return the versions of one name, the one registered last first, as flytekit asks for them."""
    found = [key for key in reversed(kept) if key[0] == request.id.name]
    return found[: request.limit] if request.limit else found
