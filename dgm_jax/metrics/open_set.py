"""How well a score tells known classes from unknown ones, as pure functions of arrays (docs/confidence.md)."""

import numpy as np


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The area under the ROC curve: the share of pairs in which the known image has the higher score; ties count half.

    Args:
      known: scores of images of known classes, [n], n > 0.
      unknown: scores of images of unknown classes, [m], m > 0.
    """
    ordered = np.sort(unknown)
    below, up_to = (np.searchsorted(ordered, known, side=side) for side in ("left", "right"))
    return float(np.mean(below + up_to) / (2 * len(unknown)))


def oscr(known: np.ndarray, is_correct: np.ndarray, unknown: np.ndarray) -> float:
    """The area under the OSCR curve (Dhamija et al. 2018), as Vaze et al. (2022) report it.

    The curve has for each threshold the share of known images that are accepted *and* classified correctly, over the
    share of unknown images that are accepted. So its area is the share of pairs of a known and an unknown image in
    which the known one is classified correctly and has the higher score; ties count half. A perfect score reaches the
    accuracy on known classes.

    Args:
      known: scores of images of known classes, [n], n > 0.
      is_correct: whether these are classified correctly, bool [n].
      unknown: scores of images of unknown classes, [m], m > 0.
    """
    return auroc(known[is_correct], unknown) * float(np.mean(is_correct)) if is_correct.any() else 0.0
