"""Which devices a run trains on, of how many processes there may be; here the devices are made up."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dgm_jax.errors import ConfigError
from dgm_jax.nn import platforms
from dgm_jax.training import devices as chosen
from dgm_jax.training.devices import (
    check_batch,
    check_precision,
    choose_devices,
    data_parallel,
    matmul_precision,
    most_devices,
    precision_of,
)


@pytest.fixture
def machine(monkeypatch):
    """Makes up so many devices of so many processes; a device is (process, number)."""

    def make_up(n_processes, each):
        here = [SimpleNamespace(platform="gpu", name=(p, i)) for p in range(n_processes) for i in range(each)]
        monkeypatch.setattr(chosen.processes, "require_device", lambda: None)
        monkeypatch.setattr(jax, "devices", lambda: here)
        monkeypatch.setattr(jax, "process_count", lambda: n_processes)
        monkeypatch.setattr(jax, "local_devices", lambda process: here[process * each : (process + 1) * each])

    return make_up


@pytest.mark.parametrize(
    ("n_processes", "each", "count", "names"),
    [
        (1, 3, "all", [(0, 0), (0, 1), (0, 2)]),
        (1, 3, None, [(0, 0)]),
        (1, 3, 1, [(0, 0)]),
        (1, 3, 2, [(0, 0), (0, 1)]),
        (2, 3, "all", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        (2, 3, None, [(0, 0), (1, 0)]),
        (2, 3, 4, [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (2, 3, 2, [(0, 0), (1, 0)]),
    ],
)
def test_equally_many_of_each_process(machine, n_processes, each, count, names):
    machine(n_processes, each)
    assert [device.name for device in choose_devices(count)] == names


@pytest.mark.parametrize(
    ("n_processes", "count", "said"),
    [
        (1, 0, r"^devices=0, but here are 3 \(gpu\); use 1 to 3$"),
        (1, 4, r"^devices=4, but here are 3 \(gpu\); use 1 to 3$"),
        (2, 3, r"^devices=3, but 2 processes have 6 \(gpu\); use equally many of each process$"),
        (2, 8, r"^devices=8, but 2 processes have 6 \(gpu\); use equally many of each process$"),
    ],
)
def test_devices_that_are_not_there(machine, n_processes, count, said):
    machine(n_processes, 3)
    with pytest.raises(ConfigError, match=said):
        choose_devices(count)


@pytest.mark.parametrize(
    ("n_processes", "count", "batch", "said"),
    [
        (1, 3, 8, r"^batch_size=8 does not split over 3 devices; use a multiple of 3, e.g. 9 \(or --devices 2\)$"),
        (1, 2, 9, r"^batch_size=9 does not split over 2 devices; use a multiple of 2, e.g. 10 \(or --devices 1\)$"),
        (2, 6, 8, r"^batch_size=8 does not split over 6 devices; use a multiple of 6, e.g. 12 \(or --devices 4\)$"),
        (2, 2, 9, r"^batch_size=9 does not split over 2 devices; use a multiple of 2, e.g. 10$"),
    ],
)
def test_a_batch_that_does_not_split(machine, n_processes, count, batch, said):
    machine(n_processes, 3)
    with pytest.raises(ConfigError, match=said):
        check_batch(batch, count)
    check_batch(12, count)


@pytest.mark.parametrize(
    ("n_runs", "n_devices", "used"), [(1, 4, 1), (2, 1, 1), (3, 8, 3), (4, 3, 2), (5, 4, 1), (6, 4, 3), (8, 8, 8)]
)
def test_runs_are_shared_out_equally(n_runs, n_devices, used):
    assert most_devices(n_runs, n_devices) == used


def test_tf32_is_for_gpus():
    gpu, cpu = (SimpleNamespace(platform=name) for name in ("gpu", "cpu"))
    check_precision("tf32", gpu)
    for precision in ("float32", "bf16"):
        check_precision(precision, cpu)
    with pytest.raises(ConfigError, match="precision='tf32', but a CPU has no such numbers; use float32 or bf16"):
        check_precision("tf32", cpu)


@pytest.mark.parametrize(
    ("platform", "precision", "of_jax"),
    [
        ("cpu", "float32", "highest"),
        ("gpu", "tf32", "tensorfloat32"),
        ("cuda", "tf32", "tensorfloat32"),
        ("tpu", "bf16", "bfloat16"),
        ("metal", "float32", "highest"),
    ],
)
def test_a_platform_has_its_own_precision_unless_one_is_given(platform, precision, of_jax):
    assert precision_of(SimpleNamespace(platform=platform, compute_capability="9.0")) == precision
    with platforms.compiled_for(platform):
        assert matmul_precision("auto") == of_jax
        assert matmul_precision("float32") == "highest"
    assert matmul_precision("auto") == "highest"  # That of this machine again.


@pytest.mark.parametrize(
    ("told", "precision"),
    [("7.5", "float32"), ("8.0", "tf32"), ("10.0", "tf32"), ("gfx90a", "float32"), (None, "float32")],
)
def test_a_gpu_without_tf32_takes_float32(told, precision):
    device = SimpleNamespace(platform="gpu", **({} if told is None else {"compute_capability": told}))
    assert precision_of(device) == precision


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_a_program_is_told_for_which_platform_it_is_compiled(backend):
    """By its devices, unless the caller says another: then it takes that one's forms."""
    seen = []

    def function(state, shard):
        seen.append(platforms.form("statistics"))
        return state

    program = data_parallel(function, jax.devices()[:1], backend)
    program(np.zeros(1))
    with platforms.compiled_for("cuda"):
        program(np.zeros(1))
    program(np.zeros(1))  # Compiled already.
    assert seen == ["two_passes", "one_pass"]
    assert not platforms.is_known()


def test_an_unknown_backend_is_refused_and_the_known_ones_are_not():
    with pytest.raises(ConfigError, match="backend 'pmpa' is unknown"):
        data_parallel(lambda state, shard: state, jax.devices()[:1], "pmpa")
    for backend in ("pmap", "shard_map"):
        assert callable(data_parallel(lambda state, shard: state, jax.devices()[:1], backend))
