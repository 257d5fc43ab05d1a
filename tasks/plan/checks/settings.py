"""Checks of a config against itself and the machine, without reading data or weights."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from contextlib import closing
from pathlib import Path

from configs.effective.batches import data_parallel_size, fewest_rows
from configs.errors import ConfigError, DataError
from configs.schema import FineTuneConfig
from configs.schema.cluster import DEEPSPEED
from configs.schema.train import ONLINE, QUANTIZED_METHODS, TrainConfig
from configs.topologies import TOPOLOGIES, topology
from tasks.files.places import not_here
from tasks.files.streams import is_remote, open_raw, shown
from tasks.plan.hardware.local_gpus import local_gpus


def check_topology(train: TrainConfig) -> None:
    """Refuse a number of machines that no task declares, and a batch that the processes cannot share evenly.

    Raises:
        ConfigError: names the setting and the nearest value that works.
    """
    wanted = topology(train.fewest_nodes, train.most_nodes)
    if wanted not in TOPOLOGIES:
        raise ConfigError(
            f"train.nodes={train.nodes}: no such topology is declared ({', '.join(TOPOLOGIES)})\n"
            "choose one of these or add it to configs/topologies.py"
        )
    if train.fewest_nodes == train.most_nodes:
        _check_batch(train, data_parallel_size(train, train.most_nodes * train.processes_per_node))
    else:
        _check_batches(train)


def _check_batch(train: TrainConfig, num_groups: int) -> None:
    rows_per_pass, fewest = train.micro_batch * num_groups, fewest_rows(train)
    if train.batch_size % rows_per_pass:
        share = train.batch_size // num_groups if train.batch_size % num_groups == 0 else 0
        if train.micro_batch_size is None:
            raise ConfigError(
                f"train.batch_size={train.batch_size} does not divide evenly among {num_groups} processes\n"
                f"set train.batch_size={_nearest_multiple(train.batch_size, num_groups * fewest)}"
            )
        smaller = max((rows for rows in range(fewest, train.micro_batch) if share and share % rows == 0), default=None)
        other = f", or train.micro_batch_size={smaller}" if smaller else ""
        raise ConfigError(
            f"train.batch_size={train.batch_size} is not a multiple of micro_batch_size x processes = "
            f"{train.micro_batch} x {num_groups} = {rows_per_pass}\n"
            f"set train.batch_size={_nearest_multiple(train.batch_size, rows_per_pass)}{other}"
        )


def _check_batches(train: TrainConfig) -> None:
    """Check each number of machines of a range; the micro-batch is lowered to what divides when training starts."""
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


def _nearest_multiple(value: int, of: int) -> int:
    return max(1, round(value / of)) * of


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + (" or " if numbers[1:] else "") + str(numbers[-1])


def check_local_processes(train: TrainConfig) -> None:
    """Refuse on a laptop what only a cluster has: several machines, and more GPUs than there are.

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


def read_deepspeed(train: TrainConfig) -> str:
    """Return the content of the DeepSpeed file that the config names, or nothing when it names none.

    Raises:
        ConfigError: it cannot be read, is no JSON, or contradicts the config.
    """
    path = train.deepspeed.config
    if path is None:
        return ""
    from configs.deepspeed_file import check_deepspeed

    text = _read_text("train.deepspeed.config", path, "name a JSON file of DeepSpeed's")
    check_deepspeed(text, train, path)
    return text


def check_rewards(train: TrainConfig, has_reward_model: bool) -> None:
    """Refuse an objective that rewards answers where nothing does, and reward functions that cannot be called.

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
    """Return the content of the chat template file, or None when the config names none.

    Raises:
        ConfigError: the file is missing, not text, or has no loop over messages.
    """
    if path is None:
        return None
    template = _read_text("tokenize.chat_template", path, "name a Jinja file")
    if "messages" not in template:
        raise ConfigError(f"tokenize.chat_template={shown(path)} never reads `messages`; name a Jinja chat template")
    return template


def _read_text(setting: str, path: str, instead: str) -> str:
    """Return the content of the file that a setting names, on this machine or at an address."""
    try:
        if is_remote(path):
            with closing(open_raw(path)) as stream:
                return stream.read().decode("utf-8")
        return Path(path).expanduser().read_text(encoding="utf-8")
    except DataError as error:
        raise ConfigError(f"{setting}={error}") from None
    except FileNotFoundError:
        where = not_here("put it into the store, and name its address (s3://...)")
        raise ConfigError(f"{setting}={path} {where}; {instead}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}={shown(path)} cannot be read ({error}); {instead}") from None


def check_deepspeed_package(train: TrainConfig) -> None:
    """Refuse ZeRO where DeepSpeed is not installed.

    Raises:
        ConfigError: names the setting.
    """
    if train.sharding in DEEPSPEED:
        _need("deepspeed", f"train.sharding={train.sharding}")


def quantization_settings(config: FineTuneConfig) -> list[str]:
    """Return the settings that ask for a quantized model, in training or after it, as messages name them."""
    asked = [f"quantize.methods={config.quantize.methods}"] if config.quantize.methods else []
    return asked + [f"train.method={config.train.method}"] * (config.train.method in QUANTIZED_METHODS)


def check_quantization(config: FineTuneConfig) -> None:
    """Refuse quantization whose library this machine lacks, or which its GPUs are too old for.

    bitsandbytes computes 8-bit products from compute capability 7.5 on, and 4-bit ones from 6.0 on (its README, table
    of features by hardware); without a GPU it has a backend for CPUs.

    Raises:
        ConfigError: names the setting, and the package or the GPU.
    """
    if "gptq" in config.quantize.methods and importlib.util.find_spec("gptqmodel") is None:
        raise ConfigError(
            "quantize.methods names gptq: gptqmodel clashes with other packages and has an image of its own\n"
            "run on a cluster (docs/images.md), or choose 8bit or 4bit"
        )
    for setting in quantization_settings(config):
        is_8bit = setting == "train.method=lora_8bit" or "8bit" in setting
        if is_8bit or "4bit" in setting or "qlora" in setting:
            _need("bitsandbytes", setting)
            _need_capability(setting, (7, 5) if is_8bit else (6, 0))


def _need(package: str, setting: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{setting} needs {package}, which is not installed here (not every platform has it)\n"
            f"install {package} or change {setting.split('=')[0]}"
        )


def _need_capability(setting: str, least: tuple[int, int]) -> None:
    old = next((gpu for gpu in local_gpus() if (0, 0) < gpu.compute_capability < least), None)
    if old is not None:
        has, wanted = (".".join(map(str, numbers)) for numbers in (old.compute_capability, least))
        raise ConfigError(
            f"{setting}: bitsandbytes needs a GPU of compute capability {wanted} for it, and the {old.name} here has "
            f"{has}\nuse another GPU, hide it with CUDA_VISIBLE_DEVICES= to run on the CPU, or change "
            f"{setting.split('=')[0]}"
        )


def check_output_directory(config: FineTuneConfig) -> None:
    """Make the folder of report and metrics, and refuse one that cannot be written to.

    Raises:
        ConfigError: names the folder and the reason.
    """
    directory = Path(config.output_directory) / config.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(
            f"output_directory={config.output_directory}: {directory} cannot be written to ({error.strerror}); "
            "name another folder"
        ) from None
