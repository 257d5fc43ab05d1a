"""Saves the checkpoints that a killed run resumes from: at intervals, and when the process is asked to stop.

transformers writes its parts of the state. Here they become one checkpoint of all machines that is whole or does not
count, with what transformers leaves out: the loss watch, the patience of early stopping, and the best weights so far.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from configs.addresses import first_line
from configs.errors import ArtifactError, RetryError
from configs.objectives import ONLINE
from configs.printable import joined_lines, print_line
from configs.schema.cluster import DEEPSPEED, FSDP, Sharding
from configs.schema.train import TrainConfig
from configs.wire import Choice
from tasks.models.pace import doing
from tasks.train.checkpoint import checkpoints
from tasks.train.checkpoint.checkpoints import Manifest
from tasks.train.checkpoint.store import CheckpointPlaces, Store
from tasks.train.collectives import all_values, barrier, is_node_leader, machine, num_processes, rank
from tasks.train.sharding import effective

STATE_FILE = "trainer_state.json"
EXTRAS_FILE = "run.json"
RESUMED_FOLDER = "resumed"
# a resumed run does not need them: a pickle with this machine's paths, and peft's model card
_LEFT_OUT = ("training_args.bin", "README.md")
_MOST_FAILURES = 3
_SAME_SIGNAL_SECONDS = 5.0


@dataclass
class Saver:
    """Saves the state of a run. All processes have one, and make the same calls in the same order."""

    config: TrainConfig
    places: CheckpointPlaces
    identity: str
    """What all attempts of one run have in common (`checkpoints.fingerprint`)."""
    directory: Path
    """A folder on this machine's disk that its processes share."""
    stop_signal: Callable[[], str] = lambda: ""
    """Returns the name of the signal that asked this process to stop, or an empty text."""
    resumed_steps: list[int] = field(default_factory=list)
    """Steps from which earlier attempts and this one resumed."""
    earlier_seconds: float = 0.0
    num_saved: int = 0
    num_failed: int = 0
    saving_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _last_at: float = field(default_factory=time.monotonic)
    _failures_in_a_row: int = 0
    _last_step: int = -1

    @property
    def sharding(self) -> Sharding:
        """How the model is sharded over the processes of this run."""
        return effective(self.config)

    @property
    def interval(self) -> str:
        """When checkpoints are saved, in words."""
        settings = self.config.checkpoint
        if settings.every_steps is not None:
            return f"every {settings.every_steps} steps"
        minutes = settings.minutes_between
        return f"every {minutes:g} min" if minutes is not None else "when asked to stop"

    @property
    def seconds(self) -> float:
        """Seconds of this attempt, and of those before it up to the checkpoint that was resumed from."""
        return self.earlier_seconds + time.monotonic() - self._started

    def after_step(self, trainer: Any, log_and_evaluate: Callable[[], None]) -> None:
        """Call `log_and_evaluate` after an optimizer step, then save its state if that is due.

        Raises:
            RetryError: the process was asked to stop.
            ArtifactError: as for `save`.
        """
        step = trainer.state.global_step
        if step == self._last_step:
            # called a second time at the end of an epoch
            log_and_evaluate()
            return
        self._last_step = step
        is_due, asked = self.what_is_due(trainer)
        if is_due:
            # sums of the loss since the last point of the curve are not part of the state
            trainer.control.should_log = True
        log_and_evaluate()
        with doing(f"saving the checkpoint of step {step}"):
            is_saved = is_due and self.save(trainer)
        if asked:
            outcome = "its checkpoint is saved" if is_saved else "its checkpoint could not be saved"
            raise RetryError(f"training was asked to stop ({asked}) after step {step}; {outcome}")

    def what_is_due(self, trainer: Any) -> tuple[bool, str]:
        """Return whether to save after this step, and the signal that asks to stop then; the same on all ranks."""
        if trainer.control.should_training_stop:
            # only the model remains to be saved
            return False, ""
        step, settings = trainer.state.global_step, self.config.checkpoint
        if settings.every_steps is not None:
            is_due = step % settings.every_steps == 0
        else:
            seconds, minutes = time.monotonic() - self._last_at, settings.minutes_between
            # rank 0's clock decides for all
            is_due = rank() == 0 and minutes is not None and seconds >= 60 * minutes
        asked = self.stop_signal()
        if num_processes() > 1:
            number = float(signal.Signals[asked]) if asked else 0.0
            flags = torch.tensor([float(is_due), number], device=trainer.args.device)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
            is_due, asked = bool(flags[0]), signal.Signals(int(flags[1])).name if flags[1] else ""
        if self.config.objective in ONLINE and step % self.config.policy.num_iterations:
            # the next step uses answers sampled at an earlier one; a resumed run would sample others
            is_due = False
        return is_due or bool(asked), asked

    def save(self, trainer: Any) -> bool:
        """Save a checkpoint of the step just done; return whether that succeeded.

        A failure is reported, and training continues.

        Raises:
            ArtifactError: the third in a row could not be written.
        """
        began = time.monotonic()
        step = trainer.state.global_step
        faults = all_values(_fault_of(lambda: self._write(trainer)))
        if not any(faults):
            faults = all_values(_fault_of(lambda: self._upload(trainer)))
        fault = next(filter(None, faults), "")
        if not fault and rank() == 0:
            checkpoints.remove_old(self._store(), self.identity, self.config.checkpoint.keep)
        self._last_at = time.monotonic()
        seconds = self._last_at - began
        self.saving_seconds += seconds
        if not fault:
            self.num_saved, self._failures_in_a_row = self.num_saved + 1, 0
            _say(f"train: checkpoint of step {step} saved in {seconds:.1f} s")
            return True
        self.num_failed, self._failures_in_a_row = self.num_failed + 1, self._failures_in_a_row + 1
        if self._failures_in_a_row >= _MOST_FAILURES:
            raise ArtifactError(
                f"{_MOST_FAILURES} checkpoints in a row could not be saved, the last at step {step}\n{fault}"
            )
        _say(f"train: the checkpoint of step {step} could not be saved, and training continues: {fault}")
        return False

    def lines(self) -> list[Choice]:
        """Return the report's lines on checkpoints and on resuming from them."""
        failed = f", {self.num_failed} could not be saved" if self.num_failed else ""
        share = f"{self.saving_seconds / max(1e-9, self.seconds):.1%} of the time"
        lines = [Choice(name="checkpoints", value=f"{self.num_saved}, {self.interval}{failed}", reason=share)]
        if self.resumed_steps:
            steps = ", ".join(map(str, self.resumed_steps))
            times = "once" if len(self.resumed_steps) == 1 else f"{len(self.resumed_steps)} times"
            lines.append(Choice(name="resumed", value=times, reason=f"from step {steps}"))
        return lines

    def _store(self) -> Store:
        return Store(self.places.destination, self.places.filesystem)

    def _write(self, trainer: Any) -> None:
        """Write this process's part of the state to the machine's disk."""
        staging = self.directory / "staging"
        if is_node_leader():
            # transformers reads the checkpoint that was resumed from until the first step after it
            shutil.rmtree(self.directory / RESUMED_FOLDER, ignore_errors=True)
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        if rank() == 0:
            # a killed attempt may have left part of a checkpoint of the same step
            checkpoints.remove_whole(self._store(), checkpoints.folder_of("checkpoint", trainer.state.global_step))
        barrier()
        folder = str(staging)
        if self.sharding not in (*DEEPSPEED, *FSDP, "tensor_parallel"):
            trainer.save_model(folder, _internal_call=True)
        trainer._save_optimizer_and_scheduler(folder)
        trainer._save_scaler(folder)
        trainer._save_rng_state(folder)
        if rank() == 0:
            trainer.state.save_to_json(str(staging / STATE_FILE))
            extras = {
                "seconds": self.seconds,
                "processes": num_processes(),
                "resumed_steps": self.resumed_steps,
                # counts this checkpoint too: it is read only if it was saved
                "saving": [self.num_saved + 1, self.num_failed, self.saving_seconds],
                "trainer": extra_state(trainer),
            }
            (staging / EXTRAS_FILE).write_text(json.dumps(extras), encoding="utf-8")

    def _upload(self, trainer: Any) -> None:
        """Upload what this machine wrote: the best weights first, the manifest last."""
        if not is_node_leader():
            return
        number, machines = machine()
        best_step = trainer.state.best_global_step if trainer.state.best_model_checkpoint else None
        manifest = Manifest(
            fingerprint=self.identity,
            step=trainer.state.global_step,
            machine=number,
            machines=machines,
            processes=num_processes(),
            sharding=self.sharding,
            best_step=best_step,
            files={},
            config=self.config.model_dump_json() if rank() == 0 else "",
        )
        store = self._store()
        if best_step is not None:
            self._upload_best(store, Path(trainer.state.best_model_checkpoint), manifest)
        checkpoints.write_part(store, "checkpoint", self.directory / "staging", manifest, _LEFT_OUT)
        shutil.rmtree(self.directory / "staging", ignore_errors=True)

    def _upload_best(self, store: Store, weights: Path, manifest: Manifest) -> None:
        assert manifest.best_step is not None
        best = manifest.model_copy(update={"step": manifest.best_step, "best_step": None})
        name = f"{checkpoints.folder_of('best', best.step)}/manifest-{best.machine:05d}-of-{best.machines:05d}.json"
        if store.read_text(name) is None:
            checkpoints.write_part(store, "best", weights, best, _LEFT_OUT)


