"""Whether settings and a stream of tasks fit each other, what tells streams apart, and which goes on where."""

from collections.abc import Mapping
from typing import Any

from dgm_jax.config import Config
from dgm_jax.data import Past, TaskStream
from dgm_jax.errors import ConfigError, OtherConfiguration


def check_fit(config: Config, stream: TaskStream) -> None:
    """Makes sure that settings and stream fit each other; raises ConfigError if they do not."""
    if stream.protocol != config.protocol:
        raise ConfigError(f"protocol={config.protocol!r}, but the stream was made for {stream.protocol!r}")
    if stream.image_shape[:2] != (config.image_size, config.image_size):
        raise ConfigError(
            f"image_size={config.image_size}, but the images are {stream.image_shape[0]}x{stream.image_shape[1]}; "
            f"resize the data set: dataset.resized({config.image_size})"
        )
    if stream.n_classes >= config.noise_dim:
        raise ConfigError(
            f"noise_dim={config.noise_dim} has no room for the one-hot of {stream.n_classes} classes; make it larger"
        )
    smallest = min(range(stream.n_tasks), key=lambda t: sum(stream.train_counts(t)))
    count = sum(stream.train_counts(smallest))
    if config.batch_size > count:
        raise ConfigError(
            f"batch_size={config.batch_size}, but task {smallest} has only {count} training images; use at most {count}"
        )


def describe(stream: TaskStream) -> dict[str, Any]:
    """What tells a stream from another: data, order, tasks, counts."""
    return {
        "dataset": stream.name,
        "fingerprint": stream.fingerprint,
        "tasks": [[stream.classes[c] for c in task] for task in stream.tasks],
        "image_shape": list(stream.image_shape),
        "train_counts": [list(stream.train_counts(t)) for t in range(stream.n_tasks)],
    }


def going_on(stream: TaskStream, known: Mapping[str, Any], names: tuple[str, ...], *, finished: bool) -> TaskStream:
    """A stream as the run in a folder meets it: after what the run has met, where this stream has new classes.

    Args:
      stream: its images are at hand.
      known: describes what the run has met, as `describe` does.
      names: of the classes in it.
      finished: whether the run has learnt all of it.

    Returns:
      The stream after all that is known, if that is finished and no class of the stream is in it; after all but the
      last part, if the stream is that last part; else the stream itself.

    Raises:
      OtherConfiguration: if the run is finished, and the stream has some of its classes, and new ones.
    """

    def past(n_tasks: int, fingerprints: int) -> Past:
        tasks = tuple(map(tuple, known["tasks"][:n_tasks]))
        return Past(
            name=known["dataset"],
            tasks=tasks,
            class_names=names[: sum(map(len, tasks))],
            train_counts=tuple(map(tuple, known["train_counts"][:n_tasks])),
            fingerprint="+".join(known["fingerprint"].split("+")[:fingerprints]),
        )

    before, parts = len(known["tasks"]) - stream.n_tasks, known["fingerprint"].count("+") + 1
    if before > 0 and parts > 1:
        earlier = past(before, parts - 1)
        if not set(earlier.class_names) & set(stream.class_names):
            joined = stream.after(earlier)
            if describe(joined) == known:
                return joined
    again = [name for name in stream.class_names if name in names]
    if finished and 0 < len(again) < stream.n_classes:
        raise OtherConfiguration(
            f"has learnt class {again[0]} before; a class belongs to one day: leave its images out, or choose another "
            "--workdir"
        )
    if finished and not again and list(stream.image_shape) == known["image_shape"]:
        return stream.after(past(len(known["tasks"]), parts))
    return stream
