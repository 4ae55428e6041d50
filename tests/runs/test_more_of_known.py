"""More images of a class that a run knows: a further mode of it in the memory, and nothing learnt before changes."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import small_runs
from support.marks import slow_but
from support.stopping import Log

from dgm_jax import Learner, data, forget, load_classifier, load_memory
from dgm_jax.commands.main import main
from dgm_jax.data import pictures
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.memory import export
from dgm_jax.memory.container import DamagedMemoryFile, Section, pack
from dgm_jax.memory.file import decode, encode
from dgm_jax.memory.memory_section import encode as as_section
from dgm_jax.methods.method import Watch
from dgm_jax.methods.replay import replayed_images
from dgm_jax.runs import reading
from dgm_jax.runs.events import Callback
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import place_in
from dgm_jax.runs.session import new_method

NAMES = ("nought", "one", "two", "three")
CONFIGS = {
    "dgma": lambda: small_runs.small("dgma", image_size=8, headroom=2, consolidation_means=True),
    "dgmw": lambda: small_runs.small("dgmw", image_size=8, warm_start=True, auxiliary_generator=True),
    "separate": lambda: small_runs.small(method="separate", image_size=8),
}
# The second stage: more images of class 1 alone, or in one task with a new class that comes first.
SECOND = {"dgma": (1,), "dgmw": (2, 1), "separate": (1,)}


def stage(labels: tuple[int, ...], *, turned: int = 0, per_task: int = 1, n: int = 24) -> data.TaskStream:
    """Digits, which are turned by 90 degrees `turned` times; labels begin at 0, as those of class folders do."""
    own = small_runs.digits(8, tuple(sorted(labels)), n)
    new = {label: rank for rank, label in enumerate(labels)}
    y_train, y_test = (np.array([new[label] for label in y]) for y in (own.y_train, own.y_test))
    x_train, x_test = (np.rot90(x, turned, axes=(1, 2)) for x in (own.x_train, own.x_test))
    names = {rank: NAMES[label] for rank, label in enumerate(labels)}
    dataset = data.from_arrays(x_train, y_train, x_test, y_test, name="mine", class_names=names)
    return data.class_incremental(dataset, classes_per_task=per_task)


def second(kind: str) -> data.TaskStream:
    return stage(SECOND[kind], turned=1, per_task=len(SECOND[kind]), n=12)


def learn(config, stream: data.TaskStream, workdir: Path, *callbacks: Callback, **how) -> dict:
    return Learner(config, devices=1, callbacks=callbacks).fit(stream, workdir, **how)


class Interrupt(Callback):
    def on_epoch_end(self, event) -> None:
        if (event.task, event.epoch) == (2, 1):
            raise KeyboardInterrupt


class InterruptBetweenTasks(Callback):
    def on_task_end(self, event) -> None:
        raise KeyboardInterrupt


class NothingBegins(Callback):
    def on_task_start(self, event) -> None:
        raise AssertionError(event)


@dataclasses.dataclass(frozen=True)
class Case:
    kind: str
    config: object
    before: Path  # The folder after the first stage.
    folder: Path  # After the second.
    summary: dict


@pytest.fixture(scope="module", params=slow_but(list(CONFIGS), "dgma", "dgmw"))
def case(request, tmp_path_factory):
    kind = request.param
    config, before = CONFIGS[kind](), tmp_path_factory.mktemp("known") / "run"
    learn(config, stage((0, 1)), before)
    folder = small_runs.copied(before, before.parent / "more")
    return Case(kind, config, before, folder, learn(config, second(kind), folder, more_of_known=True))


def drawn(memory, mode=None, n=40):
    return {label: np.asarray(memory.sample(label, n, jax.random.key(label), mode=mode)) for label in (0, 1)}


class TestMemory:
    def test_what_was_learnt_before_is_drawn_bit_for_bit(self, case):
        """From the checkpoint, and from a file, where there is one."""
        then, memory = load_memory(case.before), load_memory(case.folder)
        files = [] if case.kind == "separate" else [decode(encode(memory)).memory]
        for later in (memory, *files):
            assert later.names == NAMES[: later.n_classes] and later.modes(1) == (24, 12)
            for label, images in drawn(then).items():
                assert images.tobytes() == drawn(later, mode=0)[label].tobytes()
        assert memory.modes(0) == (24,) and drawn(then)[0].tobytes() == drawn(memory)[0].tobytes()

    def test_all_modes_are_drawn_in_proportion(self, case):
        memory, n = load_memory(case.folder), 300
        key = jax.random.key(5)
        mixed, *modes = (np.asarray(memory.sample(1, n, key, mode=mode)) for mode in (None, 0, 1))
        is_of = np.array([[np.array_equal(image, of[i]) for of in modes] for i, image in enumerate(mixed)])
        assert (is_of.sum(axis=1) == 1).all(), "each image is that of one mode"
        assert is_of[:, 1].mean() == pytest.approx(12 / 36, abs=0.08)
        assert np.array_equal(memory.sample(1, 7, key), mixed[:7])
        params, draw = memory.sampler(1)
        assert np.array_equal(jax.jit(draw)(params, key, 128), mixed[128:256])
        assert np.array_equal(np.concatenate(list(memory.stream(1, n, key))), mixed)
        with pytest.raises(ValueError, match="mode=2, but class 1 has 2 modes, from 0"):
            memory.sample(1, 1, key, mode=2)

    def test_the_command_draws_one_mode(self, case, tmp_path):
        """As files and as one picture."""
        memory, n = load_memory(case.folder), 3
        words = ["sample", str(case.folder), "--classes", "one", "--n", str(n), "--mode"]
        for mode in (0, 1):
            expected = pictures.to_uint8(memory.sample(1, n, jax.random.key(0), mode=mode))
            assert main([*words, str(mode), "--out", str(tmp_path / f"mode{mode}")]) == 0
            written = [np.asarray(Image.open(tmp_path / f"mode{mode}" / "1" / f"{i:06}.png")) for i in range(n)]
            assert np.array_equal(written, expected[..., 0])
            assert main([*words, str(mode), "--out", str(tmp_path / f"{mode}.png")]) == 0
            grid = pictures.labelled_grid({"1 one": memory.sample(1, n, jax.random.key(0), mode=mode)}, columns=n)
            assert np.array_equal(np.asarray(Image.open(tmp_path / f"{mode}.png")), grid[..., 0])
        assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()

    def test_a_file_holds_all_modes(self, case):
        if case.kind == "separate":
            return
        memory = load_memory(case.folder)
        again = decode(encode(memory)).memory
        for mode in (None, 0, 1):
            assert np.array_equal(drawn(memory, n=200)[1], drawn(again, n=200)[1]), mode
        assert encode(again) == encode(memory)
        section = as_section(memory)
        for modes in ({}, {"images_of_modes": Section({"images": [[24], [24], [0] * len(SECOND[case.kind])]}, {})}):
            with pytest.raises(DamagedMemoryFile, match="label that two classes have|images of a mode 0 is not within"):
                decode(pack({"memory": section, **modes}))

    def test_npz_says_which_task_has_which_class(self, case):
        memory = load_memory(case.folder)
        arrays = np.load(io.BytesIO(export.to_npz(memory)), allow_pickle=False)
        assert tuple(arrays["labels"]) == memory.labels and arrays["task_1_labels"].tolist() == [1]
        assert arrays["task_2_labels"].tolist() == list(SECOND[case.kind])
        assert arrays["task_2_images"].tolist() == [12] * len(SECOND[case.kind])

    def test_the_exported_function_draws_the_same(self, case):
        memory = load_memory(case.folder)
        sample = jax.jit(export.sampler(memory))
        for label in memory.labels:
            images = sample(jax.random.key_data(jax.random.key(3)), np.int32(128), np.int32(label))
            expected = np.asarray(memory.sample(label, 256, jax.random.key(3)))[128:]
            np.testing.assert_allclose(images, expected, rtol=0, atol=2e-6)
        assert np.isnan(sample(jax.random.key_data(jax.random.key(3)), np.int32(0), np.int32(99))).all()

    def test_a_class_is_forgotten_with_all_its_modes(self, case, tmp_path):
        folder = small_runs.copied(case.folder, tmp_path / "run")
        then = drawn(load_memory(folder))[0]
        done = forget(folder, ["one"])
        left = load_memory(folder)
        assert done.left == tuple(name for name in load_memory(case.folder).names if name != "one")
        assert "one" not in left.names and all(len(task.classes) == 1 for task in left.tasks) and not left.has_modes
        assert np.asarray(left.sample(0, 40, jax.random.key(0))).tobytes() == then.tobytes()
        config = json.loads((folder / "config.json").read_text())
        assert config["stream"]["tasks"] == ([[0], [2]] if case.kind == "dgmw" else [[0]])

    def test_each_mode_is_replayed_as_its_task_is(self, case):
        memory, key = load_memory(case.folder), jax.random.key(2)
        stream = place_in(Workdir(case.folder), stage((3,))).stream
        setting = new_method(case.config, stream, jax.local_devices()[:1]).setting
        (replayed,) = replayed_images([memory], setting, 3, [key], Watch())
        for task, mode in ((1, 0), (2, 1)):
            of_class = replayed.images[task][replayed.labels[task] == 1][: replayed.counts[task]]
            expected = memory.images(1, len(of_class), jax.random.fold_in(key, 1), mode=mode)
            assert len(of_class) > 0 and np.array_equal(of_class, expected)


class TestRun:
    def test_accuracies_and_names(self, case):
        n, labels = case.summary["final"], SECOND[case.kind]
        assert n == len({0, 1, *labels}) and case.summary["tasks"] == [[0], [1], list(labels)]
        assert case.summary["class_names"] == list(NAMES[:n])
        own = reading.read(case.folder)
        curve = own.averages(own.readings[0])
        assert curve[:2] == reading.read(case.before).averages(own.readings[0]), "as they were measured"
        assert own.matrices[own.readings[0]][2][0] is None and None not in own.matrices[own.readings[0]][2][1:n]
        assert len(case.summary.get("before_more_images", {})) == (n == 2), "A_2 was measured twice"
        assert curve[2] == pytest.approx(np.mean(own.matrices[own.readings[0]][2][1:n]), abs=1e-5)
        assert case.summary["forgetting"][own.readings[0]] is None, "its earlier images are not those measured now"
        assert own.names_of(2) == [NAMES[label] for label in labels]
        assert load_classifier(case.folder).names == NAMES[:n]
        page = (case.folder / "report.html").read_text()
        assert f"task 2: {', '.join(NAMES[label] for label in labels)}" in page
        assert "All 24 images that were generated again" in page and "leaves out each class of which" in page
        assert "images changed</b>" not in page
        before = (case.before / "report.html").read_text()
        assert "All 12 images that were generated again" in before and "leaves out each class of which" not in before

    def test_the_same_images_again_are_a_finished_run(self, case):
        before = (case.folder / "config.json").read_text()
        for how in ({}, {"more_of_known": True}):
            again = learn(case.config, second(case.kind), case.folder, NothingBegins(), **how)
            assert again["finished_tasks"] == 3
        assert (case.folder / "config.json").read_text() == before
        with pytest.raises(OtherConfiguration, match="has learnt these very images before, .* or in an earlier stage"):
            learn(case.config, stage((0, 1)), case.folder, more_of_known=True)

    def test_it_is_refused_unless_it_is_asked_for(self, case):
        with pytest.raises(OtherConfiguration, match="if these are more images of .* pass --more-of-known"):
            learn(case.config, second(case.kind), case.before)
        with pytest.raises(
            OtherConfiguration, match="has learnt class nought before; a class belongs to one stage: .*"
        ):
            learn(case.config, stage((0,), turned=2), case.folder)
        assert json.loads((case.before / "config.json").read_text())["stages"] == [2]

    def test_it_is_resumed_within_the_task(self, case, tmp_path):
        folder = small_runs.copied(case.before, tmp_path / "run")
        with pytest.raises(KeyboardInterrupt):
            learn(case.config, second(case.kind), folder, Interrupt(), more_of_known=True)
        with pytest.raises(OtherConfiguration, match="has not learnt all of (one|two, one) yet"):
            learn(case.config, stage((3,)), folder, more_of_known=True)
        learn(case.config, second(case.kind), folder)
        for mode in (None, 1):
            label = {1: np.asarray(load_memory(case.folder).sample(1, 40, jax.random.key(1), mode=mode))}
            assert np.array_equal(load_memory(folder).sample(1, 40, jax.random.key(1), mode=mode), label[1])


def test_a_classifier_knows_no_class_that_is_still_to_come(case, tmp_path):
    """Before a new class, the stage brings more images of a known one; a class counts once, with all its modes."""
    if case.kind != "dgma":
        return
    folder = small_runs.copied(case.before, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        learn(case.config, stage((1, 2), turned=1, n=12), folder, InterruptBetweenTasks(), more_of_known=True)
    classifier = load_classifier(folder)
    assert classifier.labels == load_memory(folder).labels == (0, 1) and classifier.names == NAMES[:2]
    labels, probabilities = classifier.predict(small_runs.digits(8, (2,)).x_test)
    assert set(labels) <= {0, 1} and probabilities.shape[1] == 2


def test_a_mode_more_leaves_the_others_as_they_are(case):
    """Only images that come from the new mode are others than before."""
    before, key = load_memory(case.folder), jax.random.key(8)
    third = dataclasses.replace(before.tasks[0], classes=(1,), conditions=(0,))  # As if it had been of class 1.
    after = dataclasses.replace(before, tasks=(*before.tasks, third))
    assert after.modes(1) == (24, 12, 24)
    for mode in (0, 1):
        assert np.array_equal(after.sample(1, 20, key, mode=mode), before.sample(1, 20, key, mode=mode))
    old, new = (np.asarray(memory.sample(1, 300, key)) for memory in (before, after))
    changed = ~np.all(old == new, axis=(1, 2, 3))
    assert np.array_equal(new[changed], np.asarray(after.sample(1, 300, key, mode=2))[changed])
    assert changed.mean() == pytest.approx(24 / 60, abs=0.08)


@pytest.mark.parametrize("method", slow_but(["analytic", "er", "gdumb", "joint"], "analytic", "joint"))
def test_baselines(method, tmp_path):
    config = small_runs.small(method=method, image_size=8, filters=3)
    learn(config, stage((0, 1)), tmp_path)
    summary = learn(config, stage((1,), turned=1), tmp_path, more_of_known=True)
    assert summary["finished_tasks"] == 3 and summary["final"] == 2 and summary["tasks"] == [[0], [1], [1]]
    tree = small_runs.newest(tmp_path).tree
    if method == "analytic":
        assert tree["counts"].tolist() == [24, 48], "more images of a class add up"
    if method == "joint":
        assert np.bincount(tree["labels"]).tolist() == [24, 48]


def test_that_a_new_folder_knows_no_class_is_said(tmp_path):
    """The workdir may be misspelt."""
    config, log = small_runs.small(method="analytic", image_size=8, filters=3), Log()
    learn(config, stage((0,)), tmp_path / "misspelt", log, more_of_known=True)
    said = f"more_of_known has no effect: {tmp_path / 'misspelt'} is a new run, which knows no class yet"
    assert log.heard("on_note").count(said) == 1
    learn(config, stage((0,), turned=1), tmp_path / "misspelt", log, more_of_known=True)
    assert log.heard("on_note").count(said) == 1


@pytest.mark.parametrize("method", ["icarl", "finetune", "mergan"])
def test_other_methods_refuse(method, tmp_path):
    config = small_runs.small(method=method, image_size=8)
    folder = tmp_path / "run"
    stream = stage((0, 1)).after(past(), more_of_known=True)
    with pytest.raises(ConfigError, match=rf"method '{method}' cannot learn more images of .* \(one\); only dgm, "):
        learn(config, stream, folder)
    assert not folder.exists()


def past() -> data.Past:
    return data.Past("mine", ((7,), (4, 5)), ("one", "two", "three"), ((20,), (20, 10)), "ab")


def test_a_stream_that_repeats_classes():
    own = stage((1, 0), per_task=2)
    with pytest.raises(data.DataError, match="class one was learnt before"):
        own.after(past())
    stream = own.after(past(), more_of_known=True)
    assert stream.classes == (7, 4, 5, 1) and stream.class_names == ("one", "two", "three", "nought")
    assert stream.tasks == ((0,), (1, 2), (0, 3)) and stream.train_counts(2) == (24, 24)
    assert [stream.n_seen(task) for task in (-1, 0, 1, 2)] == [0, 1, 3, 4] and stream.repeated(2) == ("one",)
    stream.begin(2)
    own.begin(0)
    images, indices = stream.train(2)
    assert np.array_equal(images, own.train(0)[0])
    assert np.array_equal(indices, np.array([0, 3])[own.train(0)[1]])
