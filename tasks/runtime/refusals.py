"""Error messages for a cluster's refusals: what they mean and what the user can do."""

from __future__ import annotations

import grpc

from configs.addresses import first_line

_GUIDE = "see docs/cluster.md"


def refusal_message(code: grpc.StatusCode, details: str, place: str, endpoint: str, entity: str) -> str:
    """Return a message of at most three lines: what flyteadmin's answer means, the fix, and the answer's first line.

    The phrases to look for come from github.com/flyteorg/flyte, flyteadmin/pkg/errors and manager/impl/validation.
    """
    answer = first_line(details, 1000) or code.name
    if "with different structure already exists" in details:
        name = answer.split(" ", 1)[0]
        return (
            f"this version of {name} is registered already, with other code ({place})\n"
            "commit and register again, or name another version: make register VERSION=...\n"
            f"the cluster says: {answer.removesuffix(':')}"
        )
    if "are registered, err" in details or "is unrecognized by system" in details:
        return (
            f"{place}: not on {endpoint}; correct FLYTE_PROJECT and FLYTE_DOMAIN, or create the project with\n"
            f"flytectl create project --id NAME --name NAME\nthe cluster says: {answer}"
        )
    if "greater than  current limit" in details or "greater than current limit" in details:
        return f"{answer.split('. ')[0]}\nraise the platform's task_resources.limits, or ask for less; {_GUIDE}"
    if (
        details.startswith(("expected_inputs ", "invalid input ", "fixed_inputs "))
        or "unbound required input" in details
    ):
        return f"{answer}\ngive every input that the launch plan leaves open, such as --config my.yaml, and no other"
    if code == grpc.StatusCode.UNAVAILABLE:
        return (
            f"{endpoint} cannot be reached; is the cluster up, and FLYTECTL_CONFIG or FLYTE_PLATFORM_URL right?\n"
            f"the client says: {answer}"
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return f"{endpoint} refuses this login for {place}\nthe cluster says: {answer}"
    if code == grpc.StatusCode.NOT_FOUND:
        return f"{not_registered_message(entity, place, endpoint)}\nthe cluster says: {answer}"
    return f"{endpoint} answered {code.name}: {answer}"


def not_registered_message(entity: str, place: str, endpoint: str) -> str:
    """Return the message for an entity that is not registered."""
    return f"{entity} is not registered ({place}, {endpoint}); register it first: make register"
