"""Compares methods by their finished runs: with joint training, and in pairs on the same seeds."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dgm_jax.data.order import first_tasks
from dgm_jax.metrics import forward_transfer, share_of_joint
from dgm_jax.metrics.intervals import Answers, difference
from dgm_jax.runs.summary import Summary

FEATURES = ("filters", "gram", "class_sums", "counts")  # What the readings of features need.
OF_FEATURES = ("analytic", "slda", "ncm", "combined")  # These readings; the last one needs the memory, too.


def compared_readings(method: str, summary: Summary) -> dict[str, str]:
    """The readings by which a method is compared, and its name by each: the one that counts, and DGM's combined one."""
    combined = {"combined": f"{method}, combined"} if "combined" in summary.readings else {}
    return {summary.readings[0]: method} | combined


def bytes_of_reading(memory: Mapping[str, int], reading: str) -> int:
    """Bytes of a run's memory, by part, that a reading needs: with `combined`, DGM also keeps sums of features."""
    features = sum(memory.get(part, 0) for part in FEATURES)
    if reading == "combined":
        return memory["total"]
    return features if reading in OF_FEATURES else memory["total"] - features


def shares_of_joint(summaries: Sequence[Summary], joint: Mapping[int, Summary], reading: str) -> list[float]:
    """A_final of each run divided by that of joint training with the same seed, or if there is none by the mean of all.

    Args:
      summaries: runs of one method.
      joint: runs of joint training by seed; if there are none, the result is empty.
      reading: of the method.
    """
    if not joint:
        return []
    mean = statistics.mean(one.final_accuracy() for one in joint.values())
    ceilings = [joint[s.seed].final_accuracy() if s.seed in joint else mean for s in summaries]
    return [share_of_joint(s.final_accuracy(reading), ceiling) for s, ceiling in zip(summaries, ceilings, strict=True)]


def forward_transfers(summaries: Sequence[Summary], joint: Mapping[int, Summary], reading: str) -> list[float]:
    """`metrics.forward_transfer` of those runs that have it, for which joint training has a run of the same seed.

    A run of a single task, as that of `ceiling`, has none.
    """
    found = []
    for s in summaries:
        reference = joint[s.seed].task_known if s.seed in joint else {}
        if reading in s.task_known and reference and len(s.tasks) > 1:
            mine, other = (known["just_learnt"] for known in (s.task_known[reading], *reference.values()))
            numbers = itertools.count()
            tasks = [[next(numbers) for _ in task] for task in first_tasks(s.tasks)]
            found.append(forward_transfer(mine, other, tasks))
    return found


def differences(methods: Mapping[str, Mapping[int, Answers]]) -> list[dict[str, Any]]:
    """Each two methods on the seeds that both have.

    Args:
      methods: the runs of each method by seed, all on one data set.

    Returns:
      For each pair with three common seeds or more, better methods first: "method" and "other", "difference" of A_final
      (method - other), the bounds "low" and "high" of its 95 % interval, "seeds", and "different", the verdict.
    """
    ranked = sorted(methods, key=lambda name: -statistics.mean(run.accuracy for run in methods[name].values()))
    found = []
    for method, other in itertools.combinations(ranked, 2):
        pair = difference(methods[method], methods[other])
        if pair is not None:
            numbers = {"difference": pair.mean, "low": pair.low, "high": pair.high, "seeds": pair.seeds}
            found.append({"method": method, "other": other, **numbers, "different": pair.is_different})
    return found
