"""A finished run continues with new classes, or more images of known ones: where a stream that it is given belongs.

Tasks reach a run in stages, one stream each. By its newest whole checkpoint, whatever other files say, a run stands at
the end of a stage or within one. Within a stage it continues with the images of that stage only. At the end it takes
any stream of new classes, and drops one that was announced but not begun. If it is asked to, it also takes a stream
that has classes which it knows: as more images of these.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, compress, pairwise
from typing import Any

from dgm_jax.data import Past, TaskStream
from dgm_jax.data.order import classes_of
from dgm_jax.data.stream import describe
from dgm_jax.errors import OtherConfiguration
from dgm_jax.runs.reading import StoredConfig, scale_in


@dataclass(frozen=True)
class LearntSoFar:
    """What a run has seen so far, as its config.json says."""

    stream: Mapping[str, Any]  # Describes all stages together.
    names: tuple[str, ...]
    stages: tuple[int, ...]  # Tasks of each stage.

    @classmethod
    def of(cls, config: StoredConfig) -> "LearntSoFar | None":
        """From config.json; None for the earliest runs, which did not name classes."""
        if config.class_names is None or config.stream is None:
            return None
        return cls(config.stream, config.class_names, config.stages)

    def first(self, n: int) -> "LearntSoFar":
        """The first n stages."""
        return self.first_tasks(sum(self.stages[:n]))

    def first_tasks(self, n: int) -> "LearntSoFar":
        """The first n tasks; the last of their stages may then be shorter than it was."""
        begins = [end - size for end, size in zip(accumulate(self.stages), self.stages)]
        stages = tuple(min(size, n - begin) for begin, size in zip(begins, self.stages) if begin < n)
        tasks = self.stream["tasks"][:n]
        stream = {
            **self.stream,
            "fingerprint": "+".join(self.stream["fingerprint"].split("+")[: len(stages)]),
            "tasks": tasks,
            "train_counts": self.stream["train_counts"][:n],
        }
        return LearntSoFar(stream, self.names[: len(classes_of(tasks))], stages)

    def of_classes(self, kept: Collection[int], n_tasks: int) -> "LearntSoFar":
        """These classes, by label, of the first `n_tasks` tasks; tasks and stages that are left without a class go."""
        stays = [[label in kept for label in task] for task in self.stream["tasks"][:n_tasks]]
        ends = accumulate(self.stages, initial=0)
        sizes = [sum(map(any, stays[start:end])) for start, end in pairwise(ends)]
        parts = zip(self.stream["fingerprint"].split("+"), sizes, strict=True)
        stream = {**self.stream, "fingerprint": "+".join(part for part, size in parts if size)}
        for fact in ("tasks", "train_counts"):  # Of each class of each task.
            rows = [list(compress(row, stay)) for row, stay in zip(self.stream[fact], stays)]
            stream[fact] = [row for row in rows if row]
        labels = classes_of(self.stream["tasks"][:n_tasks])
        names = tuple(name for name, label in zip(self.names, labels) if label in kept)
        return LearntSoFar(stream, names, tuple(size for size in sizes if size))

    def past(self) -> Past:
        """What is left of it once its images are gone."""
        return Past(
            name=self.stream["dataset"],
            tasks=tuple(map(tuple, self.stream["tasks"])),
            class_names=self.names,
            train_counts=tuple(map(tuple, self.stream["train_counts"])),
            fingerprint=self.stream["fingerprint"],
            scale=scale_in(self.stream),
        )

    def then(self, stream: TaskStream) -> TaskStream:
        """A stream as the next stage; classes that are known by name are these."""
        return stream.after(self.past(), more_of_known=True) if self.stages else stream

    def names_of_stage(self, stage: int) -> tuple[str, ...]:
        """The classes of a stage, new or known."""
        names = dict(zip(classes_of(self.stream["tasks"]), self.names))
        start = sum(self.stages[:stage])
        return tuple(names[label] for label in classes_of(self.stream["tasks"][start : start + self.stages[stage]]))


@dataclass(frozen=True)
class Placement:
    """A stream, and where it belongs in a run."""

    stream: TaskStream
    stages: tuple[int, ...]  # Tasks of each stage, the stream's last.
    known: bool  # The stream is known to fit what the run has seen, which it replaces or adds to.
    begins: bool = False  # Nothing of the stream is learnt yet.
    dropped: tuple[str, ...] = ()  # Classes that were announced but not learnt, and are given up.


def place_stream(
    stream: TaskStream, learnt: LearntSoFar, finished_tasks: int, epochs_done: int, *, more_of_known: bool = False
) -> Placement:
    """Finds where a stream belongs.

    Args:
      stream: its images are here.
      learnt: what the run has seen so far.
      finished_tasks: by its newest whole checkpoint.
      epochs_done: of the task after those.
      more_of_known: whether a stream that the run does not know yet may have more images of classes that it knows.

    Raises:
      OtherConfiguration: if the run is within another stage, or the stream has classes of an earlier stage and new
        ones and `more_of_known` is False, or images of another shape, or the very images of an earlier stage.
    """
    n_over = sum(end <= finished_tasks for end in accumulate(learnt.stages))  # Stages that are learnt.
    alone, seen = Placement(stream, (stream.n_tasks,), known=False), set(learnt.names)
    over = learnt.first(n_over)
    is_within = epochs_done > 0 or finished_tasks > sum(over.stages)
    if (found := _known_stage(stream, learnt, n_over, is_within=is_within)) is not None:
        return found
    again = [name for name in stream.class_names if name in over.names]
    may_follow = more_of_known and n_over and not is_within
    if len(again) == stream.n_classes and (len(learnt.stages) == 1 or not n_over) and not may_follow:
        return alone
    if is_within and (n_over or not seen & set(stream.class_names)):
        classes = ", ".join(learnt.names_of_stage(n_over)[:5])
        raise OtherConfiguration(
            f"has not learnt all of {classes} yet; continue with their images first, or choose another --workdir"
        )
    if is_within or not n_over:
        return alone
    _require_new(stream, learnt, over, [] if more_of_known else again)
    return Placement(
        over.then(stream),
        (*over.stages, stream.n_tasks),
        known=True,
        begins=True,
        dropped=learnt.names[len(over.names) :],
    )


def place_after(stream: TaskStream, learnt: LearntSoFar, n_tasks: int, *, more_of_known: bool = False) -> Placement:
    """Finds where a stream belongs if a run starts again after its first tasks: one that it learnt then, or a new one.

    Args:
      stream: its images are here.
      learnt: what the run has seen, those tasks and perhaps more.
      n_tasks: how many of its tasks count, at least 1.
      more_of_known: whether a stream that the run does not know may have more images of classes of these tasks.

    Raises:
      OtherConfiguration: if the stream has classes of these tasks, but is not the stage that they came in, and
        `more_of_known` is False; or if it is new and has images of another shape, or the very images of an earlier
        stage.
    """
    so_far = learnt.first_tasks(n_tasks)
    again = [name for name in stream.class_names if name in so_far.names]
    if again:
        n_over = sum(end <= n_tasks for end in accumulate(learnt.stages))
        is_within = n_tasks > sum(learnt.stages[:n_over])
        if (found := _known_stage(stream, learnt, n_over, is_within=is_within)) is not None:
            return found
        if not more_of_known:
            raise OtherConfiguration(
                f"knows class {again[0]}, and this is not the stream that the class came in; give the same images, "
                "order and sizes of tasks as then, or new classes only, or, if these are more images of classes that "
                "it knows, pass --more-of-known"
            )
    _require_new(stream, so_far, so_far, [])
    return Placement(so_far.then(stream), (*so_far.stages, stream.n_tasks), known=True)


def _known_stage(stream: TaskStream, learnt: LearntSoFar, n_over: int, *, is_within: bool) -> Placement | None:
    """The stream as the stage that the run is in, or that was announced; else as the one that it ended last."""
    for stage in (n_over,) if is_within else (n_over, n_over - 1):
        found = _as_stage(stream, learnt, stage)
        if found is not None:
            return replace(found, begins=stage == n_over and not is_within)
    return None


def _as_stage(stream: TaskStream, learnt: LearntSoFar, stage: int) -> Placement | None:
    """The stream as a stage that the run knows; None if it is another."""
    if not 0 <= stage < len(learnt.stages):
        return None
    candidate, known = learnt.first(stage).then(stream), learnt.first(stage + 1)
    if describe(candidate) != known.stream or tuple(candidate.class_names) != known.names:
        return None
    return Placement(candidate, known.stages, known=True, dropped=learnt.names[len(known.names) :])


def _require_new(stream: TaskStream, learnt: LearntSoFar, over: LearntSoFar, again: list[str]) -> None:
    """Refuses a stream that cannot come after what is learnt."""
    if again:
        raise OtherConfiguration(
            f"has learnt class {again[0]} before; a class belongs to one stage: leave its images out, or choose "
            "another --workdir, or, if these are more images of a class that it knows, pass --more-of-known"
        )
    if (stream.scale is None) != (scale_in(learnt.stream) is None):
        before, now = ("images", "vectors") if stream.scale is not None else ("vectors", "images")
        raise OtherConfiguration(f"has learnt {before}, these are {now}; choose another --workdir")
    if list(stream.image_shape) != learnt.stream["image_shape"] and stream.scale is not None:
        raise OtherConfiguration(
            f"has learnt vectors of {learnt.stream['image_shape'][2]} numbers, these have {stream.image_shape[2]}; "
            "give vectors of the same network, or choose another --workdir"
        )
    if list(stream.image_shape) != learnt.stream["image_shape"]:
        before, now = ("x".join(map(str, shape)) for shape in (learnt.stream["image_shape"], stream.image_shape))
        raise OtherConfiguration(
            f"has learnt images of {before}, these are {now}; give the --image-size of the first stage, and images "
            "with its number of channels, or choose another --workdir"
        )
    if stream.fingerprint in over.stream["fingerprint"].split("+"):
        raise OtherConfiguration(
            "has learnt these very images before, under other names or in an earlier stage; choose another --workdir"
        )
