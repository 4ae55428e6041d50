"""Streams that a run meets one after the other, on several days, and where one that it is given now belongs.

A run stands at the end of a day, or in the midst of one, by its newest whole checkpoint, whatever other files say. In
the midst it goes on with the images of that day alone. At the end it takes any stream of new classes; one that was
announced there but not begun gives way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from dgm_jax.data import Past, TaskStream
from dgm_jax.data.stream import describe
from dgm_jax.errors import OtherConfiguration


@dataclass(frozen=True)
class Met:
    """What a run has met, as its config.json says."""

    stream: Mapping[str, Any]  # Describes all days together.
    names: tuple[str, ...]
    days: tuple[int, ...]  # Tasks of each day.

    def first(self, n: int) -> "Met":
        """The first n days."""
        n_tasks = sum(self.days[:n])
        tasks = self.stream["tasks"][:n_tasks]
        stream = {
            **self.stream,
            "fingerprint": "+".join(self.stream["fingerprint"].split("+")[:n]),
            "tasks": tasks,
            "train_counts": self.stream["train_counts"][:n_tasks],
        }
        return Met(stream, self.names[: sum(map(len, tasks))], self.days[:n])

    def past(self) -> Past:
        """What is left of it once its images are gone."""
        return Past(
            name=self.stream["dataset"],
            tasks=tuple(map(tuple, self.stream["tasks"])),
            class_names=self.names,
            train_counts=tuple(map(tuple, self.stream["train_counts"])),
            fingerprint=self.stream["fingerprint"],
        )


@dataclass(frozen=True)
class Placed:
    """A stream as the run meets it."""

    stream: TaskStream
    days: tuple[int, ...]  # Tasks of each day, the stream's own last.
    fits: bool  # It is known to fit what the run has met, which it replaces or adds to.
    dropped: tuple[str, ...] = ()  # Classes that were announced, and give way.


def place(stream: TaskStream, met: Met, finished_tasks: int, epochs_done: int) -> Placed:
    """Finds where a stream belongs.

    Args:
      stream: its images are at hand.
      met: what the run has met so far.
      finished_tasks: by its newest whole checkpoint.
      epochs_done: of the task after those.

    Raises:
      OtherConfiguration: if the run is in the midst of another day, or the stream has classes of an earlier day and new
        ones, or images of another shape.
    """
    ends = list(accumulate(met.days))
    over = sum(end <= finished_tasks for end in ends)  # Days that are learnt.
    plain = Placed(stream, (stream.n_tasks,), False)
    begun = epochs_done > 0 or finished_tasks > (ends[over - 1] if over else 0)
    # The day that the run is in, or announced; else the one that it ended last, which is then finished already.
    for day in (over,) if begun else (over, over - 1):
        if 0 <= day < len(met.days):
            candidate = _after(stream, met.first(day))
            known = met.first(day + 1)
            if (
                candidate is not None
                and describe(candidate) == known.stream
                and tuple(candidate.class_names) == known.names
            ):
                return Placed(candidate, met.days[: day + 1], True, met.names[len(known.names) :])
    again = [name for name in stream.class_names if name in met.first(over).names]
    if len(again) == stream.n_classes and (len(met.days) == 1 or not over):
        return plain
    if begun:
        if over or not set(stream.class_names) & set(met.names):
            classes = ", ".join(met.first(over + 1).names[len(met.first(over).names) :][:5])
            raise OtherConfiguration(
                f"has not learnt all of {classes} yet; go on with their images first, or choose another --workdir"
            )
        return plain
    if not over:
        return plain
    if again:
        raise OtherConfiguration(
            f"has learnt class {again[0]} before; a class belongs to one day: leave its images out, or choose another "
            "--workdir"
        )
    if list(stream.image_shape) != met.stream["image_shape"]:
        shapes = ("x".join(map(str, shape)) for shape in (met.stream["image_shape"], stream.image_shape))
        raise OtherConfiguration(
            "has learnt images of {}, these are {}; give the --image-size of the first day, and images with its number "
            "of channels, or choose another --workdir".format(*shapes)
        )
    learnt = met.first(over)
    if stream.fingerprint in learnt.stream["fingerprint"].split("+"):
        raise OtherConfiguration("has learnt these very images before, under other names; choose another --workdir")
    return Placed(stream.after(learnt.past()), (*learnt.days, stream.n_tasks), True, met.names[len(learnt.names) :])


def _after(stream: TaskStream, met: Met) -> TaskStream | None:
    """The stream after what was met; None if they share a class."""
    if not met.days:
        return stream
    return None if set(met.names) & set(stream.class_names) else stream.after(met.past())


def met_before(config: Mapping[str, Any]) -> Met | None:
    """What config.json says that the run has met; None of the first runs, which did not name classes."""
    if "class_names" not in config or "stream" not in config:
        return None
    stream: Mapping[str, Any] = config["stream"]
    days: Sequence[int] = config.get("days", [len(stream["tasks"])])
    return Met(stream, tuple(config["class_names"]), tuple(days))
