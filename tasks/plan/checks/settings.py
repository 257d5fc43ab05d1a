"""Checks a config against itself and the machine, without reading data or weights."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from contextlib import closing
from pathlib import Path

from configs.addresses import first_line, shown_address
from configs.artifacts import QUANTIZATIONS, QuantizationMethod, methods_of
from configs.effective.batches import data_parallel_size, fewest_rows
from configs.errors import ConfigError, DataError, either
from configs.foreign_json import in_mebibytes
from configs.foreign_yaml import MAX_BYTES
from configs.objectives import ONLINE
from configs.printable import one_line
from configs.schema import EvaluateConfig, FineTuneConfig
from configs.schema.cluster import DEEPSPEED
from configs.schema.train import QUANTIZED_METHODS, Method, TrainConfig
from configs.topologies import TOPOLOGIES, topology
from tasks.files.places import missing_file_reason
from tasks.files.streams import is_remote, open_raw
from tasks.plan.hardware.local_gpus import local_gpus

QUANTIZED_BASES: dict[Method, QuantizationMethod] = {"qlora": "4bit", "lora_8bit": "8bit"}
"""How each method of training quantizes the base under its adapter."""


def check_topology(train: TrainConfig) -> None:
    """Refuse a number of machines that no task declares, and a batch that does not divide among the processes.

    Raises:
        ConfigError: names the setting and the nearest value that works.
    """
    requested = topology(train.fewest_nodes, train.most_nodes)
    if requested not in TOPOLOGIES:
        raise ConfigError(
            f"train.nodes={train.nodes}: no such topology is declared ({', '.join(TOPOLOGIES)})\n"
            "choose one of these or add it to configs/topologies.py"
        )
    if train.fewest_nodes == train.most_nodes:
        _check_batch(train, data_parallel_size(train, train.most_nodes * train.processes_per_node))
    else:
        _check_batches(train)


def _check_batch(train: TrainConfig, num_groups: int) -> None:
    rows_per_micro_batch, fewest = train.micro_batch * num_groups, fewest_rows(train)
    if train.batch_size % rows_per_micro_batch:
        share = train.batch_size // num_groups if train.batch_size % num_groups == 0 else 0
        if train.micro_batch_size is None:
            raise ConfigError(
                f"train.batch_size={train.batch_size} does not divide evenly among {num_groups} processes\n"
                f"set train.batch_size={_nearest_multiple(train.batch_size, num_groups * fewest)}"
            )
        smaller = max((rows for rows in range(fewest, train.micro_batch) if share and share % rows == 0), default=None)
        other_fix = f", or train.micro_batch_size={smaller}" if smaller else ""
        raise ConfigError(
            f"train.batch_size={train.batch_size} is not a multiple of micro_batch_size x processes = "
            f"{train.micro_batch} x {num_groups} = {rows_per_micro_batch}\n"
            f"set train.batch_size={_nearest_multiple(train.batch_size, rows_per_micro_batch)}{other_fix}"
        )


def _check_batches(train: TrainConfig) -> None:
    """Check each number of machines in a range; training lowers the micro-batch until it divides the batch."""
    smallest = {
        nodes: fewest_rows(train) * data_parallel_size(train, nodes * train.processes_per_node)
        for nodes in range(train.fewest_nodes, train.most_nodes + 1)
    }
    wrong = [nodes for nodes, rows in smallest.items() if train.batch_size % rows]
    if wrong:
        multiple = math.lcm(*smallest.values())
        raise ConfigError(
            f"train.batch_size={train.batch_size} does not divide evenly among {_listed(wrong)} machines of "
            f"{train.processes_per_node} processes, which train.nodes={train.nodes} allows\n"
            f"set train.batch_size={_nearest_multiple(train.batch_size, multiple)}, or a number of machines"
        )


def _nearest_multiple(value: int, factor: int) -> int:
    return max(1, round(value / factor)) * factor


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + (" or " if numbers[1:] else "") + str(numbers[-1])


def check_local_processes(train: TrainConfig) -> None:
    """Refuse settings that a laptop cannot run: several machines, or more GPUs than it has.

    Raises:
        ConfigError: names the setting and the value that works here.
    """
    if train.fewest_nodes > 1:
        raise ConfigError(
            f"train.nodes={train.nodes} needs a cluster: run with `pyflyte run --remote`, or set train.nodes=1"
        )
    num_gpus = len(local_gpus())
    needed = train.processes_per_node * train.cluster.gpus_per_process
    if 0 < num_gpus < needed:
        raise ConfigError(
            f"train.processes_per_node={train.processes_per_node} needs {needed} GPUs, and this machine has {num_gpus}"
            f"\nset it to {max(1, num_gpus // train.cluster.gpus_per_process)}"
        )


def check_local_scoring(evaluate: EvaluateConfig) -> None:
    """Refuse more GPUs for scoring than a laptop with GPUs has; without any, a model is loaded on the CPU.

    Raises:
        ConfigError: names the setting and the value that works here.
    """
    num_gpus = len(local_gpus())
    if 0 < num_gpus < evaluate.gpus:
        raise ConfigError(
            f"evaluate.gpus={evaluate.gpus}, and this machine has {num_gpus}\nset it to {num_gpus}, or use "
            "evaluate.load_in=4bit"
        )


def read_deepspeed(train: TrainConfig) -> str:
    """Return the content of the DeepSpeed file that the config names, or an empty string if it names none.

    Raises:
        ConfigError: the file cannot be read, is not JSON, or contradicts the config.
    """
    path = train.deepspeed.config
    if path is None:
        return ""
    from configs.deepspeed_file import check_deepspeed

    text = _read_text("train.deepspeed.config", path, "name a JSON file of DeepSpeed settings")
    check_deepspeed(text, train, path)
    return text


def check_rewards(train: TrainConfig, has_reward_model: bool) -> None:
    """Refuse an objective that needs rewards if there is no source of them, and reward functions that cannot be called.

    Raises:
        ConfigError: names the setting and the fix.
    """
    if train.objective not in ONLINE:
        return
    if not train.policy.rewards and not has_reward_model:
        raise ConfigError(
            f"train.objective={train.objective} needs something that rewards answers\n"
            "name functions in train.policy.rewards, or use the workflow align, which trains a reward model"
        )
    from tasks.rewards.functions import check_rewards as check_functions

    check_functions(train.policy.rewards)


def read_chat_template(path: str | None) -> str | None:
    """Return the content of the chat template file, or None if the config names none.

    Raises:
        ConfigError: the file is missing, is not text, or never reads `messages`.
    """
    if path is None:
        return None
    template = _read_text("tokenize.chat_template", path, "name a Jinja file")
    if "messages" not in template:
        raise ConfigError(
            f"tokenize.chat_template={shown_address(path)} never reads `messages`; name a Jinja chat template"
        )
    return template


def _read_text(setting: str, path: str, instead: str) -> str:
    """Return the content of the file that a setting names, on this machine or at an address."""
    try:
        # a byte order mark is no part of the text
        with closing(open_raw(path) if is_remote(path) else Path(path).expanduser().open("rb")) as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{setting}={shown_address(path)} is larger than {in_mebibytes(MAX_BYTES)}; {instead}")
        return content.decode("utf-8-sig")
    except DataError as error:
        raise ConfigError(f"{setting}={error}") from None
    except FileNotFoundError:
        where = missing_file_reason("put it into the store, and name its address (s3://...)")
        raise ConfigError(f"{setting}={one_line(path)} {where}; {instead}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}={shown_address(path)} cannot be read ({first_line(error)}); {instead}") from None


def check_deepspeed_package(train: TrainConfig) -> None:
    """Refuse ZeRO if DeepSpeed is not installed.

    Raises:
        ConfigError: names the setting.
    """
    if train.sharding in DEEPSPEED:
        _require_package("deepspeed", f"train.sharding={train.sharding}")


def quantization_settings(config: FineTuneConfig) -> list[str]:
    """Return the settings that quantize a model, in training, after it or for scoring, as messages name them."""
    settings = [f"quantize.methods={config.quantize.methods}"] if config.quantize.methods else []
    settings += [f"train.method={config.train.method}"] * (config.train.method in QUANTIZED_METHODS)
    return settings + ["evaluate.load_in=4bit"] * (config.evaluate.load_in == "4bit")


def check_quantization(config: FineTuneConfig) -> None:
    """Refuse quantization if this machine lacks its library, or its GPUs are too old.

    bitsandbytes also runs on CPUs; on a GPU each method needs a minimum compute capability.

    Raises:
        ConfigError: names the setting, and the package or the GPU.
    """
    for method in config.quantize.methods:
        library = QUANTIZATIONS[method].library
        if library != "bitsandbytes" and importlib.util.find_spec(library) is None:
            raise ConfigError(
                f"quantize.methods names {method}: {library} clashes with other packages and has its own image\n"
                f"run on a cluster (docs/images.md), or choose {either(methods_of('bitsandbytes'))}"
            )
    quantizations = [(f"quantize.methods={config.quantize.methods}", config.quantize.methods)]
    if config.train.method in QUANTIZED_BASES:
        quantizations.append((f"train.method={config.train.method}", [QUANTIZED_BASES[config.train.method]]))
    if config.evaluate.load_in == "4bit":
        quantizations.append(("evaluate.load_in=4bit", ["4bit"]))
    for setting, methods in quantizations:
        capabilities = [
            QUANTIZATIONS[name].compute_capability for name in methods if name in methods_of("bitsandbytes")
        ]
        if capabilities:
            _require_package("bitsandbytes", setting)
            _require_capability(setting, max(capabilities))


def _require_package(package: str, setting: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{setting} needs {package}, which is not installed here (not every platform has it)\n"
            f"install {package} or change {setting.split('=')[0]}"
        )


def _require_capability(setting: str, minimum: tuple[int, int]) -> None:
    too_old = next((gpu for gpu in local_gpus() if (0, 0) < gpu.compute_capability < minimum), None)
    if too_old is not None:
        found, needed = (".".join(map(str, numbers)) for numbers in (too_old.compute_capability, minimum))
        raise ConfigError(
            f"{setting}: bitsandbytes needs a GPU of compute capability {needed} for it, and the {too_old.name} here "
            f"has {found}\nuse another GPU, hide it with CUDA_VISIBLE_DEVICES= to run on the CPU, or change "
            f"{setting.split('=')[0]}"
        )


def check_output_directory(config: FineTuneConfig) -> None:
    """Create the folder for the folders of runs, and refuse one that cannot be written to.

    Raises:
        ConfigError: names the folder and the reason.
    """
    directory = Path(config.output_directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(
            f"output_directory={one_line(directory)} cannot be written to ({error.strerror}); name another folder"
        ) from None
