"""Learn classes on the features of any network, one class after the other, and use what was learnt.

    python -m examples.vectors features.npz runs/features

The file holds x_train and x_test, floats [n, d], and y_train and y_test, integers [n]. A network gives such vectors of
your images batch by batch. In PyTorch, for example, with the head of the network left out:

    with torch.no_grad():
        vectors = [backbone(batch).flatten(1).numpy() for batch in loader]
    np.savez("features.npz", x_train=np.concatenate(vectors), ...)
"""

import sys

import jax
import numpy as np

from dgm_jax import Learner, data, load_classifier, load_memory
from dgm_jax.config import preset


def main(npz: str, workdir: str) -> None:
    """Learns the vectors of a file in tasks of one class, then draws and predicts."""
    dataset = data.from_npz(npz)
    stream = data.class_incremental(dataset)  # Tasks of one class, in the order of their labels.
    config = preset("vectors", "dgma").with_changes(combined=True)
    if stream.n_classes >= config.networks.noise_dim:  # The noise carries the class.
        config = config.with_changes(noise_dim=2 * stream.n_classes)
    summary = Learner(config).fit(stream, workdir)  # Run it again to resume; it prints nothing by itself.
    for reading, accuracy in summary[f"A_{stream.n_classes}"].items():
        print(f"{reading:14} {100 * accuracy['macro']:5.1f} %")

    memory, classifier = load_memory(workdir), load_classifier(workdir)
    label = memory.labels[0]
    drawn = np.asarray(memory.sample(label, 100, jax.random.key(0)))  # As the file has them: [100, d].
    labels, _ = classifier.predict(drawn)
    print(f"of 100 vectors drawn of class {label}, {np.mean(labels == label):.0%} are recognised")


if __name__ == "__main__":
    main(*sys.argv[1:])
