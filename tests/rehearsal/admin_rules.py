"""What flyteadmin refuses, in its own codes and words, for the parts that this project's registration meets.

The rules and messages are those of github.com/flyteorg/flyte, flyteadmin/pkg: errors/errors.go, repositories/errors,
manager/impl/*_manager.go, manager/impl/validation/{project,task,launch_plan,execution}_validator.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NoReturn

import grpc
from flyteidl.admin.launch_plan_pb2 import LaunchPlanSpec
from flyteidl.admin.task_pb2 import TaskSpec
from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.interface_pb2 import Parameter, ParameterMap, VariableMap
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flyteidl.core.tasks_pb2 import Resources
from flyteidl.core.types_pb2 import SimpleType
from flyteidl.core.workflow_pb2 import Node, WorkflowTemplate

_UNITS = {"": 1, "m": Fraction(1, 1000), "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}


class RefusedError(Exception):
    """What the server answers in the place of a result: a gRPC status code and its details."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def invalid(details: str) -> NoReturn:
    raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, details)


def missing(kind: str, identifier: Any) -> NoReturn:
    raise RefusedError(grpc.StatusCode.NOT_FOUND, f"missing entity of type {kind} with identifier {identifier}".strip())


def check_project(projects: dict[str, list[str]], project: str, domain: str) -> None:
    """Refuse a project or a domain that was not created."""
    if project not in projects:
        invalid(
            f"failed to validate that project [{project}] and domain [{domain}] are registered, "
            f"err: [project [{project}] not found]"
        )
    if domain not in projects[project]:
        invalid(f"domain [{domain}] is unrecognized by system")


def check_resources(spec: TaskSpec, limits: dict[str, str]) -> None:
    """Refuse requests above the platform's limits (`task_resources.limits`, by CPU, MEMORY, GPU, EPHEMERAL_STORAGE)."""
    for entry in spec.template.container.resources.requests:
        name = Resources.ResourceName.Name(entry.name)
        if name in limits and quantity(entry.value) > quantity(limits[name]):
            invalid(
                f"Requested {name} default [{entry.value}] is greater than  current limit set in the platform "
                f"configuration [{limits[name]}]. Please contact Flyte Admins to change these limits or consult the "
                "configuration"
            )


def quantity(text: str) -> Fraction:
    """Return a Kubernetes quantity, such as 500m or 16Gi, as a number."""
    digits = text.rstrip("mKMGTi")
    return Fraction(digits) * _UNITS[text[len(digits) :]]


def check_known(kind: str, name: str, same: bool) -> NoReturn:
    """Answer for a version that exists: the client passes over an identical one, and stops at another."""
    if same:
        raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"{kind} with identical structure already exists")
    invalid(f"{name} {kind} with different structure already exists. (Please register a new version of the {kind}):\n")


def needed_entities(spec: WorkflowSpec) -> Iterator[Identifier]:
    """Yield the tasks and launch plans that must be registered before this workflow compiles."""
    for template in (spec.template, *spec.sub_workflows):
        yield from _references(template)


def _references(template: WorkflowTemplate) -> Iterator[Identifier]:
    nodes: list[Node] = list(template.nodes)
    while nodes:
        node = nodes.pop()
        kind = node.WhichOneof("target")
        if kind == "task_node":
            yield node.task_node.reference_id
        elif kind == "workflow_node" and node.workflow_node.HasField("launchplan_ref"):
            yield node.workflow_node.launchplan_ref
        elif kind == "array_node":
            nodes.append(node.array_node.node)
        elif kind == "branch_node":
            branch = node.branch_node.if_else
            nodes += [branch.case.then_node, *(other.then_node for other in branch.other), branch.else_node]


def expected_inputs(variables: VariableMap, spec: LaunchPlanSpec) -> ParameterMap:
    """Return what a launch plan leaves open: its defaults, and as required what it has no value for."""
    for name in spec.default_inputs.parameters:
        if name not in variables.variables:
            invalid(f"unexpected default_input {name}")
    for name, literal in spec.fixed_inputs.literals.items():
        if name not in variables.variables:
            invalid(f"unexpected fixed_input {name}")
        if not _fits(literal, variables.variables[name].type):
            invalid(f"invalid fixed_input wrong type {name}")
    parameters = {}
    for name, variable in variables.variables.items():
        if name in spec.default_inputs.parameters:
            parameters[name] = spec.default_inputs.parameters[name]
        elif name not in spec.fixed_inputs.literals:
            parameters[name] = Parameter(var=variable, required=True)
    expected = ParameterMap(parameters=parameters)
    schedule = spec.entity_metadata.schedule
    if schedule.cron_expression or schedule.HasField("rate") or schedule.cron_schedule.schedule:
        for name, parameter in expected.parameters.items():
            if parameter.required and name != schedule.kickoff_time_input_arg:
                invalid(
                    "Cannot create a launch plan with a schedule if there is an unbound required input. "
                    f"[{name}] is required"
                )
    return expected


def execution_inputs(given: LiteralMap, fixed: LiteralMap, expected: ParameterMap) -> LiteralMap:
    """Return the inputs of an execution: those given, then defaults, then fixed ones."""
    inputs: dict[str, Literal] = {}
    for name, literal in given.literals.items():
        if name not in expected.parameters:
            invalid(f"invalid input {name}")
        if not _fits(literal, expected.parameters[name].var.type):
            invalid(f"invalid {name} input wrong type")
        inputs[name] = literal
    for name, parameter in expected.parameters.items():
        if name not in inputs:
            if parameter.required:
                invalid(f"expected_inputs {name} missing")
            inputs[name] = parameter.default
    for name, literal in fixed.literals.items():
        if name in inputs:
            invalid(f"fixed_inputs {name} cannot be overridden")
        inputs[name] = literal
    return LiteralMap(literals=inputs)


def _fits(literal: Literal, kind: Any) -> bool:
    """Return whether a structure was given where one is expected; other types are not looked at."""
    if kind.simple != SimpleType.STRUCT:
        return True
    return literal.scalar.HasField("generic") or literal.scalar.binary.tag == "msgpack"
