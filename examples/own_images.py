"""Learns folders of images day by day, and draws all classes afterwards. Images that are learnt can be deleted.

    python -m examples.own_images                       # two days of digits, in folders that it makes
    python -m examples.own_images runs/mine monday      # monday/cat/0001.jpg, monday/dog/... and so on
    python -m examples.own_images runs/mine tuesday     # another day brings new classes

Stopped? The same command again goes on. docs/own-images.md explains more, and has commands that need no Python.
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from dgm_jax import Callback, Learner, data, load_memory
from dgm_jax.config import BY_IMAGES, best
from dgm_jax.errors import NoMemory

SIZE = 16  # Side of the images in pixels; 32 or 64 for photographs. All days have the same.
PER_CLASS = 100  # Of the digits.


class Accuracy(Callback):
    """Prints the accuracy on each class after each task; a learner prints nothing by itself."""

    def on_task_end(self, event):
        shares = zip(event.class_names, event.accuracy["consolidated"])  # None for classes of earlier days.
        print(", ".join(f"{name} {share:.1%}" for name, share in shares if share is not None))

    def on_note(self, text):
        print(f"note: {text}")


def known(workdir: str) -> tuple[str, ...]:
    """The names of the classes that a run has learnt so far."""
    try:
        return load_memory(workdir).names
    except NoMemory:
        return ()


def learn(folder: Path, workdir: str) -> None:
    """Learns the classes of a folder: a new run, or the next day of the run in `workdir`."""
    if set(data.folder_classes(folder)) <= set(known(workdir)):
        print(f"{folder}: all its classes are learnt already")
        return
    dataset = data.from_folder(folder, size=SIZE)
    # What fits the images, but no sums of their features, which would give single images away (docs/privacy.md).
    config = best("dgma", **dataset.shown).with_changes(image_size=SIZE, combined=False)
    learner = Learner(config, callbacks=[Accuracy()], by_images=BY_IMAGES)  # Another day may have more images.
    learner.fit(data.class_incremental(dataset), workdir)


def draw(workdir: str, picture: Path) -> None:
    """Draws ten images of each class, a class a row, into a PNG file."""
    memory = load_memory(workdir)
    rows = [memory.sample(label, 10, jax.random.key(0)) for label in memory.labels]  # In [-1, 1].
    whole = np.concatenate([np.concatenate(list(np.asarray(row)), axis=1) for row in rows])
    Image.fromarray(np.round((whole + 1) * 127.5).astype(np.uint8).squeeze()).save(picture)
    print(f"{picture} shows images drawn of {', '.join(memory.names)}")


def write_digits(folder: Path, labels: tuple[int, ...]) -> None:
    """Writes the digits that come with the package as files, in a folder for each class."""
    digits = data.load("digits").of_classes(labels).first_per_class(PER_CLASS)
    for row, (image, label) in enumerate(zip(digits.x_train, digits.y_train)):
        of_class = folder / digits.class_names[label]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(of_class / f"{row:04}.png")


def main(workdir: str = "runs/own-images", *folders: str) -> None:
    """Learns these folders one after the other, or digits if there are none; then draws."""
    for folder in folders:
        learn(Path(folder), workdir)
    if not folders:
        with tempfile.TemporaryDirectory() as days:
            for day, labels in (("monday", (0, 1)), ("tuesday", (2, 3))):
                write_digits(Path(days, day), labels)
                learn(Path(days, day), workdir)
    draw(workdir, Path(workdir, "drawn.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
