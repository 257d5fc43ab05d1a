"""Launch plans of the presets: they start from the console or by name, without a config file.

pyflyte run --remote workflows/launch_plans.py demo
pyflyte run remote-launchplan llama-3-1-8b-lora

A launch plan has the name of its preset, with dashes for dots, which pyflyte would take for a module's. With `plan-`
before the name it plans the preset without running it. The preset's config fills the console's form, where it can be
changed. The config of a smoke test is fixed. The nightly smoke test runs on a schedule once it is activated
(docs/cluster.md). With FINE_TUNE_NOTIFY set at registration, all launch plans send a message when a run fails, times
out, or is aborted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flytekit import CronSchedule, Email, LaunchPlan, PagerDuty, Slack
from flytekit.core.notification import Notification
from flytekit.core.workflow import WorkflowBase
from flytekit.models.core.execution import WorkflowExecutionPhase

from configs.errors import ConfigError
from configs.load import PRESETS, is_alignment, load_align_config, load_config
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from workflows.align import align
from workflows.fine_tune import fine_tune
from workflows.forms import DEMO, launch_plan
from workflows.plan import plan, plan_align
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
    return launch_plan(
        workflow,
        name,
        default_inputs={} if is_fixed else {"config": config},
        fixed_inputs={"config": config} if is_fixed else {},
        schedule=schedule,
        notifications=notifications(os.environ.get(NOTIFY_VARIABLE, "")),
        # a smoke test must run every stage
        overwrite_cache=True if is_fixed else None,
    )


def _plans_of_preset(path: Path) -> list[LaunchPlan]:
    """Return two launch plans of a preset: one runs it, and one only plans it."""
    config: FineTuneConfig | AlignConfig = load_align_config(path) if is_alignment(path) else load_config(path)
    name = path.stem.replace(".", "-")
    run, only_plan = (align, plan_align) if is_alignment(path) else (fine_tune, plan)
    return [_plan(name, run, config), _plan(f"plan-{name}", only_plan, config)]


PLANS = [
    *(launch for path in sorted(PRESETS.glob("*.yaml")) for launch in _plans_of_preset(path)),
    _plan("prepare-demo-data", prepare_data, DEMO),
    _plan("smoke-test", fine_tune, DEMO, is_fixed=True),
    # at 03:00 UTC, the time zone of Flyte's scheduler
    _plan("nightly-smoke-test", fine_tune, DEMO, is_fixed=True, schedule=CronSchedule(schedule="0 3 * * *")),
]
# `pyflyte run workflows/launch_plans.py NAME` looks for a variable called NAME
globals().update({launch.name: launch for launch in PLANS})
