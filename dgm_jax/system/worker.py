"""One thread that compiles on a second core what the main program will need."""

import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from dgm_jax.system.compilation import WAITED, usable_cores
from dgm_jax.system.pinned import pinned


class Worker:
    """Does work that is needed later, one piece after the other, within `with`.

    It must change no result: nobody relies on it, and where it would not help, it does nothing. That is so with one
    core, with several processes (all must do the same in the same order), and with GPUs and TPUs, whose compilers try
    programs out on the device. XLA compiles without holding Python's lock, so the main program goes on meanwhile.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        """Starts no thread yet; `devices` are those that the main program computes on."""
        on_cpus = all(device.platform == "cpu" for device in devices)
        self._helps = bool(devices) and on_cpus and usable_cores() > 1 and jax.process_count() == 1
        self._executor: ThreadPoolExecutor | None = None
        self._jobs: dict[Hashable, Future[object]] = {}

    def __enter__(self) -> "Worker":
        """Begins to accept work."""
        if self._helps:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="dgm_jax_worker")
        return self

    def __exit__(self, *_: object) -> None:
        """Drops what has not begun, and waits for what has: a process cannot end well while XLA compiles."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
            # Not by joining the thread: after a Ctrl-C there, Python 3.11 takes the thread for ended, and then crashes.
            for job in self._jobs.values():
                if not job.cancelled():
                    job.exception()
        self._jobs.clear()

    @property
    def works(self) -> bool:
        """Whether `prepare` does anything."""
        return self._executor is not None

    def prepare(self, name: Hashable, job: Callable[[], object]) -> None:
        """Does `job` soon, with JAX's settings pinned; does it once for each name."""
        if self._executor is not None and name not in self._jobs:
            self._jobs[name] = self._executor.submit(pinned()(job))

    def wait(self, name: Hashable) -> None:
        """Waits for the job of this name, if there is one; the seconds count as building programs (`BuildClock`).

        If it failed, a warning says why. The caller then does the same by itself, and fails by itself if it must.
        """
        job = self._jobs.get(name)
        if job is None:
            return
        begun = time.perf_counter()
        error = job.exception()
        jax.monitoring.record_event_duration_secs(WAITED, time.perf_counter() - begun)
        self._jobs[name] = _DONE
        if error:
            why = f"{type(error).__name__}: {error}"
            text = f"compiling ahead failed ({why}); the program is compiled when it is needed"
            warnings.warn(text, RuntimeWarning, stacklevel=2)


_DONE: Future[object] = Future()  # In place of a job whose end was waited for.
_DONE.set_result(None)