def extra_state(trainer: Any) -> dict[str, Any]:
    """Return what a trainer and its callbacks know beyond transformers' own state."""
    callbacks = [callback for callback in trainer.callback_handler.callbacks if hasattr(callback, "resume_state")]
    states = {type(callback).__name__: callback.resume_state() for callback in callbacks}
    return {"callbacks": states, "train_tokens": trainer._total_train_tokens}


def restore_extra_state(trainer: Any, state: dict[str, Any]) -> None:
    """Give a trainer and its callbacks what `extra_state` returned."""
    # TRL counts from 0 in each process
    trainer._total_train_tokens = state["train_tokens"]
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ in state["callbacks"]:
            callback.restore(state["callbacks"][type(callback).__name__])


@contextmanager
def stop_signals() -> Iterator[Callable[[], str]]:
    """Within the block, note SIGTERM and SIGINT; yield a function that returns the name of the one received, or "".

    The launcher forwards signals that the process may have received itself, so a second one within 5 seconds counts as
    the same. A later one ends the process as usual. Outside the main thread Python handles no signals: none is noted.
    """
    noted: list[tuple[str, float]] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ""
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: Any) -> None:
        now = time.monotonic()
        if noted and now - noted[0][1] > _SAME_SIGNAL_SECONDS:
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)
            signal.raise_signal(number)
            return
        noted.append((signal.Signals(number).name, now))

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: noted[0][0] if noted else ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _fault_of(action: Callable[[], None]) -> str:
    """Return why `action` failed, in one or two lines, or an empty text.

    Every error is caught, since the other processes wait for this text.
    """
    try:
        action()
    except Exception as error:
        if isinstance(error, ArtifactError):
            return str(error).strip()
        return f"{type(error).__name__}: {first_line(str(error), 300) or 'no reason given'}"
    return ""


def _say(line: str) -> None:
    if rank() == 0:
        print_line(joined_lines(line))
