"""`python -m dgm_jax prepare`: a data set in the format that runs read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from dgm_jax.commands.arguments import Debug


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Download a data set, or convert its tfrecord files, to the array_record format that runs read.

    Only this command needs TensorFlow: python -m pip install tensorflow-cpu importlib_resources
    """

    name: Annotated[Positional[str], arg(metavar="NAME", help="mnist, fashion, ..., or any name that TFDS has")]
    data_dir: Annotated[Path, arg(metavar="DIR", help="folder that holds the data sets of TensorFlow Datasets")]
    debug: Debug = False

    def run(self) -> None:
        """Prepares the data set."""
        from dgm_jax.data.prepare import prepare

        print(f"{self.name} is ready in {prepare(self.name, self.data_dir)}")
