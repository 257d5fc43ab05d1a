"""The disk space that a run needs is counted beforehand: models, checkpoints, the weights of best steps."""

from __future__ import annotations

from typing import Any

from configs.schema import FineTuneConfig
from configs.schema.train import TrainConfig
from tasks.plan.hardware.disk import checkpoint_bytes, kept_checkpoint_bytes, required_disk_bytes


def test_a_checkpoint_holds_the_trained_weights_and_their_moments() -> None:
    mega = 10**6
    state = 2**20

    def size(**settings: Any) -> int:
        return checkpoint_bytes(100 * mega, mega, TrainConfig(**settings)) - state

    assert size(method="full") == 1200 * mega
    assert size(method="lora") == 12 * mega
    assert size(method="full", efficiency={"optimizer": "adamw_8bit"}) == 600 * mega
    assert size(method="full", sharding="zero3") == 1400 * mega
    # two kept checkpoints and one being written, each with the weights of a best step; then 1 + 1 without them
    kept = TrainConfig(method="full")
    assert kept_checkpoint_bytes(100 * mega, 0, kept) == 3 * (1200 * mega + state) + 3 * 400 * mega
    last = TrainConfig(method="full", watch={"keep": "last"}, checkpoint={"keep": 1})
    assert kept_checkpoint_bytes(100 * mega, 0, last) == 2 * (1200 * mega + state)


def test_the_disk_space_of_a_run_includes_its_checkpoints() -> None:
    settings = {"model": {"name": "m"}, "data": {"sources": [{"path": "p"}]}, "quantize": {"methods": []}}
    run = FineTuneConfig(**settings, train={"method": "full"})
    assert required_disk_bytes(10**9, run, 5 * 10**9) == 6 * 10**9 + 64 * 2**20
