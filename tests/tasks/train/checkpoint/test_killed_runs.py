"""A run that is killed again and again ends with the very weights of one that was never disturbed."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
from support.killed_runs import (
    INTERVAL,
    METHODS,
    SETTINGS,
    Kill,
    Run,
    Undisturbed,
    assert_little_is_repeated,
    every_third_call_fails,
    full_now,
)

pytestmark = pytest.mark.slow


def kills(chance: random.Random, processes: int) -> list[Kill]:
    """Moments of every kind, of any process, in the order of the tries that they end."""

    def any_rank() -> int:
        return chance.randrange(processes)

    return [
        Kill(any_rank(), "step", chance.randint(5, 6)),
        # the checkpoint of step 6: within a file, before its manifest; then within the restoring of step 3
        Kill(0, "upload", chance.randint(1, 3)),
        Kill(0, "manifest", 1),
        Kill(0, "download", chance.randint(1, 3)),
        Kill(any_rank(), "pass", chance.randint(8, 9)),
        Kill(any_rank(), "step", chance.randint(13, 15)),
    ]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_killed_run_ends_with_the_same_weights(
    method: str, processes: int, inputs: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS[method]
    chance = random.Random(f"{method} {processes}")
    expected = undisturbed(settings, inputs, processes)
    killed = Run(tmp_path / "killed", settings, inputs, processes)
    reached = 0
    for kill in kills(chance, processes):
        made = killed.start(kill)
        assert made.exit_codes[kill.rank] == -signal.SIGKILL, killed.log(kill.rank)
        reached = assert_little_is_repeated(killed, reached)
    made = killed.start(seconds=chance.uniform(0.3, 1.0))
    assert -signal.SIGKILL in made.exit_codes or made.exit_codes == [0] * processes
    reached = assert_little_is_repeated(killed, reached)
    if made.exit_codes != [0] * processes:
        assert killed.start().exit_codes == [0] * processes, killed.log()
        assert_little_is_repeated(killed, reached)
    assert killed.weights == expected.weights
    mine, theirs = killed.report, expected.report
    assert (mine.curve, mine.steps) == (theirs.curve, theirs.steps)
    assert {series.name: series for series in mine.series} == {series.name: series for series in theirs.series}
    assert mine.best_step == theirs.best_step is not None
    assert any(line.name == "resumed" for line in mine.choices)


@pytest.mark.parametrize(("method", "processes"), [("full", 1), ("lora", 2)])
def test_a_run_that_saves_nothing_ends_with_the_same_weights(
    method: str, processes: int, inputs: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS[method]
    unsaved = Run(tmp_path / "unsaved", settings, inputs, processes, saves=False)
    assert unsaved.start().exit_codes == [0] * processes, unsaved.log()
    assert unsaved.weights == undisturbed(settings, inputs, processes).weights


OTHERS: dict[str, dict[str, Any]] = {
    "dpo": {"objective": "dpo", "method": "lora"},
    "reward": {"objective": "reward", "method": "lora"},
    "kto": {"objective": "kto", "method": "full", "kto": {"loss": "apo_zero_unpaired"}},
    # answers are sampled in training: its random numbers and the order of its prompts are part of the state
    "rloo": {
        "objective": "rloo",
        "method": "lora",
        "policy": {"rewards": [{"kind": "regex", "pattern": "e"}], "num_generations": 2, "max_new_tokens": 4},
        "epochs": 3,
    },
    "grpo twice": {
        "objective": "grpo",
        "method": "full",
        "policy": {
            "rewards": [{"kind": "regex", "pattern": "e"}],
            "num_generations": 2,
            "max_new_tokens": 4,
            "num_iterations": 2,
        },
        "epochs": 3,
    },
    "qlora": {"method": "qlora"},
    "lora_8bit": {"method": "lora_8bit"},
    "prompt tuning": {"method": "prompt_tuning", "prompt": {"num_virtual_tokens": 3}},
    "prefix tuning": {"method": "prefix_tuning", "prompt": {"num_virtual_tokens": 3}},
    "8-bit optimizer": {"method": "full", "efficiency": {"optimizer": "adamw_8bit"}},
    "cpt, in random order": {"objective": "cpt", "method": "full", "group_by_length": False},
}


@pytest.mark.parametrize("case", list(OTHERS))
def test_every_objective_and_method_goes_on_where_it_was(
    case: str, inputs: dict[str, Any], texts: Path, tmp_path: Path
) -> None:
    settings = SETTINGS | {"epochs": 4} | OTHERS[case] | {"watch": {"evaluations": 0}}
    if settings.get("objective") == "cpt":
        inputs |= {"train_tokens": texts, "test_tokens": texts}
    undisturbed = Run(tmp_path / "undisturbed", settings, inputs)
    assert undisturbed.start().exit_codes == [0], undisturbed.log()
    killed = Run(tmp_path / "killed", settings, inputs)
    reached = 0
    # in the second epoch, and in the last
    for step in (5, undisturbed.report.steps - 1):
        assert killed.start(Kill(0, "pass", step)).exit_codes == [-signal.SIGKILL], killed.log()
        reached = max(reached, killed.tries[-1].last_step or 0)
        assert reached == step - 1
    made = killed.start()
    assert made.exit_codes == [0], killed.log()
    assert made.first_step is not None and made.first_step > 1 and reached - (made.first_step - 1) <= INTERVAL + 1
    assert killed.weights == undisturbed.weights


def test_checkpoints_come_by_the_clock(inputs: dict[str, Any], tmp_path: Path) -> None:
    settings = SETTINGS | {"method": "full", "max_steps": 8, "checkpoint": {"every_minutes": 1e-6, "keep": 1}}
    run = Run(tmp_path / "run", settings, inputs)
    run.start(Kill(0, "step", 5))
    assert [path.name for path in (run.directory / "cp" / "0").glob("checkpoint-*")] == ["checkpoint-00000004"]
    assert run.start().first_step == 5
    saved = next(line for line in run.report.choices if line.name == "checkpoints")
    # after each step but the last
    assert saved.value == "7, every 1e-06 min"
    never = Run(tmp_path / "never", settings | {"checkpoint": {"every_minutes": None}}, inputs)
    never.start(Kill(0, "step", 5))
    assert never.start().first_step == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_asked_to_stop_saves_the_step_it_is_in(
    processes: int, inputs: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS["full"]
    expected = undisturbed(settings, inputs, processes)
    stopped = Run(tmp_path / "stopped", settings | {"checkpoint": {"every_steps": 100}}, inputs, processes)
    asked = Kill(processes - 1, "pass", 8, signal.SIGTERM)
    assert stopped.start(asked).exit_codes == [1] * processes
    # every process ends after the same step, and none of them loses anything
    for rank in range(processes):
        assert "asked to stop (SIGTERM) after step 8; its checkpoint is saved" in stopped.log(rank)
    made = stopped.start()
    assert (made.first_step, made.exit_codes) == (9, [0] * processes), stopped.log()
    assert stopped.weights == expected.weights


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("method", list(METHODS))
def test_another_number_of_processes_reaches_the_same_loss(
    method: str, before: int, after: int, inputs: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    # without dropout: its random numbers are each process's own
    settings = SETTINGS | METHODS[method] | ({"lora": {"rank": 4}} if method == "lora" else {})
    moved = Run(tmp_path / "moved", settings, inputs, before)
    moved.start(Kill(before - 1, "step", 8))
    made = moved.start(processes=after)
    assert (made.first_step, made.exit_codes) == (7, [0] * after), moved.log()
    assert_same_losses(moved, undisturbed(settings, inputs, before))


def test_half_the_micro_batch_goes_on_at_the_same_row(
    inputs: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS["full"]
    halved = Run(tmp_path / "halved", settings, inputs)
    halved.start(Kill(0, "step", 5))
    halved.settings = settings | {"micro_batch_size": 1}
    made = halved.start()
    assert (made.first_step, made.exit_codes) == (4, [0]), halved.log()
    assert_same_losses(halved, undisturbed(settings, inputs))


def assert_same_losses(run: Run, expected: Run) -> None:
    """Compare the curves: sums in another order differ by a few units in the last place of 32 bits at each step."""
    found, wanted = ([(point.step, point.loss) for point in finished.report.curve] for finished in (run, expected))
    assert [step for step, _ in found] == [step for step, _ in wanted]
    # one or two steps a point
    assert len(found) >= 16 and found[-1][0] == 24
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in wanted], rel=1e-4)


def test_a_run_with_other_settings_does_not_go_on(inputs: dict[str, Any], tmp_path: Path) -> None:
    settings = SETTINGS | {"method": "full", "epochs": 2, "watch": {"evaluations": 0}}
    run = Run(tmp_path / "run", settings, inputs)
    run.start(Kill(0, "step", 5))
    run.settings = settings | {"learning_rate": 1e-4}
    assert run.start().first_step == 1
    assert "train: begins at step 1: earlier attempts left no checkpoint to resume from" in run.log()
    assert "not used" in run.log() and "foreign: it is of another model, other rows or other settings" in run.log()


def test_a_store_that_fails_every_third_call_is_survived(
    inputs: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS["lora"]
    run = Run(tmp_path / "run", settings, inputs, filesystem=every_third_call_fails)
    assert run.start(Kill(0, "step", 8)).exit_codes == [-signal.SIGKILL], run.log()
    made = run.start()
    assert (made.first_step, made.exit_codes) == (7, [0]), run.log()
    assert run.weights == undisturbed(settings, inputs).weights
    assert "could not be saved" not in run.log()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_is_full_for_long_ends_the_run_in_words(
    processes: int, inputs: dict[str, Any], tmp_path: Path
) -> None:
    settings = SETTINGS | {"method": "full", "epochs": 5, "watch": {"evaluations": 0}}
    run = Run(tmp_path / "run", settings, inputs, processes, filesystem=full_now)
    run.start(Kill(0, "step", 5))
    (run.directory / "full").touch()
    assert run.start().exit_codes == [1] * processes
    failed = [line for line in run.log().splitlines() if "could not be saved, and training continues" in line]
    assert [line.split(" of step ")[1].split()[0] for line in failed] == ["6", "9"]
    assert "No space left on device" in failed[0]
    assert "ArtifactError: 3 checkpoints in a row could not be saved, the last at step 12" in run.log()
    assert "the disk is full: raise train.cluster.disk_gib, or lower train.checkpoint.keep" in run.log()
    # nothing of it was lost
    (run.directory / "full").unlink()
    made = run.start()
    assert (made.first_step, made.exit_codes) == (4, [0] * processes)
    saved = next(line for line in run.report.choices if line.name == "checkpoints")
    # of steps 3, and 6 to 12
    assert saved.value == "4, every 3 steps"
