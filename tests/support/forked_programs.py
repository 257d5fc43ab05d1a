"""Programs forked from a server that has imported the large libraries: `pyflyte`, pods, and the workers they start.

A fresh interpreter spends up to 8 s of CPU on torch, transformers, TRL and DeepSpeed before it comes to what a test
asks about; a fork has them at once. The server imports neither this project's modules nor flytekit, which read the
environment when they are imported: a program imports them anew, as it does after a start of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from multiprocessing import context, forkserver, popen_forkserver, reduction, spawn
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

# elsewhere a process that has loaded such libraries is not to be forked
IS_SUPPORTED = sys.platform == "linux"
_HERE = Path(__file__).parents[1]
_TRAINING = ("bitsandbytes", "deepspeed", "peft", "trl.trainer.dpo_trainer", "trl.trainer.sft_trainer")
_DATA = ("datasets", "matplotlib.backends.backend_svg", "rapidfuzz")
_PLAN = ("huggingface_hub.hf_api", "jinja2.sandbox", "pandera.pandas", "pyarrow.parquet", "tokenizers")
# what flytekit imports
_FLYTE = ("aiohttp", "docker", "flyteidl.admin.task_pb2", "grpc", "keyring", "kubernetes", "markdown_it")
_FLYTE += ("marshmallow", "mashumaro.mixins.json", "rich_click")
# they keep what the environment said when they were imported
_READ_AGAIN = ("huggingface_hub.constants", "datasets.config")
_KNOW_THE_FOLDER_OF_CODE = ("transformers.utils.hub", "transformers.utils", "transformers.dynamic_module_utils")


class Place(NamedTuple):
    """Where a process runs. `group` 0 is a process group of its own; `streams` are its output and its errors."""

    folder: str
    environment: dict[str, str]
    path: list[str] | None = None
    arguments: list[str] | None = None
    group: int = 0
    streams: tuple[int, int] = (1, 2)


class Server:
    """A process that has imported libraries, and whose forks therefore have them. It ends with this process."""

    def __init__(self, libraries: Sequence[str]) -> None:
        self._server = forkserver.ForkServer()
        self._server.set_forkserver_preload([*libraries, f"support.{Path(__file__).stem}"])

    def connect(self, streams: list[int]) -> tuple[int, int]:
        """Fork a process; return what its status is read from, and what it is told its work by."""
        hidden = ("HF_", "HUGGING", "FLYTE", "_FSEC")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
        environment |= {"PYTHONPATH": str(_HERE), "HOME": tempfile.gettempdir()}
        with patch.dict(os.environ, environment, clear=True):
            self._server.ensure_running()
        return self._server.connect_to_new_process(streams)


class _ParentServer:
    """In a fork: the server that it comes from."""

    def connect(self, streams: list[int]) -> tuple[int, int]:
        server = forkserver._forkserver
        with patch.object(server, "ensure_running", lambda: None):
            return server.connect_to_new_process(streams)


WITH_LIBRARIES = Server([*_TRAINING, *_DATA, *_PLAN, *_FLYTE])
WITHOUT_TORCH = Server(["support.without_torch", *_PLAN, *_FLYTE])


class _Popen(popen_forkserver.Popen):
    def _launch(self, process: BaseProcess) -> None:
        with (
            patch.object(forkserver, "connect_to_new_process", process.server.connect),
            # what a process needs to know of its parent is its place
            patch.object(spawn, "get_preparation_data", lambda name: {}),
        ):
            super()._launch(process)


class _Forked(BaseProcess):
    """A process that runs at its `place`; by default where its parent runs when it starts it."""

    _start_method = "forkserver"
    _Popen = staticmethod(_Popen)
    place: Place | None = None
    server: Server | _ParentServer = _ParentServer()

    def start(self) -> None:
        self.place = self.place or Place(str(Path.cwd()), dict(os.environ), sys.path, sys.argv, os.getpgrp())
        super().start()

    def __getstate__(self) -> dict[str, Any]:
        popen = context.get_spawning_popen()
        streams = tuple(popen.duplicate_for_child(stream) for stream in self.place.streams)
        # read at its place only: to read it may import modules that look at the environment
        call = bytes(reduction.ForkingPickler.dumps((self._target, self._args, self._kwargs)))
        state = self.__dict__ | {"place": self.place._replace(streams=streams)}
        state.pop("server", None)
        return state | {"_target": _run_call, "_args": (call,), "_kwargs": {}}

    def run(self) -> None:
        """Take the place, and do what the process is for."""
        # else the first collection writes to every page that is shared with the server
        gc.freeze()
        place = self.place
        for number, stream in zip(place.streams, (1, 2), strict=True):
            os.dup2(forkserver.get_inherited_fds()[number], stream)
        os.setpgid(0, place.group)
        os.chdir(place.folder)
        os.environ.clear()
        os.environ |= place.environment
        sys.path[:], sys.argv[:] = place.path or _path_of_scripts(place.environment), place.arguments or []
        tempfile.tempdir = None
        # the launcher of a worker, by which folders are named, and not the server
        os.getppid = lambda: self._parent_pid
        _read_environment_again()
        # torch elastic starts a fresh interpreter for each worker
        context._concrete_contexts["spawn"] = _ForkingContext()
        # it may start others, though it ends with the tests
        self._config.pop("daemon", None)
        super().run()

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        try:
            return super()._bootstrap(parent_sentinel)
        finally:
            # a fork of the server ends without it
            atexit._run_exitfuncs()


class _ForkingContext(context.SpawnContext):
    Process = _Forked


def _read_environment_again() -> None:
    for name in _READ_AGAIN:
        if name in sys.modules:
            importlib.reload(sys.modules[name])
    hub = sys.modules.get("huggingface_hub.constants")
    if hub is not None:
        own_code = os.environ.get("HF_MODULES_CACHE") or f"{hub.HF_HOME}/modules"
        for name in _KNOW_THE_FOLDER_OF_CODE:
            if name in sys.modules:
                sys.modules[name].HF_MODULES_CACHE = own_code


def _run_call(call: bytes) -> None:
    target, arguments, settings = reduction.ForkingPickler.loads(call)
    target(*arguments, **settings)


def _path_of_scripts(environment: Mapping[str, str]) -> list[str]:
    given = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return [str(_scripts()), *given, *(folder for folder in sys.path if folder not in ("", str(_HERE)))]


def _scripts() -> Path:
    return Path(sys.executable).parent


def _run_script(name: str, *arguments: str) -> None:
    sys.argv[:] = [str(_scripts() / name), *arguments]
    [script] = entry_points(group="console_scripts", name=name)
    sys.exit(script.load()())


def _run_function(name: str, *arguments: Any) -> None:
    module, _, function = name.partition(":")
    getattr(importlib.import_module(module), function)(*arguments)


class Program:
    """A process in a process group of its own: of `subprocess.Popen` what tests use."""

    def __init__(
        self,
        call: Callable[..., None],
        arguments: Sequence[Any],
        folder: Path,
        environment: Mapping[str, str],
        streams: tuple[int, int],
        server: Server,
    ) -> None:
        self._name = " ".join(map(str, arguments))
        self._process = _Forked(target=call, args=tuple(arguments), daemon=True)
        self._process.server = server
        self._process.place = Place(str(folder), dict(environment), streams=streams)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs; minus the signal's number where one ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not within `timeout` seconds.
        """
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._name, timeout or 0.0)
        return status


def start_script(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    streams: tuple[int, int],
    server: Server = WITH_LIBRARIES,
) -> Program:
    """Start a console script of the environment."""
    return Program(_run_script, command, folder, environment, streams, server)


def start_function(
    name: str, arguments: Sequence[Any], folder: Path, environment: Mapping[str, str], streams: tuple[int, int]
) -> Program:
    """Start a function, named `module:function`, that the environment's PYTHONPATH leads to."""
    return Program(_run_function, [name, *arguments], folder, environment, streams, WITH_LIBRARIES)


def run_script(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    timeout: float,
    server: Server = WITH_LIBRARIES,
) -> subprocess.CompletedProcess[str]:
    """Return what a console script of the environment did, when it has ended."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        program = start_script(command, folder, environment, (output.fileno(), errors.fileno()), server)
        try:
            status = program.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            raise
        for stream in (output, errors):
            stream.seek(0)
        return subprocess.CompletedProcess(list(command), status, output.read(), errors.read())
