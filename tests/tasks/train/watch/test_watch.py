"""A run that goes wrong stops at its step, names its rows, and keeps its best weights."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from conftest import ROOT
from pydantic import ValidationError
from support.watched_runs import BAD_TOKEN, numbered_rows, untied_model, watched_trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from configs.errors import DivergedError
from configs.schema.train import TrainConfig
from tasks.models.load import load_tokenizer
from tasks.train.row_numbers import row_ids_of, with_row_numbers
from tasks.train.seams import Watched
from tasks.train.watch.held_out import (
    evaluated_rows,
    evaluation_arguments,
    evaluation_steps,
    held_out_sample,
    kept_weights,
    remove_checkpoints,
    watch_callbacks,
    watch_choices,
)
from tasks.train.watch.progress import Progress
from tasks.train.watch.watch import LossWatch, start_watch


def verdicts(watch: LossWatch, losses: list[float]) -> list[str]:
    return [watch.verdict(loss) for loss in losses]


# 20 deviations: of a constant 2.0 the floor of a tenth of it, 0.2; of 0 the floor of 0.05; of 9, 11, 9, 11, ...
# the median is 10 and the MAD 1, which is 1.4826 standard deviations
@pytest.mark.parametrize(
    ("losses", "largest"), [([2.0] * 20, 6.0), ([0.0] * 20, 1.0), ([9.0, 11.0] * 10, 10 + 20 * 1.4826)]
)
def test_a_spike_is_more_than_the_threshold_of_robust_deviations(losses: list[float], largest: float) -> None:
    for loss, verdict in ((largest - 1e-6, "ok"), (largest + 1e-6, "spike")):
        watch = LossWatch(20.0)
        assert set(verdicts(watch, losses)) == {"ok"}
        assert watch.verdict(loss) == verdict


def test_there_is_no_spike_among_the_first_twenty_steps() -> None:
    assert verdicts(LossWatch(20.0), [1.0] * 19 + [15.0])[-1] == "ok"
    assert verdicts(LossWatch(20.0), [1.0] * 20 + [15.0])[-1] == "spike"


def test_the_median_is_of_the_last_fifty_steps() -> None:
    # over all 81 the median would be 10, and 10 no leap
    assert verdicts(LossWatch(20.0), [10.0] * 30 + [1.0] * 50 + [10.0])[-1] == "spike"


def test_a_climb_is_ten_losses_in_a_row_far_above_the_first_three() -> None:
    # 1.5 x 2 + 1 = 4
    assert verdicts(LossWatch(20.0), [1.0, 2.0, 3.0] + [4.01] * 10)[-2:] == ["ok", "climb"]
    assert verdicts(LossWatch(20.0), [1.0, 2.0, 3.0] + [4.01] * 9 + [4.0])[-1] == "ok"
    assert verdicts(LossWatch(20.0), [1.0, 2.0, 3.0] + [25.0] * 5 + [3.0] + [25.0] * 4)[-1] == "ok"


# 10 + 4 x the highest so far, above it: 10 + 5 x 6.9 = 44.5; 10 + 5 x 0 = 10; 10 + 4 x 3 - 3 = 19
@pytest.mark.parametrize(("losses", "largest"), [([6.9, 6.8], 44.5), ([0.0], 10.0), ([-3.0], 19.0)])
def test_a_loss_explodes_at_any_step_but_the_first(losses: list[float], largest: float) -> None:
    for loss, verdict in ((largest - 1e-6, "ok"), (largest + 1e-6, "explosion")):
        assert verdicts(LossWatch(20.0), [*losses, loss]) == [*["ok"] * len(losses), verdict]
    assert LossWatch(20.0).verdict(largest + 1e6) == "ok"


def test_a_hard_row_is_no_explosion_and_an_explosion_is_no_spike() -> None:
    # one row of 12 nats in a run that began at 1
    assert verdicts(LossWatch(20.0), [1.0, 0.8, 12.0]) == ["ok"] * 3
    watch = LossWatch(20.0)
    assert verdicts(watch, [1.0] * 20 + [15.1])[-1] == "explosion"
    assert watch.highest_loss == watch.median_loss == 1.0


@pytest.mark.parametrize("watch", [LossWatch(None), LossWatch(20.0, has_scale=False)])
def test_without_a_threshold_or_a_scale_only_what_is_no_number_stops(watch: LossWatch) -> None:
    assert set(verdicts(watch, [1.0] * 30 + [1e6] * 20)) == {"ok"}
    assert verdicts(watch, [float("nan"), float("inf"), -float("inf")]) == ["not a number"] * 3


def test_row_numbers_are_taken_off_examples_and_travel_with_the_batch() -> None:
    seen: list[Any] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        seen.extend(rows)
        return {}

    batch = with_row_numbers(collate)([{"a": 1, "row_number": 7}, {"a": 2, "row_number": -1}])
    assert batch["row_numbers"].tolist() == [7, -1]
    assert seen == [{"a": 1}, {"a": 2}]
    assert with_row_numbers(collate)([{"a": 1}, {"a": 2, "row_number": 3}]) == {}


@pytest.mark.parametrize(
    ("table", "ids"),
    [
        ({"row_id": ["a:1", "a:2", "b:1"]}, ["b:1", "a:1"]),
        ({"row_ids": [["a:1", "a:2"], ["c:9"], ["b:1"]]}, ["b:1", "a:1+a:2"]),
        ({"input_ids": [[1], [2], [3]]}, ["row 3 of tokens.parquet", "row 1 of tokens.parquet"]),
    ],
)
def test_ids_of_rows_are_read_from_the_tokens_file(table: dict[str, list], ids: list[str], tmp_path: Path) -> None:
    pd.DataFrame(table).to_parquet(tmp_path / "tokens.parquet")
    assert row_ids_of(tmp_path / "tokens.parquet")([2, 0]) == ids


def test_evaluations_are_even_and_the_last_is_at_the_end() -> None:
    assert evaluation_steps(100, 10) == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert evaluation_steps(11, 4) == [3, 6, 9, 11]
    assert evaluation_steps(3, 10) == [1, 2, 3]
    assert evaluation_steps(1, 1) == [1]


def test_a_sample_of_held_out_rows_is_spread_evenly() -> None:
    assert held_out_sample(3) == [0, 1, 2]
    assert held_out_sample(512) == list(range(512))
    assert held_out_sample(1024) == list(range(0, 1024, 2))
    assert held_out_sample(10, at_most=4) == [0, 2, 5, 7]


def test_evaluations_take_a_tenth_of_the_training_at_most_within_bounds() -> None:
    config = TrainConfig(batch_size=16, watch={"evaluations": 10})
    # 500 x 16 rows of three forward passes' time, a tenth of it, ten evaluations: 240 rows each
    assert evaluated_rows(config, 500) == 240
    assert evaluated_rows(config, 10) == 64
    assert evaluated_rows(config, 100_000) == 512
    online = config.model_copy(update={"objective": "rloo"})
    assert evaluated_rows(online, 500) == 80
    assert evaluated_rows(online, 1) == 16


def test_without_held_out_rows_or_evaluations_the_last_weights_are_kept_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TrainConfig()
    assert kept_weights(config, True) == ("best", "")
    assert evaluation_arguments(config, 100, False) == {"eval_strategy": "no", "save_strategy": "no"}
    assert watch_choices(config, 0, 0)[-1].value == "last"
    assert "no held-out rows" in watch_choices(config, 0, 0)[-1].reason
    never = TrainConfig(watch={"evaluations": 0})
    assert evaluation_arguments(never, 100, True)["eval_strategy"] == "no"
    assert kept_weights(never, True) == ("last", "train.watch.evaluations is 0")
    online = TrainConfig(objective="rloo", watch={"evaluations": 0})
    assert next((line.name, line.value) for line in watch_choices(online, 9, 9)) == ("held-out reward", "not taken")
    divided = TrainConfig(sharding="zero2", nodes=2)
    assert evaluation_arguments(divided, 100, True)["save_strategy"] == "no"
    assert kept_weights(divided, True)[0] == "last"
    # DeepSpeed and FSDP load back a whole state only
    assert evaluation_arguments(TrainConfig(sharding="zero2"), 100, True)["save_only_model"] is False
    assert evaluation_arguments(TrainConfig(sharding="fsdp_no_shard"), 100, True)["save_only_model"] is True
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluation_arguments(TrainConfig(sharding="fsdp_full_shard"), 100, True)["save_only_model"] is False
    within_layers = TrainConfig(sharding="tensor_parallel", method="full", processes_per_node=2)
    assert evaluation_arguments(within_layers, 100, True)["save_strategy"] == "no"
    assert "sharded" in kept_weights(within_layers, True)[1]


@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_held_out_answers_are_said_to_be_sampled_and_the_last_ones_not(objective: str) -> None:
    line = watch_choices(TrainConfig(objective=objective), 24, 24)[0]
    assert (line.name, line.value) == ("held-out reward", "10 times, one sampled answer to each of 24 of 24 prompts")
    assert line.reason == "the evaluation at the end takes the likeliest answers instead"
    assert "evenly spread" in watch_choices(TrainConfig(objective=objective), 1000, 16)[0].reason


def test_held_out_loss_is_said_to_be_of_rows() -> None:
    line = watch_choices(TrainConfig(), 24, 24)[0]
    assert (line.name, line.value, line.reason) == ("held-out loss", "10 times, of 24 of 24 rows", "")
    assert watch_choices(TrainConfig(), 1000, 64)[0].reason.startswith("evenly spread")


@pytest.mark.parametrize(("evaluations", "fix"), [(0, "set"), (1, "set"), (3, "lower it, or set")])
def test_patience_that_cannot_run_out_is_refused(evaluations: int, fix: str) -> None:
    message = (
        f"early_stopping=3 can never stop a run with evaluations={evaluations}; {fix} train.watch.evaluations above it"
    )
    with pytest.raises(ValidationError, match=message):
        TrainConfig(watch={"early_stopping": 3, "evaluations": evaluations})


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


def test_a_loss_of_nan_names_the_rows_of_its_pass_before_a_weight_changes(tokenizer: Any, tmp_path: Path) -> None:
    config = TrainConfig(method="full", batch_size=4, micro_batch_size=2, max_steps=3)
    rows = numbered_rows([10, 11, 12, 13, 14, BAD_TOKEN, 16, 17, 18, 19, 20, 21])
    model = untied_model(BAD_TOKEN)
    with pytest.raises(DivergedError) as error:
        watched_trainer(model, rows, config, tmp_path, tokenizer).train()
    first, second, third = str(error.value).splitlines()
    assert first == (
        "training loss is nan at step 2; lower train.learning_rate (now 0.001) or raise train.warmup_fraction"
    )
    assert second == "rows of that loss: d:4, d:5"
    assert third == "no checkpoint was saved before"
    assert model.lm_head.weight.isfinite().all()


def test_a_first_step_of_nan_is_not_blamed_on_the_learning_rate(tokenizer: Any, tmp_path: Path) -> None:
    config = TrainConfig(method="full", batch_size=10, micro_batch_size=10, max_steps=1)
    with pytest.raises(DivergedError, match="at step 1; no weight has changed yet") as error:
        watched_trainer(untied_model(10), numbered_rows([10] * 10), config, tmp_path, tokenizer).train()
    assert str(error.value).splitlines()[1].endswith("d:6, d:7, and 2 more")


def test_an_infinite_gradient_under_a_finite_loss_stops_too(tokenizer: Any, tmp_path: Path) -> None:
    model = untied_model()
    # in the backward pass only
    model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    config = TrainConfig(method="full", batch_size=2, micro_batch_size=2, max_steps=2)
    with pytest.raises(DivergedError, match=r"the gradient's norm is (inf|nan) at step 1, with a training loss of 5\."):
        watched_trainer(model, numbered_rows([10, 11]), config, tmp_path, tokenizer).train()
    assert model.lm_head.weight.isfinite().all()


def test_a_leap_names_the_step_the_rows_and_the_last_good_weights(tokenizer: Any, tmp_path: Path) -> None:
    # learned by heart for 30 steps, then another answer that was never seen
    rows = [{"input_ids": [10, 20, 30], "labels": [-100, 20, 30], "row_number": n} for n in range(30)]
    rows.append({"input_ids": [10, 90, 91], "labels": [-100, 90, 91], "row_number": 30})
    config = TrainConfig(
        method="full", batch_size=1, micro_batch_size=1, max_steps=31, learning_rate=2e-2, watch={"evaluations": 2}
    )
    held_out = datasets.Dataset.from_list([{"input_ids": [10, 20, 30], "labels": [-100, 20, 30]}])
    trainer = watched_trainer(untied_model(), datasets.Dataset.from_list(rows), config, tmp_path, tokenizer, held_out)
    with pytest.raises(DivergedError) as error:
        trainer.train()
    first, second, third = str(error.value).splitlines()
    assert first.startswith("training loss leapt from about 0.") and " at step 31; lower train.learning_rate" in first
    assert "train.watch.spike_threshold (now 20)" in first
    assert second == "rows of the step: d:30"
    assert third == f"the last weights saved before it are of step 16, in {tmp_path}/checkpoint-16"


def test_a_rate_far_too_high_stops_the_run_within_a_few_steps(tokenizer: Any, tmp_path: Path) -> None:
    config = TrainConfig(method="full", batch_size=2, micro_batch_size=2, max_steps=30, learning_rate=100.0)
    with pytest.raises(DivergedError) as error:
        watched_trainer(untied_model(), numbered_rows(list(range(10, 40))), config, tmp_path, tokenizer).train()
    first = str(error.value).splitlines()[0]
    assert re.match(
        r"training loss exploded from \S+ to \S+ at step [2-5]; lower train.learning_rate \(now 100\)", first
    )
    assert "spike_threshold" not in first


def test_a_climb_names_the_mean_of_the_first_losses(tokenizer: Any, tmp_path: Path) -> None:
    # a rate that unlearns so slowly, without a leap, is not found on a model so small: the losses are given
    config = TrainConfig(method="full", batch_size=1, micro_batch_size=1, max_steps=13)
    rows = [{"input_ids": [10, 20, 30], "labels": [-100, 20, 30], "row_number": n} for n in range(13)]
    trainer = watched_trainer(untied_model(), datasets.Dataset.from_list(rows), config, tmp_path, tokenizer)
    losses = iter([1.0, 2.0, 3.0, *[4.5] * 10])
    trainer.compute_loss = lambda model, inputs, **_: model(inputs["input_ids"]).logits.sum() * 0 + next(losses)
    with pytest.raises(DivergedError) as error:
        trainer.train()
    assert str(error.value).splitlines()[0] == (
        "training loss climbed from 2, the mean of the first 3, to 4.5 by step 13; "
        "lower train.learning_rate (now 0.001) or raise train.warmup_fraction"
    )


@pytest.mark.parametrize("threshold", [20, 0, None])
def test_a_leap_ends_no_run_without_a_threshold(threshold: float | None, tokenizer: Any, tmp_path: Path) -> None:
    watch = {"spike_threshold": threshold}
    config = TrainConfig(method="full", batch_size=1, micro_batch_size=1, max_steps=21, watch=watch)
    rows = [{"input_ids": [10, 20, 30], "labels": [-100, 20, 30], "row_number": n} for n in range(21)]
    trainer = watched_trainer(untied_model(), datasets.Dataset.from_list(rows), config, tmp_path, tokenizer)
    losses = iter([1.0] * 20 + [8.0])
    trainer.compute_loss = lambda model, inputs, **_: model(inputs["input_ids"]).logits.sum() * 0 + next(losses)
    if threshold:
        with pytest.raises(DivergedError, match="training loss leapt from about 1 to 8 at step 21"):
            trainer.train()
    else:
        assert trainer.train().global_step == 21


def test_weights_that_the_last_step_broke_are_found_without_another_step(tokenizer: Any, tmp_path: Path) -> None:
    config = TrainConfig(method="full", batch_size=2, micro_batch_size=2, max_steps=1, learning_rate=1e39)
    with pytest.raises(DivergedError, match=r"trained weights are not numbers after step 1; lower train.learning_rate"):
        watched_trainer(untied_model(), numbered_rows([10, 11]), config, tmp_path, tokenizer).train()


# virtual tokens learn which tokens are likely, and little more: held-out answers share none with those trained
@pytest.mark.parametrize(
    ("method", "held_out_answer"),
    [("full", [20, 31]), ("lora", [20, 31]), ("prompt_tuning", [40, 50]), ("prefix_tuning", [40, 50])],
)
def test_the_best_weights_are_loaded_back_and_no_checkpoint_stays(
    method: str, held_out_answer: list[int], tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig

    adapters: dict[str, Any] = {
        "full": None,
        "lora": LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
        "prompt_tuning": PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        "prefix_tuning": PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    }
    config = TrainConfig(
        method=method,
        batch_size=4,
        micro_batch_size=4,
        max_steps=40,
        learning_rate=1.0 if method == "prompt_tuning" else 3e-2,
        watch={"spike_threshold": None},
    )
    # the same prompts with other answers: learning those of the training rows must raise this loss
    answer = held_out_answer
    held_out = [{"input_ids": [t, *answer], "labels": [-100, *answer], "row_number": 0} for t in (10, 11)]
    trainer = watched_trainer(
        untied_model(),
        numbered_rows([10, 11, 12, 13]),
        config,
        tmp_path,
        tokenizer,
        datasets.Dataset.from_list(held_out),
        peft_config=adapters[method],
    )
    trainer.train()
    # TRL would have put a card beside each checkpoint
    assert not list(tmp_path.glob("*.md"))
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert list(losses) == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    best = min(losses, key=losses.__getitem__)
    assert best < 40
    assert trainer.state.best_global_step == best
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-4)
    trainer.save_model(str(tmp_path))
    remove_checkpoints(tmp_path)
    assert not list(tmp_path.glob("checkpoint*"))
    assert list(tmp_path.glob("*.safetensors"))
    printed = capsys.readouterr().out
    assert f"train: step 4/40  held-out loss {losses[4]:.4f}\n" in printed
    assert f"train: the weights of step {best} are kept\n" in printed
    assert "tokens/s" in printed


@pytest.mark.parametrize("keep", ["best", "last"])
def test_early_stopping_ends_a_run_that_no_longer_improves(keep: str, tokenizer: Any, tmp_path: Path) -> None:
    config = TrainConfig(
        method="full",
        batch_size=4,
        micro_batch_size=4,
        max_steps=40,
        learning_rate=3e-2,
        watch={"early_stopping": 2, "keep": keep, "spike_threshold": None},
    )
    held_out = datasets.Dataset.from_list([{"input_ids": [10, 20, 31], "labels": [-100, 20, 31]}])
    trainer = watched_trainer(untied_model(), numbered_rows([10, 11, 12, 13]), config, tmp_path, tokenizer, held_out)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    best = losses.index(min(losses))
    # two evaluations without a lower loss, and not one more
    assert len(losses) == best + 3 < 10
    assert trainer.state.global_step == 4 * (best + 3)
    # the curve ends where the run did
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry][-1] == trainer.state.global_step
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best] if keep == "best" else losses[-1], rel=1e-4)


def test_a_run_of_fewer_steps_than_evaluations_works(tokenizer: Any, tmp_path: Path) -> None:
    config = TrainConfig(method="full", batch_size=2, micro_batch_size=2, max_steps=3)
    held_out = numbered_rows([12])
    trainer = watched_trainer(untied_model(), numbered_rows([10, 11]), config, tmp_path, tokenizer, held_out)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [1, 2, 3]


@pytest.mark.slow
def test_nan_in_one_process_stops_all_with_one_message(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from configs.errors import DivergedError
from tasks.models.load import load_tokenizer
from tasks.train.collectives import rank
from configs.schema.train import TrainConfig
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from support.watched_runs import BAD_TOKEN, numbered_rows, untied_model, watched_trainer
config = TrainConfig(method="full", batch_size=2, micro_batch_size=2, max_steps=3)
rows = numbered_rows([10, 11, 12, 13, 14, 15, BAD_TOKEN, 17, 18, 19, 20, 21])
out = Path({str(tmp_path)!r}) / "out"
try:
    tokenizer = load_tokenizer(Path({str(tiny_model)!r}))
    watched_trainer(untied_model(BAD_TOKEN), rows, config, out, tokenizer).train()
except DivergedError as error:
    (out.parent / f"rank{{rank()}}.txt").write_text(str(error))
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29577", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    messages = [tmp_path / f"rank{number}.txt" for number in (0, 1)]
    assert all(path.exists() for path in messages), done.stderr[-2000:]
    assert messages[0].read_text() == messages[1].read_text()
    # of the second step's four rows, two in each process
    assert "training loss is nan at step 2" in messages[0].read_text()
    assert "rows of that loss: d:6, d:7\n" in messages[0].read_text()


@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_where_answers_are_rewarded_the_best_weights_have_the_highest_held_out_reward(
    objective: str, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(
        objective=objective,
        batch_size=4,
        micro_batch_size=4,
        max_steps=4,
        watch={"evaluations": 2, "early_stopping": 1},
    )
    seen_columns: set[str] = set()

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        seen_columns.update(columns)
        return [float(len(set(ids))) for ids in completion_ids]

    trainer_class, arguments_class = {"rloo": (RLOOTrainer, RLOOConfig), "grpo": (GRPOTrainer, GRPOConfig)}[objective]
    rows = datasets.Dataset.from_list([{"prompt": text, "row_number": n} for n, text in enumerate("abcd")])
    trainer = type("OurTrainer", (Watched, trainer_class), {})(
        model=untied_model(),
        args=arguments_class(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            beta=0.0,
            num_generations=2,
            num_generations_eval=1,
            max_completion_length=4,
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            **evaluation_arguments(config, 4, True),
        ),
        reward_funcs=reward,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        callbacks=[Progress(), *watch_callbacks(config)],
    )
    start_watch(trainer, config, str)
    trainer.train()
    rewards = {entry["step"]: entry["eval_reward"] for entry in trainer.state.log_history if "eval_reward" in entry}
    assert list(rewards) == [2, 4]
    assert trainer.state.best_global_step == max(rewards, key=rewards.__getitem__)
    assert "row_number" not in seen_columns
    assert f"train: step 2/4  held-out reward {rewards[2]:.4f}\n" in capsys.readouterr().out
