"""The clock of building programs, and the folder they are kept in."""

import os
import stat
import subprocess
import sys
import tempfile
import types

import jax
import jax.numpy as jnp
import pytest

from dgm_jax.system import compilation

PROGRAM = """
import sys, jax, jax.numpy as jnp
from dgm_jax.system.compilation import BuildClock, keep_programs
print(keep_programs())
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("cache_hits")))
with BuildClock() as clock:
    print(float(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((8, 8)))[0, 0]))
print(sum(hits))
assert clock.seconds > 0
"""


def _run(*, program=PROGRAM, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_the_second_process_finds_the_programs_of_the_first(tmp_path):
    first, second = _run(XDG_CACHE_HOME=str(tmp_path)), _run(XDG_CACHE_HOME=str(tmp_path))
    folder = compilation.Path(first[0])
    assert folder.is_relative_to(tmp_path / "dgm_jax") and any(folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700  # Whoever can write there can run code as the user.
    assert first[:2] == second[:2]
    assert first[2] == "0" and int(second[2]) > 0
    assert (folder / "being-compiled").exists()  # The cache is one that waits.


def test_the_variable_of_jax_names_another_folder(tmp_path):
    folder = _run(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"), XDG_CACHE_HOME=str(tmp_path))[0]
    assert folder == str(tmp_path / "mine" / f"{compilation.usable_cores()}-cores")


def test_whoever_may_use_the_chosen_folder_may_use_the_programs_in_it(tmp_path):
    tmp_path.chmod(0o2775)  # As a folder of a group is; the umask would take from the group what it may write.
    program = "import os; os.umask(0o022)\n" + PROGRAM
    folder = compilation.Path(_run(program=program, JAX_COMPILATION_CACHE_DIR=str(tmp_path))[0])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2775
    assert stat.S_IMODE((folder / "being-compiled").stat().st_mode) == 0o664


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs the permissions of Unix")
@pytest.mark.parametrize(("mode", "uses"), [(0o555, True), (0o000, False)])
def test_programs_are_only_read_where_nothing_may_be_written(mode, uses):
    """By another user; root would be refused nothing, and becomes nobody."""
    program = """
import os, jax
from dgm_jax.system.compilation import keep_programs
if os.getuid() == 0:
    os.setuid(65534)
print(keep_programs(), jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
"""
    with tempfile.TemporaryDirectory() as scratch:  # pytest's folders are closed to others.
        os.chmod(scratch, 0o755)
        folder = compilation.Path(scratch) / "chosen" / f"{compilation.usable_cores()}-cores"
        folder.mkdir(parents=True)
        folder.chmod(mode)
        found = _run(program=program, JAX_COMPILATION_CACHE_DIR=str(folder.parent))
    assert found == ([str(folder), str(folder), "inf"] if uses else ["None", "None", "1.0"])


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"])
def test_a_program_for_one_core_is_not_used_on_two(tmp_path, variable):
    """XLA splits work over cores when it compiles; NPROC is how many it is told to use."""
    one, two, again = (_run(NPROC=cores, **{variable: str(tmp_path)}) for cores in "121")
    assert one[0] == again[0] != two[0]
    assert one[2] == two[2] == "0" and int(again[2]) > 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux to choose the cores of a process")
def test_cores_are_those_that_the_process_may_use():
    """As many as XLA has threads for."""
    program = """
import os, jax, jax.numpy as jnp
from dgm_jax.system.compilation import usable_cores
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
jnp.dot(jnp.ones((300, 300)), jnp.ones((300, 300))).block_until_ready()
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
print(usable_cores(), sum("Eigen" in name for name in names))
"""
    assert _run(program=program) == ["1", "1"]
    assert _run(program=program, NPROC="3") == ["3", "3"]
    assert _run(program=program, NPROC="3", PJRT_NPROC="2") == ["2", "2"]


def test_a_folder_that_cannot_be_made_costs_only_time(tmp_path):
    (tmp_path / "dgm_jax").write_text("a file")
    assert _run(XDG_CACHE_HOME=str(tmp_path))[0] == "None"


def test_no_programs_are_kept_whatever_the_variable_says(tmp_path):
    program = PROGRAM.replace("keep_programs", "keep_no_programs")
    for _ in range(2):
        assert _run(program=program, JAX_COMPILATION_CACHE_DIR=str(tmp_path))[::2] == ["None", "0"]
    assert not any(tmp_path.iterdir())


def test_spans_within_others_count_once(monkeypatch):
    clock = compilation.BuildClock()
    now = iter([1.0, 2.0, 5.0, 7.0])
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: next(now))
    for seconds in (0.5, 0.5, 4.5, 1.0):  # The third holds the first two.
        clock._listen("/jax/core/compile/jaxpr_trace_duration", seconds)
    assert clock.seconds == 4.5 + 1.0
    clock._listen("/jax/another/event", 3.0)
    assert clock.seconds == 5.5


def test_the_clock_stands_outside_its_block():
    with compilation.BuildClock() as clock:
        jax.jit(lambda x: jnp.tanh(x) + 3)(jnp.ones(3))
    built = clock.seconds
    jax.jit(lambda x: jnp.tanh(x) + 4)(jnp.ones(3))
    assert clock.seconds == built > 0


def test_a_span_within_another_counts_once(monkeypatch):
    """Spans by hand, each told at its end: apart, one within another, one around all, and one that overlaps."""
    now = [0.0]
    monkeypatch.setattr(compilation, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    clock = compilation.BuildClock()
    sums = []
    for end, duration in ((10, 2), (12, 1), (13, 2.5), (13, 0.5), (20, 4), (30, 23), (40, 12), (45, 5)):
        now[0] = end
        clock._listen("/jax/core/compile/trace", duration)
        clock._listen("/jax/another/event", 1000.0)
        sums.append(clock.seconds)
    # 8-10, 11-12, 10.5-13 around that, 12.5-13 within it, 16-20, 7-30 around all, 28-40 over its end, 40-45 after it.
    assert sums == [2, 3, 4.5, 4.5, 8.5, 23, 33, 38]
