"""A memory without some of its classes: the others draw bit for bit what they drew, and nothing is left of those."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from support import checks, small_runs
from support.marks import slow_but

from dgm_jax import Memory
from dgm_jax.errors import NewerFormat
from dgm_jax.memory import container, export, file, memory_section
from dgm_jax.memory.container import DamagedMemoryFile
from dgm_jax.memory.forgetting import read_weights, weights_of_class, without_classes
from dgm_jax.memory.memory import used_weights

RUNS = {
    "dgma": lambda: small_runs.finished(small_runs.small("dgma")),
    "dgmw-pairs": lambda: small_runs.finished(
        small_runs.small("dgmw", image_size=8, headroom=2), labels=small_runs.SIX, classes_per_task=2
    ),
    "dgmw": lambda: small_runs.finished(small_runs.small("dgmw")),
    "dgma-unequal": small_runs.unequal,
    "separate": lambda: small_runs.finished(
        small_runs.small(method="separate", image_size=8, critic_condition="projection")
    ),
}


@pytest.fixture(scope="module", params=slow_but(list(RUNS), "dgma", "dgmw-pairs", "dgma-unequal"))
def memory(request) -> Memory:
    return RUNS[request.param]().memories[-1]


def draws_as(left: Memory, memory: Memory) -> None:
    before, now = small_runs.draw_all(memory), small_runs.draw_all(left)
    assert set(now) < set(before)
    for label, images in now.items():
        assert images.tobytes() == before[label].tobytes(), f"class {label} drifted"


def test_other_classes_are_drawn_as_before(memory):
    for index in range(memory.n_classes):
        left = without_classes(memory, [index])
        assert left.labels == memory.labels[:index] + memory.labels[index + 1 :]
        draws_as(left, memory)
        with pytest.raises(ValueError, match=f"the memory knows no class {memory.labels[index]}; it knows"):
            left.sample(memory.labels[index], 1, jax.random.key(0))


def test_one_class_after_the_other_is_as_all_at_once(memory):
    first, second = 0, memory.n_classes - 1
    one_by_one = without_classes(without_classes(memory, [first]), [second - 1])
    for a, b in zip(one_by_one.to_tree(), without_classes(memory, [second, first]).to_tree()):
        checks.assert_equal_trees(a, b)
    draws_as(one_by_one, memory)


def test_what_only_the_class_used_is_zero_and_free(memory):
    newest = memory.tasks[-1].classes
    drawn, shared = weights_of_class(memory, without_classes(memory, newest), newest[0])
    assert drawn > shared, "no weight would be set free here"
    for index in range(memory.n_classes):
        left = without_classes(memory, [index])
        task = next(task for task in memory.tasks if index in task.classes)
        alone = len(task.classes) == 1
        assert len(left.tasks) == len(memory.tasks) - alone
        drawn, shared = weights_of_class(memory, left, index)
        assert drawn > 0 and 0 <= shared <= drawn
        used = read_weights(left)
        for before, after, still in zip(memory.kernels, left.kernels, used):
            assert before[still].tobytes() == after[still].tobytes() and not after[~still].any()
        if not alone:  # Only weights from the class's entry of the noise are no other's.
            assert 0 < shared < drawn
            continue
        for number, mask in enumerate(task.masks):
            corner = tuple(slice(0, n) for n in mask.shape)
            others = np.zeros(memory.reserved[number].shape, bool)
            for other in left.tasks:
                others[tuple(slice(0, n) for n in other.masks[number].shape)] |= other.masks[number]
            assert not left.reserved[number][corner][mask & ~others[corner]].any()
            assert (left.reserved[number] == others).all()


def test_weights_from_the_entry_of_the_class_go(memory):
    """In tasks of one class, only its draws have a 1 there; but gates of other tasks may be open, too."""
    for index in range(memory.n_classes):
        entry, left = memory.noise_entry(index), without_classes(memory, [index])
        before, after = (of.kernels[0][:, :, entry] for of in (memory, left)) if left.kernels else ((), ())
        assert not np.any(after) and (memory.own_kernels or np.any(before))
        if memory.own_kernels:
            continue
        n = max(task.n_conditioned for task in left.tasks)  # From here on, all that is opened is read.
        assert np.array_equal(used_weights(left)[0][:, :, n:], read_weights(left)[0][:, :, n:])
        for task in left.tasks:
            mine, own = replace_tasks(left, task), list(task.noise_entries)
            assert (read_weights(left)[0][:, :, own] >= used_weights(mine)[0][:, :, own]).all()


def replace_tasks(memory: Memory, *tasks) -> Memory:
    return dataclasses.replace(memory, tasks=tasks)


def test_of_two_classes_with_one_entry_each_keeps_its_weights():
    """A class that comes after another was forgotten can have the entry of an earlier one."""
    memory = RUNS["dgma"]().memories[-1]
    first, *_ = memory.tasks
    left = without_classes(memory, [0])
    later = dataclasses.replace(first, classes=(2,), conditions=None)  # As if a new class had been learnt like it.
    both = dataclasses.replace(left, tasks=(*left.tasks, later), labels=(*left.labels, 9), names=(*left.names, "9"))
    both = dataclasses.replace(both, kernels=memory.kernels, reserved=memory.reserved)
    entry = both.noise_entry(2)
    assert entry == both.noise_entry(1)
    alone, opened = without_classes(both, [1]), used_weights(replace_tasks(both, later))[0]
    opened_by_others = used_weights(replace_tasks(both, *both.tasks[:1]))[0] & ~opened
    assert opened_by_others[:, :, entry].any(), "weights that stayed, because another class has gates there"
    assert not alone.kernels[0][:, :, entry][~opened[:, :, entry]].any()
    draws_as(alone, both)


def test_a_checkpoint_and_an_exported_file_draw_the_same(memory):
    left = without_classes(memory, [0])
    assert any(task.conditions for task in left.tasks)
    assert Memory.from_tree(*left.to_tree()).tasks[-1].noise_entries == left.tasks[-1].noise_entries
    draws_as(Memory.from_tree(*left.to_tree()), memory)
    if left.own_kernels:
        return
    draws_as(file.decode(file.encode(left)).memory, memory)
    sections = container.unpack(file.encode(left), ("memory", "noise_entries"))
    assert list(sections) == ["memory", "noise_entries"]
    with pytest.raises(NewerFormat, match="section 'noise_entries'"):  # As an earlier version would read it.
        container.unpack(file.encode(left), ("memory", "classifier"))
    own = sections["noise_entries"].header["entries"]
    for entries in (own[1:], [[0.5, *own[0][1:]], *own[1:]], [[10**6, *own[0][1:]], *own[1:]], [own[0] * 2, *own[1:]]):
        with pytest.raises(DamagedMemoryFile, match="not valid"):
            memory_section.decode(sections["memory"], container.Section({"entries": entries}, {}))


def test_arrays_and_a_program_say_where_the_one_hot_is():
    memory = RUNS["dgmw-pairs"]().memories[-1]
    left = without_classes(memory, [0])
    arrays = np.load(io.BytesIO(export.to_npz(left)))
    entries = [entry for task in range(len(left.tasks)) for entry in arrays[f"task_{task}_classes"]]
    assert entries == list(range(1, memory.n_classes))
    label, key = left.labels[-1], jax.random.key(1)
    drawn = jax.jit(export.sampler(left))(jax.random.key_data(key), np.int32(0), np.int32(label))
    np.testing.assert_allclose(drawn[:9], memory.sample(label, 9, key), rtol=0, atol=5e-6)


def test_files_of_classes_that_were_never_renumbered_do_not_change(memory):
    left = without_classes(memory, [memory.n_classes - 1])
    assert not any(task.conditions for task in left.tasks)
    assert "conditions" not in str(left.to_tree()[1])


def test_unknown_classes_are_refused(memory):
    with pytest.raises(ValueError, match=f"no class of index 99; it knows 0 to {memory.n_classes - 1}$"):
        without_classes(memory, [0, 99])


def test_classes_that_are_still_to_come_are_left_out(memory):
    begun = dataclasses.replace(memory, tasks=memory.tasks[:2])
    left = without_classes(begun, [0])
    assert left.labels == memory.labels[1 : begun.n_classes]
