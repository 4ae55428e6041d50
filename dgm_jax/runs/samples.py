"""What a memory draws after each task, in the folder of a run: pictures, or vectors."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from dgm_jax.data import TaskStream, pictures
from dgm_jax.memory.memory import Memory
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.runs.folder import Workdir
from dgm_jax.system import files

_DRAWN = 12  # Images of each class.
_REAL = 3
_VECTORS = 24  # Of each class, drawn and real: enough for a cloud of points.
_PIXELS = 48  # Side at which each is shown, if that is more than it has.


def write_samples(
    folder: Workdir, stream: TaskStream, task: int, memory: Memory, key: jax.Array, note: Callable[[str], None]
) -> None:
    """Writes images of every class seen after a task, as arrays and as a picture; or vectors, as arrays.

    The key is the seed's. What is drawn depends neither on the task nor on classes that were forgotten since: exact
    retention shows as equal rows in all pictures.
    """
    files.make_folder(folder.samples)
    n = _DRAWN if stream.scale is None else _VECTORS
    drawn = {
        name: memory.sample_index(index, n, derive_key(key, Purpose.SHOW, memory.noise_entry(index)))
        for index, name in enumerate(stream.class_names[: stream.n_seen(task)])
    }
    if stream.scale is None:
        images = pictures.to_uint8(np.concatenate(list(drawn.values())))
        drawn = dict(zip(drawn, images.reshape(len(drawn), n, *stream.image_shape), strict=True))
    write_drawn(folder, task, drawn, np.asarray(stream.classes[: len(drawn)]), note)


def write_drawn(
    folder: Workdir, task: int, drawn: Mapping[str, np.ndarray], labels: np.ndarray, note: Callable[[str], None]
) -> None:
    """Writes what was drawn of each class after a task, by name: as arrays, and images as a picture, too.

    Args:
      folder: of the run.
      task: its number.
      drawn: images, uint8 [n, h, w, c], or vectors, float32 [n, d].
      labels: of the classes.
      note: called with what a person should know.
    """
    arrays, images = folder.samples / f"after_task_{task:02d}.npz", np.stack(list(drawn.values()))
    if images.dtype != np.uint8:
        files.write_npz(arrays, labels=labels, vectors=images)
        return
    files.write_npz(arrays, labels=labels, images=images)
    try:
        picture = pictures.labelled_grid(drawn, scale=max(1, _PIXELS // images.shape[2]))
        pictures.write_png(folder.samples / f"after_task_{task:02d}.png", picture)
    except ModuleNotFoundError as error:  # A missing picture must not abort a run.
        note(f"no picture of the memory's images was written, because {error}")


def write_real(folder: Workdir, stream: TaskStream, task: int) -> None:
    """Keeps a few real images, or vectors, of each class of the current task, for the page."""
    files.make_folder(folder.samples)
    pixels, indices = stream.train(task)
    n = _REAL if stream.scale is None else _VECTORS
    real = {f"class_{index}": pixels[indices == index][:n] for index in stream.tasks[task]}
    if stream.scale is not None:
        real = {name: stream.scale.restored(images) for name, images in real.items()}
    files.write_npz(folder.samples / f"real_{task:02d}.npz", **real)
