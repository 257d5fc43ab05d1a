"""Launch plans of the presets: they start from the console or by name, without a config file.

pyflyte run --remote workflows/launch_plans.py demo
pyflyte run remote-launchplan llama-3-1-8b-lora

A launch plan has the name of its preset, with dashes for dots, which pyflyte would take for a module's. The preset's
config fills the console's form, where it can be changed. The config of a smoke test is fixed. The nightly smoke test
runs on a schedule once it is activated (docs/cluster.md). With FINE_TUNE_NOTIFY set at registration, all launch plans
send a message when a run fails, times out, or is aborted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flytekit import CronSchedule, Email, LaunchPlan, PagerDuty, Slack
from flytekit.core.notification import Notification
from flytekit.core.workflow import WorkflowBase
from flytekit.models.core.execution import WorkflowExecutionPhase
from flytekit.models.interface import Parameter

from configs.errors import ConfigError
from configs.load import PRESETS, load_align_config, load_config
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from workflows.align import align
from workflows.fine_tune import fine_tune
from workflows.prepare_data import prepare_data

NOTIFY_VARIABLE = "FINE_TUNE_NOTIFY"
_BAD_ENDS = [WorkflowExecutionPhase.FAILED, WorkflowExecutionPhase.TIMED_OUT, WorkflowExecutionPhase.ABORTED]
_SENDERS: dict[str, Callable[..., Notification]] = {"email": Email, "slack": Slack, "pagerduty": PagerDuty}


def notifications(recipients: str) -> list[Notification]:
    """Return the notifications of runs that failed, timed out or were aborted; `recipients` is $FINE_TUNE_NOTIFY.

    Recipients are e-mail addresses separated by commas. Addresses of Slack and PagerDuty begin with `slack:` and
    `pagerduty:`.

    Raises:
        ConfigError: a recipient is not an address, or names another service.
    """
    by_service: dict[str, list[str]] = {}
    given = filter(None, (recipient.strip() for recipient in recipients.split(",")))
    for number, recipient in enumerate(given, start=1):
        service, _, address = recipient.rpartition(":")
        if (service or "email") not in _SENDERS or address.count("@") != 1:
            raise ConfigError(
                f"{NOTIFY_VARIABLE}: recipient {number} is not an e-mail address, alone or after slack: or pagerduty:"
            )
        by_service.setdefault(service or "email", []).append(address)
    return [_SENDERS[service](phases=_BAD_ENDS, recipients_email=to) for service, to in sorted(by_service.items())]


def _plan(
    name: str,
    workflow: WorkflowBase,
    config: FineTuneConfig | AlignConfig,
    is_fixed: bool = False,
    schedule: CronSchedule | None = None,
) -> LaunchPlan:
    plan = LaunchPlan.get_or_create(
        workflow=workflow,
        name=name,
        default_inputs={} if is_fixed else {"config": config},
        fixed_inputs={"config": config} if is_fixed else {},
        schedule=schedule,
        notifications=notifications(os.environ.get(NOTIFY_VARIABLE, "")),
        # a smoke test must run every stage
        overwrite_cache=True if is_fixed else None,
    )
    # flytekit drops the inputs' descriptions from a launch plan with default inputs
    parameters = plan.parameters.parameters
    for key, parameter in parameters.items():
        parameters[key] = Parameter(var=workflow.interface.inputs[key], default=parameter.default, required=False)
    return plan


def _plan_name(preset: str) -> str:
    return preset.replace(".", "-")


def _plan_of_preset(path: Path) -> LaunchPlan:
    # an alignment's config begins a phase with `sft:`; it is no config of `fine_tune`
    is_alignment = any(line.startswith("sft:") for line in path.read_text(encoding="utf-8").splitlines())
    name = _plan_name(path.stem)
    return _plan(name, align, load_align_config(path)) if is_alignment else _plan(name, fine_tune, load_config(path))


_DEMO = load_config(PRESETS / "demo.yaml")
PLANS = [
    *map(_plan_of_preset, sorted(PRESETS.glob("*.yaml"))),
    _plan("prepare-demo-data", prepare_data, _DEMO),
    _plan("smoke-test", fine_tune, _DEMO, is_fixed=True),
    # at 03:00 UTC, the time zone of Flyte's scheduler
    _plan("nightly-smoke-test", fine_tune, _DEMO, is_fixed=True, schedule=CronSchedule(schedule="0 3 * * *")),
]
# `pyflyte run workflows/launch_plans.py NAME` looks for a variable called NAME
globals().update({plan.name: plan for plan in PLANS})
