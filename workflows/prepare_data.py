"""The data alone: rows read, checked, deduplicated and split, without a model.

pyflyte run workflows/prepare_data.py prepare_data --config my.yaml
"""

from functools import partial

from flytekit import map_task, workflow

from configs.schema import FineTuneConfig
from tasks.get_data.task import get_data, scan_shard
from tasks.plan.task import resolve_data
from tasks.report.task import PreparedData, write_data_report
from workflows.forms import DEMO, open_form_with


@workflow
def prepare_data(config: FineTuneConfig) -> PreparedData:
    """Prepare the rows alone.

    Checks, deduplicates and splits the rows of `data.sources`, without any training. The report accounts for every row:
    trained on, held out, set aside with the reason, or removed as a duplicate.

    Args:
        config: Where the rows are and how they are checked; only `data` is required.
    """
    resolved = resolve_data(config=config).with_overrides(node_name="plan")
    scan = partial(scan_shard, config=resolved.data, contamination=resolved.contamination)
    scanned = map_task(scan)(shard=resolved.mapped_shards).with_overrides(node_name="scan-shards")
    rows = get_data(
        config=resolved.data, contamination=resolved.contamination, shards=resolved.shards, scanned=scanned
    ).with_overrides(node_name="rows")
    return write_data_report(
        config=resolved.config, data=rows.report, train=rows.train, test=rows.test, quarantine=rows.quarantine
    ).with_overrides(node_name="report")


open_form_with(prepare_data, config=DEMO)
