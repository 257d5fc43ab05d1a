"""Dialogs of Flyte's console over what registration sends: the schema and the defaults of launch plans, and steps."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from flyteidl.admin.launch_plan_pb2 import LaunchPlanSpec
from flyteidl.core.types_pb2 import LiteralType
from flytekit import LaunchPlan
from flytekit.core.workflow import WorkflowBase
from google.protobuf import json_format

Step = list[str]


@dataclass(frozen=True)
class Form:
    """The form of one workflow, with the config of each launch plan that it can be opened on."""

    schema: dict[str, Any]
    plans: dict[str, Any]

    def dialog(self, *steps: Step) -> dict[str, Any]:
        """Return what the page plays."""
        return {"schema": self.schema, "plans": self.plans, "steps": list(steps)}


def registered_forms() -> dict[str, Form]:
    """Return the forms of this project's workflows by the workflow's name; its own plan is the first of each."""
    from workflows.launch_plans import PLANS

    workflows = {plan.workflow.name: plan.workflow for plan in PLANS}
    plans = [*(LaunchPlan.CACHE[name] for name in workflows if name in LaunchPlan.CACHE), *PLANS]
    order = random.Random(0)
    forms: dict[str, Form] = {}
    for plan in plans:
        default = _default_config(plan, order)
        if default is not None:
            name = plan.workflow.name
            form = forms.setdefault(name, Form(_definition(workflows[name], order), {}))
            form.plans[plan.name] = default
    return forms


def _definition(workflow: WorkflowBase, order: random.Random) -> dict[str, Any]:
    """Return what the console draws of the input `config`, after a way through protobuf."""
    sent = workflow.interface.inputs["config"].type.to_flyte_idl().SerializeToString()
    [definition] = json_format.MessageToDict(LiteralType.FromString(sent).metadata)["definitions"].values()
    return _shuffled(definition, order)


def _default_config(plan: LaunchPlan, order: random.Random) -> dict[str, Any] | None:
    """Return the config that a plan fills the form with, after a way through protobuf, or None."""
    if "config" not in plan.parameters.parameters:
        return None
    sent = LaunchPlanSpec(default_inputs=plan.parameters.to_flyte_idl()).SerializeToString()
    literal = LaunchPlanSpec.FromString(sent).default_inputs.parameters["config"].default
    return _shuffled(json_format.MessageToDict(literal.scalar.generic), order) if literal.ByteSize() else None


def _shuffled(value: Any, order: random.Random) -> Any:
    """Return `value` with the keys of all its maps in another order: a Struct's maps have none."""
    if isinstance(value, dict):
        keys = sorted(value)
        order.shuffle(keys)
        return {key: _shuffled(value[key], order) for key in keys}
    return [_shuffled(item, order) for item in value] if isinstance(value, list) else value
