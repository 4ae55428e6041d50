"""`python -m dgm_jax predict`: the classes of images or vectors, by the classifier of a run or of an exported file."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from dgm_jax.commands.arguments import Debug, RunOrFile, Switch, require_run_or_file, several
from dgm_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from dgm_jax.memory.classifier import Predicting

_ARRAYS = (".npy", ".npz")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Predict the class of image files, or of vectors, with a run's classifier, among the classes it has learnt."""

    workdir: RunOrFile
    images: Annotated[Positional[tuple[Path, ...]], several("IMAGE")]
    """image files; or .npy and .npz files of vectors [n, d] (an .npz holds one array, or one called x)"""
    reading: Literal["consolidated", "auxiliary", "combined"] | None = None
    """which classifier of a run of dgm or separate (default: consolidated); combined: of a run with --combined"""
    unknown: Switch = False
    """say `unknown` of images that look like none of the classes"""
    debug: Debug = False

    def run(self) -> None:
        """Prints a line for each image or vector: its path (and row), label, class name and probability.

        One that is unknown has no label.
        """
        require_run_or_file(self.workdir)
        if not self.images:
            raise UserError("predict needs at least one image file after the folder of the run")
        for path in self.images:
            if not path.is_file():
                what = "is a folder" if path.is_dir() else "no such file"
                raise UserError(f"{path}: {what}; expected image files, or .npy or .npz files of vectors")

        from dgm_jax.loading import load_classifier
        from dgm_jax.memory.classifier import BadImages

        classifier = load_classifier(self.workdir, reading=self.reading)
        read = self._images if classifier.scale is None else self._vectors
        for path in self.images:
            if (path.suffix.lower() in _ARRAYS) != (classifier.scale is not None):
                wanted = "image files" if classifier.scale is None else "vectors, in .npy or .npz files"
                raise UserError(f"{path}: the classifier of {self.workdir} reads {wanted}")
        names = dict(zip(classifier.labels, classifier.names))
        for path, places, values in read(classifier):
            try:
                labels, probabilities = classifier.predict(values)
            except BadImages as error:
                raise UserError(f"{path}: {error}") from error
            unknown = classifier.is_unknown(values) if self.unknown else [False] * len(labels)
            for place, label, probability, is_unknown in zip(places, labels, probabilities.max(axis=1), unknown):
                said = "-\tunknown" if is_unknown else f"{label}\t{names[label]}"
                print(f"{place}\t{said}\t{probability:.3f}")

    def _images(self, classifier: "Predicting") -> Iterator[tuple[Path, list[str], "np.ndarray"]]:
        from dgm_jax.data.image_files import read_images

        height, _, channels = classifier.image_shape
        pixels = read_images(
            self.images,
            size=height,
            channels=channels,
            on_note=lambda note: print(f"note: {note}", file=sys.stderr),
        )
        yield self.images[0], [str(path) for path in self.images], pixels

    def _vectors(self, classifier: "Predicting") -> Iterator[tuple[Path, list[str], "np.ndarray"]]:
        from dgm_jax.data.vectors import read_vectors

        for path in self.images:
            vectors = read_vectors(path)
            yield path, [f"{path}:{row}" for row in range(len(vectors))], vectors
