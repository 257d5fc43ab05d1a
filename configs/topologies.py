"""The declared numbers of training machines.

Flyte fixes the number of machines of an elastic task when its module is imported, so that each entry here becomes a
task of its own: train_5, train_1_to_5. To add one, add its line; a config chooses it with `train.nodes`. All else,
processes, GPUs, memory, machines, timeouts, is the config's when training starts.
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
    """Return how `TOPOLOGIES` writes a number or a range of machines: `5` or `1:5`."""
    return str(most) if fewest == most else f"{fewest}:{most}"


def task_name(nodes: str) -> str:
    """Return the name of the elastic task of an entry of `TOPOLOGIES`."""
    return f"train_{nodes.replace(':', '_to_')}"
