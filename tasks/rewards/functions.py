"""Reward functions, which judge the text of an answer; `train.policy.rewards` names them.

Imports no torch: the plan checks them before anything else runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Protocol, cast

from configs.addresses import first_line
from configs.errors import ConfigError
from configs.patterns import LIMIT_SECONDS, compiled
from configs.schema.train import RewardFunctionConfig
from configs.versions import ROOT

# a pattern with repeats within repeats tries every division of such a text before it gives up at its last character
PROBES = tuple(part * (2000 // len(part)) + "!" for part in ("a", "0", " ", "a ", "1,"))


class RewardFunction(Protocol):
    """Returns one reward per completion, as an answer to its prompt."""

    __name__: str

    def __call__(self, prompts: list[str], completions: list[str], expected: list[str]) -> list[float]: ...


def reward_functions(configs: Sequence[RewardFunctionConfig]) -> list[RewardFunction]:
    """Return one function per config, to be called `f(prompts, completions, expected)` with lists of texts.

    A function returns one finite float per answer, without its weight. Its `__name__` is its kind, or the name of the
    project's function.

    Raises:
        ConfigError: a function is not of this project, does not exist, cannot be imported or takes other arguments.
            A call raises it where the function fails or returns anything but one finite number per answer, or where
            a pattern takes longer than `LIMIT_SECONDS` on an answer.
    """
    return [_reward_function(number, config) for number, config in enumerate(configs)]


def project_function(setting: str, path: str) -> RewardFunction:
    """Return the function of this project at `path` (`module:function`); `setting` names it in errors.

    Raises:
        ConfigError: as `reward_functions`.
    """
    return _checked(setting, _project_function(setting, path))


def check_rewards(configs: Sequence[RewardFunctionConfig]) -> None:
    """Import every function that `configs` names, and check its arguments; try every pattern on long texts.

    Raises:
        ConfigError: as `reward_functions`; or a pattern takes too long on a text of one repeated part.
    """
    for config, function in zip(configs, reward_functions(configs), strict=True):
        if config.pattern is not None:
            function([""] * len(PROBES), list(PROBES), [""] * len(PROBES))


def total_reward(
    configs: Sequence[RewardFunctionConfig],
    functions: Sequence[RewardFunction],
    prompts: list[str],
    completions: list[str],
    expected: list[str],
) -> list[float]:
    """Return for each answer the weighted sum of its rewards; 0.0 without functions.

    Raises:
        ConfigError: a function fails or returns anything but one finite number per answer.
    """
    totals = [0.0] * len(completions)
    for config, function in zip(configs, functions, strict=True):
        rewards = function(prompts, completions, expected)
        totals = [total + config.weight * reward for total, reward in zip(totals, rewards, strict=True)]
    return totals


def rewards_hash(configs: Sequence[RewardFunctionConfig]) -> str:
    """Return a hash of the files that hold the project's functions, on which cached results depend."""
    digest = hashlib.sha256()
    for number, config in enumerate(configs):
        if config.kind == "python":
            digest.update(project_file(_setting(number, config), _module_of(config)).read_bytes())
    return digest.hexdigest()[:16]


def _reward_function(number: int, config: RewardFunctionConfig) -> RewardFunction:
    function: RewardFunction
    if config.kind == "python":
        function = _project_function(_setting(number, config), str(config.function))
    elif config.kind == "regex":
        function = _limited(number, _regex(str(config.pattern)))
    else:
        function = _limited(number, _exact_match(config.pattern))
    return function if config.kind != "python" else _checked(_setting(number, config), function)


def _setting(number: int, config: RewardFunctionConfig) -> str:
    """Return how errors name a reward: its config path with the value."""
    if config.kind == "python":
        return f"train.policy.rewards[{number}].function={config.function}"
    return f"train.policy.rewards[{number}].kind={config.kind}"


def _exact_match(pattern: str | None) -> RewardFunction:
    """Return a function that gives 1.0 where answer and expected text are equal, white space at the ends aside.

    With `pattern`, the first group of its last match in both texts is compared, as in GSM8K's `#### 42`. An answer
    without a match gets 0.0. An expected text without a match is compared as a whole: it is the bare result. Nothing
    else is normalized: `1,000` is not `1000` (but it is for `tasks.rewards.numbers:last_number_matches`).
    """
    expression = compiled(pattern) if pattern is not None else None

    def result(text: str) -> str | None:
        if expression is None:
            return text.strip()
        matches = expression.finditer(text, timeout=LIMIT_SECONDS)
        groups = [match.group(1) for match in matches if match.group(1) is not None]
        return groups[-1].strip() if groups else None

    def exact_match(prompts: list[str], completions: list[str], expected: list[str]) -> list[float]:
        wanted = [text.strip() if (found := result(text)) is None else found for text in expected]
        return [float(result(answer) == text) for answer, text in zip(completions, wanted, strict=True)]

    return exact_match


