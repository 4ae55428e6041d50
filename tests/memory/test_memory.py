"""What a memory drew when a task ended it draws for ever, bit for bit; what it refuses; what it weighs."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from support import checks, golden_names, programs, small_runs
from support.marks import slow_but

from dgm_jax import Memory, load_memory
from dgm_jax.errors import NoMemory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.system.pinned import OtherGenerator
from dgm_jax.types import GeneratorParams, Norm, Statistics

RUNS = {
    "dgma-16": lambda: small_runs.finished(small_runs.small("dgma")),
    "dgmw-16": lambda: small_runs.finished(small_runs.small("dgmw")),
    # Arrays that outgrow their padding, and several classes a task.
    "dgma-8-unequal": small_runs.unequal,
    "dgma-resnet": lambda: small_runs.finished(small_runs.residual("dgma", seed=1)),
    "dgma-16-beyond": lambda: small_runs.finished(small_runs.beyond("dgma", image_size=16)),
    "dgmw-8-beyond-pairs": lambda: small_runs.finished(
        small_runs.beyond("dgmw"), labels=small_runs.SIX, classes_per_task=2
    ),
    "dgmw-resnet-pairs": lambda: small_runs.finished(
        small_runs.residual("dgmw"), labels=small_runs.SIX, classes_per_task=2
    ),
}


@pytest.fixture(
    scope="module",
    params=slow_but(list(RUNS), "dgma-16", "dgmw-16", "dgma-8-unequal", "dgma-resnet", "dgmw-8-beyond-pairs"),
)
def run(request):
    return RUNS[request.param]()


def test_it_is_printed_in_a_line(run):
    memory = run.memories[-1]
    said = repr(memory)
    assert len(said) < 200 and f"labels={list(memory.labels)}" in said and f"tasks={len(memory.tasks)}" in said
    assert f"images={memory.image_size}x{memory.image_size}x1," in said
    assert repr(dataclasses.replace(memory, tasks=())).startswith("Memory(labels=[], tasks=0, images=")
    assert f"weights={sum(k.nbytes for k in memory.kernels) / 1000:,.0f} kB" in said


class TestExactRetention:
    def test_after_every_later_task(self, run):
        assert len(run.drawn) == 3
        first, *_, last = run.memories
        assert sum(last.widths) > sum(first.tasks[0].widths)  # It has grown.
        for task, drawn in enumerate(run.drawn):
            for later in run.drawn[task + 1 :]:
                assert set(drawn) < set(later)
                for label, images in drawn.items():
                    assert images.tobytes() == later[label].tobytes(), f"class {label} of task {task} drifted"

    def test_images_are_images(self, run):
        size = run.memories[0].image_size
        for images in run.drawn[-1].values():
            assert images.shape == (small_runs.Watch.N, size, size, 1) and images.dtype == np.float32
            assert np.all(np.abs(images) <= 1) and np.std(images) > 0
        drawn = list(run.drawn[-1].values())
        assert all(np.any(a != b) for a, b in zip(drawn, drawn[1:]))

    def test_after_a_restore(self, run):
        checks.assert_equal_trees(small_runs.draw_all(load_memory(run.workdir)), run.drawn[-1])

    def test_as_of_a_task(self, run):
        for task, drawn in enumerate(run.drawn):
            memory = load_memory(run.workdir, after_task=task)
            assert len(memory.tasks) == task + 1
            checks.assert_equal_trees(small_runs.draw_all(memory), drawn)

    def test_shared_weights_of_earlier_tasks_are_equal_bit_for_bit(self, run):
        for before, after in zip(run.memories, run.memories[1:]):
            for old, new, mask in zip(before.kernels, after.kernels, before.tasks[-1].masks):
                if mask.ndim > 1:  # DGMw: the very weights that the masks open.
                    corner = tuple(slice(0, n) for n in mask.shape)
                    assert old[corner][mask].tobytes() == new[corner][mask].tobytes()


class TestSample:
    def test_of_two_calls_the_longer_begins_with_the_shorter(self, run):
        memory = run.memories[-1]
        for label in memory.labels[:2]:
            longest = np.asarray(memory.sample(label, 200, jax.random.key(3)))
            parts = list(memory.stream(label, 130, jax.random.key(3)))
            assert [len(part) for part in parts] == [128, 2]
            assert np.concatenate(parts).tobytes() == longest[:130].tobytes()
            for n in (1, 7, 128, 129):
                assert np.asarray(memory.sample(label, n, jax.random.key(3))).tobytes() == longest[:n].tobytes()
            assert np.any(longest[:128][:72] != longest[128:])

    def test_another_key_draws_other_images(self, run):
        memory = run.memories[-1]
        label = memory.labels[0]
        assert np.any(memory.sample(label, 3, jax.random.key(0)) != memory.sample(label, 3, jax.random.key(1)))

    def test_unknown_class(self, run):
        memory = load_memory(run.workdir, after_task=0)
        known = ", ".join(map(str, memory.labels[: memory.n_classes]))
        assert len(memory.labels) == len(memory.names) == memory.n_classes
        for label in (load_memory(run.workdir).labels[-1], 77):
            with pytest.raises(ValueError, match=f"^the memory knows no class {label}; it knows {known}$"):
                memory.sample(label, 1, jax.random.key(0))

    def test_a_class_that_is_still_to_come(self, run):
        """During a run, a memory has the labels of all its classes."""
        memory = dataclasses.replace(run.memories[-1], tasks=run.memories[-1].tasks[:1])
        with pytest.raises(ValueError, match=f"^the memory knows no class {memory.labels[memory.n_classes]}; it knows"):
            memory.sample(memory.labels[memory.n_classes], 1, jax.random.key(0))

    def test_too_few(self, run):
        memory = run.memories[-1]
        for n in (0, -1):
            with pytest.raises(ValueError, match=f"^n={n} images cannot be drawn; ask for at least 1$"):
                memory.sample(memory.labels[0], n, jax.random.key(0))

    def test_as_uint8(self, run):
        memory = run.memories[-1]
        pixels = memory.images(0, 3, jax.random.key(0))
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(
            pixels / 127.5 - 1, memory.sample_index(0, 3, jax.random.key(0)), atol=1 / 255 + 1e-6
        )


class TestLoad:
    def test_after_task_out_of_range(self, run):
        for task in (-1, 3):
            text = f"after_task={task}, but {run.workdir} has 3 finished tasks, from 0"
            with pytest.raises(NoMemory, match=f"^{re.escape(text)}$"):
                load_memory(run.workdir, after_task=task)

    def test_no_folder(self, tmp_path):
        text = f"{tmp_path / 'none'} is not there; expected the workdir of a run, or a file that was exported from one"
        with pytest.raises(NoMemory, match=f"^{re.escape(text)}$"):
            load_memory(tmp_path / "none")

    @pytest.mark.parametrize("made", [(), ("checkpoints",)])
    def test_empty_folder(self, tmp_path, made):
        for name in made:
            (tmp_path / name).mkdir()
        text = f"{tmp_path} holds no checkpoint yet; expected the workdir of a run with a finished task"
        with pytest.raises(NoMemory, match=f"^{re.escape(text)}$"):
            load_memory(tmp_path)

    def test_a_damaged_checkpoint_is_passed_over_with_a_warning(self, run, tmp_path):
        workdir = small_runs.copied(run.workdir, tmp_path / "copy")
        checks.flip_a_byte(workdir)
        with pytest.warns(UserWarning, match="is damaged: .* is used instead"):
            memory = load_memory(workdir)
        assert len(memory.tasks) == 2
        checks.assert_equal_trees(small_runs.draw_all(memory), run.drawn[1])


# ---- by hand ----


def _task(variant, classes, widths, masks, seed):
    rng = np.random.default_rng(seed)
    return TaskMemory(
        classes=classes,
        widths=widths,
        masks=masks,
        norms=[Norm(np.ones(w, np.float32), rng.normal(size=w).astype(np.float32)) for w in widths],
        statistics=[Statistics(np.zeros(w, np.float32), np.ones(w, np.float32)) for w in widths],
        heads=rng.normal(size=(len(classes), 4, 4, widths[-1], 1)).astype(np.float32),
        n_conditioned=3,
    )


def _memory(variant):
    """Two tasks, of one and of two classes; 16x16; widths 5-3, grown to 6-4."""
    rng = np.random.default_rng(0)
    old, new = (
        [s if variant == "dgmw" else s[-1:] for s in golden_names.chain(w).kernel_shapes(w, 7)]
        for w in ((5, 3), (6, 4))
    )
    masks = [[rng.random(shape) < 0.5 for shape in shapes] for shapes in (old, new)]
    tasks = (
        _task(variant, (0,), (5, 3), masks[0], 1),
        _task(variant, (1, 2), (6, 4), masks[1], 2),
    )
    kernels = [
        rng.normal(size=shape).astype(np.float32) for shape in golden_names.chain((6, 4)).kernel_shapes((6, 4), 7)
    ]
    return Memory(kernels, masks[1], tasks, noise_dim=7, image_size=16, labels=(9, 4, 6), names=("nine", "four", "six"))


@pytest.mark.parametrize("variant, masks", [("dgma", 1 + 1 + 1 + 1), ("dgmw", 70 + 30 + 84 + 48)])
def test_bytes(variant, masks):
    shared = 4 * (16 * 7 * 6 + 16 * 6 * 4)
    own = 4 * ((4 * (5 + 3) + 16 * 3) + (4 * (6 + 4) + 2 * 16 * 4))
    expected = {"shared_weights": shared, "task_parameters": own, "masks": masks, "total": shared + own + masks}
    assert _memory(variant).bytes() == expected


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_as_a_tree_and_back(variant):
    memory = _memory(variant)
    assert memory.widths == (6, 4) and memory.n_classes == 3
    back = Memory.from_tree(*memory.to_tree())
    for name in ("widths", "n_classes", "noise_dim", "image_size", "network", "labels", "names", "gate_before_norm"):
        assert getattr(back, name) == getattr(memory, name)
    checks.assert_equal_trees((back.kernels, back.reserved), (memory.kernels, memory.reserved))
    for a, b in zip(back.tasks, memory.tasks, strict=True):
        checks.assert_equal_trees(dataclasses.asdict(a), dataclasses.asdict(b))
    checks.assert_equal_trees(small_runs.draw_all(back), small_runs.draw_all(memory))


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_the_cut_draws_what_the_whole_generator_would(variant):
    """Against the full network: masks closed on what is new, norms padded by neutral entries."""
    memory = _memory(variant)
    noise = np.random.default_rng(5).normal(size=(4, 7)).astype(np.float32)
    head = np.zeros(4, np.int32)
    run = programs.quick_jit(
        lambda params, statistics, masks: golden_names.chain(statistics).generate(
            params, statistics, masks, noise, head, train=False
        )[0]
    )
    for task in memory.tasks:
        kernels, inputs = [], 7
        for kernel, width in zip(memory.kernels, task.widths):
            kernels.append(kernel[:, :, :inputs, :width])
            inputs = width
        whole = GeneratorParams(kernels, task.norms, task.heads[:1])
        expected = run(whole, task.statistics, task.masks)
        cut = memory.cut(task)
        one_head = dataclasses.replace(cut.generator, heads=cut.generator.heads[:1])
        np.testing.assert_allclose(run(one_head, cut.statistics, [None, None]), expected, atol=1e-5)


def test_a_task_that_opens_nothing_draws_grey():
    memory = _memory("dgma")
    closed = dataclasses.replace(memory.tasks[0], masks=[np.zeros(5, bool), np.zeros(3, bool)])
    memory = dataclasses.replace(memory, tasks=(closed, memory.tasks[1]))
    assert not np.any(memory.sample(9, 2, jax.random.key(0)))


# ---- inside other programs ----


@pytest.fixture(scope="module", params=["dgma", "dgmw"])
def memory(request):
    return _memory(request.param)


@pytest.fixture(scope="module")
def keys():
    return jax.random.key(3), jax.random.key(4)


@pytest.fixture(scope="module")
def drawn(memory, keys):
    """For two classes: the parameters, the function, and what `sample` draws with each key."""
    return [(*memory.sampler(label), [np.asarray(memory.sample(label, 256, k)) for k in keys]) for label in (9, 6)]


class TestSampler:
    """The pure function draws bit for bit what `sample` draws, wherever its parameters are arguments."""

    def test_by_itself_and_in_jit(self, keys, drawn):
        assert np.std(drawn[1][2][0]) > 0
        for params, draw, expected in drawn:
            for key, images in zip(keys, expected, strict=True):
                assert np.asarray(draw(params, key)).tobytes() == images[:128].tobytes()
                assert np.asarray(jax.jit(draw)(params, key, 128)).tobytes() == images[128:].tobytes()
                assert np.asarray(jax.jit(draw)(params, key, 5))[:123].tobytes() == images[5:128].tobytes()

    def test_in_scan_and_vmap(self, keys, drawn):
        params, draw, expected = drawn[1]

        @jax.jit
        def all_chunks(params, key):
            return jax.lax.scan(lambda start, _: (start + 128, draw(params, key, start)), 0, length=2)[1]

        assert np.asarray(all_chunks(params, keys[0])).tobytes() == expected[0].tobytes()
        mapped = jax.jit(jax.vmap(draw, (None, 0)))(params, jax.numpy.stack(keys))
        for images, whole in zip(np.asarray(mapped), expected, strict=True):
            assert images.tobytes() == whole[:128].tobytes()

    def test_derivatives(self, keys, drawn):
        params, draw, _ = drawn[1]
        loss = jax.jit(lambda params: (draw(params, keys[0]) ** 2).mean())
        gradient = jax.jit(jax.grad(loss))(params)
        slope = sum(float((g * g).sum()) for g in jax.tree.leaves(gradient))
        assert np.isfinite(slope) and slope > 0
        tangent = jax.jvp(loss, (params,), (gradient,))[1]
        np.testing.assert_allclose(tangent, slope, rtol=1e-3)

    def test_settings_of_the_caller_do_not_matter(self, keys, drawn):
        params, draw, expected = drawn[1]
        with (
            jax.enable_x64(True),
            jax.threefry_partitionable(False),
            jax.numpy_dtype_promotion("strict"),
            jax.default_matmul_precision("bfloat16"),
            jax.default_prng_impl("rbg"),
        ):
            images = jax.jit(draw)(params, keys[0])
        assert images.dtype == np.float32 and np.asarray(images).tobytes() == expected[0][:128].tobytes()

    def test_what_is_refused(self, memory, keys, drawn):
        params, draw, _ = drawn[1]
        with pytest.raises(ValueError, match="the memory knows no class 77"):
            memory.sampler(77)
        for call in (draw, jax.jit(draw)):
            with pytest.raises(OtherGenerator, match="a key of the generator rbg would draw other images"):
                call(params, jax.random.key(0, impl="rbg"))
        with pytest.raises(ValueError, match="inside jit, vmap, scan or grad; use the function of `sampler`"):
            jax.jit(lambda key: memory.sample(memory.labels[0], 2, key))(keys[0])


class TestBatches:
    def test_classes_take_turns_and_images_are_those_of_sample(self, memory):
        key, batch_size, n_batches = jax.random.key(7), 50, 3 * 128 // 50 + 1
        found = {label: [] for label in memory.labels}
        batches = memory.batches(batch_size, key)
        for _, (images, labels) in zip(range(n_batches), batches):
            size = memory.image_size
            assert images.shape == (batch_size, size, size, 1) and images.dtype == np.float32
            assert labels.shape == (batch_size,) and labels.dtype == np.int64
            counts = [int(np.sum(labels == label)) for label in memory.labels]
            assert max(counts) - min(counts) <= 1
            for image, label in zip(images, labels):
                found[int(label)].append(image)
        assert max(map(len, found.values())) - min(map(len, found.values())) <= 1
        for index, label in enumerate(memory.labels):
            expected = memory.sample(label, len(found[label]), jax.random.fold_in(key, index))
            assert np.stack(found[label]).tobytes() == np.asarray(expected).tobytes()
        assert len(found[9]) > 128

    def test_only_classes_that_were_learnt(self, memory):
        memory = dataclasses.replace(memory, tasks=memory.tasks[:1])  # More classes are announced.
        labels = next(memory.batches(7, jax.random.key(0)))[1]
        assert labels.tolist() == 7 * [9]

    def test_what_is_refused(self, memory):
        with pytest.raises(ValueError, match="batch_size=0: expected at least 1"):
            memory.batches(0, jax.random.key(0))
        with pytest.raises(ValueError, match="the memory knows no class yet"):
            dataclasses.replace(memory, tasks=()).batches(5, jax.random.key(0))
        with pytest.raises(OtherGenerator):
            memory.batches(5, jax.random.key(0, impl="rbg"))
