"""The plan alone: checks, memory, machines, time and cost of a config, without a GPU.

pyflyte run workflows/plan.py plan --config configs/presets/llama-3.1-8b-lora.yaml
pyflyte run workflows/plan.py plan_align --config configs/presets/align-demo.yaml
"""

from flytekit import workflow

from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from configs.wire_plan import PlanFor
from tasks.plan.task import PlanResult, show_alignment_plan, show_plan
from workflows.forms import ALIGN_DEMO, DEMO, open_form_with


@workflow
def plan(config: FineTuneConfig, machines: PlanFor = PlanFor.CLUSTER) -> PlanResult:
    """Plan a fine-tuning without running it.

    Plans a fine-tuning without running it: checks, memory, machines, time and cost, in seconds on a CPU. Shows the
    results of all checks, and fails where one of them does. Without a network, checks that need one are skipped.

    Args:
        config: The config of `fine_tune`.
        machines: Plan for a cluster's GPUs, or `here` for the machine on which this runs.
    """
    return show_plan(config=config, machines=machines).with_overrides(node_name="plan")


@workflow
def plan_align(config: AlignConfig, machines: PlanFor = PlanFor.CLUSTER) -> PlanResult:
    """Plan an alignment without running it.

    Plans all phases of an alignment without running it: checks, memory, machines, time and cost, in seconds on a CPU.
    Shows the results of all checks, and fails where one of them does.

    Args:
        config: The config of `align`.
        machines: Plan for a cluster's GPUs, or `here` for the machine on which this runs.
    """
    return show_alignment_plan(config=config, machines=machines).with_overrides(node_name="plan")


open_form_with(plan, config=DEMO, machines=PlanFor.CLUSTER)
open_form_with(plan_align, config=ALIGN_DEMO, machines=PlanFor.CLUSTER)
