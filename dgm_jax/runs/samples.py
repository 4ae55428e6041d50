"""Pictures of what a memory draws after each task, in the folder of a run."""

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
_PIXELS = 48  # Side at which each is shown, if that is more than it has.


def write_samples(
    folder: Workdir, stream: TaskStream, task: int, memory: Memory, key: jax.Array, note: Callable[[str], None]
) -> None:
    """Writes images of every class seen after a task, as arrays and as a picture.

    The key is the seed's. What is drawn depends neither on the task nor on classes that were forgotten since: exact
    retention shows as equal rows in all pictures.
    """
    files.make_folder(folder.samples)
    drawn = {
        name: memory.sample_index(index, _DRAWN, derive_key(key, Purpose.SHOW, memory.noise_entry(index)))
        for index, name in enumerate(stream.class_names[: stream.n_seen(task)])
    }
    images = pictures.to_uint8(np.concatenate(list(drawn.values()))).reshape(len(drawn), _DRAWN, *stream.image_shape)
    write_drawn(folder, task, dict(zip(drawn, images, strict=True)), np.asarray(stream.classes[: len(drawn)]), note)


def write_drawn(
    folder: Workdir, task: int, drawn: Mapping[str, np.ndarray], labels: np.ndarray, note: Callable[[str], None]
) -> None:
    """Writes what was drawn of each class after a task, uint8 [n, h, w, c] by name, as arrays and as a picture."""
    images = np.stack(list(drawn.values()))
    files.write_npz(folder.samples / f"after_task_{task:02d}.npz", labels=labels, images=images)
    try:
        picture = pictures.labelled_grid(drawn, scale=max(1, _PIXELS // images.shape[2]))
        pictures.write_png(folder.samples / f"after_task_{task:02d}.png", picture)
    except ModuleNotFoundError as error:  # A missing picture must not abort a run.
        note(f"no picture of the memory's images was written, because {error}")


def write_real(folder: Workdir, stream: TaskStream, task: int) -> None:
    """Keeps a few real images of each class of the current task, for the page."""
    files.make_folder(folder.samples)
    pixels, indices = stream.train(task)
    real = {f"class_{index}": pixels[indices == index][:_REAL] for index in stream.tasks[task]}
    files.write_npz(folder.samples / f"real_{task:02d}.npz", **real)
