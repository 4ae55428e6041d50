"""What a person sees of many jobs: which begin, how each ended, what is left and about how long it will take."""

import time
from collections.abc import Callable

from dgm_jax.reporting.text_tables import rough_time
from dgm_jax.system.jobs import Job


def _print(text: str) -> None:
    print(text, flush=True)


class JobsProgress:
    """Prints a line for each job that begins or ends."""

    def __init__(
        self,
        total: int,
        outcome: Callable[[Job], str],
        *,
        begins: str = "begins",
        say: Callable[[str], None] = _print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prints nothing yet.

        Args:
          total: how many jobs there are.
          outcome: says in a few words what a job that did not fail has reached.
          begins: what is said of a job that is started.
          say: prints a line.
          clock: returns the time in seconds.
        """
        self._total, self._outcome, self._begins, self._say, self._clock = total, outcome, begins, say, clock
        self._begun, self._done = clock(), 0
        self._running: list[str] = []

    def on_start(self, job: Job) -> None:
        """A job begins, or is in the queue."""
        self._running.append(job.name)
        self._say(f"{job.name}: {self._begins}")

    def on_end(self, job: Job, failure: str | None) -> None:
        """A job has ended."""
        self._running.remove(job.name)
        self._done += 1
        left = (self._clock() - self._begun) / self._done * (self._total - self._done)
        said = failure or self._outcome(job)
        more = f", about {rough_time(left)} left" if self._done < self._total else ""
        self._say(f"{job.name}: {said}; {self._done} of {self._total} done{more}")
        waiting = self._total - self._done - len(self._running)
        if self._running and waiting:
            self._say(f"now: {', '.join(self._running)}; {waiting} more wait")

    def on_stop(self, running: int) -> None:
        """Jobs are being stopped."""
        self._say(f"stopping; jobs that save their work and end: {running} (Ctrl-C again ends them at once)")
