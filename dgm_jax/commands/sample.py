"""`python -m dgm_jax sample`: images or vectors of learnt classes, from the memory of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dgm_jax.commands.arguments import AfterTask, Debug, RunOrFile, require_place, require_run_or_file, shown
from dgm_jax.data.classes import find_classes, titled
from dgm_jax.errors import UserError
from dgm_jax.system.interruption import Signals

if TYPE_CHECKING:
    import numpy as np

    from dgm_jax import Memory

_COLUMNS = 16  # Images in a row of a picture; more images of a class go to further rows.
_MOST_IN_PICTURE = 10_000
_SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw images of learnt classes from the memory of a run: as one picture, or as a file for each image. Vectors are
    drawn into one .npz file."""

    workdir: RunOrFile
    classes: Annotated[tuple[str, ...], shown("CLASS [CLASS ...]")]
    """classes, by label or by name"""
    n: Annotated[int, shown("N")] = 64
    """number of images, or vectors, of each class"""
    out: Annotated[Path, shown("FILE|FOLDER")]
    """picture to write, e.g. grid.png, or a folder (any other name) for FOLDER/LABEL/000000.png and so on; for vectors
    a file such as drawn.npz, with the arrays x, [n, d], and y, their labels"""
    seed: Annotated[int, shown("SEED")] = 0
    """another seed draws other images"""
    mode: Annotated[int | None, shown("K", "all, in proportion to the training images of each")] = None
    """draw this mode of each class only, from 0: a class has a mode for each task that brought images of it"""
    after_task: AfterTask = None
    debug: Debug = False

    def run(self) -> None:
        """Draws and writes the images."""
        in_picture = self.out.suffix.lower() == ".png"
        self._check(in_picture)  # This refuses what it can before the slow imports and the drawing.

        with Signals(sigterm=False) as signals:  # JAX can lose a Ctrl-C, and many images take long.
            self._draw(in_picture, signals)

    def _draw(self, in_picture: bool, signals: Signals) -> None:
        import numpy as np

        import dgm_jax
        from dgm_jax.data import pictures
        from dgm_jax.system import files
        from dgm_jax.system.pinned import new_key

        memory = dgm_jax.load_memory(self.workdir, after_task=self.after_task)
        known = dict(zip(memory.labels[: memory.n_classes], memory.names))
        labels = find_classes(self.classes, known)
        self._check_mode(memory, labels, known)
        key = new_key(self.seed)
        what, wanted = "images", "a picture's name that ends in .png, or a folder"
        if memory.scale is not None:
            what, wanted = "vectors", "a file's name that ends in .npz"
        if self._in_arrays != (what == "vectors"):
            raise UserError(f"--out {self.out}: the memory draws {what}; expected {wanted}")
        if self._in_arrays:
            drawn = np.concatenate([memory.sample(label, self.n, key, mode=self.mode) for label in labels])
            files.write_npz(self.out, x=drawn, y=np.repeat(labels, self.n))
        elif in_picture:
            rows = {titled(label, known[label]): memory.sample(label, self.n, key, mode=self.mode) for label in labels}
            pictures.write_png(self.out, pictures.labelled_grid(rows, columns=min(self.n, _COLUMNS)))
        else:
            parts = {label: memory.stream(label, self.n, key, mode=self.mode) for label in labels}
            _write_each(parts, self.n, self.out, signals)
        print(f"{self.n} {what} of each of {len(labels)} classes are in {self.out}")

    def _check_mode(self, memory: "Memory", labels: Sequence[int], known: Mapping[int, str]) -> None:
        if self.mode is None:
            return
        for label in labels:
            there = len(memory.modes(label))
            if self.mode >= there:
                raise UserError(
                    f"--mode {self.mode}: class {titled(label, known[label])} has {there} mode{'s' * (there > 1)}, "
                    "numbered from 0: one for each task that brought images of it (learn ... --more-of-known)"
                )

    @property
    def _in_arrays(self) -> bool:
        return self.out.suffix.lower() == ".npz"

    def _check(self, in_picture: bool) -> None:
        if not self.classes:
            raise UserError("--classes needs at least one class, e.g. --classes 3 7")
        if self.n < 1:
            raise UserError(f"--n {self.n}: expected at least 1 image of each class")
        if self.mode is not None and self.mode < 0:
            raise UserError(f"--mode {self.mode}: expected the number of a mode; the first one is 0")
        if not 0 <= self.seed < _SEEDS:
            raise UserError(f"--seed {self.seed}: expected a whole number from 0 to {_SEEDS - 1}")
        require_run_or_file(self.workdir)
        if in_picture:
            require_place(self.out, "--out ", "grid.png")
            if self.n * len(self.classes) > _MOST_IN_PICTURE:
                raise UserError(
                    f"--n {self.n}: more than {_MOST_IN_PICTURE:,} images do not fit into a picture; give a folder, "
                    f"e.g. --out {self.out.with_suffix('')}, for a file each"
                )
        elif self._in_arrays:
            require_place(self.out, "--out ", "drawn.npz")
        elif self.out.is_file() or (self.out.suffix and not self.out.is_dir()):
            raise UserError(f"--out {self.out}: expected a picture's name that ends in .png, or a folder")


def _write_each(parts: Mapping[int, Iterator["np.ndarray"]], n: int, out: Path, signals: Signals) -> None:
    """Writes a file for each image of each label, in parts: all images together may not fit into memory."""
    from dgm_jax.data import pictures
    from dgm_jax.reporting.console import progress_bar

    folders = {label: out / str(label) for label in parts}
    full = [str(folder) for folder in folders.values() if folder.is_dir() and any(folder.iterdir())]
    if full:
        raise UserError(f"--out {out}: files exist already in {', '.join(full)}; choose another folder")
    with progress_bar(n * len(folders), "writing images") as advance:
        for label, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            done = 0
            for part in parts[label]:
                signals.raise_if_heard()
                for image in pictures.to_uint8(part):
                    pictures.write_png(folder / f"{done:06}.png", image)
                    done += 1
                advance(len(part))
