"""Every method of TRL's and transformers' trainers that training overrides, in one place.

Each override says why it is there and leaves the work to the module that knows it. No other module subclasses a
trainer. What these methods, and the rest of the project, need of the libraries' inner parts is listed in
tests/tasks/train/test_seams.py: an upgrade that removes or changes one of them fails there by name.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tasks.train import tensor_parallel
from tasks.train.checkpoint import universal
from tasks.train.checkpoint.saver import Saver
from tasks.train.order import EpochOrder, RowWeights
from tasks.train.row_numbers import without_row_numbers
from tasks.train.sharding import gathered_once
from tasks.train.watch.measures import AnswerMeasures
from tasks.train.watch.watch import WatchedStep

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    # at run time one of TRL's trainers follows these classes in the order of bases
    Base = object


class SavesCheckpoints(Base):
    """Saves checkpoints that a killed run resumes from. `saver` is set before training; without it none is saved."""

    saver: Saver | None = None

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint after a step, if one is due: transformers saves neither by the clock nor on a signal."""
        log_and_evaluate = partial(super()._maybe_log_save_evaluate, *args, **kwargs)
        if self.saver is None:
            log_and_evaluate()
        else:
            self.saver.after_step(self, log_and_evaluate)


class SavesShards(Base):
    """Under tensor parallelism, saves and loads the shards of all processes."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the shards of all processes: transformers saves rank 0's alone."""
        if self.is_distributed_loading_by_transformers:
            tensor_parallel.save_shards(self, Path(output_dir))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load nothing under tensor parallelism: weights come with the optimizer, which is not there yet."""
        if not self.is_distributed_loading_by_transformers:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load weights, optimizer and scheduler from the shards of all processes."""
        if checkpoint is not None and self.is_distributed_loading_by_transformers:
            tensor_parallel.load_shards(self, Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)


class LoadsBest(Base):
    """Loads the best weights at the end of training, whichever attempt saved them."""

    def _load_best_model(self) -> None:
        """Tell DeepSpeed first which of its two formats the best weights are in."""
        universal.set_format_of_best(self)
        super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Leave tied weights out of the warning: they are saved once."""
        super()._issue_warnings_after_load(universal.without_tied_weights(self.model, load_result))


class Watched(Base):
    """Notes the loss and the rows of each forward pass in `watched_step`, which `start_watch` sets before training.

    Batches may hold `row_numbers`, [rows] int64 (see `row_numbers`); where batches are lists of rows, as those of
    RLOO and GRPO are, each row may hold `row_number`. The trainer itself never sees them.
    """

    watched_step: WatchedStep | None = None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Note the loss of a forward pass and the numbers of its rows; nothing waits for the device."""
        inputs, numbers = without_row_numbers(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.watched_step is not None:
            self.watched_step.passes.append((loss.detach(), numbers))
        return loss

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Take the numbers off the rows of a held-out batch, since no model accepts them as input."""
        return super().prediction_step(model, without_row_numbers(inputs)[0], *args, **kwargs)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Note the gradient's norm: where it is infinite under a finite loss, clipping makes every weight NaN."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.watched_step is not None:
            self.watched_step.grad_norm = norm
        return norm

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: TRL would put one beside the model with every checkpoint."""


class Measured(Base):
    """Adds measures of generated answers to the held-out loss. `answer_measures` is set before training."""

    answer_measures: AnswerMeasures | None = None

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Add the measures before callbacks see the metrics: they decide what is kept and when training stops."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self.answer_measures is not None:
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            step = self.state.global_step
            output.metrics.update(self.answer_measures.metrics(model, self.accelerator.autocast(), step))
        return output


class Sharded(Base):
    """Evaluates and saves a model that is sharded over processes."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Count a batch once: under tensor parallelism every process has it."""
        if getattr(self.accelerator.parallelism_config, "tp_enabled", False):
            self.gather_function = gathered_once(self.accelerator)
        return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Create the folder of a checkpoint before any process looks for it.

        transformers creates none under FSDP, and then asks each process whether there is one: where the answers
        differ, the processes wait for each other for ever.
        """
        Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)
        super().save_model(output_dir, _internal_call)


class Ordered(Base):
    """For trainers that do not generate: our order of rows, and the same weight for every row.

    `epoch_sampler` and `row_weights` are set before training.
    """

    epoch_sampler: EpochOrder | None = None
    row_weights: RowWeights | None = None

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Return the rows as they are: the tokenize stage has made token ids of them."""
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return our order of rows, which does not depend on the number of processes or on a resume."""
        return self.epoch_sampler or super()._get_train_sampler(train_dataset)

    def _run_epoch(self, model: Any, epoch: int, *args: Any, **kwargs: Any) -> None:
        """Tell the sampler the epoch: the batches that a resumed run skips do not tell it."""
        if self.epoch_sampler is not None:
            self.epoch_sampler.set_epoch(epoch)
        super()._run_epoch(model, epoch, *args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Count the rows that all processes have in an optimizer step."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.row_weights is not None:
            self.row_weights.count_step(self, batches)
        return batches, num_items

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Weigh rows alike: transformers weighs forward passes alike, however many rows each has."""
        compute = super().compute_loss
        if self.row_weights is None:
            return compute(model, inputs, *args, **kwargs)
        return self.row_weights.loss(self, model, inputs, lambda: compute(model, inputs, *args, **kwargs))


class TokenizedPrompts(Base):
    """For trainers that generate answers: prompts come as token ids, in an order that a resumed run keeps."""

    _prompt_order: Any = None

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Keep TRL's sampler, whose random order is set anew for each epoch."""
        self._prompt_order = super()._get_train_sampler(*args, **kwargs)
        return self._prompt_order

    def _run_epoch(self, model: Any, epoch: int, *args: Any, **kwargs: Any) -> None:
        """Train an epoch in the order that an undisturbed run has: TRL's sampler draws the next one each time."""
        sampler = self._prompt_order
        sampler.generator.manual_seed(sampler.seed)
        for _ in range(epoch):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        super()._run_epoch(model, epoch, *args, **kwargs)

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return the prompts as they are: the tokenize stage has rendered and tokenized them."""
        return prompts, None, {}


OVERRIDES = (SavesCheckpoints, SavesShards, LoadsBest, Watched, Measured, Sharded)
"""What every trainer has before it; `Ordered` or `TokenizedPrompts` comes after these."""
