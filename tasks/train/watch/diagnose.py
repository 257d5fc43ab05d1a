"""What the curves of a run show, in plain words, with the settings to try next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, variance
from typing import Any, NamedTuple

from configs.objectives import ONLINE, rules_of
from configs.schema.train import QUANTIZED_METHODS, TrainConfig
from configs.wire import CurvePoint, Series
from tasks.decks.findings import HARDLY_LEARNED, LEAST_LOSS_NATS, STILL_FALLING
from tasks.train.watch.held_out import best_metric, is_lower_better, kept_weights, keys_of

_MOST_FINDINGS = 3
_OVERFIT_RISE = 0.02
_LEAST_FALL = 0.05
_LEAST_RISE = 0.05
_RISE = 0.10
_STILL_FALLING = 0.03
_NO_BETTER_THAN_CHANCE = 0.55
_FEW_STEPS = 20
_LARGE_KL_NATS = 10.0
_MOST = 0.5
_NOTHING_LEFT = 0.05

_KEPT_NAMES = {
    "loss",
    "kl",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "entropy",
    "mean_token_accuracy",
    "completions/mean_length",
    "completions/clipped_ratio",
    "margin",
    "accuracy",
}
_KEPT_PREFIXES = ("rewards/", "logps/")


def series_of(log_history: Sequence[Mapping[str, Any]], measures: Sequence[str] = ()) -> list[Series]:
    """Return the series in transformers' log other than the training loss; names of held-out ones begin with `eval_`.

    `measures` names the measures of generated answers in it. Values that are not finite numbers are left out.
    """
    of_answers = {f"eval_{key}" for key in measures}
    found: dict[str, dict[int, float]] = {}
    for entry in log_history:
        if "train_runtime" in entry:
            continue
        for name, value in entry.items():
            measure = name.removeprefix("eval_")
            is_kept = measure in _KEPT_NAMES or measure.startswith(_KEPT_PREFIXES) or name in of_answers
            if name == "loss" or not is_kept:
                continue
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, {})[int(entry["step"])] = float(value)
    return [Series(name=name, steps=list(points), values=list(points.values())) for name, points in found.items()]


def diagnose(
    objective: str, config: TrainConfig, curve: list[CurvePoint], series: list[Series], num_rows: int
) -> list[str]:
    """Return at most three findings, the most important first; none for a healthy run.

    `num_rows` is the number of training rows. A finding is made when
    - held-out loss rose more than 2 % above its lowest (overfitting),
    - training loss ended more than 10 % above its start (unstable), or less than 5 % below it (not converged),
    - held-out loss fell more than 3 % over the last third, and is 0.01 or more (still falling),
    - the accuracy on held-out pairs is 55 % or less,
    - in over half of the groups all answers got one reward, unless the mean reward is at its top,
    - mean reward rose, from the first third to the last, by no more than 5 % of its range or two standard errors,
      whichever is more,
    - the KL divergence is above 10 nats an answer, where published runs stay at a few.
    """
    by_name = {found.name: found for found in series if found.values}
    # a measure of answers may be called as a series of the trainer, such as `accuracy`
    of_answers = {f"eval_{key}": by_name.pop(f"eval_{key}", None) for key in keys_of(config)}
    run = _Run(config, curve, by_name, num_rows, of_answers.get(best_metric(config)))
    found: list[str | None]
    if objective in ONLINE:
        found = [_same_rewards(run), _reward_did_not_rise(run), _large_divergence(run), _cut_answers(run)]
    else:
        is_preference = rules_of(objective).learns_preferences
        found = [_unstable(run), _overfitting(run)]
        if not any(found):
            # all three advise more training, which contradicts the findings above
            found = [(_not_learned(run) if is_preference else None) or _not_converged(run) or _still_falling(run)]
        found.append(_margin_fell(run) if is_preference else None)
    return [finding for finding in found if finding][:_MOST_FINDINGS]


class _Run:
    """The curves of a run, and the settings to try instead of the present ones."""

    def __init__(
        self,
        config: TrainConfig,
        curve: list[CurvePoint],
        series: Mapping[str, Series],
        num_rows: int,
        deciding: Series | None = None,
    ) -> None:
        self.config = config
        # the measure of answers by which weights are kept, where it is not the held-out loss
        self.deciding = deciding
        self.losses = [point.loss for point in curve if math.isfinite(point.loss)]
        self.last_step = max([0, *(point.step for point in curve)])
        self.rate = config.learning_rate or max([0.0, *(point.learning_rate for point in curve)])
        self.series = series
        self.held_out = series.get("eval_loss")
        self.num_rows = num_rows

    def best_step(self, held_out: Series) -> int:
        """Return the step of the best weights, by the measure that decides: here `held_out`, the loss, or another."""
        by = self.deciding or held_out
        best = min(by.values) if self.deciding is None or is_lower_better(self.config) else max(by.values)
        return by.steps[by.values.index(best)]

    def start_and_end(self) -> tuple[float, float] | None:
        """Return the loss at the start, and the mean over the last tenth of the curve; None if it has one point."""
        if len(self.losses) < 2:
            return None
        tenth = max(1, len(self.losses) // 10)
        # the first tenth may contain most of the fall, and a single batch may be easy
        return max(self.losses[0], mean(self.losses[:tenth])), mean(self.losses[-tenth:])

    def fell_by(self) -> float | None:
        """Return the share by which the training loss fell; None if it began near 0, or the curve has one point."""
        ends = self.start_and_end()
        if ends is None or abs(ends[0]) < _NOTHING_LEFT:
            return None
        return (ends[0] - ends[1]) / abs(ends[0])

    def lower_rate(self) -> str:
        return f"train.learning_rate={_short(self.rate / 3)} (now {_short(self.rate)})"

    def higher_rate(self) -> str:
        return f"train.learning_rate from {_short(3 * self.rate)} to {_short(10 * self.rate)} (now {_short(self.rate)})"

    def longer(self, factor: float) -> str:
        if self.config.max_steps is not None:
            return f"train.max_steps={max(1, round(self.config.max_steps * factor))} (now {self.config.max_steps})"
        return f"train.epochs={_short(self.config.epochs * factor)} (now {_short(self.config.epochs)})"

    def until(self, step: int) -> str:
        """Return the setting that ends a run after `step` steps."""
        if self.config.max_steps is not None:
            return f"train.max_steps={step} (now {self.config.max_steps})"
        epochs = step * self.config.batch_size / max(1, self.num_rows)
        return f"train.epochs={_short(min(epochs, self.config.epochs))} (now {_short(self.config.epochs)})"


def _short(value: float) -> str:
    return f"{value:.2g}"


def _third(values: Sequence[float], number: int) -> float:
    """Return the mean over one third, numbered from 0, of at least three values."""
    return mean(values[number * len(values) // 3 : (number + 1) * len(values) // 3])


def _unstable(run: _Run) -> str | None:
    fall, ends = run.fell_by(), run.start_and_end()
    if fall is None or ends is None or fall >= -_RISE:
        return None
    held_out = run.held_out.values if run.held_out is not None else []
    if len(held_out) > 1 and held_out[-1] < held_out[0]:
        # with few logged steps some have harder rows than others; held-out rows are always the same
        return None
    return (
        f"Unstable: training loss ended at {ends[1]:.3f}, above {ends[0]:.3f} where it began. "
        f"Try {run.lower_rate()}, or a larger train.warmup_fraction (now {run.config.warmup_fraction:g})."
    )


def _overfitting(run: _Run) -> str | None:
    if run.held_out is None or len(run.held_out.values) < 2:
        return None
    values, steps = run.held_out.values, run.held_out.steps
    best = values.index(min(values))
    if values[-1] - values[best] <= _OVERFIT_RISE * abs(values[best]):
        return None
    kept = kept_weights(run.config, has_held_out=True)[0]
    advice = [run.until(steps[best]), f"more rows than {run.num_rows:,}"]
    if run.config.method == "lora" or run.config.method in QUANTIZED_METHODS:
        lora = run.config.lora
        if lora.dropout < 0.1:
            advice.append("train.lora.dropout=0.1")
        if lora.rank > 1:
            advice.append(f"train.lora.rank={lora.rank // 2} (now {lora.rank})")
    kept_step = run.best_step(run.held_out) if kept == "best" else steps[-1]
    return (
        f"Overfitting: held-out loss was lowest at step {steps[best]} ({values[best]:.3f}) and rose to "
        f"{values[-1]:.3f} by step {steps[-1]}. The weights of step {kept_step} "
        f"were kept. Try {', '.join(advice[:-1])} or {advice[-1]}."
    )


def _not_learned(run: _Run) -> str | None:
    names = ("eval_rewards/accuracies", "eval_accuracy", "rewards/accuracies", "accuracy")
    accuracy = next((run.series[name] for name in names if name in run.series), None)
    advice = f"Try {run.higher_rate()} or more epochs, and look at whether the preferences are consistent."
    if accuracy is not None:
        # one training batch has few pairs, so several are averaged
        is_held_out = accuracy.name.startswith("eval_")
        end = accuracy.values[-1] if is_held_out else mean(accuracy.values[-5:])
        if end > _NO_BETTER_THAN_CHANCE:
            return None
        of = "held-out pairs" if is_held_out else "pairs"
        return f"Not learned: the chosen answer is preferred in {end:.0%} of the {of}, and chance gives 50%. {advice}"
    margin = run.series.get("eval_rewards/margins") or run.series.get("rewards/margins")
    # KTO's margin is beta times a difference of log-likelihoods, which should exceed 0.1 nats
    if margin is None or margin.values[-1] > 0.1 * run.config.kto.beta:
        return None
    return f"Not learned: wanted answers gained no more than unwanted ones (margin {margin.values[-1]:.3g}). {advice}"


def _margin_fell(run: _Run) -> str | None:
    names = ("eval_rewards/margins", "eval_margin", "rewards/margins", "margin")
    margin = next((run.series[name] for name in names if name in run.series), None)
    if margin is None or len(margin.values) < (3 if margin.name.startswith("eval_") else 6):
        return None
    before, end = max(_third(margin.values, 0), _third(margin.values, 1)), _third(margin.values, 2)
    if before <= 0 or end >= 0.8 * before:
        return None
    return (
        f"The margin between wanted and unwanted answers fell from {before:.3g} to {end:.3g} over the last third of "
        f"the run. Try {run.lower_rate()} or {run.longer(2 / 3)}."
    )


def _not_converged(run: _Run) -> str | None:
    fall, ends = run.fell_by(), run.start_and_end()
    if fall is None or ends is None or not -_RISE <= fall < _LEAST_FALL:
        return None
    held_out = run.held_out.values if run.held_out else []
    if len(held_out) > 1 and held_out[0] - min(held_out) >= _LEAST_FALL * abs(held_out[0]):
        return None
    finding = f"{HARDLY_LEARNED}: training loss went from {ends[0]:.3f} to {ends[1]:.3f} in {run.last_step} steps."
    if run.last_step < _FEW_STEPS:
        return f"{finding} Try more steps, {run.longer(math.ceil(50 / max(1, run.last_step)))}, or {run.higher_rate()}."
    return f"{finding} Try {run.higher_rate()}, and look at the trained spans in the section on tokens."


def _still_falling(run: _Run) -> str | None:
    if run.held_out is None or len(run.held_out.values) < 3:
        return None
    values, steps = run.held_out.values, run.held_out.steps
    before = [value for value, step in zip(values, steps, strict=True) if step <= steps[-1] * 2 / 3]
    if values[-1] < LEAST_LOSS_NATS:
        return None
    if not before or min(values) < values[-1] or before[-1] - values[-1] <= _STILL_FALLING * abs(before[-1]):
        return None
    return (
        f"{STILL_FALLING}: held-out loss went from {before[-1]:.3f} to {values[-1]:.3f} over the last third of the "
        f"run. More training should help: try {run.longer(2)}."
    )


class _RewardChange(NamedTuple):
    """Mean reward over the first and the last third of the steps, and the smallest rise that counts."""

    start: float
    end: float
    least: float
    highest: float
    range: float

    @property
    def rose(self) -> bool:
        return self.end - self.start > self.least


def _reward_change(run: _Run) -> _RewardChange | None:
    reward = run.series.get("reward")
    if reward is None or len(reward.values) < 2:
        return None
    values = reward.values
    third = max(1, len(values) // 3)
    first, last = values[:third], values[-third:]
    # from a single step no noise can be estimated
    error = math.sqrt((variance(first) + variance(last)) / third) if third > 1 else 0.0
    spread = max(values) - min(values)
    return _RewardChange(mean(first), mean(last), max(_LEAST_RISE * spread, 2 * error), max(values), spread)


def _is_at_top(run: _Run, change: _RewardChange) -> bool:
    """Return whether reward is at the most the config allows, or has risen and stayed at the highest value seen."""
    rewards = run.config.policy.rewards
    most = sum(max(0.0, reward.weight) for reward in rewards)
    least = sum(min(0.0, reward.weight) for reward in rewards)
    # a reward function of the user's own, or a reward model, may give more than 1
    is_known = bool(rewards) and all(reward.kind != "python" for reward in rewards) and change.highest <= most + 1e-6
    if is_known and change.end >= most - _LEAST_RISE * (most - least):
        return True
    return change.rose and change.end >= change.highest - _LEAST_RISE * change.range


def _same_rewards(run: _Run) -> str | None:
    same, change = run.series.get("frac_reward_zero_std"), _reward_change(run)
    if same is None or mean(same.values) <= _MOST or change is None or _is_at_top(run, change):
        return None
    policy = run.config.policy
    return (
        f"In {mean(same.values):.0%} of the groups all answers to a prompt get the same reward (mean "
        f"{change.end:.3g}): nothing to learn from. Try a higher train.policy.temperature (now "
        f"{policy.temperature:g}), more train.policy.num_generations (now {policy.num_generations}), or a model "
        "and prompts where some answers succeed and others fail."
    )


def _reward_did_not_rise(run: _Run) -> str | None:
    change = _reward_change(run)
    if change is None or change.rose or _is_at_top(run, change) or _same_rewards(run):
        return None
    rate = run.lower_rate() if change.start - change.end > change.least else run.higher_rate()
    return (
        f"Mean reward did not rise: {change.start:.3g} over the first third of the {run.last_step} steps, "
        f"{change.end:.3g} over the last (a change counts above {change.least:.2g}). Try {rate}, {run.longer(2)}, "
        f"or a larger train.batch_size (now {run.config.batch_size})."
    )


def _large_divergence(run: _Run) -> str | None:
    divergence, length = run.series.get("kl"), run.series.get("completions/mean_length")
    if divergence is None or length is None:
        return None
    # TRL logs the mean over tokens
    nats = mean(divergence.values[-5:]) * mean(length.values[-5:])
    if nats <= _LARGE_KL_NATS:
        return None
    now = run.config.policy.kl_coefficient
    return (
        f"The model moved far from where it began: a KL divergence of {nats:.0f} nats for an answer. Read some: "
        f"they may please the reward and nobody else. Try train.policy.kl_coefficient={_short(4 * now or 0.05)} "
        f"(now {_short(now)}) or {run.lower_rate()}."
    )


def _cut_answers(run: _Run) -> str | None:
    cut = run.series.get("completions/clipped_ratio")
    if cut is None or mean(cut.values[-5:]) <= _MOST:
        return None
    return (
        f"{mean(cut.values[-5:]):.0%} of the answers are cut off before they end. "
        f"Try train.policy.max_new_tokens={2 * run.config.policy.max_new_tokens} "
        f"(now {run.config.policy.max_new_tokens}), or fine-tune on answers that end first."
    )
