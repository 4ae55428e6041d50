"""A run of several processes: what one of them does and all must know. Here the others are made up."""

import types
from typing import Any

import jax
import numpy as np
import pytest

from dgm_jax.errors import ConfigError
from dgm_jax.system import processes
from dgm_jax.system.processes import OtherProcessFailed


@pytest.fixture(params=[0, 1])
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """This process is this one of three."""
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: request.param)
    return request.param


def others_say(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """All processes have the same value, except that `change(value)` is the value of process 2."""

    def gathered(own: Any) -> np.ndarray:
        return np.stack([own, own, change(np.array(own))])

    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gathered)


def fail(*_: Any) -> None:
    raise KeyError("own")


class TestJoin:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        asked: list[Any] = []
        monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **options: asked.append((given, options)))
        return asked

    @pytest.mark.parametrize("given", [("host:9876", 3, 0), ("host:9876", 3, 2), ("[::1]:9876", 1, 0), ()])
    def test_joins(self, asked: list[Any], given: tuple[Any, ...]) -> None:
        processes.join(*given)
        assert asked == [(given or (None, None, None), {"shutdown_timeout_seconds": 60})]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("host:9876", None, None), "belong together"),
            ((None, 3, None), "belong together"),
            ((None, None, 0), "belong together"),
            (("host:9876", 3, None), "belong together"),
            ((None, 3, 0), "belong together"),
            (("host", 3, 0), "--coordinator host is not HOST:PORT, e.g. host:9876"),
            (("host:port", 3, 0), "is not HOST:PORT"),
            (("host:9876", 3, 3), "--process-id 3 is not one of 0 to 2"),
            (("host:9876", 3, -1), "--process-id -1 is not one of 0 to 2"),
        ],
    )
    def test_refuses(self, asked: list[Any], given: tuple[Any, ...], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            processes.join(*given)
        assert not asked

    def test_what_jax_cannot_detect_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def cannot(*_: Any, **__: Any) -> None:
            raise ValueError("no cluster")

        monkeypatch.setattr(jax.distributed, "initialize", cannot)
        with pytest.raises(ConfigError, match="cannot detect the processes of this run .no cluster.; give"):
            processes.join()


def test_one_process_alone_tells_nobody_and_calls_and_raises_as_any_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("process_allgather", "broadcast_one_to_all"):
        monkeypatch.setattr(processes.multihost_utils, name, lambda *_: pytest.fail("it waits for others"))
    assert processes.is_first()
    assert processes.call_on_all(max, 3, 5) == 5
    with pytest.raises(KeyError, match="own"):
        processes.call_on_all(fail)
    called: list[int] = []
    processes.on_first(called.append, 7)
    assert called == [7]
    assert processes.value_of_first(12) == 12
    processes.check_equal("settings", {"a": 1})


def test_all_succeed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    others_say(monkeypatch, lambda failed: failed)
    assert processes.is_first() == (number == 0)
    assert processes.call_on_all(max, 3, 5) == 5


def test_a_failure_elsewhere_is_raised_here_once_this_one_is_done(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    others_say(monkeypatch, np.logical_not)
    done: list[int] = []
    with pytest.raises(OtherProcessFailed, match="process 2 failed; its output says why"):
        processes.call_on_all(done.append, 1)
    assert done == [1]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_own_failure_is_told_and_then_raised(
    number: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", lambda own: told.append(bool(own)) or [own])

    def interrupted() -> None:
        raise error

    with pytest.raises(error):
        processes.call_on_all(interrupted)
    assert told == [True]


def test_only_the_first_one_does_it(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    others_say(monkeypatch, lambda failed: failed)
    called: list[int] = []
    processes.on_first(called.append, 7)
    assert called == ([7] if number == 0 else [])


def test_the_value_of_the_first_one_counts(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        processes.multihost_utils, "broadcast_one_to_all", lambda own: np.int32(40 + own.dtype.itemsize)
    )
    assert processes.value_of_first(12) == 44


@pytest.mark.parametrize("preempted", [False, True])
@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_they_stop_together(monkeypatch: pytest.MonkeyPatch, count: int, requested: bool, preempted: bool) -> None:
    """One alone stops when it is asked to; of several, only when JAX says at which point all do."""
    points: list[int] = []
    reached = lambda point: points.append(point) or preempted  # noqa: E731
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(processes.multihost_utils, "reached_preemption_sync_point", reached)
    assert processes.must_stop(requested, 5) is (preempted or (count == 1 and requested))
    assert points == [5]


def test_a_different_value_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    others_say(monkeypatch, lambda digest: digest)
    processes.check_equal("settings", {"a": 1})

    def changed(digest: np.ndarray) -> np.ndarray:
        digest[7] ^= 1  # Digests may have most bytes in common.
        return digest

    others_say(monkeypatch, changed)
    with pytest.raises(ConfigError, match="process 2 does not have the same settings as process 0; all need"):
        processes.check_equal("settings", {"a": 1})


def test_values_are_compared_by_their_digests(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes] = []
    gathered = lambda own: told.append(own.tobytes()) or np.stack([own, own])  # noqa: E731
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gathered)
    for value in ({"a": 1}, {"a": 2}, {"a": 1}):
        processes.check_equal("settings", value)
    assert told[0] == told[2] != told[1] and len(told[0]) == 32


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no backend\nmore about it"), "JAX_PLATFORMS=rocket: no backend; unset JAX_PLATFORMS, or"),
        (AssertionError(), "JAX_PLATFORMS=rocket; unset JAX_PLATFORMS, or"),
    ],
)
def test_a_missing_device_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def missing() -> None:
        raise error

    processes.require_device()
    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setattr(processes.jax, "config", types.SimpleNamespace(jax_platforms="rocket"))
    with pytest.raises(processes.NoDevice, match=f"finds no device of the kind {said}"):
        processes.require_device()
