"""Trackers on loopback: what MLflow and W&B answer to the calls that a run's library makes, kept in memory."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Runs:
    """What the server knows. `token` is the one it takes; while `is_down` every call fails."""

    token: str = ""
    is_down: bool = False
    experiments: list[str] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_calls: int = 0
    num_refused: int = 0

    def points(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, in the order in which they came."""
        return [(each["step"], each["value"]) for each in self.runs[run_id]["metrics"] if each["key"] == name]


def _info(run_id: str, run: dict[str, Any]) -> dict[str, Any]:
    info = {key: run[key] for key in ("experiment_id", "status", "run_name", "start_time")}
    last = {each["key"]: each for each in run["metrics"]}
    data = {"metrics": list(last.values()), "params": run["params"], "tags": run["tags"]}
    return {"info": {**info, "run_id": run_id, "run_uuid": run_id, "lifecycle_stage": "active"}, "data": data}


def _answer(runs: Runs, call: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if call == "experiments/search":
        return 200, {"experiments": []}
    if call == "experiments/get-by-name":
        if asked["experiment_name"] not in runs.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        number = str(runs.experiments.index(asked["experiment_name"]))
        return 200, {"experiment": {"experiment_id": number, "name": asked["experiment_name"]}}
    if call == "experiments/create":
        runs.experiments.append(asked["name"])
        return 200, {"experiment_id": str(len(runs.experiments) - 1)}
    if call == "runs/create":
        run_id = f"{len(runs.runs):032x}"
        runs.runs[run_id] = {
            "experiment_id": asked["experiment_id"],
            "status": "RUNNING",
            "run_name": asked["run_name"],
            "start_time": asked["start_time"],
            "tags": asked.get("tags", []),
            "metrics": [],
            "params": [],
        }
        return 200, {"run": _info(run_id, runs.runs[run_id])}
    run = runs.runs[asked["run_id"]]
    if call == "runs/log-batch":
        known = {each["key"]: each["value"] for each in run["params"]}
        for each in asked.get("params", []):
            if known.get(each["key"], each["value"]) != each["value"]:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Changing param values"}
        run["params"] += [each for each in asked.get("params", []) if each["key"] not in known]
        run["metrics"] += asked.get("metrics", [])
        return 200, {}
    if call == "runs/get":
        return 200, {"run": _info(asked["run_id"], run)}
    if call == "metrics/get-history":
        return 200, {"metrics": [each for each in run["metrics"] if each["key"] == asked["metric_key"]]}
    assert call == "runs/update", call
    run["status"] = asked.get("status", run["status"])
    return 200, {"run_info": _info(asked["run_id"], run)["info"]}


def _mlflow(runs: Runs, path: str, asked: dict[str, Any], authorization: str) -> tuple[int, dict[str, Any]]:
    if runs.token and authorization != f"Bearer {runs.token}":
        runs.num_refused += 1
        return 401, {"error_code": "UNAUTHENTICATED", "message": "who are you?"}
    # integers travel as text in protobuf's JSON
    for each in asked.get("metrics", []):
        each |= {"step": int(each["step"]), "timestamp": int(each["timestamp"])}
    return _answer(runs, path.removeprefix("/api/2.0/mlflow/"), asked)


def _wandb(runs: Runs, path: str, asked: dict[str, Any], authorization: str) -> tuple[int, dict[str, Any]]:
    """Answer W&B's GraphQL, and the stream of a run's files: of these the history's lines are kept, by their offset."""
    if authorization != "Basic " + base64.b64encode(f"api:{runs.token}".encode()).decode():
        runs.num_refused += 1
        return 401, {"errors": [{"message": "who are you?"}]}
    if path.endswith("/file_stream"):
        run = runs.runs[path.split("/")[-2]]
        for offset, line in enumerate(
            asked.get("files", {}).get("wandb-history.jsonl", {}).get("content", []),
            asked.get("files", {}).get("wandb-history.jsonl", {}).get("offset", 0),
        ):
            run["history"][offset] = json.loads(line)
        if asked.get("complete") is not None:
            run["status"] = "preempted" if asked.get("preempting") else f"exit {asked.get('exitcode')}"
        return 200, {}
    if path != "/graphql":
        return 200, {}
    operation, given = asked.get("operationName"), asked.get("variables") or {}
    if operation == "Viewer":
        return 200, {"data": {"viewer": {"id": "VXNlcg=="}}}
    if operation == "UpsertBucket":
        made = runs.runs.setdefault(given["name"], {"history": {}, "status": "RUNNING", "num_begun": 0, "config": "{}"})
        made["num_begun"] += given.get("project") is not None
        made |= {key: given[key] for key in ("displayName", "tags", "config", "project") if given.get(key)}
        bucket = {
            "id": base64.b64encode(given["name"].encode()).decode(),
            "name": given["name"],
            "displayName": made.get("displayName"),
            "config": made["config"],
            "historyLineCount": len(made["history"]),
            "project": {
                "id": "UHJv",
                "name": made.get("project"),
                "entity": {"id": "RW50", "name": given.get("entity") or "me"},
            },
        }
        return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": made["num_begun"] == 1}}}
    if operation == "RunResumeStatus":
        return 200, {"data": {"model": _resume_status(runs, given)}}
    if operation == "CreateRunFiles":
        files = {"runID": given["run"], "uploadHeaders": [], "files": []}
        return 200, {"data": {"createRunFiles": files}}
    return 200, {"data": {"entity": {"organization": {"coreWeaveOrganizationId": None}}}}


def _resume_status(runs: Runs, given: dict[str, Any]) -> dict[str, Any]:
    model = {"id": "UHJv", "name": given["project"], "entity": {"id": "RW50", "name": "me"}, "bucket": None}
    run = runs.runs.get(given["name"])
    if run is not None:
        lines = [json.dumps(run["history"][offset]) for offset in sorted(run["history"])]
        model["bucket"] = {
            "id": "QnVja2V0",
            "name": given["name"],
            "summaryMetrics": "{}",
            "displayName": run.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(lines[-1:]),
            "eventsTail": "[]",
            "config": run["config"],
            "tags": run.get("tags") or [],
            # what the library wrote of itself: by this it sees that the run was begun
            "wandbConfig": json.dumps(json.loads(run["config"]).get("_wandb", {}).get("value", {})),
        }
    return model


@contextmanager
def mlflow_server(token: str = "") -> Iterator[tuple[str, Runs]]:
    """Yield the address of a server, which takes `token` alone, and what it knows."""
    with _server(Runs(token=token), _mlflow) as served:
        yield served


@contextmanager
def wandb_server(key: str) -> Iterator[tuple[str, Runs]]:
    """Yield the address of a server, which takes the API key `key` alone, and what it knows."""
    with _server(Runs(token=key), _wandb) as served:
        yield served


@contextmanager
def _server(
    runs: Runs, answer_to: Callable[[Runs, str, dict[str, Any], str], tuple[int, dict[str, Any]]]
) -> Iterator[tuple[str, Runs]]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            url = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            asked: dict[str, Any] = {key: values[0] for key, values in parse_qs(url.query).items()}
            if "json" in self.headers.get("Content-Type", ""):
                asked = json.loads(content)
            with lock:
                runs.num_calls += 1
                if runs.is_down:
                    status, answer = 503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "away"}
                else:
                    status, answer = answer_to(runs, url.path, asked, self.headers.get("Authorization", ""))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = _handle

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", runs
    finally:
        server.shutdown()
        server.server_close()
