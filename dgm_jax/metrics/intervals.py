"""Intervals over seeds and test images, and the paired comparison of two methods (docs/measures.md)."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

LEAST_SEEDS = 3  # Two seeds say next to nothing about others: Student's factor is 12.7.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Answers:
    """Which test images the classifier of one run has right; or the difference of two runs.

    Attributes:
      test_set: names the test images; runs of one name were tested on the same images.
      values: by the label of each class an array with an entry for each of its test images, in the order of the data
        set: 1 if it is right, 0 if it is wrong.
    """

    test_set: str
    values: Mapping[int, np.ndarray]

    @property
    def accuracy(self) -> float:
        """The mean over classes of the share of images that are right (macro accuracy)."""
        return float(np.mean([np.mean(of_class) for of_class in self.values.values()]))

    def minus(self, other: "Answers") -> "Answers":
        """The difference, image by image.

        Raises:
          ValueError: if the two were not tested on the same images.
        """
        sizes, others = ({label: len(of) for label, of in run.values.items()} for run in (self, other))
        if (self.test_set, sizes) != (other.test_set, others):
            raise ValueError(f"the test images of {self.test_set!r} and {other.test_set!r} are not the same")
        differences = {label: np.subtract(of, other.values[label], dtype=float) for label, of in self.values.items()}
        return Answers(self.test_set, differences)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_different(self) -> bool:
        """Of a difference: whether two methods are called different."""
        return not self.low <= 0 <= self.high


def interval(runs: Sequence[Answers]) -> Interval | None:
    """The mean accuracy of a method, or mean difference of two, for other seeds and other test images than these.

    The variance of the mean is s^2 / S + c. Here s^2 is the variance of the accuracies of the S seeds. It holds all by
    which one run differs from another, and also chance in the choice of test images, where each seed has its own. What
    test images have in common for all seeds is not in it; that is c, the covariance of the accuracies of two runs over
    the choice of test images, as a mean over all pairs of seeds. It is 0 for a pair tested on different images.
    As accuracy is a mean, no images need to be drawn (a bootstrap) to find these two. The interval is Student's, with
    Satterthwaite's degrees of freedom: S - 1 if all variance comes from the seeds.

    Args:
      runs: of one method, one for each seed.

    Returns:
      The interval; None for less than `LEAST_SEEDS` seeds.
    """
    n = len(runs)
    if n < LEAST_SEEDS:
        return None
    means = [run.accuracy for run in runs]
    mean, of_seeds = float(np.mean(means)), float(np.var(means, ddof=1)) / n
    of_images = max(0.0, float(np.mean([_covariance(a, b) for a, b in itertools.combinations(runs, 2)])))
    variance = of_seeds + of_images
    degrees = (n - 1) * (variance / of_seeds) ** 2 if of_seeds else np.inf
    half = float(scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, degrees)) * variance**0.5
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), n)


def difference(one: Mapping[int, Answers], other: Mapping[int, Answers]) -> Interval | None:
    """The mean difference of two methods, paired by seed and test image; both are given by seed.

    Returns:
      The interval over the seeds that both have; None for less than `LEAST_SEEDS`.

    Raises:
      ValueError: if the two were not tested on the same images with a seed.
    """
    return interval([run.minus(other[seed]) for seed, run in one.items() if seed in other])


def _covariance(a: Answers, b: Answers) -> float:
    """The covariance of two runs' accuracies over the choice of test images, within classes."""
    if a.test_set != b.test_set:
        return 0.0
    of_means = [
        np.cov(mine, b.values[label])[0, 1] / len(mine) if len(mine) > 1 else 0.0 for label, mine in a.values.items()
    ]
    return float(np.sum(of_means)) / len(of_means) ** 2
