"""How `pyflyte` registers this project: its version, the files that it sends, readable refusals, and readable ends.

flytekit loads `Plugin` through the entry point `flytekit.configuration.plugin` in pyproject.toml. Nothing else may
import this module, or the two imports would wait for each other. Without the plug-in, `pyflyte run --remote` uses a
hash as the version and sends only the modules that registration has loaded. But the tasks import their stages when they
run, and read constraints.txt, presets and DeepSpeed files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from click import Group
from flytekit.configuration.plugin import FlytekitPlugin
from flytekit.exceptions.base import FlyteException
from flytekit.exceptions.user import FlyteEntityNotExistException
from flytekit.models.admin.workflow import WorkflowSpec
from flytekit.models.core.workflow import Node
from flytekit.models.interface import Parameter
from flytekit.remote import FlyteLaunchPlan, FlyteRemote

from configs.errors import RegistrationError
from tasks.runtime.command_line import end_readably
from tasks.runtime.refusals import not_registered_message, refusal_message

VERSION_VARIABLE = "FLYTE_FINE_TUNE_VERSION"


class Plugin(FlytekitPlugin):
    """Changes three things in flytekit: which files are sent, the messages when a cluster refuses, how a run ends."""

    @staticmethod
    def get_remote(
        config: str | None, project: str, domain: str, data_upload_location: str | None = None
    ) -> FlyteRemote:
        """Return the cluster that `config` or else the environment names; by default the local sandbox."""
        remote = FlytekitPlugin.get_remote(config, project, domain, data_upload_location)
        return Cluster(
            remote.config,
            default_project=project,
            default_domain=domain,
            data_upload_location=data_upload_location,
        )

    @staticmethod
    def configure_pyflyte_cli(main: Group) -> Group:
        """Make `pyflyte run --remote` send all files of the project by default, as `pyflyte register` does.

        Runs on a laptop say why each step runs, and end readably.
        """
        end_readably(main)
        for option in main.commands["run"].params:
            if option.name == "copy":
                option.default = "all"
        return main


class Cluster(FlyteRemote):
    """flytekit's client for a cluster, with refusals of one to three lines."""

    def register_script(self, entity: Any, *args: Any, version: str | None = None, **kwargs: Any) -> Any:
        """Register what `pyflyte run --remote` runs, as the version in $FLYTE_FINE_TUNE_VERSION if it is set.

        Raises:
            RegistrationError: the cluster refused, or cannot be reached.
        """
        version = version or os.environ.get(VERSION_VARIABLE) or None
        with self._readable_refusals():
            return super().register_script(entity, *args, version=version, **kwargs)

    def raw_register(self, cp_entity: Any, *args: Any, **kwargs: Any) -> Any:
        """Register one task, workflow or launch plan.

        Raises:
            RegistrationError: as for `register_script`.
        """
        if isinstance(cp_entity, WorkflowSpec):
            _sort_upstream_nodes(cp_entity)
        with self._readable_refusals():
            return super().raw_register(cp_entity, *args, **kwargs)

    def upload_file(self, *args: Any, **kwargs: Any) -> tuple[bytes, str]:
        """Upload the source archive, or a file that an input names.

        Raises:
            RegistrationError: as for `register_script`.
        """
        with self._readable_refusals():
            return super().upload_file(*args, **kwargs)

    def fetch_launch_plan(self, project: Any = None, domain: Any = None, name: Any = None, version: Any = None) -> Any:
        """Return a registered launch plan.

        Raises:
            RegistrationError: no launch plan has that name, or as for `register_script`.
        """
        with self._readable_refusals(f"launch plan {name}"):
            return _without_defaults(super().fetch_launch_plan(project, domain, name, version))

    def fetch_active_launchplan(self, project: Any = None, domain: Any = None, name: Any = None) -> Any:
        """Return the active version of a launch plan, or None if none is active.

        Raises:
            RegistrationError: as for `register_script`.
        """
        with self._readable_refusals(f"launch plan {name}"):
            plan = super().fetch_active_launchplan(project, domain, name)
        return plan and _without_defaults(plan)

    def execute(self, entity: Any, *args: Any, **kwargs: Any) -> Any:
        """Start an execution.

        Raises:
            RegistrationError: an input of a registered launch plan is missing, or as for `register_script`.
        """
        if isinstance(entity, FlyteLaunchPlan):
            kwargs["inputs"] = _given_inputs(entity, kwargs.get("inputs") or {})
        with self._readable_refusals():
            return super().execute(entity, *args, **kwargs)

    @contextmanager
    def _readable_refusals(self, entity: str = "the requested entity") -> Iterator[None]:
        """Turn a cluster's refusal into a RegistrationError; raise any other error unchanged."""
        try:
            yield
        # flytekit wraps a failed upload in a RuntimeError
        except (FlyteException, RuntimeError) as error:
            if isinstance(error, RegistrationError):
                raise
            place = f"project {self.default_project}, domain {self.default_domain}"
            endpoint = self.config.platform.endpoint
            status = _status(error)
            if status is not None:
                raise RegistrationError(
                    refusal_message(*status, place=place, endpoint=endpoint, entity=entity)
                ) from error
            if isinstance(error, FlyteEntityNotExistException):
                raise RegistrationError(not_registered_message(entity, place, endpoint)) from error
            raise


def _sort_upstream_nodes(spec: WorkflowSpec) -> None:
    """Sort the ids of upstream nodes: flytekit's order varies by process, which flyteadmin takes for other code."""
    for template in (spec.template, *spec.sub_workflows):
        for node in template.nodes:
            _sort_upstream_of(node)


def _sort_upstream_of(node: Node) -> None:
    """Sort the ids of a node, and of the nodes that a branch chooses from."""
    node.upstream_node_ids.sort()
    if node.branch_node is not None:
        block = node.branch_node.if_else
        chosen = [block.case.then_node, *(case.then_node for case in block.other or []), block.else_node]
        for inner in chosen:
            if inner is not None:
                _sort_upstream_of(inner)


def _without_defaults(plan: FlyteLaunchPlan) -> FlyteLaunchPlan:
    """Remove a launch plan's defaults here; the cluster applies them. flytekit cannot make a Struct a CLI default."""
    parameters = plan.default_inputs.parameters
    for name, parameter in parameters.items():
        parameters[name] = Parameter(var=parameter.var, required=parameter.required)
    return plan


def _given_inputs(plan: FlyteLaunchPlan, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that the user gave; an unused option is None.

    Raises:
        RegistrationError: an input without a default was not given. click takes its None for a value and does not ask.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    for name, parameter in plan.default_inputs.parameters.items():
        if parameter.required and name not in given:
            raise RegistrationError(
                f"launch plan {plan.name} needs --{name}, such as --{name} my.yaml; it has no default"
            )
    return given


def _status(error: BaseException | None) -> tuple[grpc.StatusCode, str] | None:
    """Return the code and details of the cluster's answer that caused an error, or None if no answer did."""
    while error is not None:
        if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
            return error.code(), error.details() or ""
        error = error.__cause__
    return None
