"""What the console's form holds when it opens.

The form opens on the launch plan that has the workflow's own name, and keeps what it finds there when another plan is
chosen: without a complete config it would fill in the schema's defaults and send these, whatever the plan says. So
each workflow that the console can start has a complete default in its own plan: the demo.
"""

from __future__ import annotations

from typing import Any

from flytekit import LaunchPlan
from flytekit.core.workflow import WorkflowBase
from flytekit.models.interface import Parameter

from configs.load import PRESETS, load_align_config, load_config
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig

DEMO: FineTuneConfig = load_config(PRESETS / "demo.yaml")
ALIGN_DEMO: AlignConfig = load_align_config(PRESETS / "align-demo.yaml")


def launch_plan(workflow: WorkflowBase, name: str, **settings: Any) -> LaunchPlan:
    """Return the launch plan `name` of a workflow with `LaunchPlan.get_or_create`'s settings and described inputs."""
    plan = LaunchPlan.get_or_create(workflow=workflow, name=name, **settings)
    # flytekit drops the inputs' descriptions from a launch plan with default inputs
    parameters = plan.parameters.parameters
    for key, parameter in parameters.items():
        parameters[key] = Parameter(
            var=workflow.interface.inputs[key], default=parameter.default, required=parameter.required
        )
    return plan


def open_form_with(workflow: WorkflowBase, **inputs: Any) -> None:
    """Give the workflow's own launch plan these default inputs; call it where the workflow is defined."""
    launch_plan(workflow, workflow.name, default_inputs=inputs)
