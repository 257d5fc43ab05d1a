"""Runs what was registered, as FlytePropeller and the training operator would: for tests only.

Every task runs from its serialized spec: its container's arguments and environment, its secrets, its retries, and for
elastic tasks the shape in its custom config. Values travel as protobuf through the object store alone.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyteidl.admin.task_pb2 import TaskSpec
from flyteidl.core.condition_pb2 import ComparisonExpression
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flyteidl.core.literals_pb2 import Literal, LiteralCollection, LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.workflow_pb2 import Node, WorkflowTemplate
from google.protobuf.json_format import MessageToDict
from rehearsal.literals import Values, resolve_all, uris
from rehearsal.pods import Pod
from rehearsal.store import Store

_RECOVERABLE = ContainerError.RECOVERABLE
_POLL_SECONDS = 0.05


class ExecutionFailedError(Exception):
    """A task failed for good. `error` is what the console shows."""

    def __init__(self, task: str, error: str) -> None:
        super().__init__(f"{task}: {error}")
        self.task, self.error = task, error


@dataclass
class Try:
    """One attempt at one task, on one or several pods."""

    task: str
    number: int
    template: TaskTemplate
    node: Node
    prefix: str
    pods: list[Pod] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    complete_at_first_exit: bool = True

    @property
    def log(self) -> str:
        return "\n".join(pod.log for pod in self.pods)


@dataclass
class Fault:
    """Kills pods of a try as soon as `when` holds; `machine` None is all of them."""

    task: str
    when: Callable[[Try], bool]
    machine: int | None = None
    number: int = 0
    done: bool = False

    def strike(self, attempt: Try) -> None:
        if self.done or attempt.task != self.task or attempt.number != self.number or not self.when(attempt):
            return
        self.done = True
        for number, pod in enumerate(attempt.pods):
            if self.machine in (None, number):
                pod.kill()


class Cluster:
    """Executes registered workflows. `programs` has each image's folder of programs by the image's name without tag."""

    def __init__(
        self,
        home: Path,
        store: Store,
        programs: dict[str, Path],
        environment: dict[str, str] | None = None,
        secrets: dict[tuple[str, str], str] | None = None,
    ) -> None:
        self.home, self.store, self.programs = home, store, programs
        self.environment, self.secrets = environment or {}, secrets or {}
        self.specs: dict[str, TaskSpec] = {}
        self.images: set[str] = set()
        self.tries: list[Try] = []
        self.cached: list[str] = []
        self.faults: list[Fault] = []
        self.uncached_tasks: set[str] = set()
        self._catalog: dict[str, LiteralMap] = {}
        self._count = 0
        home.mkdir(parents=True, exist_ok=True)

    def register(self, specs: dict[str, TaskSpec]) -> None:
        """Take the tasks of one version, by name; pods run no image but theirs."""
        self.specs = specs
        self.images = {spec.template.container.image for spec in specs.values()}

    def execute(self, workflow: WorkflowTemplate, inputs: LiteralMap, subs: Iterable[WorkflowTemplate] = ()) -> Values:
        """Run a workflow to its end; return its outputs under the node `""`.

        Raises:
            ExecutionFailedError: a task failed, and was not to be tried again.
        """
        self._count += 1
        templates = {name: spec.template for name, spec in self.specs.items()}
        outputs = self._workflow(workflow, dict(inputs.literals), templates, list(subs), f"f{self._count}")
        return {"": outputs}

    def tries_of(self, task: str) -> list[Try]:
        """Return all attempts at the task with this short name, in their order."""
        return [attempt for attempt in self.tries if attempt.task == task]

    def _workflow(
        self,
        workflow: WorkflowTemplate,
        inputs: dict[str, Literal],
        templates: dict[str, TaskTemplate],
        subs: list[WorkflowTemplate],
        prefix: str,
    ) -> dict[str, Literal]:
        values: Values = {"": inputs}
        self._nodes(list(workflow.nodes), values, templates, subs, prefix)
        return resolve_all(workflow.outputs, values)

    def _nodes(
        self,
        nodes: list[Node],
        values: Values,
        templates: dict[str, TaskTemplate],
        subs: list[WorkflowTemplate],
        prefix: str,
    ) -> None:
        waiting = [node for node in nodes if node.id not in ("start-node", "end-node")]
        while waiting:
            ready = [(node, _run_by(node, values)) for node in waiting if _has_upstream(node, values)]
            # the node that a branch takes waits for its own upstream nodes
            ready = [(node, taken) for node, taken in ready if _has_upstream(taken, values)]
            assert ready, f"a circle among {[node.id for node in waiting]}"
            for node, taken in ready:
                inputs = resolve_all(taken.inputs, values)
                place = f"{prefix}-{node.id}" + (f"-{taken.id}" if taken is not node else "")
                values[node.id] = self._node(taken, inputs, templates, subs, place)
                waiting.remove(node)

    def _node(
        self,
        node: Node,
        inputs: dict[str, Literal],
        templates: dict[str, TaskTemplate],
        subs: list[WorkflowTemplate],
        prefix: str,
    ) -> dict[str, Literal]:
        if node.HasField("workflow_node"):
            name = node.workflow_node.sub_workflow_ref.name
            [workflow] = [node for node in subs if node.id.name == name]
            return self._workflow(workflow, inputs, templates, subs, prefix)
        if node.HasField("array_node"):
            return self._array(node, inputs, templates, prefix)
        template = templates[node.task_node.reference_id.name]
        return self._task(template, node, inputs, prefix, {})

    def _array(
        self, node: Node, inputs: dict[str, Literal], templates: dict[str, TaskTemplate], prefix: str
    ) -> dict[str, Literal]:
        """Run the task of a map once for each entry; each pod finds its own in the lists by its number."""
        inner = node.array_node.node
        template = templates[inner.task_node.reference_id.name]
        lists = [name for name in inputs if name not in node.array_node.bound_inputs]
        [length] = {len(inputs[name].collection.literals) for name in lists}
        parts: list[dict[str, Literal]] = []
        for number in range(length):
            index = {
                "BATCH_JOB_ARRAY_INDEX_VAR_NAME": "FLYTE_K8S_ARRAY_INDEX",
                "FLYTE_K8S_ARRAY_INDEX": str(number),
            }
            parts.append(self._task(template, inner, inputs, f"{prefix}-{number}", index))
        return {
            name: Literal(collection=LiteralCollection(literals=[part[name] for part in parts]))
            for name in template.interface.outputs.variables
        }

    def _task(
        self,
        template: TaskTemplate,
        node: Node,
        inputs: dict[str, Literal],
        prefix: str,
        environment: dict[str, str],
    ) -> dict[str, Literal]:
        """Return the outputs of a task: from the catalog, or from a try that succeeds."""
        task = short_name(template)
        key = _cache_key(template, inputs, environment)
        if key and key in self._catalog and task not in self.uncached_tasks:
            self.cached.append(task)
            return dict(self._catalog[key].literals)
        metadata = node.metadata if node.metadata.HasField("retries") else template.metadata
        previous = ""
        for number in range(metadata.retries.retries + 1):
            attempt = Try(task, number, template, node, f"{prefix}/{number}")
            self.tries.append(attempt)
            document = self._run(attempt, inputs, previous, environment)
            previous = f"{self._raw(attempt)}/_flytecheckpoints"
            if document is None:
                outputs = self._outputs(attempt, inputs)
                if key:
                    self._catalog[key] = LiteralMap(literals=outputs)
                return outputs
            attempt.error = document.message
            if document.kind != _RECOVERABLE:
                break
        raise ExecutionFailedError(task, str(attempt.error))

    def _run(
        self, attempt: Try, inputs: dict[str, Literal], previous: str, environment: dict[str, str]
    ) -> ContainerError | None:
        """Run the pods of a try; return its error, or None."""
        source = self.store.uri(f"metadata/{attempt.prefix.rpartition('/')[0]}/inputs.pb")
        self.store.write(source, LiteralMap(literals=inputs).SerializeToString())
        container = attempt.template.container
        assert container.image in self.images, f"{attempt.task}: image {container.image} was not registered"
        replaced = {
            "{{.input}}": source,
            "{{.outputPrefix}}": self.output(attempt),
            "{{.rawOutputDataPrefix}}": self._raw(attempt),
            "{{.checkpointOutputPrefix}}": f"{self._raw(attempt)}/_flytecheckpoints",
            "{{.prevCheckpointPrefix}}": previous or '""',
        }
        arguments = [replaced.get(argument, argument) for argument in container.args]
        assert not [word for word in arguments if "{{" in word], arguments
        everything = {
            **self.store.environment,
            **self.environment,
            "FLYTE_INTERNAL_EXECUTION_ID": attempt.prefix.partition("-")[0],
            "FLYTE_INTERNAL_EXECUTION_PROJECT": "flytesnacks",
            "FLYTE_INTERNAL_EXECUTION_DOMAIN": "development",
            "FLYTE_INTERNAL_TASK_NAME": attempt.template.id.name,
            "FLYTE_ATTEMPT_NUMBER": str(attempt.number),
            **environment,
            **{entry.key: entry.value for entry in container.env},
        }
        asked = [(secret.group, secret.key) for secret in attempt.template.security_context.secrets]
        secrets = {name: self.secrets[name] for name in asked if name in self.secrets}
        programs = self.programs[container.image.rpartition(":")[0]]
        begun = time.monotonic()
        for number, operator in enumerate(_job(attempt.template)):
            disk = self.home / f"{attempt.prefix.replace('/', '-try')}-machine{number}"
            attempt.pods.append(Pod(disk, programs, arguments, {**everything, **operator}, secrets))
        self._await(attempt)
        attempt.seconds = time.monotonic() - begun
        return self._error(attempt)

    def _await(self, attempt: Try) -> None:
        """Return when all pods have ended. One that is lost fails its job, whose other pods are then deleted."""
        deadline, first = None, None
        while [pod for pod in attempt.pods if not pod.ended()]:
            for fault in self.faults:
                fault.strike(attempt)
            if first is None and any(pod.exit_status == 0 for pod in attempt.pods):
                # a PyTorchJob counts as done as soon as one of its pods is
                first = self._is_complete(attempt)
                attempt.complete_at_first_exit = first
            if deadline is None and any(pod.exit_status not in (None, 0) for pod in attempt.pods):
                deadline = time.monotonic() + 100
                for pod in attempt.pods:
                    pod.stop()
            if deadline is not None and time.monotonic() > deadline:
                for pod in attempt.pods:
                    pod.kill()
            time.sleep(_POLL_SECONDS)
        for pod in attempt.pods:
            pod.remove()

    def _is_complete(self, attempt: Try) -> bool:
        """Return whether outputs or an error are written, and whatever the outputs name is there."""
        content = self.store.read(f"{self.output(attempt)}/outputs.pb")
        if content is None:
            names = [key.rpartition("/")[2] for key in self.store.keys(f"metadata/{attempt.prefix}/")]
            return any(name.startswith(("error", "futures")) for name in names)
        places = [uri for literal in LiteralMap.FromString(content).literals.values() for uri in uris(literal)]
        return all(self.store.keys(uri.removeprefix(self.store.uri(""))) for uri in places)

    def _error(self, attempt: Try) -> ContainerError | None:
        """Return what Flyte would say went wrong: of several pods' errors the earliest."""
        names = [key for key in self.store.keys(f"metadata/{attempt.prefix}/") if key.rpartition("/")[2][:5] == "error"]
        documents = [ErrorDocument.FromString(self.store.read(self.store.uri(name)) or b"") for name in names]
        if documents:
            return min((document.error for document in documents), key=lambda error: error.timestamp.ToMilliseconds())
        written = [f"{self.output(attempt)}/{name}" for name in ("outputs.pb", "futures.pb")]
        if any(self.store.read(name) is not None for name in written):
            return None
        return ContainerError(code="Interrupted", message="a pod was lost, and left no error", kind=_RECOVERABLE)

    def _outputs(self, attempt: Try, inputs: dict[str, Literal]) -> dict[str, Literal]:
        futures = self.store.read(f"{self.output(attempt)}/futures.pb")
        if futures is not None:
            job = DynamicJobSpec.FromString(futures)
            templates = {template.id.name: template for template in job.tasks}
            values: Values = {"": inputs}
            self._nodes(list(job.nodes), values, templates, list(job.subworkflows), attempt.prefix.replace("/", "-d"))
            return resolve_all(job.outputs, values)
        content = self.store.read(f"{self.output(attempt)}/outputs.pb")
        outputs = LiteralMap.FromString(content or b"").literals
        for name, literal in outputs.items():
            for uri in uris(literal):
                assert uri.startswith("s3://"), f"{attempt.task}: output {name} is {uri}, a path of its own pod"
        return dict(outputs)

    def output(self, attempt: Try) -> str:
        """Return where a try writes its outputs, errors and Decks."""
        return self.store.uri(f"metadata/{attempt.prefix}")

    def _raw(self, attempt: Try) -> str:
        return self.store.uri(f"raw/{attempt.prefix}")


