"""Ctrl-C is heard where it was lost, and waits where something is being written."""

import os
import signal

import pytest
from support.stopping import lose_a_ctrl_c

from dgm_jax.errors import Terminated
from dgm_jax.system import interruption
from dgm_jax.system.interruption import Signals, uninterrupted


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("all of it")
    assert done and signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        done.append("not reached")
    assert not done and signal.getsignal(signal.SIGINT) is before


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # Nor is there a traceback.
def test_a_ctrl_c_that_was_lost_is_raised_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Signals() as ctrl_c:
        ctrl_c.raise_if_heard()
        lose_a_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.raise_if_heard()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), Signals():  # One that was not.
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_stays_ignored_where_it_is() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as ctrl_c:
            signal.raise_signal(signal.SIGINT)
            ctrl_c.raise_if_heard()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_block_that_is_not_interrupted_says_nothing() -> None:
    with uninterrupted():
        pass
    with pytest.raises(ValueError, match="own"), uninterrupted():
        raise ValueError("own")


def test_sigterm_is_noted_and_ends_the_work_only_after_a_while(monkeypatch) -> None:
    before, now = signal.getsignal(signal.SIGTERM), [100.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    with Signals() as signals:
        assert not signals.asked_to_stop()
        signal.raise_signal(signal.SIGTERM)
        assert signals.asked_to_stop()
        now[0] += 9
        signals.raise_if_heard()
        now[0] += 2
        with pytest.raises(Terminated):
            signals.raise_if_heard()
        with pytest.raises(Terminated):  # A second one ends it at once.
            signal.raise_signal(signal.SIGTERM)
    with Signals() as signals:
        for seconds in (0, 0.5):  # The same one, passed on by a parent.
            now[0] += seconds
            signal.raise_signal(signal.SIGTERM)
        assert signals.asked_to_stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_left_to_others() -> None:
    """To JAX, where there are several processes, and to whoever handles it already."""
    with Signals(sigterm=False):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGTERM)
            assert not signals.asked_to_stop()
    finally:
        signal.signal(signal.SIGTERM, before)
