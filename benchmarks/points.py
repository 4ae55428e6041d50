"""The points of a run at which the benchmarks measure: before which task, at which widths, with which settings."""

from dataclasses import dataclass

import numpy as np

from dgm_jax.config import Config, Variant, preset

TASKS = 10


@dataclass(frozen=True)
class Point:
    """A point of a run: before a task, at the widths to which the generator has grown."""

    variant: Variant
    task: int
    widths: tuple[int, ...]
    pytorch_seconds: float | None = None  # Seconds of an iteration in PyTorch on two idle CPU cores.

    @property
    def name(self) -> str:
        """Returns the name of the point on the command line and in records."""
        return f"{self.variant}-{self.task}"


# Widths to which generators with the authors' settings grew on MNIST.
POINTS = (
    Point("dgma", 0, (80, 40, 20), 0.160),
    Point("dgma", 2, (190, 101, 47), 0.315),
    Point("dgma", 5, (373, 190, 81), 0.495),
    Point("dgma", 9, (594, 293, 134), 0.855),
    Point("dgmw", 0, (24, 12, 6), 0.163),
    Point("dgmw", 2, (45, 14, 12), 0.223),
    Point("dgmw", 5, (75, 17, 21), 0.346),
    Point("dgmw", 9, (114, 21, 33), 0.456),
)


def settings(variant: Variant) -> Config:
    """Returns the authors' settings for MNIST, with the gate last."""
    return preset("paper-mnist", variant).with_changes(gate_position="last")


def widths_of_tasks(variant: Variant) -> list[tuple[int, ...]]:
    """Returns the widths before each of ten tasks: those of `POINTS`, interpolated linearly between them."""
    known = [point for point in POINTS if point.variant == variant]
    layers = [
        np.interp(range(TASKS), [point.task for point in known], layer)
        for layer in zip(*(point.widths for point in known), strict=True)
    ]
    return [tuple(round(width) for width in widths) for widths in zip(*layers, strict=True)]
