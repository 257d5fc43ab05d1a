"""MLflow and W&B servers on loopback: they answer the calls of the trackers' libraries, and keep runs in memory."""

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
class TrackerState:
    """The state of a server. It accepts only `token`; while `is_down`, every call fails."""

    token: str = ""
    is_down: bool = False
    experiments: list[str] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_calls: int = 0
    num_refused: int = 0

    def points(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, in the order of arrival."""
        return [(point["step"], point["value"]) for point in self.runs[run_id]["metrics"] if point["key"] == name]


def _info(run_id: str, run: dict[str, Any]) -> dict[str, Any]:
    info = {key: run[key] for key in ("experiment_id", "status", "run_name", "start_time")}
    last = {point["key"]: point for point in run["metrics"]}
    data = {"metrics": list(last.values()), "params": run["params"], "tags": run["tags"]}
    return {"info": {**info, "run_id": run_id, "run_uuid": run_id, "lifecycle_stage": "active"}, "data": data}


def _answer(state: TrackerState, call: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if call == "experiments/search":
        return 200, {"experiments": []}
    if call == "experiments/get-by-name":
        if request["experiment_name"] not in state.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        number = str(state.experiments.index(request["experiment_name"]))
        return 200, {"experiment": {"experiment_id": number, "name": request["experiment_name"]}}
    if call == "experiments/create":
        state.experiments.append(request["name"])
        return 200, {"experiment_id": str(len(state.experiments) - 1)}
    if call == "runs/create":
        run_id = f"{len(state.runs):032x}"
        state.runs[run_id] = {
            "experiment_id": request["experiment_id"],
            "status": "RUNNING",
            "run_name": request["run_name"],
            "start_time": request["start_time"],
            "tags": request.get("tags", []),
            "metrics": [],
            "params": [],
        }
        return 200, {"run": _info(run_id, state.runs[run_id])}
    run = state.runs[request["run_id"]]
    if call == "runs/log-batch":
        known = {param["key"]: param["value"] for param in run["params"]}
        for param in request.get("params", []):
            if known.get(param["key"], param["value"]) != param["value"]:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Changing param values"}
        run["params"] += [param for param in request.get("params", []) if param["key"] not in known]
        run["metrics"] += request.get("metrics", [])
        return 200, {}
    if call == "runs/get":
        return 200, {"run": _info(request["run_id"], run)}
    if call == "metrics/get-history":
        return 200, {"metrics": [point for point in run["metrics"] if point["key"] == request["metric_key"]]}
    assert call == "runs/update", call
    run["status"] = request.get("status", run["status"])
    return 200, {"run_info": _info(request["run_id"], run)["info"]}


def _mlflow(state: TrackerState, path: str, request: dict[str, Any], authorization: str) -> tuple[int, dict[str, Any]]:
    if state.token and authorization != f"Bearer {state.token}":
        state.num_refused += 1
        return 401, {"error_code": "UNAUTHENTICATED", "message": "who are you?"}
    # protobuf's JSON writes integers as text
    for point in request.get("metrics", []):
        point |= {"step": int(point["step"]), "timestamp": int(point["timestamp"])}
    return _answer(state, path.removeprefix("/api/2.0/mlflow/"), request)


def _wandb(state: TrackerState, path: str, request: dict[str, Any], authorization: str) -> tuple[int, dict[str, Any]]:
    """Answer W&B's GraphQL and its stream of a run's files, of which the history's lines are kept by offset."""
    if authorization != "Basic " + base64.b64encode(f"api:{state.token}".encode()).decode():
        state.num_refused += 1
        return 401, {"errors": [{"message": "who are you?"}]}
    if path.endswith("/file_stream"):
        run = state.runs[path.split("/")[-2]]
        for offset, line in enumerate(
            request.get("files", {}).get("wandb-history.jsonl", {}).get("content", []),
            request.get("files", {}).get("wandb-history.jsonl", {}).get("offset", 0),
        ):
            run["history"][offset] = json.loads(line)
        if request.get("complete") is not None:
            run["status"] = "preempted" if request.get("preempting") else f"exit {request.get('exitcode')}"
        return 200, {}
    if path != "/graphql":
        return 200, {}
    operation, variables = request.get("operationName"), request.get("variables") or {}
    if operation == "Viewer":
        return 200, {"data": {"viewer": {"id": "VXNlcg=="}}}
    if operation == "UpsertBucket":
        run = state.runs.setdefault(
            variables["name"], {"history": {}, "status": "RUNNING", "num_begun": 0, "config": "{}"}
        )
        run["num_begun"] += variables.get("project") is not None
        run |= {key: variables[key] for key in ("displayName", "tags", "config", "project") if variables.get(key)}
        bucket = {
            "id": base64.b64encode(variables["name"].encode()).decode(),
            "name": variables["name"],
            "displayName": run.get("displayName"),
            "config": run["config"],
            "historyLineCount": len(run["history"]),
            "project": {
                "id": "UHJv",
                "name": run.get("project"),
                "entity": {"id": "RW50", "name": variables.get("entity") or "me"},
            },
        }
        return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": run["num_begun"] == 1}}}
    if operation == "RunResumeStatus":
        return 200, {"data": {"model": _resume_status(state, variables)}}
    if operation == "CreateRunFiles":
        files = {"runID": variables["run"], "uploadHeaders": [], "files": []}
        return 200, {"data": {"createRunFiles": files}}
    return 200, {"data": {"entity": {"organization": {"coreWeaveOrganizationId": None}}}}


def _resume_status(state: TrackerState, variables: dict[str, Any]) -> dict[str, Any]:
    model = {"id": "UHJv", "name": variables["project"], "entity": {"id": "RW50", "name": "me"}, "bucket": None}
    run = state.runs.get(variables["name"])
    if run is not None:
        lines = [json.dumps(run["history"][offset]) for offset in sorted(run["history"])]
        model["bucket"] = {
            "id": "QnVja2V0",
            "name": variables["name"],
            "summaryMetrics": "{}",
            "displayName": run.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(lines[-1:]),
            "eventsTail": "[]",
            "config": run["config"],
            "tags": run.get("tags") or [],
            # the library's own entry, by which it sees that the run has begun
            "wandbConfig": json.dumps(json.loads(run["config"]).get("_wandb", {}).get("value", {})),
        }
    return model


@contextmanager
def mlflow_server(token: str = "") -> Iterator[tuple[str, TrackerState]]:
    """Yield the address and the state of a server that accepts only `token`."""
    with _server(TrackerState(token=token), _mlflow) as served:
        yield served


@contextmanager
def wandb_server(key: str) -> Iterator[tuple[str, TrackerState]]:
    """Yield the address and the state of a server that accepts only the API key `key`."""
    with _server(TrackerState(token=key), _wandb) as served:
        yield served


@contextmanager
def _server(
    state: TrackerState, answer_to: Callable[[TrackerState, str, dict[str, Any], str], tuple[int, dict[str, Any]]]
) -> Iterator[tuple[str, TrackerState]]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            url = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            request: dict[str, Any] = {key: values[0] for key, values in parse_qs(url.query).items()}
            if "json" in self.headers.get("Content-Type", ""):
                request = json.loads(content)
            with lock:
                state.num_calls += 1
                if state.is_down:
                    status, answer = 503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "away"}
                else:
                    status, answer = answer_to(state, url.path, request, self.headers.get("Authorization", ""))
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
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()
