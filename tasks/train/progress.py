"""Training progress: a bar in a terminal, one line for each logged step and each evaluation in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback


class Progress(TrainerCallback):
    """Shows steps, loss, held-out loss, speed and time left, on rank 0 only; the mean reward where there is one."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._first_step_ended = 0.0
        self._first_step = 0
        # when tokens were counted last, how many, and the time since then that was not training
        self._counted_at, self._num_tokens, self._other_seconds = 0.0, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and sys.stderr.isatty():
            self._bar = tqdm(total=state.max_steps, desc="train", unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._first_step_ended:
            # the first step also pays for warming up, and says little about the others
            self._first_step_ended, self._first_step = time.monotonic(), state.global_step
        # the end of the curve, whatever the interval
        control.should_log = control.should_log or state.global_step >= state.max_steps
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, reward = float(logs["loss"]), logs.get("reward")
        speed = self._tokens_per_second(logs.get("num_tokens"))
        if self._bar is not None:
            shown = {"loss": f"{loss:.3f}"} | ({} if reward is None else {"reward": f"{reward:.3f}"})
            self._bar.set_postfix(shown | ({} if speed is None else {"tokens/s": f"{speed:,.0f}"}))
        elif state.is_world_process_zero:
            print(
                f"train: step {state.global_step}/{state.max_steps}  loss {loss:.4f}  "
                + ("" if reward is None else f"reward {reward:.4f}  ")
                + f"lr {float(logs.get('learning_rate', 0.0)):.2e}"
                + ("" if speed is None else f"  {speed:,.0f} tokens/s")
                + self._time_left(state),
                flush=True,
            )

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = kwargs.get("metrics") or {}
        self._other_seconds += float(metrics.get("eval_runtime", 0.0))
        reward = metrics.get("eval_reward")
        name, value = ("loss", metrics.get("eval_loss")) if reward is None else ("reward", reward)
        if not state.is_world_process_zero or value is None:
            return
        line = f"train: step {state.global_step}/{state.max_steps}  held-out {name} {float(value):.4f}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, flush=True)

    def _tokens_per_second(self, num_tokens: float | None) -> float | None:
        """Return the tokens of all processes per second of training since the last call; None at the first."""
        if num_tokens is None:
            return None
        now = time.monotonic()
        seconds = now - self._counted_at - self._other_seconds
        tokens, is_first = num_tokens - self._num_tokens, not self._counted_at
        self._counted_at, self._num_tokens, self._other_seconds = now, num_tokens, 0.0
        return None if is_first or seconds <= 0 or tokens <= 0 else tokens / seconds

    def _time_left(self, state: Any) -> str:
        steps = state.global_step - self._first_step
        if not self._first_step_ended or steps < 1:
            return ""
        seconds = (time.monotonic() - self._first_step_ended) / steps * (state.max_steps - state.global_step)
        return f"  {seconds:.0f} s left"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        if not state.is_world_process_zero:
            return
        if state.global_step < state.max_steps:
            why = "held-out reward no longer rises" if args.greater_is_better else "held-out loss no longer falls"
            print(f"train: ended early at step {state.global_step}/{state.max_steps}: {why}")
        if state.best_model_checkpoint:
            print(f"train: the weights of step {state.best_global_step} are kept", flush=True)
