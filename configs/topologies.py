"""The declared training topologies: (nodes, processes per node).

Flyte fixes the shape of an elastic task when its module is imported, so that each topology is a task of its own. To
add one, add its pair here; a config chooses it with `train.nodes` and `train.processes_per_node`.
"""

TOPOLOGIES: tuple[tuple[int, int], ...] = (
    (1, 1),
    (1, 2),
    (1, 4),
    (1, 8),
    (2, 1),
    (2, 8),
    (4, 8),
    (5, 8),
    (8, 8),
)
