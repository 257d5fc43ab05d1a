"""What was registered runs as on a cluster, every task from its spec, and ends with the weights of the laptop's run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rehearsal.stage import Stage, open_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
GIB = 2**30


@dataclass
class Rehearsal:
    """The laptop's folder of outputs, and the result of the same config on a cluster of two machines."""

    stage: Stage
    config: dict[str, Any]
    laptop: Path
    cluster: dict[str, Any]


def config_of(model: Path, rows: Path) -> dict[str, Any]:
    return {
        "name": "rehearsal",
        "model": {"name": str(model)},
        "data": {"sources": [{"path": str(rows)}], "shards": 2},
        "train": {
            "method": "lora",
            "max_steps": 6,
            "batch_size": 8,
            "micro_batch_size": 2,
            "learning_rate": 1e-2,
            "processes_per_node": 2,
            "checkpoint": {"every_steps": 2},
        },
        "evaluate": {"generate_rows": 2, "max_new_tokens": 4},
        "quantize": {"methods": ["8bit"]},
        "push_to_hub": {"repository": "me/tuned", "artifacts": ["model", "adapter", "8bit"]},
    }


def on_two_machines(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config for a cluster, where a tracker follows the training from outside."""
    train = {**config["train"], "nodes": 2, "processes_per_node": 1, "tracking": {"tracker": "tensorboard"}}
    return {**config, "train": train, "push_to_hub": {**config["push_to_hub"], "repository": "me/from-cluster"}}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> Iterator[Rehearsal]:
    with open_stage(tmp_path_factory.mktemp("rehearsal")) as stage:
        config = config_of(tiny_model, rows_file)
        laptop = stage.run_on_laptop(config)
        asked = stage.run_remote(on_two_machines(config))
        assert asked.returncode == 0, asked.stdout[-2000:] + asked.stderr[-2000:]
        yield Rehearsal(stage, config, laptop, stage.execute_last())


def test_every_task_of_the_workflow_ran_from_its_spec(rehearsal: Rehearsal) -> None:
    ran = {attempt.task for attempt in rehearsal.stage.cluster.tries}
    stages = {"make_plan", "get_model", "map_scan_shard", "get_data", "map_tokenize_part", "tokenize"}
    assert ran == stages | {
        *("evaluate", "compare_models", "tune", "train_2", "merge", "quantize", "map_push_to_hub", "write_report")
    }
    assert [attempt.error for attempt in rehearsal.stage.cluster.tries if attempt.error] == []
    [training] = rehearsal.stage.cluster.tries_of("train_2")
    assert len(training.pods) == 2
    # one GPU, and so on, for each of the processes of a machine; the declared shape has eight
    asked = {entry.name: entry.value for entry in training.node.task_node.overrides.resources.requests}
    # Resources.ResourceName: CPU 1, GPU 2, MEMORY 3, EPHEMERAL_STORAGE 5
    assert asked == {1: "8", 2: "1", 3: "8Gi", 5: "30Gi"}


def test_laptop_and_cluster_end_with_the_same_weights(rehearsal: Rehearsal) -> None:
    expected = (rehearsal.laptop / "model" / "model.safetensors").read_bytes()
    model = rehearsal.stage.folder(rehearsal.cluster["model"]["path"])
    assert model["model.safetensors"] == expected
    [quantized] = rehearsal.cluster["quantized_models"]
    expected = (rehearsal.laptop / "quantized_8bit" / "model.safetensors").read_bytes()
    assert rehearsal.stage.folder(quantized["path"])["model.safetensors"] == expected


def test_laptop_and_cluster_report_the_same_scores(rehearsal: Rehearsal) -> None:
    metrics = json.loads(rehearsal.stage.store.read(rehearsal.cluster["metrics"]["path"]) or b"")
    expected = json.loads((rehearsal.laptop / "metrics.json").read_text())
    for name in ("base", "tuned", "quantized_8bit", "train_rows", "test_rows", "steps", "best_step"):
        assert metrics[name] == expected[name], name
    assert rehearsal.cluster["table"].splitlines()[1].startswith("base")


def test_no_pod_reads_a_path_of_another_machine(rehearsal: Rehearsal) -> None:
    found = {attempt.task: pod.foreign_paths for attempt in rehearsal.stage.cluster.tries for pod in attempt.pods}
    assert {task: paths for task, paths in found.items() if paths} == {}


def test_no_pod_takes_more_memory_than_it_asks_for(rehearsal: Rehearsal) -> None:
    # the next size after what it took would not be asked for in vain
    for attempt in rehearsal.stage.cluster.tries:
        requests = {entry.name: entry.value for entry in attempt.template.container.resources.requests}
        # Resources.ResourceName: MEMORY 3
        asked = int(requests[3].removesuffix("Gi")) * GIB
        assert 0 < max(pod.peak_bytes for pod in attempt.pods) < asked, attempt.task


def test_a_job_whose_first_pod_has_ended_has_all_its_outputs(rehearsal: Rehearsal) -> None:
    assert [attempt.task for attempt in rehearsal.stage.cluster.tries if not attempt.complete_at_first_exit] == []


def test_both_runs_publish_the_same_weights(rehearsal: Rehearsal) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=rehearsal.stage.hub.endpoint, token="hf_write_secret")
    for suffix, name in (
        ("", "model.safetensors"),
        ("-8bit", "model.safetensors"),
        ("-adapter", "adapter_model.safetensors"),
    ):
        hashes = {
            api.get_paths_info(f"me/{owner}{suffix}", [name])[0].lfs.sha256 for owner in ("tuned", "from-cluster")
        }
        assert len(hashes) == 1, name


def test_decks_are_in_the_store(rehearsal: Rehearsal) -> None:
    cluster = rehearsal.stage.cluster
    for task in ("get_data", "tokenize", "train_2", "write_report"):
        [attempt] = cluster.tries_of(task)
        deck = rehearsal.stage.store.read(f"{cluster.output(attempt)}/deck.html")
        assert deck is not None and len(deck) > 1000, task


def test_a_tracker_has_the_curve_in_the_store(rehearsal: Rehearsal, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = rehearsal.stage.store
    [key] = [key for key in store.keys("raw/") if "tfevents" in key]
    (tmp_path / Path(key).name).write_bytes(store.read(store.uri(key)) or b"")
    losses = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [point.step for point in losses] == [1, 2, 3, 4, 5, 6]


def test_the_token_is_in_no_log(rehearsal: Rehearsal) -> None:
    assert [attempt.task for attempt in rehearsal.stage.cluster.tries if "hf_write_secret" in attempt.log] == []


def test_a_form_of_the_console_that_leaves_defaults_out_finds_the_cached_steps(rehearsal: Rehearsal) -> None:
    stage = rehearsal.stage
    sent, form = stage.sent_config(), on_two_machines(rehearsal.config)
    form["model"] = {"name": sent["model"]["name"]}
    form["data"] = {"sources": [{"path": sent["data"]["sources"][0]["path"]}], "shards": 2}
    before, cached = len(stage.cluster.tries), len(stage.cluster.cached)
    result = stage.execute_form(form)
    assert stage.folder(result["model"]["path"]) == stage.folder(rehearsal.cluster["model"]["path"])
    cacheable = {"get_model", "map_scan_shard", "get_data", "map_tokenize_part", "tokenize", "evaluate", "train_2"}
    assert set(stage.cluster.cached[cached:]) == cacheable | {"merge", "quantize"}
    # each artifact is pushed by a pod of its own
    assert [attempt.task for attempt in stage.cluster.tries[before:]] == [
        *(
            "make_plan",
            "tune",
            "compare_models",
            "map_push_to_hub",
            "map_push_to_hub",
            "map_push_to_hub",
            "write_report",
        )
    ]
