"""No secret of a setting or a variable leaves: runs that succeed, fail and push are searched for canaries.

Each setting that takes an address gets one with a user, a password, a query and a fragment, and each variable that
holds a secret has a value of its own. Afterwards every file, log, Deck, cache entry and request is searched for them.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, PyFlyte
from pydantic import BaseModel
from support.hub_http import Response
from support.hub_server import HubServer
from support.tracker_servers import mlflow_server

from configs.errors import ConfigError
from configs.schema import ColumnMap, FineTuneConfig
from configs.schema.align import AlignConfig
from configs.settings_texts import PLACES, SERVERS
from configs.wire import FileRange

# of a source, besides its path and the names of its columns
_OF_A_SOURCE = ("hub", "name", "revision", "split", "tools")
NO_ADDRESSES = {
    *(f"data.{section}.{name}" for section in ("sources", "evaluation", "contamination") for name in _OF_A_SOURCE),
    *(
        f"data.{section}.columns.{name}"
        for section in ("sources", "evaluation", "contamination")
        for name in ColumnMap.model_fields
    ),
    *(f"evaluate.others.{name}" for name in ("endpoint_model", "revision", "title")),
    *("evaluate.judge.model", "evaluate.judge.rubric"),
    *(f"evaluate.measures.{name}" for name in ("database", "function", "pattern", "schema_text", "title")),
    *(f"gate.rules.{name}" for name in ("measure", "set", "versus")),
    "push_to_hub.reason",
    *("name", "model.revision", "data.group_by", "push_to_hub.repository", "push_to_hub.revision"),
    *(f"tokenize.{name}" for name in ("new_special_tokens", "prompt_separator", "template_arguments")),
    *(f"train.{name}" for name in ("nodes", "lora.target_modules", "prompt.init_text")),
    *(f"train.cluster.{name}" for name in ("gpu", "node_selectors.key", "node_selectors.value")),
    *(f"train.policy.rewards.{name}" for name in ("function", "pattern")),
    *(f"train.tracking.{name}" for name in ("entity", "project", "run_name", "tags")),
    *(f"plan.gpu_types.{name}" for name in ("labels", "name", "price_source", "source")),
}
USER, PASSWORD, QUERY, FRAGMENT, FOLDER = "canaryuser", "canarypass", "canaryquery", "canaryfragment", "canaryfolder"
SECRETS = {
    "ENDPOINT_API_KEY": "canary-endpoint-key",
    "JUDGE_API_KEY": "canary-judge-key",
    "HF_TOKEN": "hf_canaryhub",
    "HUGGING_FACE_HUB_TOKEN": "hf_canaryoldhub",
    "WANDB_API_KEY": "canary-wandb-" + 27 * "0",
    "MLFLOW_TRACKING_TOKEN": "canary-mlflow-token",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-password",
    "AWS_ACCESS_KEY_ID": "canary-aws-id",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-secret",
    "AWS_SESSION_TOKEN": "canary-aws-session",
    "FLYTE_AWS_ACCESS_KEY_ID": "canary-flyte-aws-id",
    "FLYTE_AWS_SECRET_ACCESS_KEY": "canary-flyte-aws-secret",
    "AZURE_STORAGE_ACCOUNT_KEY": "canary-azure-key",
    "AZURE_STORAGE_SAS_TOKEN": "canary-azure-sas",
    "OPENAI_API_KEY": "canary-of-another-service",
}
CANARIES = [USER, PASSWORD, QUERY, FRAGMENT, *SECRETS.values(), "canary-google"]


def text_settings(section: type[BaseModel], start: str = "") -> Iterator[str]:
    """Yield the names of all settings of a config that take any text; the entries of a list have the list's name."""
    for name, field in section.model_fields.items():
        inner = types_in(field.annotation)
        if str in inner:
            yield f"{start}{name}"
        for kind in inner:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from text_settings(kind, f"{start}{name}.")


def types_in(annotation: Any) -> set[Any]:
    # the values of a Literal are no types
    inner = [part for part in get_args(annotation) if not isinstance(part, str)]
    return set().union(*map(types_in, inner)) if inner else {annotation}


def test_each_setting_that_is_text_is_known_to_take_an_address_or_none() -> None:
    found = set(text_settings(FineTuneConfig))
    assert found == NO_ADDRESSES | PLACES | SERVERS
    phases = ("sft.", "reward.", "policy.")
    aligned = set(text_settings(AlignConfig))
    assert {name.partition(".")[2] if name.startswith(phases) else name for name in aligned} == found


