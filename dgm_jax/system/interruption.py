"""Ctrl-C and SIGTERM: noticed even when Python loses the exception, and delayed while a checkpoint is written."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from dgm_jax.errors import Terminated


class Signals:
    """Listens to Ctrl-C, and to SIGTERM, by which schedulers announce the end of a job's time.

    Within `with`, Ctrl-C raises KeyboardInterrupt as usual and is also noted; `raise_if_heard` raises it again later,
    because Python loses the exception if it is raised during garbage collection. SIGTERM is only noted, so that the
    work can be saved at the next good point (`asked_to_stop`); if there is none in `patience`, `raise_if_heard` ends
    it. Does nothing outside the main thread, or for a signal that is ignored or handled otherwise.
    """

    patience: ClassVar[float] = 10.0  # Seconds; a scheduler that sends SIGTERM usually kills after 30.

    def __init__(self, *, sigterm: bool = True) -> None:
        """Nothing has been heard yet; without `sigterm`, it listens to Ctrl-C only."""
        self._sigterm, self._interrupted = sigterm, False
        self._asked_at: float | None = None
        self._before: dict[int, Any] = {}
        self._report = sys.unraisablehook

    def __enter__(self) -> Signals:
        """Starts listening."""
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
                self._report, sys.unraisablehook = sys.unraisablehook, self._report_others
            if self._sigterm and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_: object) -> None:
        """Stops listening."""
        for number, before in self._before.items():
            signal.signal(number, before)
        if signal.SIGINT in self._before:
            sys.unraisablehook = self._report

    def asked_to_stop(self) -> bool:
        """Whether SIGTERM has been heard."""
        return self._asked_at is not None

    def raise_if_heard(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C has been heard, and Terminated some time after SIGTERM."""
        if self._interrupted:
            raise KeyboardInterrupt
        if self._asked_at is not None and time.monotonic() > self._asked_at + self.patience:
            raise Terminated

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _report_others(self, lost: sys.UnraisableHookArgs) -> None:
        """A Ctrl-C that Python loses is raised later, so a traceback of it would tell nothing."""
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            self._report(lost)

    def _terminate(self, *_: object) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now > self._asked_at + 1:  # A second one means: stop now. A parent may pass on the first one.
            raise Terminated


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Lets SIGTERM raise Terminated, as Ctrl-C raises KeyboardInterrupt. Does nothing outside the main thread."""

    def terminate(*_: object) -> None:
        raise Terminated

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays the first Ctrl-C until the block ends. Does nothing outside the main thread, which never receives one.

    Raises:
      KeyboardInterrupt: at the end of the block, if Ctrl-C came; at once, if it came twice.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = False

    def hold(*_: object) -> None:
        nonlocal heard
        if heard:  # A second Ctrl-C means: stop now.
            raise KeyboardInterrupt
        heard = True

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
