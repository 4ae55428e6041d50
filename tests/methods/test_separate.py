"""One generator a task: nothing is shared, and each can be drawn from."""

import io
from dataclasses import replace

import jax
import numpy as np
import pytest
from support import checks, small_runs

from dgm_jax.config import Config
from dgm_jax.errors import UserError
from dgm_jax.memory import export, file
from dgm_jax.methods.separate import generator_bytes, width_for
from dgm_jax.runs.session import new_method
from dgm_jax.training.task import Networks


def _config(**changes):
    return small_runs.small(method="separate", **({"image_size": 8, "critic_condition": "projection"} | changes))


def _tree(task):
    return {"kernels": task.kernels, "norms": task.norms, "statistics": task.statistics, "heads": task.heads}


def test_the_training_of_another_task_changes_no_array_of_an_earlier_generator():
    watch = small_runs.finished(_config())
    assert [len(memory.tasks) for memory in watch.memories] == [1, 2, 3]
    for task, memory in enumerate(watch.memories):
        for later in watch.memories[task + 1 :]:
            checks.assert_equal_trees(_tree(memory.tasks[task]), _tree(later.tasks[task]))
            checks.assert_equal_trees(
                watch.drawn[task], {label: later.sample(label, 5, jax.random.key(label)) for label in watch.drawn[task]}
            )


def test_a_generator_begins_with_no_weight_of_an_earlier_one():
    """Whatever the earlier ones learnt; and again the same if the run is resumed there."""
    config = _config()
    method = new_method(config, small_runs.stream(config), jax.local_devices()[:1])
    key = jax.random.key(3)
    state = method.new_state(key)
    other = replace(state, memory=replace(state.memory, kernels=[0 * kernel for kernel in state.memory.kernels]))
    first, again = (method.expand(0, key, learnt).memory.kernels for learnt in (state, other))
    second = method.expand(1, key, state).memory.kernels
    checks.assert_equal_trees(first, again)
    for kernels in (state.memory.kernels, second):
        correlation = np.corrcoef(
            np.concatenate([k.ravel() for k in kernels]), np.concatenate([k.ravel() for k in first])
        )
        assert abs(correlation[0, 1]) < 0.2


def test_a_class_is_drawn_by_the_generator_of_its_task():
    """Of tasks with two classes and one."""
    memory = small_runs.finished(_config(), classes_per_task=(2, 1)).memories[-1]
    drawn = small_runs.draw_all(memory)
    for silent in range(2):
        tasks = list(memory.tasks)
        tasks[silent] = replace(tasks[silent], kernels=[0 * kernel for kernel in tasks[silent].kernels])
        without = small_runs.draw_all(replace(memory, tasks=tuple(tasks)))
        same = [np.array_equal(drawn[label], without[label]) for label in drawn]
        assert same == [silent != 0, silent != 0, silent != 1]


@pytest.mark.parametrize(("classes_per_task", "n_conditioned"), [(1, 0), ((2, 1), 3)])
def test_a_generator_of_one_class_is_not_told_it(classes_per_task, n_conditioned):
    """So all of its noise is random, and may have fewer entries than there are classes."""
    config = _config(noise_dim=2 if n_conditioned == 0 else 8)
    memory = small_runs.finished(config, classes_per_task=classes_per_task).memories[-1]
    assert {task.n_conditioned for task in memory.tasks} == {n_conditioned}
    for label in memory.labels:
        images = np.asarray(memory.sample(label, 4, jax.random.key(label)))
        assert len(np.unique(images, axis=0)) == 4


def test_what_a_memory_of_several_generators_is_exported_to():
    memory = small_runs.finished(_config()).memories[-1]
    with np.load(io.BytesIO(export.to_npz(memory))) as arrays:
        np.testing.assert_array_equal(arrays["task_2_kernel_0"], memory.tasks[2].kernels[0])
        assert not any("mask" in name or name.startswith("kernel") for name in arrays)
    draw, key = jax.jit(export.sampler(memory)), jax.random.key(7)
    for label in (0, 2):
        images = draw(jax.random.key_data(key), 0, label)
        np.testing.assert_allclose(images[:3], memory.sample(label, 3, key), atol=1e-5)
    with pytest.raises(UserError, match="^each task of this memory has a generator of its own"):
        file.encode(memory)


def test_all_classes_are_learnt_from_drawn_images(tmp_path):
    """One program serves all tasks, and metrics of gates are left out."""
    config = _config(epochs=80, consolidation_steps=400, consolidation_samples=40)
    summary = small_runs.fit(config, tmp_path)
    confusion = np.array(summary["confusion"]["consolidated"])
    assert summary["A_3"]["consolidated"]["macro"] > 0.7
    assert min(np.diag(confusion) / confusion.sum(axis=1)) > 0.4  # A class drawn by another's generator has 0.
    assert summary["programs"] == [[3]] and summary["widths"] == [3] and "capacity" not in summary
    assert "open_share" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("network", "size"), [("dcgan", 32), ("resnet", 16)])
def test_the_width_whose_generators_have_about_so_many_bytes(network, size):
    config = Config().with_changes(network=network, image_size=size, noise_dim=40, generator_width=5)
    networks = Networks(config, channels=3, n_classes=10, max_heads=2)
    key, widths = jax.random.key(0), networks.first_widths
    norms, heads = networks.generator.init_task(key, widths, 3, 2)
    arrays = [networks.new_kernels(key, widths), norms, networks.generator.init_statistics(widths), heads]
    assert generator_bytes(config, 5, channels=3, classes=2) == sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))

    sizes = [7 * generator_bytes(config, width, channels=3) for width in range(1, 40)]
    for n_bytes in (1, sizes[0], 300_000, 1_000_000, sizes[20] + 1):
        width = width_for(n_bytes, config, generators=7, channels=3)
        assert abs(sizes[width - 1] - n_bytes) == min(abs(size - n_bytes) for size in sizes)
