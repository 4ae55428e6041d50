"""What is said of many jobs, with a clock by hand."""

from pathlib import Path

from dgm_jax.reporting.jobs import JobsProgress
from dgm_jax.system.jobs import Job


def test_it_says_what_runs_what_is_done_and_what_is_left(capsys):
    now = [100.0]
    one, two, three = (Job(name, lambda: 0, Path()) for name in ("one", "two", "three"))
    progress = JobsProgress(4, lambda job: f"A_final of {job.name}", begins="queued", clock=lambda: now[0])
    progress.on_start(one)
    progress.on_start(two)
    now[0] += 120
    progress.on_end(two, None)
    progress.on_start(three)
    now[0] += 120
    progress.on_end(one, "it was killed")
    progress.on_stop(1)
    assert capsys.readouterr().out.splitlines() == [
        "one: queued",
        "two: queued",
        "two: A_final of two; 1 of 4 done, about 6 minutes left",
        "now: one; 2 more wait",
        "three: queued",
        "one: it was killed; 2 of 4 done, about 4 minutes left",
        "now: three; 1 more wait",
        "stopping; jobs that save their work and end: 1 (Ctrl-C again ends them at once)",
    ]
