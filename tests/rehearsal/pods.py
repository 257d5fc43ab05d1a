"""One pod of a rehearsed cluster: a process with an empty disk, its image's packages, and nothing of its developer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from conftest import ROOT

_GRACE_SECONDS = 30


class Pod:
    """A process group in a folder of its own, which is its whole disk and is deleted with it.

    `programs` is the folder of an image's programs (rehearsal.site). `--dest-dir` is a path of the image's file system
    and becomes one of the folder.
    """

    def __init__(
        self,
        disk: Path,
        programs: Path,
        arguments: list[str],
        environment: dict[str, str],
        secrets: dict[tuple[str, str], str],
    ) -> None:
        self.disk, self.log_file = disk, disk.parent / f"{disk.name}.log"
        source = disk / "root"
        for folder in (source, disk / "home", disk / "tmp"):
            folder.mkdir(parents=True)
        arguments = list(arguments)
        if "--dest-dir" in arguments:
            arguments[arguments.index("--dest-dir") + 1] = str(source)
        allowed = [programs.parent, ROOT / ".venv"]
        everything = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(disk / "home"),
            "TMPDIR": str(disk / "tmp"),
            "OMP_NUM_THREADS": "1",
            "REHEARSAL_MACHINE": str(disk),
            "REHEARSAL_FOREIGN": os.pathsep.join([str(disk.parent), str(ROOT)]),
            "REHEARSAL_ALLOWED": os.pathsep.join(str(path) for path in allowed),
            **environment,
            **self._mount(secrets),
        }
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [programs / arguments[0], *arguments[1:]],
                cwd=source,
                env=everything,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.exit_status: int | None = None
        self.peak_bytes = 0
        self.foreign_paths: list[str] = []

    def _mount(self, secrets: dict[tuple[str, str], str]) -> dict[str, str]:
        """Write secrets as files, as Flyte's webhook mounts them: one that the cluster lacks is simply not there."""
        folder = self.disk / "secrets"
        for (group, key), value in secrets.items():
            (folder / group).mkdir(parents=True, exist_ok=True)
            (folder / group / key).write_text(value, encoding="utf-8")
        return {"FLYTE_SECRETS_DEFAULT_DIR": str(folder), "FLYTE_SECRETS_FILE_PREFIX": ""}

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def ended(self) -> bool:
        """Return whether the process has ended, and note how and with how much memory."""
        if self.exit_status is None:
            number, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if number:
                self.exit_status = os.waitstatus_to_exitcode(status)
                # of the largest of its processes, in KiB on Linux
                self.peak_bytes = usage.ru_maxrss * 1024
        return self.exit_status is not None

    def kill(self) -> None:
        """End all processes at once, as when a machine is lost."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the process to end, as Kubernetes does with a pod that it deletes."""
        self._signal(signal.SIGTERM, whole=False)

    def _signal(self, number: signal.Signals, whole: bool = True) -> None:
        try:
            if whole:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)
        except ProcessLookupError:
            return

    def remove(self) -> None:
        """Delete the disk; only the log and the notes on foreign paths outlive it."""
        self.kill()
        notes = self.disk / "foreign-paths.txt"
        self.foreign_paths = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
        shutil.rmtree(self.disk, ignore_errors=True)
