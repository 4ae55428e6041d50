"""Which layers of units the kernels of a network connect."""

from collections.abc import Sequence

INPUT = -1  # Stands for the input of the network, in place of the number of a layer.

Ends = tuple[int, int]  # The layer that a kernel reads, and the one that it feeds.


def chain(n_layers: int) -> list[Ends]:
    """The ends of a chain: each layer feeds the next one through one kernel."""
    return [(layer - 1, layer) for layer in range(n_layers)]


def check_ends(ends: Sequence[Ends], n_kernels: int, n_layers: int | None = None) -> None:
    """Raises ValueError unless there is one pair of ends per kernel, in the order of the layers that they feed."""
    fed = [target for _, target in ends]
    if len(ends) != n_kernels:
        raise ValueError(f"{len(ends)} pairs of ends for {n_kernels} kernels; expected one pair per kernel")
    if sorted(set(fed)) != list(range(len(set(fed)))) or fed != sorted(fed):
        raise ValueError(f"ends={list(ends)} must feed the layers 0, 1, 2, ... in this order")
    if any(not INPUT <= source < target for source, target in ends):
        raise ValueError(f"ends={list(ends)}: a kernel reads the input ({INPUT}) or a layer before the one it feeds")
    if n_layers is not None and n_layers != len(set(fed)):
        raise ValueError(f"ends={list(ends)} feed {len(set(fed))} layers; there are {n_layers}")
