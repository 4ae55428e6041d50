"""A limit to the bytes of the memory is never passed, and growth comes as near to it as it can."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from support import small_runs
from support.marks import slow_but

from dgm_jax.errors import ConfigError
from dgm_jax.memory.task import TaskMemory
from dgm_jax.methods.memory_limit import KB, bytes_in_the_end
from dgm_jax.runs.events import Callback
from dgm_jax.runs.session import new_method

CONFIGS = {
    "dgma": small_runs.small("dgma", generator_width=6),
    "dgmw": small_runs.small("dgmw", generator_width=6),
    "dgma-resnet": small_runs.residual("dgma", generator_width=6),
    "dgmw-resnet": small_runs.residual("dgmw", generator_width=6),
}
SIZES = (1, 3, 1, 1)  # Classes of each task.


def _method(config):
    stream = small_runs.stream(config, labels=small_runs.SIX, classes_per_task=SIZES)
    return new_method(config, stream, jax.local_devices()[:1])


def _learn(method, task, state):
    """The state after a task that opens some gates at random; nothing is trained."""
    memory, networks, random = state.memory, method.networks, np.random.default_rng(task)
    classes = method.setting.tasks[task]
    norms, heads = networks.generator.init_task(jax.random.key(0), memory.widths, networks.channels, len(classes))
    masks = [random.random(shape) < 0.3 for shape in networks.mask_shapes(memory.widths)]
    statistics = networks.generator.init_statistics(memory.widths)
    own = TaskMemory(classes, memory.widths, masks, norms, statistics, heads, networks.n_conditioned)
    reserved = [before | mask for before, mask in zip(memory.reserved, masks, strict=True)]
    return dataclasses.replace(state, memory=dataclasses.replace(memory, reserved=reserved, tasks=(*memory.tasks, own)))


def _bytes(config):
    """Bytes after each task, the widths that each was learnt at, and the tasks after which growth was stopped."""
    method = _method(config)
    state, sizes, widths = method.new_state(jax.random.key(0)), [], []
    for task in range(len(SIZES)):
        widths.append(state.memory.widths)
        state = _learn(method, task, state)
        if task + 1 < len(SIZES):
            state = method.expand(task, jax.random.key(1), state)
            again = method.expand(task, jax.random.key(1), state)
            assert (again.memory.widths, again.limited_after) == (state.memory.widths, state.limited_after)
        sizes.append(state.memory.bytes()["total"])
    return sizes, widths, state.limited_after


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_reckoned_is_what_the_memory_weighs(name):
    config = CONFIGS[name].with_changes(expansion=False)
    method, (sizes, *_) = _method(config), _bytes(config)
    assert bytes_in_the_end(method.networks, method.networks.first_widths, SIZES) == sizes[-1]
    for task, size in enumerate(sizes, start=1):
        assert bytes_in_the_end(method.networks, method.networks.first_widths, SIZES[:task]) == size


@pytest.mark.parametrize("name", CONFIGS)
def test_no_task_passes_the_limit(name):
    config = CONFIGS[name]
    (whole, free_widths, _), (fixed, *_) = _bytes(config), _bytes(config.with_changes(expansion=False))
    least, most = -(-fixed[-1] // KB), -(-whole[-1] // KB)
    assert least + 4 < most
    for limit in {*range(least, most, max(1, (most - least) // 8)), most}:
        sizes, widths, stopped = _bytes(config.with_changes(memory_limit_kb=limit))
        assert max(sizes) <= KB * limit
        first = stopped[0] if stopped else len(SIZES)
        assert widths[: first + 1] == free_widths[: first + 1], "until then it grows as if there were no limit"
        if limit == most:
            assert not stopped and sizes == whole
    assert _bytes(config.with_changes(memory_limit_kb=least))[2]
    with pytest.raises(ConfigError, match=f"memory_limit_kb={least - 1}: .* give at least {least}, or a smaller"):
        _method(config.with_changes(memory_limit_kb=least - 1))


def test_growth_uses_what_the_limit_leaves():
    """The share of the gates that a task opened is the largest that fits."""
    config = CONFIGS["dgma"]
    limit = (_bytes(config.with_changes(expansion=False))[0][-1] + _bytes(config)[0][-1]) // (2 * KB)
    method = _method(config.with_changes(memory_limit_kb=limit))
    state = _learn(method, 0, method.new_state(jax.random.key(0)))
    for task in range(1, len(SIZES)):
        memory, coming = state.memory, SIZES[task:]
        opened, kept = memory.newly_reserved(), memory.bytes()["total"] - 4 * memory.parameters()["shared_weights"]
        state = method.expand(task - 1, jax.random.key(task), state)

        def total(n, memory=memory, opened=opened, coming=coming, kept=kept):
            widths = [width + gates * n // max(opened) for width, gates in zip(memory.widths, opened, strict=True)]
            return widths, bytes_in_the_end(method.networks, widths, coming, kept)

        fitting = [widths for widths, size in map(total, range(max(opened) + 1)) if size <= KB * limit]
        assert list(state.memory.widths) == fitting[-1]
        state = _learn(method, task, state)
    assert state.memory.widths != method.networks.first_widths and state.limited_after
    method.setting = dataclasses.replace(method.setting, tasks=(*method.setting.tasks, *[(0,)] * 50))
    with pytest.raises(ConfigError, match="once 50 more tasks are learnt, even if the generator does not grow"):
        method.expand(len(SIZES) - 1, jax.random.key(9), state)  # On a later day.


class _NothingMore(Callback):
    def on_run_start(self, event):
        raise KeyboardInterrupt


@pytest.mark.parametrize("variant", slow_but(["dgma", "dgmw"], "dgmw"))
def test_a_run_says_where_its_growth_stopped(variant, tmp_path):
    config = small_runs.small(variant, image_size=8, epochs=2)
    networks = new_method(config, small_runs.stream(config), jax.local_devices()[:1]).networks
    limit = -(-bytes_in_the_end(networks, networks.first_widths, (1, 1, 1)) // KB)
    with pytest.raises(ConfigError, match=f"memory_limit_kb={limit - 1}: .* give at least {limit}"):
        small_runs.fit(config.with_changes(memory_limit_kb=limit - 1), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "refused before anything is written"
    notes, limited = [], config.with_changes(memory_limit_kb=limit)

    class Notes(small_runs.Watch):
        def on_note(self, text):
            notes.append(text)

    watch = Notes(tmp_path / "run")
    small_runs.fit(limited, watch.workdir, watch)
    assert all(memory.bytes()["total"] <= KB * limit for memory in watch.memories)
    summary = json.loads((watch.workdir / "summary.json").read_text())
    assert summary["bytes"]["memory"]["total"] <= KB * limit == summary["memory_limit"]["bytes"]
    stopped = summary["memory_limit"]["growth_stopped_after"]
    said = [f"memory_limit_kb={limit} stops the growth of the generator after task {task}" for task in stopped]
    assert stopped and [note for note in notes if "memory_limit" in note] == said
    for label, images in watch.drawn[0].items():
        assert images.tobytes() == watch.drawn[-1][label].tobytes()
    assert small_runs.fit(limited, watch.workdir)["memory_limit"] == summary["memory_limit"], "as restored"
    # A run that goes on says so again: if the limit stopped growth between two stages, it was not said before.
    shutil.rmtree(watch.workdir / "checkpoints" / "2")
    notes.clear()
    with pytest.raises(KeyboardInterrupt):
        small_runs.fit(limited, watch.workdir, watch, _NothingMore())
    assert [note for note in notes if "memory_limit" in note] == [text for text in said if text.endswith("task 1")]
