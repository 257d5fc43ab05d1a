"""Shows the progress of training: a bar in a terminal; in a log, lines for logged steps, evaluations and long steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from configs.printable import one_line, print_line
from tasks.models.pace import doing, duration, say


class Progress(TrainerCallback):
    """Shows steps, loss, mean reward, held-out loss, speed and time left, on rank 0 only.

    `measures` names the measures of generated answers that are shown with the held-out loss.
    """

    def __init__(self, measures: Sequence[str] = ()) -> None:
        self._measures = measures
        self._bar: tqdm[Any] | None = None
        self._doing = ExitStack()
        self._began_at = self._first_step_ended = 0.0
        self._first_step = 0
        # when tokens were last counted, how many there were, and the seconds since then spent on evaluation
        self._counted_at, self._num_tokens, self._other_seconds = 0.0, 0.0, 0.0
        # of the current step: when it began, and its forward passes so far; held-out batches so far, and their total
        self._since, self._num_passes, self._held_out = 0.0, 0, (0, 0)
        self._num_lines = 0
        self.tokens_per_second: float | None = None
        """Speed of all processes between the last two logged steps."""
        self.seconds_left: float | None = None

    def resume_state(self) -> float:
        """Return the number of tokens so far: a resumed run must not count them into its own speed."""
        return self._num_tokens

    def restore(self, state: float) -> None:
        """Restore what `resume_state` returned."""
        self._num_tokens = state

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began_at = self._counted_at = self._since = time.monotonic()
        self._first_step = state.global_step
        if not state.is_world_process_zero:
            return
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step", dynamic_ncols=True
            )
        self._doing.enter_context(doing(lambda: self._under_way(args, state)))

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._num_passes += 1

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._held_out[0]:
            self._since = time.monotonic()
        loader = kwargs.get("eval_dataloader")
        self._held_out = self._held_out[0] + 1, 0 if loader is None else len(loader)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since, self._num_passes = time.monotonic(), 0
        if not self._first_step_ended:
            # the first step includes warming up, and says little about the others
            self._first_step_ended, self._first_step = self._since, state.global_step
            left = state.max_steps - state.global_step
            self.seconds_left = (self._first_step_ended - self._began_at) * left
        else:
            steps = state.global_step - self._first_step
            self.seconds_left = (self._since - self._first_step_ended) / steps * (state.max_steps - state.global_step)
        # the curve has the last step, whatever the interval
        control.should_log = control.should_log or state.global_step >= state.max_steps
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, reward = float(logs["loss"]), logs.get("reward")
        self.tokens_per_second = self._speed(logs.get("num_tokens"))
        # observers, which are called after this, read them
        pace = {"tokens_per_second": self.tokens_per_second, "seconds_left": self.seconds_left}
        logs |= {name: value for name, value in pace.items() if value is not None}
        if self._bar is not None:
            shown = {"loss": f"{loss:.3f}"} | ({} if reward is None else {"reward": f"{reward:.3f}"})
            speed = {} if self.tokens_per_second is None else {"tokens/s": f"{self.tokens_per_second:,.0f}"}
            self._bar.set_postfix(shown | speed)
        elif state.is_world_process_zero:
            self._num_lines += 1
            say(
                f"step {state.global_step}/{state.max_steps}  loss {loss:.4f}  "
                + ("" if reward is None else f"reward {reward:.4f}  ")
                + f"lr {float(logs.get('learning_rate', 0.0)):.2e}"
                + self._pace(),
                "train",
                always=self._num_lines == 1 or state.global_step >= state.max_steps,
            )

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = kwargs.get("metrics") or {}
        self._other_seconds += float(metrics.get("eval_runtime", 0.0))
        self._since, self._held_out = time.monotonic(), (0, 0)
        reward = metrics.get("eval_reward")
        name, value = ("loss", metrics.get("eval_loss")) if reward is None else ("reward", reward)
        if not state.is_world_process_zero or value is None:
            return
        line = f"step {state.global_step}/{state.max_steps}  held-out {name} {float(value):.4f}"
        measured = {key: metrics[f"eval_{key}"] for key in self._measures if f"eval_{key}" in metrics}
        line += "".join(f"  {key} {float(score):.4f}" for key, score in measured.items())
        if self._bar is not None:
            self._bar.write(one_line(f"train: {line}"), file=sys.stderr)
        else:
            say(line, "train")

    def _speed(self, num_tokens: float | None) -> float | None:
        """Return the tokens per second of all processes, without evaluation, since the last call or the first step."""
        if num_tokens is None:
            return None
        now = time.monotonic()
        seconds, tokens = now - self._counted_at - self._other_seconds, num_tokens - self._num_tokens
        self._counted_at, self._num_tokens, self._other_seconds = now, num_tokens, 0.0
        return None if seconds <= 0 or tokens <= 0 else tokens / seconds

    def _pace(self) -> str:
        speed = "" if self.tokens_per_second is None else f"  {self.tokens_per_second:,.0f} tokens/s"
        return speed + ("" if self.seconds_left is None else f"  {duration(self.seconds_left)} left")

    def _under_way(self, args: Any, state: Any) -> str:
        """Return how far the current step or evaluation is."""
        batch, num_batches = self._held_out
        if batch:
            current = f"held-out batch {batch}" + (f" of {num_batches}" if num_batches else "")
        else:
            num = args.gradient_accumulation_steps
            current = f"{self._num_passes} of {num} forward passes of the next" if num > 1 else "the next is under way"
        return (
            f"step {state.global_step}/{state.max_steps}  {current}, for {duration(time.monotonic() - self._since)}"
            + self._pace()
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._doing.close()
        if self._bar is not None:
            self._bar.close()
        if not state.is_world_process_zero:
            return
        if state.global_step < state.max_steps:
            name = (args.metric_for_best_model or "eval_loss").removeprefix("eval_")
            why = {"loss": "no longer falls", "reward": "no longer rises"}.get(name, "no longer improves")
            print_line(f"train: ended early at step {state.global_step}/{state.max_steps}: held-out {name} {why}")
        if state.best_model_checkpoint:
            print_line(f"train: the weights of step {state.best_global_step} are kept")