def _regex(pattern: str) -> RewardFunction:
    expression = compiled(pattern)

    def regex(prompts: list[str], completions: list[str], expected: list[str]) -> list[float]:
        return [float(expression.search(answer, timeout=LIMIT_SECONDS) is not None) for answer in completions]

    return regex


def _limited(number: int, function: RewardFunction) -> RewardFunction:
    """Return `function`, whose pattern is stopped by time: a reward that is not known is neither 0 nor 1."""

    def limited(prompts: list[str], completions: list[str], expected: list[str]) -> list[float]:
        try:
            return function(prompts, completions, expected)
        except TimeoutError:
            raise ConfigError(
                f"train.policy.rewards[{number}].pattern took more than {LIMIT_SECONDS:g} s on one text, of at most "
                f"{max(map(len, [*completions, *expected]))} characters\n"
                "write it without repeats within repeats, such as (a|aa)+, which try every division of a text"
            ) from None

    limited.__name__ = function.__name__
    return limited


def _module_of(config: RewardFunctionConfig) -> str:
    return str(config.function).partition(":")[0]


def project_file(setting: str, module: str) -> Path:
    """Return the file of `module`, found by its name: nothing is imported.

    Raises:
        ConfigError: it is no file of this project; `setting` names it.
    """
    base = ROOT.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_name(base.name + ".py")):
        if path.is_file() and path.resolve().is_relative_to(ROOT.resolve()):
            return path.resolve()
    raise ConfigError(
        f"{setting}: module {module} is not a file of this project\n"
        f"write it to {base.relative_to(ROOT).as_posix()}.py beside configs/ and tasks/, or name another"
    )


def _project_function(setting: str, path: str) -> RewardFunction:
    module_name, _, name = path.partition(":")
    file = project_file(setting, module_name)
    _make_importable(setting, module_name.partition(".")[0])
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(
            f"{setting}: importing {module_name} failed with {type(error).__name__}: {first_line(error)}\n"
            "correct the file"
        ) from None
    if Path(str(module.__file__)).resolve() != file:
        raise ConfigError(f"{setting}: {module_name} is another installed module; rename the project's")
    function = getattr(module, name, None)
    if not callable(function):
        what = "has no" if function is None else "has a value, not a function, named"
        raise ConfigError(
            f"{setting}: {module_name} {what} {name}; define `def {name}(prompts, completions, expected)`"
        )
    try:
        inspect.signature(function).bind(prompts=[], completions=[], expected=[])
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{setting}: the function does not take prompts=, completions= and expected= ({first_line(error)}); "
            f"define `def {name}(prompts, completions, expected)`"
        ) from None
    return cast(RewardFunction, function)


def _make_importable(setting: str, top: str) -> None:
    """Make the project's own module or package `top` importable; an editable install knows only some of them."""
    if top in sys.modules:
        return
    found = importlib.util.find_spec(top)
    if found is None:
        sys.path.append(str(ROOT))
    elif not _is_of_project(found):
        raise ConfigError(f"{setting}: an installed package is named {top} too; rename the project's")


def _is_of_project(spec: ModuleSpec) -> bool:
    places = list(spec.submodule_search_locations or []) or [spec.origin or ""]
    return all(Path(place).resolve().is_relative_to(ROOT.resolve()) for place in places)


def _checked(setting: str, function: RewardFunction) -> RewardFunction:
    """Return `function` with its result checked and converted to floats; its errors hold nothing of a row."""

    def checked(prompts: list[str], completions: list[str], expected: list[str]) -> list[float]:
        try:
            rewards = function(prompts=prompts, completions=completions, expected=expected)
        except Exception as error:  # a user's code may raise anything, with a message that holds a row
            frames = traceback.extract_tb(error.__traceback__)
            frame = ([frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)] or frames)[-1]
            raise ConfigError(
                f"{setting} failed with {type(error).__name__} in line {frame.lineno} of {Path(frame.filename).name}; "
                "it must return a number for any answer, the empty one too"
            ) from None
        if isinstance(rewards, str | bytes | dict) or not hasattr(rewards, "__len__"):
            raise ConfigError(f"{setting} returned {type(rewards).__name__}; return a list of one number per answer")
        if len(rewards) != len(completions):
            raise ConfigError(
                f"{setting} returned {len(rewards)} numbers for {len(completions)} answers; return one per answer"
            )
        return [_finite(setting, reward) for reward in rewards]

    checked.__name__ = getattr(function, "__name__", "python")
    return checked


def _finite(setting: str, reward: object) -> float:
    if isinstance(reward, str | bytes):
        raise ConfigError(f"{setting} returned text for an answer; return numbers")
    try:
        number = float(reward)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigError(f"{setting} returned {type(reward).__name__} for an answer; return numbers") from None
    if not math.isfinite(number):
        raise ConfigError(f"{setting} returned {number} for an answer; return finite numbers")
    return number
