"""The moments of a run at which things are measured: before which task, at which widths, with which settings."""

from dataclasses import dataclass

import numpy as np

from dgm_jax.config import Config, Variant, preset

TASKS = 10


@dataclass(frozen=True)
class Point:
    """A moment of a run: before a task, at the widths that the generator had grown to."""

    variant: Variant
    task: int
    widths: tuple[int, ...]
    pytorch_seconds: float | None = None  # An iteration in PyTorch on two quiet CPU cores (ALGORITHM, section 11).

    @property
    def name(self) -> str:
        """How the command line and the JSON call it."""
        return f"{self.variant}-{self.task}"


# Widths that generators of the authors' settings were seen to grow to on MNIST.
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
    """The authors' settings for MNIST, with the gate last."""
    return preset("paper-mnist", variant).with_changes(gate_position="last")


def widths_of_tasks(variant: Variant) -> list[tuple[int, ...]]:
    """The widths before each of ten tasks: those of `POINTS`, and on a line between them."""
    known = [point for point in POINTS if point.variant == variant]
    layers = [
        np.interp(range(TASKS), [point.task for point in known], layer)
        for layer in zip(*(point.widths for point in known), strict=True)
    ]
    return [tuple(round(width) for width in widths) for widths in zip(*layers, strict=True)]
