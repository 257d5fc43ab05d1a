"""Training progress: a bar in a terminal, one line for each logged step in a log file, and a stop at a loss of NaN."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from configs.errors import DivergedError


class Progress(TrainerCallback):
    """Shows steps, loss and time left, on rank 0 only."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._first_step_ended = 0.0
        self._first_step = 0

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
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise DivergedError(
                f"training loss is {loss} at step {state.global_step}; "
                f"lower train.learning_rate (now {args.learning_rate:g}) or raise train.warmup_fraction"
            )
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.3f}")
        elif state.is_world_process_zero:
            print(
                f"train: step {state.global_step}/{state.max_steps}  loss {loss:.4f}  "
                f"lr {float(logs.get('learning_rate', 0.0)):.2e}{self._time_left(state)}",
                flush=True,
            )

    def _time_left(self, state: Any) -> str:
        steps = state.global_step - self._first_step
        if not self._first_step_ended or steps < 1:
            return ""
        seconds = (time.monotonic() - self._first_step_ended) / steps * (state.max_steps - state.global_step)
        return f"  {seconds:.0f} s left"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
