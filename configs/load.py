"""Read config files and presets, and write the resolved config that is stored with each model."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from configs.addresses import first_line
from configs.errors import ConfigError
from configs.printable import one_line, yaml_text
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig

_WORKFLOWS: dict[str, type[FineTuneConfig] | type[AlignConfig]] = {
    "fine_tune": FineTuneConfig,
    "plan": FineTuneConfig,
    "plan_align": AlignConfig,
    "prepare_data": FineTuneConfig,
    "align": AlignConfig,
}
PRESETS = Path(__file__).parent / "presets"


def load_config(path: str | Path, **overrides: Any) -> FineTuneConfig:
    """Return the config in the YAML or JSON file `path`; `overrides` replace whole sections or top-level values.

    Raises:
        ConfigError: the file is missing, is not a mapping, or holds a wrong key, type or value.
    """
    return FineTuneConfig.model_validate_json(json.dumps({**read_mapping(Path(path)), **overrides}))


def load_align_config(path: str | Path) -> AlignConfig:
    """Return the config of the workflow `align` in the YAML or JSON file `path`.

    Raises:
        ConfigError: as for `load_config`.
    """
    return AlignConfig.model_validate_json(json.dumps(read_mapping(Path(path))))


def is_alignment(preset: Path) -> bool:
    """Return whether a preset is a config of `align`: one that begins a phase with `sft:`."""
    return any(line.startswith("sft:") for line in preset.read_text(encoding="utf-8").splitlines())


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a repeated key is an error; YAML itself would silently take its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` is named twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, not YAML, empty, or not a mapping.
    """
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
        # YAML is a superset of JSON
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {one_line(path)} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"config file {one_line(path)}{line}: {first_line(getattr(error, 'problem', None) or str(error))}; fix "
            "the YAML"
        ) from None
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
    line. It leaves inline JSON and all other commands to pyflyte.

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
        if not value.lstrip().startswith(("{", "[")):
            mapping = read_mapping(Path(value))
            # the command line of a launch plan names no workflow, so its config is validated by pyflyte alone
            for config_class in (_WORKFLOWS[word] for word in words if word in _WORKFLOWS):
                config_class.model_validate_json(json.dumps(mapping))
