"""Publish what the gate held back: the run again, whose steps come from the cache, with a reason that the card shows.

pyflyte run workflows/publish.py publish_anyway --config my.yaml --reason "for a trial with two customers"
"""

from flytekit import workflow

from configs.schema import FineTuneConfig
from tasks.plan.task import with_reason
from tasks.report.task import FineTuneResult
from workflows.fine_tune import fine_tune
from workflows.forms import DEMO, open_form_with


@workflow
def publish_anyway(config: FineTuneConfig, reason: str) -> FineTuneResult:
    """Publish a model that the gate held back.

    Runs `fine_tune` again with the reason. Steps that ran before come from Flyte's cache: nothing is trained again
    unless the cache is gone or the config differs.

    Args:
        config: The config of the run, with `push_to_hub.repository`.
        reason: Why the model is published although the gate held it back; its card says so.
    """
    given = with_reason(config=config, reason=reason).with_overrides(node_name="reason")
    return fine_tune(config=given).with_overrides(node_name="run")


open_form_with(publish_anyway, config=DEMO, reason="")
