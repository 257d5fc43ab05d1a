"""Runs tasks as a cluster does: each pod is a process, `pyflyte-execute` with a file of inputs, that writes the outputs
or errors which Flyte reads."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from conftest import ROOT
from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap
from flytekit import PythonFunctionTask
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from support import forked_programs

Process = subprocess.Popen[bytes] | forked_programs.Program
RESOLVER = "flytekit.core.python_auto_container.default_task_resolver"
MAP = ["flytekit.core.array_node_map_task.ArrayNodeMapTaskResolver", "--", "vars", "", "resolver", RESOLVER]


@dataclass
class Pod:
    """One machine in one attempt of a task. Pods of the same attempt share `home` and `number`."""

    task: PythonFunctionTask
    home: Path
    # a LiteralMap is given to the pod as it is
    inputs: dict[str, Any] | LiteralMap
    number: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    machine: int = 0
    # with the large libraries loaded at once, in the pod and in the workers that it starts
    is_forked: bool = True
    # the first entry of a map over the task, whose inputs are lists
    is_mapped: bool = False

    @property
    def output(self) -> Path:
        return self.home / f"out-{self.number}"

    @property
    def log(self) -> str:
        return (self.home / f"log-{self.number}-{self.machine}").read_text()

    def start(self) -> Pod:
        """Start the pod without waiting for it; return it."""
        self.home.mkdir(parents=True, exist_ok=True)
        inputs = self.home / "inputs.pb"
        inputs.write_bytes(self._literals().SerializeToString())
        module, _, name = self.task.name.rpartition(".")
        previous = f"{self.home}/checkpoints/{self.number - 1}" if self.number else '""'
        program, resolver = ("pyflyte-map-execute", MAP) if self.is_mapped else ("pyflyte-execute", [RESOLVER, "--"])
        command = [program, "--inputs", inputs, "--output-prefix", self.output]
        command += ["--raw-output-data-prefix", self.home / "raw", "--prev-checkpoint", previous]
        command += ["--checkpoint-path", f"{self.home}/checkpoints/{self.number}", "--resolver", *resolver]
        command += ["task-module", module, "task-name", name]
        temporary = self.home / f"tmp-{self.number}-{self.machine}"
        temporary.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "TORCH_EXTENSIONS_DIR": os.environ["TORCH_EXTENSIONS_DIR"],
            "FLYTE_INTERNAL_EXECUTION_ID": "f0",
            **self.task.environment,
            **self.environment,
        }
        with (self.home / f"log-{self.number}-{self.machine}").open("w") as log:
            self.process = self._start(list(map(str, command)), environment, log)
        return self

    def _literals(self) -> LiteralMap:
        if isinstance(self.inputs, LiteralMap):
            return self.inputs
        context, types = FlyteContextManager.current_context(), self.task.python_interface.inputs
        if self.is_mapped:
            types = {name: list[kind] for name, kind in types.items()}
        return TypeEngine.dict_to_literal_map(context, self.inputs, types).to_flyte_idl()

    def _start(self, command: list[str], environment: dict[str, str], log: TextIO) -> Process:
        if self.is_forked and forked_programs.IS_SUPPORTED:
            return forked_programs.start_script(command, ROOT, environment, (log.fileno(), log.fileno()))
        return subprocess.Popen(
            [Path(sys.executable).parent / command[0], *command[1:]],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds: float = 240) -> Pod:
        """Wait until the pod has ended, at most `seconds`; then kill all its processes. Return the pod."""
        try:
            self.process.wait(seconds)
        finally:
            self.kill()
        return self

    def run(self) -> Pod:
        return self.start().wait()

    def kill(self) -> None:
        """Kill all processes of the pod, as if its machine was lost."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    @property
    def outputs(self) -> dict[str, Any]:
        """The task's outputs as literals, by name."""
        literals = LiteralMap.FromString((self.output / "outputs.pb").read_bytes()).literals
        return dict(literals)

    @property
    def deck(self) -> str:
        """The page of the task's Decks."""
        return (self.output / "deck.html").read_text(encoding="utf-8")

    @property
    def error(self) -> Any:
        """The error that the pod wrote for Flyte: code, message, kind (1 is recoverable), timestamp."""
        file = self.output / "error.pb"
        assert file.exists(), self.log[-3000:]
        return ErrorDocument.FromString(file.read_bytes()).error


RECOVERABLE, NON_RECOVERABLE = 1, 0


def machine_environments(count: int, processes: int) -> list[dict[str, str]]:
    """Return the environment variables that the training operator sets in each of the `count` pods of one job."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"PET_NNODES": str(count), "PET_NPROC_PER_NODE": str(processes), "PET_RDZV_BACKEND": "c10d"}
    return [{**job, "PET_RDZV_ENDPOINT": f"localhost:{port}", "PET_RDZV_ID": "job"} for _ in range(count)]
