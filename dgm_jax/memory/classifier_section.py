"""The section of a file that holds a classifier: its arrays under the names that they have in a checkpoint."""

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from dgm_jax.data.dataset import composed
from dgm_jax.memory.checks import require_array, require_classes, require_images, scale_in
from dgm_jax.memory.classifier import CONFIDENCE, Classifier
from dgm_jax.memory.container import DamagedMemoryFile, Section
from dgm_jax.models import OF_VECTORS, pair
from dgm_jax.system.pinned import new_key
from dgm_jax.types import DiscriminatorParams, Statistics

Arrays = dict[str, np.ndarray]
_Tree = tuple[DiscriminatorParams, list[Statistics]]


@dataclass(frozen=True)
class _Header:
    network: str
    image_size: int
    channels: int
    labels: list[int]
    names: list[str]

    def layout(self, width: int) -> _Tree:
        """Arrays of the shapes that a network of this width has, with one class."""
        return pair(self.network).init_discriminator(
            new_key(0), width=width, image_size=self.image_size, channels=self.channels, n_classes=1
        )

    def shapes(self, tensors: Arrays) -> dict[str, tuple[int, ...]]:
        """The shapes that all arrays must have, given those of the two heads."""
        one, two = (_by_name(self.layout(width)) for width in (1, 2))
        features = one["params.critic.kernel"].shape[0]
        width = tensors["params.critic.kernel"].shape[0] // features
        if width < 1:
            raise DamagedMemoryFile("its classifier has no units")
        # Every dimension of every array is a constant or a multiple of the width.
        shapes = {
            name: tuple(a + (b - a) * (width - 1) for a, b in zip(one[name].shape, two[name].shape)) for name in one
        }
        n = len(tensors["params.classifier.bias"])
        return shapes | {"params.classifier.kernel": (width * features, n), "params.classifier.bias": (n,)}


def encode(classifier: Classifier) -> Section:
    """A classifier as a section; the same classifier gives the same section."""
    height, _, channels = classifier.image_shape
    header = _Header(classifier.network, height, channels, list(classifier.labels), list(classifier.names))
    # Predicting needs no critic that is conditioned on the class.
    params = replace(classifier.params, projection=None)
    tensors = {name: np.asarray(array) for name, array in _by_name((params, classifier.statistics)).items()}
    if classifier.scale is not None:
        tensors["scale"] = np.stack([classifier.scale.mean, classifier.scale.deviation])
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise TypeError(f"a classifier's numbers are float32, found {name} of {array.dtype}")
    return Section(dataclasses.asdict(header), tensors)


def encode_confidence(classifier: Classifier) -> Section:
    """The section `confidence`: readers that do not know it can predict without."""
    threshold = None if classifier.threshold is None else float(classifier.threshold)
    return Section({"optional": True, "temperature": float(classifier.temperature), "threshold": threshold}, {})


def decode(section: Section, confidence: Section | None = None) -> Classifier:
    """Undoes `encode` and `encode_confidence`; the classifier's logits are bit for bit those of the encoded one.

    Raises:
      DamagedMemoryFile: if a section is none that these make.
    """
    tensors = section.tensors
    try:
        header = _Header(**section.header)
        require_images(header.network, header.image_size, header.channels)
        require_classes(header.labels, header.names)
        if list(dataclasses.asdict(header)) != list(section.header):
            raise DamagedMemoryFile("its header is not in the form in which it is written")
        shapes = header.shapes(tensors)
        of_network = list(shapes)
        if header.network == OF_VECTORS:
            shapes["scale"] = (2, header.channels)
    # Other names, other types, heads that are missing or are no matrices.
    except (LookupError, TypeError, AttributeError) as error:
        raise DamagedMemoryFile(
            f"its classifier cannot be read ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if set(tensors) != set(shapes):
        odd = sorted(set(tensors) ^ set(shapes))
        raise DamagedMemoryFile(f"it lacks arrays or has superfluous ones: {', '.join(odd)[:200]}")
    for name, shape in shapes.items():
        require_array(name, tensors[name], np.float32, shape)
        if name.endswith(".var") and (tensors[name] < 0).any():
            raise DamagedMemoryFile("a variance in it is negative")
    if len(tensors["params.classifier.bias"]) < len(header.labels):
        raise DamagedMemoryFile(f"{len(header.labels)} classes, but fewer outputs")
    params, statistics = jax.tree.unflatten(
        jax.tree.structure(header.layout(1)), [tensors[name] for name in of_network]
    )
    return Classifier(
        params=params,
        statistics=statistics,
        network=header.network,
        image_shape=(header.image_size, header.image_size, header.channels),
        labels=tuple(header.labels),
        names=tuple(map(composed, header.names)),
        scale=scale_in(tensors["scale"]) if "scale" in shapes else None,
        **({} if confidence is None else _confidence(confidence)),
    )


def _confidence(section: Section) -> dict[str, Any]:
    header = section.header
    if section.tensors or list(header) != ["optional", *CONFIDENCE] or header["optional"] is not True:
        raise DamagedMemoryFile("its section 'confidence' is not in the form in which it is written")
    temperature, threshold = (header[name] for name in CONFIDENCE)
    if type(temperature) is not float or not 0 < temperature < math.inf:
        raise DamagedMemoryFile(f"a temperature of {str(temperature)[:80]} is not valid")
    if threshold is not None and (type(threshold) is not float or not math.isfinite(threshold)):
        raise DamagedMemoryFile(f"a threshold of {str(threshold)[:80]} is not valid")
    return {"temperature": temperature, "threshold": threshold}


def _by_name(tree: Any) -> Arrays:
    """The arrays of (params, statistics) by their paths, in the order of the tree's leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(dict(zip(("params", "statistics"), tree)))
    return {jax.tree_util.keystr(path, simple=True, separator="."): array for path, array in leaves}
