"""Several seeds of a run: their folders, and the summary of all of them, which lies beside these folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgm_jax.errors import OtherConfiguration
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.summary import Summary, summarise_seeds
from dgm_jax.system import files, processes


def folders(top: Path, seeds: Sequence[int]) -> list[Path]:
    """The folder of each seed; raises OtherConfiguration if `top` is the folder of a run of one seed."""
    if Workdir(top).config.exists():
        raise OtherConfiguration(f"{top} is the folder of a run of one seed; choose another workdir")
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
