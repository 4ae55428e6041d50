"""What a memory draws after each task, in the folder of a run: pictures, or vectors."""

from collections.abc import Callable

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

    The key is the seed's. It does not depend on the task: exact retention shows as equal rows in all pictures.
    """
    files.make_folder(folder.samples)
    n = _DRAWN if stream.scale is None else _VECTORS
    drawn = {
        name: memory.sample_index(index, n, derive_key(key, Purpose.SHOW, index))
        for index, name in enumerate(stream.class_names[: stream.n_seen(task)])
    }
    arrays, labels = folder.samples / f"after_task_{task:02d}.npz", np.asarray(stream.classes[: len(drawn)])
    if stream.scale is not None:
        files.write_npz(arrays, labels=labels, vectors=np.stack(list(drawn.values())))
        return
    files.write_npz(
        arrays,
        labels=labels,
        images=pictures.to_uint8(np.concatenate(list(drawn.values()))).reshape(len(drawn), _DRAWN, *stream.image_shape),
    )
    try:
        picture = pictures.labelled_grid(drawn, scale=max(1, _PIXELS // stream.image_shape[0]))
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
