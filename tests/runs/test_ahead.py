"""A second core compiles what a task will need: the same programs, found there, and never another result."""

import threading
from pathlib import Path

import jax
import pytest
from support import small_runs
from support.checks import assert_same_results
from support.marks import slow_but

from dgm_jax import Learner
from dgm_jax.runs.events import Callback
from dgm_jax.system import worker
from dgm_jax.training import devices

GROWS = {"image_size": 8, "headroom": 1, "epochs": 4, "mask_share": 0.5, "generator_width": 4}
LOOPS = ("jit(_fun)", "jit(on_one_device)")  # What JAX calls a program mapped over devices, by pmap and by shard_map.
CONFIGS = {
    "dgma": (small_runs.small("dgma", **GROWS), {}),
    "shard_map": (small_runs.small("dgma", **GROWS), {"backend": "shard_map"}),
    "beyond the paper": (small_runs.beyond("dgma", **GROWS), {}),
    "paper protocol": (small_runs.small("dgma", **GROWS, protocol="paper", held_out=0.2), {}),
    "two seeds": (small_runs.small("dgma", **GROWS), {"seeds": (0, 1)}),
}


class Shapes(Callback):
    """The widths that each task was trained at."""

    def __init__(self) -> None:
        self.of_tasks: list[tuple[int, ...]] = []

    def on_task_start(self, event) -> None:
        self.of_tasks.append(event.physical_widths)


@pytest.fixture
def compiled():
    """The loops that are compiled, or read from a file: for each, whether the main program waited for it."""
    loops: list[bool] = []

    def listen(event: str, _: float, fun_name: str = "", **__) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and fun_name in LOOPS:
            loops.append(threading.current_thread() is threading.main_thread())

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield loops
    jax.monitoring.unregister_event_duration_listener(listen)


def _fit(workdir: Path, monkeypatch, cores: int, config, backend="pmap", seeds=None) -> list[tuple[int, ...]]:
    monkeypatch.setattr(worker, "usable_cores", lambda: cores)
    shapes = Shapes()
    learner = Learner(config, devices=1, backend=backend, callbacks=[shapes])
    if seeds is None:
        learner.fit(small_runs.stream(config), workdir)
    else:
        learner.fit_seeds(seeds, [small_runs.stream(config) for _ in seeds], workdir)
    return shapes.of_tasks


@pytest.mark.parametrize("name", slow_but(list(CONFIGS), "dgma", "two seeds"))
def test_all_but_the_first_loop_are_compiled_ahead_and_no_result_changes(name, tmp_path, monkeypatch, compiled):
    config, options = CONFIGS[name]
    shapes = _fit(tmp_path / "two", monkeypatch, 2, config, **options)
    assert len(set(shapes)) > 1  # Otherwise this shows nothing.
    assert sorted(compiled) == [False] * len(set(shapes)) + [True]  # The last of them consolidates.
    compiled.clear()
    assert _fit(tmp_path / "one", monkeypatch, 1, config, **options) == shapes
    assert compiled == [True] * (len(set(shapes)) + 1)
    for seed in [""] if "seeds" not in options else ["seed0", "seed1"]:
        assert_same_results(tmp_path / "two" / seed, tmp_path / "one" / seed)


def test_what_cannot_be_compiled_ahead_is_compiled_when_it_is_needed(tmp_path, monkeypatch, compiled):
    def fail(*_):
        raise MemoryError("there is no more")

    config, _ = CONFIGS["dgma"]
    with monkeypatch.context() as changes:
        changes.setattr(devices.Mapped, "compile", fail)
        with pytest.warns(RuntimeWarning, match="compiling ahead failed .MemoryError: there is no more"):
            _fit(tmp_path / "two", changes, 2, config)
    assert all(compiled)
    _fit(tmp_path / "one", monkeypatch, 1, config)
    assert_same_results(tmp_path / "two", tmp_path / "one")
