"""Several seeds of a run: their folders, and the summary of all of them, which lies beside these folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgm_jax.errors import OtherConfiguration
from dgm_jax.metrics.intervals import Interval, interval
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import read_answers, read_summary
from dgm_jax.runs.summary import Summary, summarise_seeds
from dgm_jax.system import files, processes


def folders(top: Path, seeds: Sequence[int]) -> list[Path]:
    """The folder of each seed; raises OtherConfiguration if `top` is the folder of a run of one seed."""
    if Workdir(top).config.exists():
        raise OtherConfiguration(f"{top} is the folder of a run of one seed; choose another workdir")
    return [top / f"seed{seed}" for seed in seeds]


def sources(top: Path, seeds: Sequence[int]) -> list[Path]:
    """The folders, one for each seed, of runs from which others go on; raises OtherConfiguration if one is missing."""
    if Workdir(top).config.exists():
        raise OtherConfiguration(
            f"{top} is the folder of a run of one seed, from which only a run of that seed goes on; leave --seeds out"
        )
    there = Workdir(top).seeds()
    missing = [f"seed{seed}" for seed in seeds if f"seed{seed}" not in there]
    if missing:
        known = f"it has {', '.join(there)}" if there else "expected the --workdir of a run of several seeds"
        raise OtherConfiguration(f"{top} has no run of {', '.join(missing)}; {known}")
    return [top / f"seed{seed}" for seed in seeds]


def finish(top: Path, summaries: Sequence[Summary], *, apart: bool = False) -> dict[str, Any]:
    """Writes summary.json of all seeds, and returns it.

    Args:
      top: the folder above those of the seeds.
      summaries: one for each seed.
      apart: whether each seed was trained by itself; otherwise the seconds of each are those of all together.
    """
    summary = summarise_seeds(summaries, [f"seed{summary.seed}" for summary in summaries])
    if apart:
        phases = dict.fromkeys(phase for one in summaries for phase in one.seconds)
        summary["seconds"] = {
            phase: round(sum(one.seconds.get(phase, 0.0) for one in summaries), 3) for phase in phases
        }
    processes.on_first(files.write_json, top / "summary.json", summary)
    return summary


def intervals(top: Path, seeds: Sequence[int]) -> dict[str, Interval]:
    """The interval of the last accuracy of each reading, if every seed's folder says which test images it has right.

    Args:
      top: the folder above those of the seeds.
      seeds: of finished runs; there is no interval for less than three.

    Raises:
      NoRun: if what a folder holds cannot be read.
    """
    found = []
    for seed in seeds:
        folder = Workdir(top / f"seed{seed}")
        summary = read_summary(folder)
        found.append(read_answers(folder, summary) if summary is not None else {})
    in_all = [reading for reading in found[0] if all(reading in answers for answers in found)]
    of_readings = {reading: interval([answers[reading] for answers in found]) for reading in in_all}
    return {reading: own for reading, own in of_readings.items() if own is not None}
