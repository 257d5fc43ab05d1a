"""All that a rehearsal needs at once: a laptop, a control plane, a store, a hub, and a cluster with its images."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from conftest import PyFlyte
from flyteidl.core.literals_pb2 import LiteralMap
from flytekit import ImageSpec
from google.protobuf.json_format import MessageToDict
from rehearsal.admin import Admin
from rehearsal.engine import Cluster
from rehearsal.literals import as_form
from rehearsal.site import build
from rehearsal.store import BUCKET, Store
from support.hub_server import HubServer

from images import specs

REGISTRY = "localhost:30000"
TOKEN = "hf_write_secret"
_PLACE = ["--project", "flytesnacks", "--domain", "development"]


@dataclass
class Stage:
    """Commands of a laptop, and executions of what they registered. `cluster` remembers every try."""

    home: Path
    laptop: PyFlyte
    store: Store
    admin: Admin
    hub: HubServer
    cluster: Cluster

    def run_on_laptop(self, config: Mapping[str, Any]) -> Path:
        """Run the workflow without a cluster; return its folder of outputs."""
        hub = {"HF_ENDPOINT": self.hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        result = self.laptop.fine_tune(dict(config), {**hub, "HF_HOME": str(self.home / "hf")})
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return self.laptop.home / "outputs" / config["name"]

    def run_remote(self, config: Mapping[str, Any], workflow: str = "fine_tune") -> subprocess.CompletedProcess[str]:
        """Run `pyflyte run --remote`: local files are uploaded, all is registered, a run is asked for."""
        path = self.home / "remote.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        script = [f"workflows/{workflow}.py", workflow, "--config", str(path)]
        return self.laptop("run", "--remote", *_PLACE, *script, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the laptop that its cluster is named by."""
        return {**self.admin.environment, "IMAGE_REGISTRY": REGISTRY}

    def execute_last(self) -> dict[str, Any]:
        """Run the last execution that was asked for; return its result, a mapping with addresses in the store."""
        plan = self.admin.executions[-1].spec.launch_plan
        return self._execute(plan.name, plan.version, self.admin.execution_inputs[-1])

    def sent_config(self) -> dict[str, Any]:
        """Return the config of the last execution as `pyflyte` has sent it, with addresses of what it uploaded."""
        form = self.admin.execution_inputs[-1].literals["config"].scalar.generic
        sent: dict[str, Any] = MessageToDict(form)
        return sent

    def execute_form(self, config: Mapping[str, Any], workflow: str = "fine_tune") -> dict[str, Any]:
        """Run a workflow that is registered with a console's form, which says only what `config` does."""
        name = f"workflows.{workflow}.{workflow}"
        version = next(version for known, version in reversed(self.admin.workflows) if known == name)
        return self._execute(name, version, LiteralMap(literals={"config": as_form(config)}))

    def _execute(self, name: str, version: str, inputs: LiteralMap) -> dict[str, Any]:
        self.cluster.register(
            {known: spec for (known, version_), spec in self.admin.tasks.items() if version_ == version}
        )
        spec = self.admin.workflows[name, version]
        [output] = self.cluster.execute(spec.template, inputs, spec.sub_workflows)[""].values()
        result: dict[str, Any] = msgpack.loads(output.scalar.binary.value, strict_map_key=False)
        return result

    def folder(self, uri: str) -> dict[str, bytes]:
        """Return the files of a folder in the store by their names."""
        prefix = uri.removeprefix(f"s3://{BUCKET}/").rstrip("/") + "/"
        return {
            key.removeprefix(prefix): self.store.read(self.store.uri(key)) or b"" for key in self.store.keys(prefix)
        }


@contextmanager
def open_stage(home: Path) -> Iterator[Stage]:
    """Start all servers and build all images; stop the servers at the end."""
    images = {image.name: image for image in vars(specs).values() if isinstance(image, ImageSpec)}
    programs = {f"{REGISTRY}/{name}": build(packages(image), home / "images" / name) for name, image in images.items()}
    with Store() as store, Admin(store) as admin, HubServer(tokens={TOKEN: "write"}, user="me") as hub:
        cluster = Cluster(
            home / "cluster",
            store,
            programs,
            environment={"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"},
            secrets={("huggingface", "token"): TOKEN},
        )
        yield Stage(home, PyFlyte(home / "laptop"), store, admin, hub, cluster)


def packages(image: ImageSpec) -> list[str]:
    """Return the requirements of an image."""
    lines = Path(image.requirements).read_text(encoding="utf-8").splitlines() if image.requirements else []
    return [*(image.packages or []), *(line for line in lines if line and not line.startswith("#"))]
