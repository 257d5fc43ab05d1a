"""The declared numbers of training machines.

Flyte fixes the number of machines of an elastic task when its module is imported, so each entry here becomes a task of
its own, such as train_5 or train_1_to_5. To add a topology, add a line here; a config chooses one with `train.nodes`.
Everything else (processes, GPUs, memory, machine types, timeouts) is read from the config when training starts.
"""

TOPOLOGIES: tuple[str, ...] = (
    "1",
    "2",
    "4",
    "5",
    "8",
    "1:2",
    "1:5",
    "1:8",
)


def topology(fewest: int, most: int) -> str:
    """Return a number or range of machines as `TOPOLOGIES` writes it: `5` or `1:5`."""
    return str(most) if fewest == most else f"{fewest}:{most}"


def task_name(nodes: str) -> str:
    """Return the name of the elastic task for an entry of `TOPOLOGIES`."""
    return f"train_{nodes.replace(':', '_to_')}"
