"""The images' specs: the same names on a laptop and in a pod, and the right input for both builders.

Neither docker nor envd's daemon is needed: the tests read what these would be given.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flytekit.configuration.default_images import DefaultImages, PythonVersion
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.data_persistence import FileAccessProvider
from flytekit.image_spec.default_builder import create_docker_context
from flytekit.types.directory import FlyteDirectory
from flytekitplugins.envd.image_builder import create_envd_config
from support.blank_reports import token_report
from support.pods import Pod

from configs.schema import FineTuneConfig
from images.lock import read_pins
from images.roles import Role
from images.specs import _BASES, GPTQ_IMAGE, GPU_IMAGE, IMAGES
from workflows.tune import tune

ROLES: list[Role] = ["cpu", "gpu", "gptq"]
APT = {"cpu": [], "gpu": ["build-essential"], "gptq": ["build-essential", "libpcre2-dev"]}
NAMES = "from images.specs import IMAGES, POD_ENVIRONMENT as E; print(*[i.image_name() for i in IMAGES.values()], E)"
HOST = re.compile(r"https?://([\w.-]+)|\b([\w-]+(?:\.[\w-]+)+(?::\d+)?)/")


def evaluated(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Evaluate the specs of the checkout in `folder` from another folder, with only `environment` set."""
    paths = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", NAMES]
    return subprocess.run(command, cwd="/", env={**paths, **environment}, capture_output=True, text=True)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A copy of what the specs read, in another folder, as in a pod."""
    for folder in ("configs", "images"):
        shutil.copytree(ROOT / folder, tmp_path / "root" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "root"


@pytest.mark.parametrize("builder", ["default", "envd"])
def test_a_pod_computes_the_same_image_names_as_the_laptop(builder: str, elsewhere: Path) -> None:
    laptop = evaluated(ROOT, IMAGE_REGISTRY="ghcr.io/me", IMAGE_BUILDER=builder)
    assert laptop.returncode == 0, laptop.stderr[-2000:]
    names, _, environment = laptop.stdout.strip().partition(" {")
    assert re.fullmatch(
        r"ghcr.io/me/fine-tune-cpu:\w+ ghcr.io/me/fine-tune-gpu:\w+ ghcr.io/me/fine-tune-gptq:\w+", names
    )
    # flytekit puts exactly these into the pod
    given = dict(re.findall(r"'(\w+)': '([^']*)'", environment))
    assert evaluated(elsewhere, **given).stdout == laptop.stdout


def test_a_changed_lock_builder_or_base_changes_the_image_name(elsewhere: Path) -> None:
    def tags(**environment: str) -> list[str]:
        return re.findall(r":(\w+)(?= )", evaluated(elsewhere, IMAGE_REGISTRY="ghcr.io/me", **environment).stdout)

    first = tags()
    assert len(set(first)) == 3
    assert not set(first) & set(tags(IMAGE_BUILDER="envd"))
    assert not set(first) & set(tags(IMAGE_BASE="ubuntu:24.04"))
    lock = elsewhere / "images" / "gpu.txt"
    lock.write_text(lock.read_text().replace("torch==2.13.0", "torch==2.13.1"))
    assert [before == after for before, after in zip(first, tags(), strict=True)] == [True, False, True]


def test_an_unknown_builder_is_refused() -> None:
    words = " ".join(evaluated(ROOT, IMAGE_BUILDER="podman").stderr.split())
    assert "IMAGE_BUILDER=podman is not an image builder; set it to default or envd, or unset it" in words


def test_a_missing_lock_is_named(elsewhere: Path) -> None:
    (elsewhere / "images" / "gpu.txt").unlink()
    words = " ".join(evaluated(elsewhere).stderr.split())
    assert "images/gpu.txt is missing here; register with `--copy all`" in words


@pytest.mark.parametrize("role", ROLES)
def test_the_default_builder_installs_only_the_lock(role: Role, tmp_path: Path) -> None:
    create_docker_context(IMAGES[role], tmp_path)
    dockerfile = (tmp_path / "Dockerfile").read_text()
    # every file that the Dockerfile mounts exists
    assert set(re.findall(r"type=bind,target=([\w.]+),src=\1", dockerfile)) == {"requirements_uv.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"Dockerfile", "requirements_uv.txt"}
    assert read_pins(tmp_path / "requirements_uv.txt") == read_pins(ROOT / "images" / f"{role}.txt")
    installs = re.findall(r"uv pip install (.*)", dockerfile)
    assert [line.strip() for line in installs] == ["--requirement requirements_uv.txt"]
    assert "python=3.11 " in dockerfile and "\nFROM debian:bookworm-slim\n" in dockerfile
    apt = re.findall(r"apt-get install -y --no-install-recommends\s+(.*)", dockerfile)
    assert [line.split() for line in apt] == ([APT[role]] if APT[role] else [])
    assert "TOKENIZERS_PARALLELISM=true" in dockerfile and "\nUSER flytekit\n" in dockerfile
    assert {first or second for first, second in HOST.findall(dockerfile)} == {"ghcr.io"}
    assert str(ROOT) not in dockerfile + (tmp_path / "requirements_uv.txt").read_text()


def envd_plan(role: Role, folder: Path) -> Path:
    """Have flytekit write `build.envd` and the files that it names below `folder`; return its path."""
    context = FlyteContextManager.current_context()
    access = FileAccessProvider(local_sandbox_dir=str(folder), raw_output_prefix=str(folder / "raw"))
    with FlyteContextManager.with_context(context.with_file_access(access)):
        return Path(create_envd_config(IMAGES[role]))


@pytest.mark.parametrize("role", ROLES)
def test_envd_installs_only_the_lock(role: Role, tmp_path: Path) -> None:
    path = envd_plan(role, tmp_path)
    plan = path.read_text()
    assert re.findall(r"install\.python_packages\((.*)\)", plan) == ["name=[]", 'requirements="requirements.txt"']
    assert read_pins(path.with_name("requirements.txt")) == read_pins(ROOT / "images" / f"{role}.txt")
    assert 'install.python(version="3.11")' in plan
    assert f"install.apt_packages(name=[{', '.join(f'{chr(34)}{name}{chr(34)}' for name in APT[role])}])" in plan
    assert "'TOKENIZERS_PARALLELISM': 'true'" in plan and "run(commands=[])" in plan
    # envd's own default, which flytekit names
    assert {first or second for first, second in HOST.findall(plan)} == {"pypi.org"}
    assert str(ROOT) not in plan


@pytest.mark.parametrize("role", ROLES)
def test_envd_accepts_the_plan(role: Role, tmp_path: Path) -> None:
    path = envd_plan(role, tmp_path)
    # a base image that does not exist: envd asks for it only after it has parsed the whole plan
    plan = path.read_text().replace("debian:bookworm-slim", "localhost:1/none:1")
    assert "localhost:1/none:1" in plan
    words = "failed to get the base image"
    for text, outcome in ((plan, True), (plan.replace("install.python(", "install.pythn("), False)):
        path.write_text(text)
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ENVD_ANALYTICS": "false"}
        command = [str(Path(sys.executable).with_name("envd")), "build", "--path", str(path.parent)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode and (words in result.stderr + result.stdout) == outcome, result.stderr[-2000:]


def test_envds_base_image_is_that_of_the_installed_flytekit() -> None:
    version = read_pins(ROOT / "images" / "cpu.txt")["flytekit"]
    assert _BASES["envd"] == DefaultImages.find_image_for(PythonVersion.PYTHON_3_11, version)


def test_building_without_docker_or_a_registry_says_so(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    command = [sys.executable, "-m", "images.build"]
    for registry, words in (
        ("", "IMAGE_REGISTRY is not set; name a registry to push to"),
        ("localhost:1", "IMAGE_BUILDER=default: localhost:1/fine-tune-cpu:"),
    ):
        own = {**environment, **({"IMAGE_REGISTRY": registry} if registry else {})}
        result = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
        assert result.returncode == 1
        assert f"Error: {words}" in result.stderr and "Traceback" not in result.stderr
    assert "is docker running, and are you logged in to the registry?" in result.stderr


def test_gptq_is_quantized_and_scored_in_its_own_image(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    folder = FlyteDirectory(str(tmp_path / "model"))
    config = FineTuneConfig.model_validate(
        {
            "model": {"name": "a/b"},
            "data": {"sources": [{"path": "r.jsonl"}]},
            "quantize": {"methods": ["4bit", "gptq"]},
        }
    )
    inputs = dict.fromkeys(("base", "base_tokenizer", "train_tokens", "test_tokens", "tokenizer"), folder)
    inputs |= {"config": config, "deepspeed_json": "", "rewards_version": "", "other_revisions": [], "model_gib": 1}
    pod = Pod(tune, tmp_path / "pod", inputs | {"token_report": token_report()}).run()
    job = DynamicJobSpec.FromString((pod.output / "futures.pb").read_bytes())
    images = {
        task.id.name.rsplit(".", 1)[-1]: task.container.image or task.k8s_pod.pod_spec["containers"]
        for task in job.tasks
    }
    assert images["quantize_gptq"] == GPTQ_IMAGE.image_name() and images["quantize"] == GPU_IMAGE.image_name()
    overrides = {node.id: node.task_node.overrides.container_image for node in job.nodes if node.HasField("task_node")}
    assert {name: image for name, image in overrides.items() if image} == {"evaluate-gptq": GPTQ_IMAGE.image_name()}
    assert {"quantize-4bit", "evaluate-4bit", "quantize-gptq"} < set(overrides)
