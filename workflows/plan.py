"""The plan alone: what would fail, what it needs, and what it costs, before a GPU is asked for.

pyflyte run workflows/plan.py plan --config configs/presets/llama-3.1-8b-lora.yaml
pyflyte run workflows/plan.py plan_align --config configs/presets/align-demo.yaml
"""

from flytekit import workflow

from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from configs.wire_plan import PlanFor
from tasks.plan.task import PlanResult, show_alignment_plan, show_plan


@workflow
def plan(config: FineTuneConfig, machines: PlanFor = PlanFor.CLUSTER) -> PlanResult:
    """Plan a fine-tuning without running it: checks, memory, machines, time and cost; seconds on a CPU.

    Fails where a check does, after it has shown all of them. What needs a network, and has none, is left unchecked.

    Args:
        config: The config of `fine_tune`.
        machines: Plan for a cluster's GPUs, or `here`: for the machine on which this runs.
    """
    return show_plan(config=config, machines=machines)


@workflow
def plan_align(config: AlignConfig, machines: PlanFor = PlanFor.CLUSTER) -> PlanResult:
    """Plan an alignment without running it: all its trainings at once.

    Args:
        config: The config of `align`.
        machines: Plan for a cluster's GPUs, or `here`: for the machine on which this runs.
    """
    return show_alignment_plan(config=config, machines=machines)