class RecordingHub(HubServer):
    """A hub that keeps whatever it is sent, but for the token in the header that belongs there."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.received = b""

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Response:
        others = [f"{name}: {value}" for name, value in headers.items() if name.lower() != "authorization"]
        self.received += "\n".join([method, target, *others, ""]).encode() + body
        return super().answer(method, target, headers, body)


class _Protected(SimpleHTTPRequestHandler):
    """Files for those who know the user and the password."""

    expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    def send_head(self) -> Any:
        if self.headers.get("Authorization") != self.expected:
            self.send_error(401)
            return None
        return super().send_head()

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yield the host with the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Protected, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def address(host: str, name: str, scheme: str = "http") -> str:
    return f"{scheme}://{USER}:{PASSWORD}@{host}/{name}?sig={QUERY}#{FRAGMENT}"


def canaries_in(content: bytes, *others: str) -> list[str]:
    return [canary for canary in (*CANARIES, *others) if canary.encode() in content]


def content_of(path: Path) -> bytes:
    """Return a file's bytes; of a table, whose texts are compressed, also the texts."""
    content = path.read_bytes()
    if content[:4] == b"PAR1":
        content += str(pq.read_table(path).to_pylist()).encode()
    return content


def found_in_files(folder: Path) -> dict[str, list[str]]:
    """Return the canaries in the names and the contents of all files below a folder, by file."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {str(path.relative_to(folder)): path for path in files}
    found = {name: canaries_in(name.encode() + content_of(path)) for name, path in names.items()}
    given = ("config.json", "google/credentials.json")
    return {name: canaries for name, canaries in found.items() if canaries and name not in given}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    for name, first in (("rows", 0), ("evaluation", 100), ("contamination", 200)):
        rows = [{"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(first, first + 30)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "more").mkdir()
    # a file of the same name, with a row for the quarantine
    (folder / "more" / "rows.jsonl").write_text('{"prompt": "What?", "completion": 7}\n', encoding="utf-8")
    template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    (folder / "template.jinja").write_text(template, encoding="utf-8")
    (folder / "deepspeed.json").write_text('{"zero_optimization": {"stage": 1}}', encoding="utf-8")
    return folder


def settings_of(host: str, model: str, tracking: dict[str, Any]) -> dict[str, Any]:
    data = {section: [{"path": address(host, f"{section}.jsonl")}] for section in ("evaluation", "contamination")}
    rows = [address(host, "rows.jsonl"), address(host, "more/rows.jsonl")]
    return {
        "name": "canaries",
        "model": {"name": model},
        "data": {"sources": [{"path": rows}], "max_invalid_rows": 1, **data},
        "tokenize": {"chat_template": address(host, "template.jinja")},
        "train": {"method": "lora", "max_steps": 2, "learning_rate": 1e-2, "tracking": tracking},
        "evaluate": {"generate_rows": 2, "max_new_tokens": 4},
        "quantize": {"methods": []},
        "push_to_hub": {"repository": "me/tuned", "artifacts": ["model", "adapter"], "reason": "a trial"},
    }


def variables(home: Path, hub: HubServer) -> dict[str, str]:
    credentials = home / "google" / "credentials.json"
    credentials.parent.mkdir(parents=True, exist_ok=True)
    credentials.write_text('{"private_key": "canary-google"}', encoding="utf-8")
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    # where a store is asked for, none answers
    own |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    # Decks and what else a run has in its temporary folder are searched too
    own["FINE_TUNE_KEEP"] = "1"
    return {**SECRETS, **own, "PYTHONPATH": str(ROOT), "GOOGLE_APPLICATION_CREDENTIALS": str(credentials)}


@pytest.mark.slow
def test_a_run_its_failure_and_its_push_show_no_canary(tmp_path: Path, tiny_model: Path, served: Path) -> None:
    home, model = tmp_path / FOLDER / "home", tmp_path / FOLDER / "base"
    copytree(tiny_model, model)
    flyte = PyFlyte(home, is_forked=True)
    with (
        RecordingHub(tokens={SECRETS["HF_TOKEN"]: "write"}, user="me") as hub,
        web_server(served) as host,
        mlflow_server(SECRETS["MLFLOW_TRACKING_TOKEN"]) as (tracker, state),
    ):
        settings = settings_of(host, str(model), {"tracker": "mlflow", "address": tracker})
        hub.fail_next("commit", status=418)
        broken = flyte.fine_tune(settings, variables(home, hub))
        assert broken.returncode == 1 and "answered 418" in broken.stderr, broken.stderr
        assert found_in_files(home) == {}
        result = flyte.fine_tune(settings, variables(home, hub))
        assert result.returncode == 0, result.stderr
        pushed = {**hub.files("me/tuned"), **hub.files("me/tuned-adapter")}
    for text in (broken.stdout, broken.stderr, result.stdout, result.stderr):
        assert canaries_in(text.encode()) == []
    assert found_in_files(home) == {}
    # what was searched has Decks, the cache and the quarantine
    kinds = {re.sub(r"\.xxh3-\w+", "", path.name) for path in home.rglob("*")}
    assert {"deck.html", "report.html", "run.json", "training.json", "cache.db", "quarantine.parquet"} <= kinds
    assert '"file": "more/rows.jsonl"' in (home / "outputs" / "canaries" / "quarantine.jsonl").read_text(
        encoding="utf-8"
    )
    assert canaries_in(hub.received, FOLDER) == []
    for content in pushed.values():
        assert canaries_in(content, FOLDER) == []
    assert b"chat_template: template.jinja\n" in pushed["fine_tune_config.yaml"]
    [run] = state.runs.values()
    assert canaries_in(json.dumps(run).encode(), FOLDER) == []
    assert {"key": "model.name", "value": "base"} in run["params"]


@pytest.mark.slow
def test_a_plan_that_refuses_every_address_shows_no_canary(tmp_path: Path, served: Path) -> None:
    home = tmp_path / "home"
    nowhere = "127.0.0.1:9"
    with RecordingHub(tokens={}) as hub, web_server(served) as host:
        tracking = {"tracker": "tensorboard", "folder": address(nowhere, "curves", "ftp")}
        settings = settings_of(nowhere, address(nowhere, "base", "s3"), tracking)
        settings["tokenize"] = {"chat_template": address(host, "none.jinja")}
        settings["train"] |= {"sharding": "zero2", "deepspeed": {"config": address(host, "deepspeed.json")}}
        result = PyFlyte(home, is_forked=True).fine_tune(settings, variables(home, hub))
    assert result.returncode == 1
    lines = result.stdout + result.stderr
    # each is named, by what is no secret of it
    for name in ("base", "contamination.jsonl", "curves"):
        assert f"//{nowhere}/{name} cannot be" in lines, name
    for name in ("none.jinja", "deepspeed.json"):
        assert f"=http://{host}/{name}" in lines, name
    assert canaries_in(lines.encode()) == []
    assert found_in_files(home) == {}
    assert canaries_in(hub.received) == []


ADDRESS = address("host", "x")
ROWS = {"sources": [{"path": ADDRESS}]}


@pytest.mark.parametrize(
    "settings",
    [
        {"data": {"sources": [{"path": ADDRESS, "hub": ADDRESS}]}},
        {"data": {"sources": [{"path": f"{ADDRESS} "}]}},
        {"data": {"sources": [{"path": [ADDRESS, 3]}]}},
        {"data": {"sources": ADDRESS}},
        {"data": ROWS, "output_directory": ADDRESS},
        {"data": ROWS, "train": {"tracking": {"tracker": "mlflow", "address": ADDRESS}}},
        {"data": ROWS, "train": {"tracking": {"tracker": "wandb", "address": f"https://host/?{QUERY}"}}},
        {"data": ROWS, "train": {"tracking": {"tracker": "wandb", "address": f"https://host/#{FRAGMENT}"}}},
        {"data": ROWS, "train": {"tracking": {"tracker": "mlflow", "address": ADDRESS.replace("http", "s3")}}},
        {"data": ROWS, "train": {"tracking": {"tracker": "none", "folder": ADDRESS}}},
        {"data": ROWS, "train": {"tracking": ADDRESS}},
        {"data": ROWS, "train": {"epochs": ADDRESS}},
        {"data": ROWS, "model": {"name": f" {ADDRESS}"}},
        {"data": ROWS, "model": {"name": [ADDRESS]}},
        {"data": ROWS, "tokenize": {"chat_template": 3, "max_length": ADDRESS}},
        {"data": ROWS, "push_to_hub": {"repository": ADDRESS}},
        {"data": ROWS, ADDRESS: 1},
    ],
)
def test_a_config_that_is_refused_shows_no_canary(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        FineTuneConfig.model_validate_json(json.dumps(settings))
    shown = [str(caught.value), *(part for fault in caught.value.faults for part in fault)]
    with pytest.raises(ValueError) as plain:
        FineTuneConfig.model_validate(settings)
    assert canaries_in("\n".join(shown).encode()) == []
    # pydantic's own message has our words and the names of the settings
    assert ADDRESS in settings or "canarypass" not in str(plain.value)


def test_the_repr_of_a_section_or_a_shard_shows_no_canary() -> None:
    config = FineTuneConfig.model_validate({"data": {"sources": [{"path": [ADDRESS]}]}, "model": {"name": ADDRESS}})
    part = FileRange(path=ADDRESS, name="x", sha256="0")
    texts = [f"{value!r} {value}" for value in (config, config.data, config.model, part)]
    assert canaries_in("\n".join(texts).encode()) == []
    assert "http://host/x" in texts[1] and "http://host/x" in texts[3]