def _has_upstream(node: Node, values: Values) -> bool:
    return all(name in values or name == "start-node" for name in node.upstream_node_ids)


def _run_by(node: Node, values: Values) -> Node:
    """Return the node that a branch takes; any other node is run itself. Conditions compare two integers."""
    if not node.HasField("branch_node"):
        return node
    inputs, branch = resolve_all(node.inputs, values), node.branch_node.if_else
    for case in (branch.case, *branch.other):
        comparison = case.condition.comparison
        assert comparison.operator == ComparisonExpression.EQ, comparison
        if inputs[comparison.left_value.var].scalar.primitive == comparison.right_value.primitive:
            return case.then_node
    return branch.else_node


def short_name(template: TaskTemplate) -> str:
    """Return a task's name without its module, and a map's without its hash."""
    name = template.id.name.rpartition(".")[2]
    return name.removesuffix("-arraynode").rpartition("_")[0] if name.endswith("-arraynode") else name


def _cache_key(template: TaskTemplate, inputs: dict[str, Literal], environment: dict[str, str]) -> str | None:
    """Return what Flyte's catalog knows a cached task's outputs by: the bytes of its inputs, as older versions do."""
    if not template.metadata.discoverable:
        return None
    ignored = set(template.metadata.cache_ignore_input_vars)
    digest = hashlib.sha256(f"{template.id.name} {template.metadata.discovery_version} {environment}".encode())
    for name in sorted(set(inputs) - ignored):
        digest.update(name.encode() + inputs[name].SerializeToString(deterministic=True))
    return digest.hexdigest()


def _job(template: TaskTemplate) -> list[dict[str, str]]:
    """Return the variables of each pod of a task: those of the training operator for a PyTorchJob, else one pod's."""
    if template.type != "pytorch":
        return [{}]
    custom: dict[str, Any] = MessageToDict(template.custom)
    elastic = custom["elasticConfig"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fewest, most = int(elastic["minReplicas"]), int(elastic["maxReplicas"])
    shared = {
        "PET_NNODES": f"{fewest}:{most}" if fewest < most else str(most),
        "PET_NPROC_PER_NODE": str(int(elastic["nprocPerNode"])),
        "PET_RDZV_BACKEND": elastic["rdzvBackend"],
        "PET_RDZV_ENDPOINT": f"localhost:{port}",
        "PET_RDZV_ID": "job",
        # each pod writes an error of its own, of which the earliest is taken
        "_F_DES": "Earliest",
    }
    return [{**shared, "_F_WN": f"worker-{number}"} for number in range(int(custom["workerReplicas"]["replicas"]))]
