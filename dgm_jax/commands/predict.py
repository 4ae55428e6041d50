"""`python -m dgm_jax predict`: the classes of images, by the classifier of a run or of an exported file."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from dgm_jax.commands.arguments import Debug, RunOrFile, Switch, require_run_or_file, several
from dgm_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Predict the class of image files with the classifier of a run, among the classes that it has learnt."""

    workdir: RunOrFile
    images: Annotated[Positional[tuple[Path, ...]], several("IMAGE")]
    """image files"""
    reading: Literal["consolidated", "auxiliary"] = "consolidated"
    """which classifier of a run"""
    unknown: Switch = False
    """say `unknown` of images that look like none of the classes"""
    debug: Debug = False

    def run(self) -> None:
        """Prints a line for each image: its path, label, class name and probability; without label if it is unknown."""
        require_run_or_file(self.workdir)
        if not self.images:
            raise UserError("predict needs at least one image file after the folder of the run")
        for path in self.images:
            if not path.is_file():
                raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected image files")

        import numpy as np

        from dgm_jax.data.image_files import read_images
        from dgm_jax.loading import load_classifier

        classifier = load_classifier(self.workdir, reading=self.reading)
        height, _, channels = classifier.image_shape
        pixels = read_images(
            self.images,
            size=height,
            channels=channels,
            on_note=lambda note: print(f"note: {note}", file=sys.stderr),
        )
        labels, probabilities = classifier.predict(pixels)
        unknown = classifier.is_unknown(pixels) if self.unknown else np.zeros(len(pixels), bool)
        names = dict(zip(classifier.labels, classifier.names))
        for path, label, probability, is_unknown in zip(self.images, labels, probabilities.max(axis=1), unknown):
            said = "-\tunknown" if is_unknown else f"{label}\t{names[label]}"
            print(f"{path}\t{said}\t{probability:.3f}")
