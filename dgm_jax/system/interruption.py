"""Ctrl-C: noticed even when Python loses the exception, and delayed while a checkpoint is written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class CtrlC:
    """Remembers a Ctrl-C, because Python loses the exception if it is raised during garbage collection.

    Within `with`, Ctrl-C raises KeyboardInterrupt as usual and is also noted; `raise_if_heard` raises it again later.
    Does nothing outside the main thread, or if Ctrl-C is ignored or handled otherwise.
    """

    def __init__(self) -> None:
        """No Ctrl-C has been heard yet."""
        self._heard = False
        self._before: Any = None

    def __enter__(self) -> CtrlC:
        """Starts listening."""
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before is signal.default_int_handler:
                self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """Stops listening."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def raise_if_heard(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C has been heard."""
        if self._heard:
            raise KeyboardInterrupt

    def _hear(self, *_: object) -> None:
        self._heard = True
        raise KeyboardInterrupt


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
