"""Attacks that tell images a model learnt from (members) from others (membership inference), as pure functions.

A score is higher for images that look more like members. Of two sets of scores, `metrics.auroc(members, others)` is the
share of pairs in the right order, 0.5 by chance, and `true_positives` what an attack finds that is seldom wrong.
docs/privacy.md has what these attacks find, and what they do not show.
"""

import numpy as np

_ROUNDING = 1e-12  # Keeps a variance above 0 if all shadow runs agree.


def true_positives(members: np.ndarray, others: np.ndarray, *, false_positives: float = 0.01) -> float:
    """The share of members above a threshold that at most a share of the others exceeds.

    Without ties, scores that say nothing find (k + 1) / (m + 1) of the members on average, where k is the whole part of
    `false_positives * m`.

    Args:
      members: scores [n], n > 0.
      others: scores of images that were not learnt, [m], m > 0.
      false_positives: the share of the others that may be taken for members, in [0, 1).
    """
    threshold = np.sort(others)[len(others) - 1 - int(false_positives * len(others))]
    return float(np.mean(members > threshold))


def log_odds(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of the probability p of the right class: float64 [n]. It is about normally distributed.

    Args:
      logits: [n, k], all finite, k > 1.
      classes: the right column of each row, int [n].
    """
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, classes] = -np.inf
    highest = others.max(axis=1)
    return logits[rows, classes] - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1))


def likelihood_ratios(values: np.ndarray, is_member: np.ndarray, target: int) -> np.ndarray:
    """Scores of the likelihood ratio attack (LiRA, online, with fixed variances; Carlini et al. 2022): float64 [n].

    All runs but the target are the attacker's shadow runs. For each image, they say how its value is distributed in
    runs that learnt it and in runs that did not: as two normal distributions with means of its own and variances common
    to all images. The score is the log of the ratio of the two likelihoods of the target's value. It is 0, which says
    nothing, for an image that all shadow runs learnt, or none.

    Args:
      values: of each image in each run, [runs, n], such as `log_odds` of its classifier.
      is_member: which images a run learnt from, bool [runs, n]; that of the target is not read.
      target: the run that is attacked.
    """
    shadow = np.arange(len(values)) != target
    scores, is_known = np.zeros(values.shape[1]), np.ones(values.shape[1], bool)
    for sign, there in ((1, is_member[shadow]), (-1, ~is_member[shadow])):
        count = there.sum(axis=0)
        mean = np.where(there, values[shadow], 0).sum(axis=0) / np.maximum(count, 1)
        squares = np.where(there, (values[shadow] - mean) ** 2, 0).sum()
        variance = squares / max(1, np.maximum(count - 1, 0).sum()) + _ROUNDING
        scores -= sign * ((values[target] - mean) ** 2 / variance + np.log(variance)) / 2
        is_known &= count > 0
    return np.where(is_known, scores, 0)


def compared_with_unseen(values: np.ndarray, is_member: np.ndarray, target: int) -> np.ndarray:
    """How much higher an image's value is in the target than, on average, in runs that did not learn it: float64 [n].

    This is the calibration of GAN-Leaks (Chen et al. 2020), with several reference models. It is 0 for an image that
    all other runs learnt. Arguments are those of `likelihood_ratios`.
    """
    unseen = ~is_member & (np.arange(len(values)) != target)[:, None]
    count = unseen.sum(axis=0)
    mean = np.where(unseen, values, 0).sum(axis=0) / np.maximum(count, 1)
    return np.where(count > 0, values[target] - mean, 0)


def leverages(gram: np.ndarray, features: np.ndarray, *, ridge: float = 1e-6) -> np.ndarray:
    """The leverage x' (G + r I)^-1 x of each row x of features, for a Gram matrix G: float64 [n]; members' are low.

    Let a be the leverage of x for the sum over all other images. If x itself is added, it becomes a / (1 + a) by the
    formula of Sherman and Morrison: below a, and below 1. So members have low leverages, and the fewer the images, the
    larger a and what it loses, a^2 / (1 + a). With fewer images than features, G is 0 in some directions. Members have
    no part in these, but nearly every other image has. The small ridge makes that part large: both are told apart
    exactly.

    Leverages also differ because images do. The ratio to the leverage of x for the sum over other images, which the
    attacker has, is free of this: with n images in both sums, its relative variance is only about 4 / n. So members
    stand out by about D / sqrt(4 n) standard deviations, D features, among many more images than features.

    Args:
      gram: the sum of x x' over images, [d, d].
      features: [n, d].
      ridge: r, as a multiple of the mean eigenvalue of G; it must exceed the rounding of G.
    """
    eigenvalues, directions = np.linalg.eigh(np.float64(gram))
    floor = ridge * float(np.trace(gram)) / len(gram)
    return np.sum((features @ directions) ** 2 / (np.maximum(eigenvalues, 0) + floor), axis=1)
