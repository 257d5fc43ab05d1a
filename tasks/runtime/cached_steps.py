"""Says for each cached step of a laptop's run whether it runs, and why, or comes from Flyte's local cache.

flytekit asks its local cache once for each step. The answer, and the hashes of the step's inputs, are noted in that
cache too, by the run's name; so the next run of that name can tell which of them has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import msgpack
from flytekit.core.local_cache import LocalTaskCache
from flytekit.models.literals import Literal, LiteralMap

import tasks.runtime.laptop_run as laptop_run
from configs.printable import print_line
from tasks.runtime.local_cache import explained_cache, open_cache, why_unusable

# inputs that tell apart the steps of one task
_NAMING = ("label", "method")
# inputs of which a map has one call each
_MAPPED = ("shard", "part")
# flytekit names a map after its function, and a training's task is named after its machines
_GIVEN_NAME = re.compile(r"^map_(\w+)_[0-9a-f]{32}-arraynode$|^(train)_[\d_to]+$")
_MOST_NAMED = 4
_are_explained = False


def explain_steps() -> None:
    """Make flytekit's local cache say of each step why it runs; a second call changes nothing."""
    global _are_explained
    if _are_explained:
        return
    _are_explained = True
    get, put = LocalTaskCache.get, LocalTaskCache.set

    def explained_get(
        task_name: str, cache_version: str, input_literal_map: LiteralMap, cache_ignore_input_vars: tuple[str, ...]
    ) -> LiteralMap | None:
        with explained_cache():
            found = get(task_name, cache_version, input_literal_map, cache_ignore_input_vars)
        unusable = why_unusable(found) if found is not None and task_name.startswith("tasks.") else ""
        if unusable:
            # the step runs, and its new result takes this one's place in the cache
            found = None
        if _is_step(task_name, input_literal_map):
            inputs = _read_inputs(input_literal_map, cache_ignore_input_vars)
            _explain(_step_name(task_name, inputs), cache_version, inputs, found is not None, unusable)
        return found

    def explained_set(
        task_name: str,
        cache_version: str,
        input_literal_map: LiteralMap,
        cache_ignore_input_vars: tuple[str, ...],
        value: LiteralMap,
    ) -> None:
        with explained_cache():
            put(task_name, cache_version, input_literal_map, cache_ignore_input_vars, value)
        if not _is_step(task_name, input_literal_map):
            return
        step, inputs = laptop_run.step_under_way(), _read_inputs(input_literal_map, cache_ignore_input_vars)
        if not step:
            # with `pyflyte run --overwrite-cache`, flytekit does not ask the cache
            step = _step_name(task_name, inputs)
            print_line(f"step {step} ran (the cache is overwritten)")
            laptop_run.note_step(step, "ran (the cache is overwritten)")
        _note(step, {"version": cache_version, "inputs": input_hashes(inputs), "finished": True})
        laptop_run.end_step()

    LocalTaskCache.get, LocalTaskCache.set = staticmethod(explained_get), staticmethod(explained_set)


def why_it_runs(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """Return why a step runs: its note of the last run, if there is one, compared with that of this run."""
    if before is None:
        return "first time"
    reasons = ["the code changed"] if before["version"] != now["version"] else []
    names = [*now["inputs"], *(name for name in before["inputs"] if name not in now["inputs"])]
    changed = [name for name in names if before["inputs"].get(name) != now["inputs"].get(name)]
    if changed:
        more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
        reasons.append(f"changed since the last run: {', '.join(changed[:_MOST_NAMED])}{more}")
    if reasons:
        return "; ".join(reasons)
    return "its result is no longer in the cache" if before["finished"] else "it did not finish in the last run"


def input_hashes(inputs: dict[str, Literal]) -> dict[str, str]:
    """Return a hash of each input by its name; of a config, one of each setting by its path."""
    return dict(item for name, literal in inputs.items() for item in _hashes(name, literal))


def _hashes(name: str, literal: Literal) -> Iterator[tuple[str, str]]:
    binary = literal.scalar.binary if literal.scalar is not None else None
    if binary is None or binary.tag != "msgpack":
        yield name, _digest(literal.to_flyte_idl().SerializeToString(deterministic=True))
        return
    for path, value in _settings(name, msgpack.loads(binary.value, strict_map_key=False)):
        yield path, _digest(json.dumps(value, sort_keys=True, default=str).encode())


def _settings(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _settings(f"{path}.{name}", part)
    else:
        yield path, value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_step(task_name: str, inputs: LiteralMap) -> bool:
    """Return whether a task is this project's, and has work: a map of no shards or parts has none."""
    mapped = [inputs.literals[name].collection for name in _MAPPED if name in inputs.literals]
    return task_name.startswith("tasks.") and not any(items is not None and not items.literals for items in mapped)


def _step_name(task_name: str, inputs: dict[str, Literal]) -> str:
    """Return a name such as `train`, `evaluate tuned`, or `train (2)` for the second training of a run."""
    function = _GIVEN_NAME.sub(lambda found: found[1] or found[2], task_name.rpartition(".")[2])
    naming = [inputs[name] for name in _NAMING if name in inputs]
    labels = [literal.scalar.primitive.string_value for literal in naming if _is_text(literal)]
    name = " ".join([function, *labels])
    number = laptop_run.count_step(name)
    return name if number == 1 else f"{name} ({number})"


def _is_text(literal: Literal) -> bool:
    return literal.scalar is not None and literal.scalar.primitive is not None


def _explain(step: str, version: str, inputs: dict[str, Literal], is_cached: bool, unusable: str) -> None:
    now = {"version": version, "inputs": input_hashes(inputs), "finished": is_cached}
    before = _note(step, now)
    if is_cached:
        print_line(f"step {step} comes from the cache")
        laptop_run.note_step(step, "from the cache")
        return
    why = unusable or why_it_runs(before, now)
    print_line(f"step {step} runs ({why})")
    laptop_run.note_step(step, f"ran ({why})")
    laptop_run.begin_step(step)


def _read_inputs(inputs: LiteralMap, ignored: tuple[str, ...]) -> dict[str, Literal]:
    return {name: literal for name, literal in inputs.literals.items() if name not in ignored}


def _note(step: str, note: dict[str, Any]) -> Any:
    """Note a step's inputs; return its note of the last run, or None."""
    with explained_cache(), open_cache() as notes:
        text = notes.get(_key(step))
        notes.set(_key(step), json.dumps(note))
    return json.loads(text) if text else None


def _key(step: str) -> str:
    return f"inputs of the last run: {laptop_run.run_name()}: {step}"
