"""Read config files and presets, and write the resolved config that is stored with each model."""

from __future__ import annotations

import difflib
import json
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import ConfigError, ConfigFault
from configs.foreign_json import JsonFault, parse_object
from configs.foreign_yaml import MAX_BYTES, Mapping, YamlFault, parse_yaml
from configs.printable import one_line, yaml_text
from configs.schema import FineTuneConfig, RunConfig
from configs.schema.align import AlignConfig
from configs.schema.section import cut, describe_faults

_WORKFLOWS: dict[str, type[FineTuneConfig] | type[AlignConfig]] = {
    "fine_tune": FineTuneConfig,
    "evaluate": FineTuneConfig,
    "plan": FineTuneConfig,
    "plan_align": AlignConfig,
    "prepare_data": FineTuneConfig,
    "align": AlignConfig,
}
Config = TypeVar("Config", bound=RunConfig)
PRESETS = Path(__file__).parent / "presets"


def load_config(path: str | Path, **overrides: Any) -> FineTuneConfig:
    """Return the config in the YAML or JSON file `path`; `overrides` replace whole sections or top-level values.

    Raises:
        ConfigError: the file is missing, is not a mapping, or holds a wrong key, type or value.
    """
    mapping = read_mapping(Path(path))
    return _validated(FineTuneConfig, mapping, {**mapping, **overrides})


def load_align_config(path: str | Path) -> AlignConfig:
    """Return the config of the workflow `align` in the YAML or JSON file `path`.

    Raises:
        ConfigError: as for `load_config`.
    """
    mapping = read_mapping(Path(path))
    return _validated(AlignConfig, mapping, mapping)


def _validated(config_class: type[Config], written: Any, values: dict[str, Any]) -> Config:
    """Return the config with `values`; errors show a value as it stands in the file, where YAML reads another."""
    try:
        return config_class.model_validate_json(json.dumps(values))
    except ConfigError as error:
        faults = [_as_written(fault, written) for fault in error.faults]
        raise ConfigError(describe_faults(faults) if faults else str(error), faults) from None


def _as_written(fault: ConfigFault, written: Any) -> ConfigFault:
    """Return a fault with `yes` where YAML reads true, and `0123` where it reads 83."""
    *parents, key = re.findall(r"[^.\[\]]+", fault.path) or [""]
    for part in parents:
        if isinstance(written, list) and part.isdigit() and int(part) < len(written):
            written = written[int(part)]
        else:
            written = written.get(part) if isinstance(written, dict) else None
    if fault.value and isinstance(written, Mapping) and key in written.written:
        return fault._replace(value=cut(written.written[key]))
    return fault


def is_alignment(preset: Path) -> bool:
    """Return whether a preset is a config of `align`: one that begins a phase with `sft:`."""
    return any(line.startswith("sft:") for line in preset.read_text(encoding="utf-8").splitlines())


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, not YAML, beyond a bound, empty, or not a mapping.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"config file {one_line(path)} is not a regular file; name a YAML or JSON file")
    if not path.is_file():
        presets = sorted(preset.stem for preset in PRESETS.glob("*.yaml"))
        # launch plans have the presets' names, with dashes for dots
        near = difflib.get_close_matches(path.stem, presets, n=1, cutoff=0.8)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(
            f"config file {one_line(path)} does not exist{meant}; presets are "
            f"configs/presets/{{{', '.join(presets)}}}.yaml"
        )
    try:
        with path.open("rb") as file:
            # one byte more shows that the file is too long, however long it is
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
        # YAML is a superset of JSON
        content = parse_yaml(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {one_line(path)} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except YamlFault as fault:
        raise ConfigError(f"config file {one_line(path)} {fault}") from None
    except OSError as error:
        raise ConfigError(f"config file {one_line(path)} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"config file {one_line(path)} is {kind}; it must hold settings such as `model:` and `data:`")
    return content


def dump_config(config: FineTuneConfig | AlignConfig) -> str:
    """Return the resolved config as YAML, with all defaults written out."""
    return yaml_text(config.model_dump(mode="json"))


def check_config_argument(arguments: list[str] | None = None) -> None:
    """Check the `--config` of a `pyflyte run` command line before pyflyte parses it.

    pyflyte reports a missing file as invalid JSON, and a YAML error as a traceback; this check names the file and the
    line. Inline JSON is checked too; all other commands are left to pyflyte.

    Raises:
        ConfigError: the config is missing, or as for `load_config`.
    """
    words = list(sys.argv if arguments is None else arguments)
    if not words or Path(words[0]).name != "pyflyte" or "run" not in words:
        return
    if set(_WORKFLOWS) & set(words) and not {"--help", "--config"} & set(words) and "--config=" not in " ".join(words):
        raise ConfigError("--config is missing; name a file, for example --config configs/presets/demo.yaml")
    for position, word in enumerate(words):
        if word == "--config" and position + 1 < len(words):
            value = words[position + 1]
        elif word.startswith("--config="):
            value = word.removeprefix("--config=")
        else:
            continue
        mapping = _inline(value) if value.lstrip().startswith(("{", "[")) else read_mapping(Path(value))
        # the command line of a launch plan names no workflow, so its config is validated by pyflyte alone
        for config_class in (_WORKFLOWS[word] for word in words if word in _WORKFLOWS):
            _validated(config_class, mapping, mapping)


def _inline(text: str) -> dict[str, Any]:
    try:
        return parse_object(text, MAX_BYTES, is_strict=True)
    except JsonFault as fault:
        raise ConfigError(f"--config {fault}; write one JSON object, or name a file") from None
