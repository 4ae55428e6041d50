"""`python -m dgm_jax predict`: the classes of images or vectors, by the classifier of a run or of an exported file."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from dgm_jax.commands.arguments import Debug, RunOrFile, require_run_or_file, several
from dgm_jax.errors import UserError

if TYPE_CHECKING:
    from dgm_jax.memory.classifier import Classifier

_ARRAYS = (".npy", ".npz")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Predict the class of image files, or of vectors, with a run's classifier, among the classes it has learnt."""

    workdir: RunOrFile
    images: Annotated[Positional[tuple[Path, ...]], several("IMAGE")]
    """image files; or .npy and .npz files of vectors [n, d] (an .npz holds one array, or one called x)"""
    reading: Literal["consolidated", "auxiliary"] = "consolidated"
    """which classifier of a run"""
    debug: Debug = False

    def run(self) -> None:
        """Prints a line for each image or vector: its path (and row), label, class name and probability."""
        require_run_or_file(self.workdir)
        if not self.images:
            raise UserError("predict needs at least one image file after the folder of the run")
        for path in self.images:
            if not path.is_file():
                raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected image files")

        from dgm_jax.loading import load_classifier

        classifier = load_classifier(self.workdir, reading=self.reading)
        read = self._images if classifier.scale is None else self._vectors
        for path in self.images:
            if (path.suffix.lower() in _ARRAYS) != (classifier.scale is not None):
                wanted = "image files" if classifier.scale is None else "vectors, in .npy or .npz files"
                raise UserError(f"{path}: the classifier of {self.workdir} reads {wanted}")
        names = dict(zip(classifier.labels, classifier.names))
        for place, label, probability in read(classifier):
            print(f"{place}\t{label}\t{names[label]}\t{probability:.3f}")

    def _images(self, classifier: "Classifier") -> Iterator[tuple[str, int, float]]:
        from dgm_jax.data.image_files import read_images

        height, _, channels = classifier.image_shape
        pixels = read_images(
            self.images,
            size=height,
            channels=channels,
            on_note=lambda note: print(f"note: {note}", file=sys.stderr),
        )
        labels, probabilities = classifier.predict(pixels)
        yield from zip(map(str, self.images), labels, probabilities.max(axis=1))

    def _vectors(self, classifier: "Classifier") -> Iterator[tuple[str, int, float]]:
        from dgm_jax.data.vectors import read_vectors

        for path in self.images:
            vectors = read_vectors(path)
            try:
                labels, probabilities = classifier.predict(vectors)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
            rows = (f"{path}:{row}" for row in range(len(labels)))
            yield from zip(rows, labels, probabilities.max(axis=1))
