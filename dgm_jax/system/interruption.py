"""Ctrl-C: heard even where the runtime loses it, and held back while something is written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class CtrlC:
    """Keeps a Ctrl-C that was lost: what is raised while the runtime collects garbage goes no further.

    Between `with` and its end, in the main thread and where Ctrl-C is not ignored, the first one is noted, and raised
    as ever; `raise_if_heard` raises it again.
    """

    def __init__(self) -> None:
        """Has heard none."""
        self._heard = False
        self._before: Any = None

    def __enter__(self) -> CtrlC:
        """Begins to listen."""
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before is signal.default_int_handler:
                self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """Stops."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def raise_if_heard(self) -> None:
        """Raises KeyboardInterrupt if there was one."""
        if self._heard:
            raise KeyboardInterrupt

    def _hear(self, *_: object) -> None:
        self._heard = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds the first Ctrl-C back until the block is over; outside the main thread, which alone hears it, does nothing.

    Raises:
      KeyboardInterrupt: afterwards, if it came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = False

    def hold(*_: object) -> None:
        nonlocal heard
        if heard:  # Whoever asks twice does not want to wait.
            raise KeyboardInterrupt
        heard = True

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
