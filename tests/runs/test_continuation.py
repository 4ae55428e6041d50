"""A finished run continues with new classes, when the images of the earlier ones are gone."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from support import checks, small_runs
from support.marks import slow_but

from dgm_jax import Learner, data, load_memory
from dgm_jax.data import DataError, PastTaskError
from dgm_jax.errors import OtherConfiguration
from dgm_jax.runs.events import Callback

NAMES = ("nought", "one", "two", "three", "four", "five")
CONFIGS = {
    "dgma": lambda: small_runs.small("dgma", image_size=8, headroom=2),
    "dgmw": lambda: small_runs.small("dgmw", image_size=8, reinitialise_discriminator=False),
}


def stage(labels: tuple[int, ...], size: int = 8) -> data.TaskStream:
    """Class folders would number the classes of each stage from 0; so does this."""
    own = small_runs.digits(size, labels)
    new = {label: rank for rank, label in enumerate(labels)}
    y_train, y_test = (np.array([new[label] for label in y]) for y in (own.y_train, own.y_test))
    names = {rank: NAMES[label] for rank, label in enumerate(labels)}
    return data.class_incremental(
        data.from_arrays(own.x_train, y_train, own.x_test, y_test, name="mine", class_names=names)
    )


def learn(config, labels, workdir: Path, *callbacks: Callback) -> dict:
    return Learner(config, devices=1, callbacks=callbacks).fit(stage(labels), workdir)


class _Interrupt(Callback):
    def __init__(self, task: int, epoch: int) -> None:
        self.at = task, epoch

    def on_epoch_end(self, event) -> None:
        if (event.task, event.epoch) == self.at:
            raise KeyboardInterrupt


class _Notes(Callback):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_note(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture(scope="module", params=slow_but(list(CONFIGS), "dgma"))
def stages(request, tmp_path_factory):
    """Two stages of two classes each: settings, folder, and what was drawn after the first."""
    config, workdir = CONFIGS[request.param](), tmp_path_factory.mktemp("stages")
    learn(config, (0, 1), workdir)
    first = load_memory(workdir)
    drawn = small_runs.draw_all(first)
    summary = learn(config, (2, 3), workdir)
    return config, workdir, first, drawn, summary


def test_old_classes_are_drawn_as_before(stages):
    _, workdir, _, drawn, _ = stages
    memory = load_memory(workdir)
    assert memory.names == NAMES[:4] and memory.labels == (0, 1, 2, 3) and memory.n_classes == 4
    now = small_runs.draw_all(memory)
    for label, images in drawn.items():
        assert images.tobytes() == now[label].tobytes()
    assert all(np.std(images) > 0 for images in now.values())


def test_the_last_classifier_is_used_in_the_next_stage_too(tmp_path):
    """New classes begin as those of the stage before (warm start)."""
    config = small_runs.beyond("dgma", headroom=2)
    learn(config, (0, 1), tmp_path)
    drawn = small_runs.draw_all(load_memory(tmp_path))
    summary = learn(config, (2,), tmp_path)
    now = small_runs.draw_all(load_memory(tmp_path))
    assert summary["finished"] and len(now) == 3
    for label, images in drawn.items():
        assert images.tobytes() == now[label].tobytes()


def test_the_memory_has_grown_for_the_second_stage(stages):
    _, workdir, first, _, _ = stages
    memory = load_memory(workdir)
    assert first.widths == first.tasks[-1].widths, "nothing is grown after the last task"
    for before, after in zip(memory.tasks, memory.tasks[1:]):
        assert sum(after.widths) > sum(before.widths)
    rows = [r for r in json.loads((workdir / "summary.json").read_text())["capacity"] if r["task"] == 2]
    assert sum(row["reused"] for row in rows) > 0


def test_accuracies_are_those_of_classes_that_can_be_tested(stages):
    _, workdir, _, _, summary = stages
    lines = (workdir / "accuracy_matrix.csv").read_text().splitlines()
    assert lines[0] == "protocol,reading,after_task,0,1,2,3"
    last = next(line for line in lines if line.startswith("strict,consolidated,3")).split(",")
    assert last[3:5] == ["", ""] and all(0 <= float(cell) <= 1 for cell in last[5:])
    assert summary["finished_tasks"] == 4 and summary["A_4"]["consolidated"]["macro"] == pytest.approx(
        np.mean([float(cell) for cell in last[5:]]), abs=1e-6
    )
    confusion = np.array(summary["confusion"]["consolidated"])
    assert confusion.shape == (4, 4) and confusion[:2].sum() == 0 and (confusion[2:].sum(axis=1) > 0).all()


def test_the_same_stage_again_is_finished_already(stages):
    config, workdir, *_ = stages
    before = (workdir / "config.json").read_bytes()
    summary = learn(config, (2, 3), workdir)
    assert summary["finished"] and (workdir / "config.json").read_bytes() == before


def test_an_earlier_stage_again_is_refused(stages):
    config, workdir, *_ = stages
    with pytest.raises(OtherConfiguration, match="has learnt class nought before; a class belongs to one stage"):
        learn(config, (0, 1), workdir)


def test_a_class_of_an_earlier_stage_is_refused(stages):
    config, workdir, *_ = stages
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(OtherConfiguration, match="has learnt class one before; a class belongs to one stage"):
        learn(config, (4, 1), workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_an_interrupted_stage_continues_to_the_same_end(stages, tmp_path):
    config, workdir, _, _, undisturbed = stages
    folder = tmp_path / "run"
    learn(config, (0, 1), folder)
    with pytest.raises(KeyboardInterrupt):
        learn(config, (2, 3), folder, _Interrupt(3, 2))
    for other in ((4, 5), (0, 1)):
        with pytest.raises(OtherConfiguration):
            learn(config, other, folder)
    with pytest.raises(
        OtherConfiguration, match="has not learnt all of two, three yet; continue with their images first"
    ):
        learn(config, (4, 5), folder)
    summary = learn(config, (2, 3), folder)
    checks.assert_equal_trees(small_runs.newest(folder).tree, small_runs.newest(workdir).tree)
    assert summary["confusion"] == undisturbed["confusion"]


def test_a_stage_that_was_announced_but_not_begun_is_dropped(tmp_path):
    """Its images may be corrected after all, or another stage may come first."""
    config = CONFIGS["dgma"]()
    learn(config, (0, 1), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        learn(config, (2, 3), tmp_path, _Interrupt(2, 0))  # Before anything of it is saved.
    assert json.loads((tmp_path / "config.json").read_text())["stages"] == [2, 2]
    notes = _Notes()
    summary = learn(config, (4,), tmp_path, notes)
    assert notes.heard[0] == "dropped two, three: announced earlier, but not learnt before other classes came"
    assert summary["finished"] and load_memory(tmp_path).names == ("nought", "one", "four")
    assert json.loads((tmp_path / "config.json").read_text())["stages"] == [2, 1]
    assert learn(config, (4,), tmp_path)["finished_tasks"] == 3  # Finished already.
    learn(config, (2, 3), tmp_path)
    assert load_memory(tmp_path).names == ("nought", "one", "four", "two", "three")


def test_the_same_images_under_other_names_are_refused(stages, monkeypatch):
    config, workdir, *_ = stages
    monkeypatch.setitem(globals(), "NAMES", ("a", "b", "c", "d", "e", "f"))
    with pytest.raises(OtherConfiguration, match="has learnt these very images before, under other names"):
        learn(config, (2, 3), workdir)


@pytest.mark.slow
def test_a_third_stage(stages, tmp_path):
    config, workdir, _, drawn, _ = stages
    folder = small_runs.copied(workdir, tmp_path / "run")
    learn(config, (5,), folder)
    memory = load_memory(folder)
    assert memory.names == (*NAMES[:4], "five") and memory.labels == (0, 1, 2, 3, 4)
    for label, images in drawn.items():
        assert images.tobytes() == small_runs.draw_all(memory)[label].tobytes()
    assert len(json.loads((folder / "config.json").read_text())["stream"]["fingerprint"].split("+")) == 3


def test_settings_of_another_stage(stages, tmp_path):
    config, workdir, *_ = stages
    folder = small_runs.copied(workdir, tmp_path / "run")
    fewer = config.with_changes(epochs=2)
    with pytest.raises(OtherConfiguration, match="epochs is 3, now 2.*pass --resume-anyway"):
        Learner(fewer, devices=1).fit(stage((5,)), folder)
    assert Learner(fewer, devices=1).fit(stage((5,)), folder, resume_anyway=True)["finished_tasks"] == 5


def test_settings_that_last_are_refused(stages, tmp_path):
    config, workdir, *_ = stages
    folder = small_runs.copied(workdir, tmp_path / "run")
    with pytest.raises(OtherConfiguration, match="noise_dim is .*, now 16"):
        Learner(config.with_changes(noise_dim=16), devices=1).fit(stage((5,)), folder)


def test_a_damaged_end_of_the_first_stage_asks_for_its_images(tmp_path):
    config = CONFIGS["dgma"]()
    learn(config, (0, 1), tmp_path)
    drawn = small_runs.draw_all(load_memory(tmp_path))
    checks.flip_a_byte(tmp_path)
    with pytest.raises(
        OtherConfiguration, match="has not learnt all of nought, one yet; continue with their images first"
    ):
        learn(config, (2, 3), tmp_path)
    learn(config, (0, 1), tmp_path)  # As it says.
    learn(config, (2, 3), tmp_path)
    now = small_runs.draw_all(load_memory(tmp_path))
    assert all(now[label].tobytes() == images.tobytes() for label, images in drawn.items())


def test_images_of_another_shape_are_refused(tmp_path):
    config = CONFIGS["dgma"]()
    learn(config, (0, 1), tmp_path)
    stream = stage((2, 3))
    colour = data.class_incremental(
        data.from_arrays(
            *(part for task in [stream] for part in _in_colour(task)), name="mine", class_names={0: "two", 1: "three"}
        )
    )
    with pytest.raises(OtherConfiguration, match="has learnt images of 8x8x1, these are 8x8x3"):
        Learner(config, devices=1).fit(colour, tmp_path)


def _in_colour(stream: data.TaskStream):
    parts = []
    for task in (0, 1):
        stream.begin(task)
        parts.append((stream.train(task), stream.test(task)))
    train = [np.concatenate([own[0][i] for own in parts]) for i in (0, 1)]
    test = stream.test(1)
    return train[0].repeat(3, axis=3), train[1], test[0].repeat(3, axis=3), test[1]


class TestStream:
    def past(self, labels=(0, 1)):
        from dgm_jax.data.stream import describe

        known = describe(stage(labels))
        return data.Past("mine", tuple(map(tuple, known["tasks"])), ("nought", "one"), ((24,), (24,)), "ab")

    def test_continues_where_the_past_ends(self):
        plain, stream = stage((2, 3)), stage((2, 3)).after(self.past())
        assert (stream.n_past, stream.n_tasks, stream.n_classes) == (2, 4, 4)
        assert stream.tasks == ((0,), (1,), (2,), (3,)) and stream.classes == (0, 1, 2, 3)
        assert stream.class_names == NAMES[:4] and stream.fingerprint == f"ab+{plain.fingerprint}"
        stream.begin(2)
        plain.begin(0)
        images, indices = stream.train(2)
        assert np.array_equal(images, plain.train(0)[0]) and set(indices) == {2}
        assert set(stream.test(2)[1]) == {2}
        stream.begin(3)
        assert set(stream.test(3)[1]) == {2, 3}
        with pytest.raises(PastTaskError):
            stream.train(2)

    def test_the_past_is_not_here(self):
        stream = stage((2, 3)).after(self.past())
        with pytest.raises(DataError, match="task 1 belongs to an earlier stream"):
            stream.begin(1)

    def test_refuses(self):
        with pytest.raises(DataError, match="class one was learnt before"):
            stage((1, 3)).after(self.past())
        begun = stage((2, 3))
        begun.begin(0)
        with pytest.raises(DataError, match="task 0 of the stream has begun"):
            begun.after(self.past())


def test_a_key_per_class_is_not_shared_between_stages(stages):
    """New classes are numbered on, so that no class draws by another's random numbers."""
    memory = load_memory(stages[1])
    a, b = (memory.sample_index(index, 4, jax.random.key(0)) for index in (0, 2))
    assert np.any(a != b)


def test_a_known_class_is_known_in_another_form_of_unicode(tmp_path):
    """As macOS and zip files write names; a run of an earlier version may have it in its config.json, too."""
    config, composed, decomposed = CONFIGS["dgma"](), "caf\u00e9", "cafe\u0301"

    def day(name, label):
        own = small_runs.digits(8, (label,))
        arrays = own.x_train, np.zeros_like(own.y_train), own.x_test, np.zeros_like(own.y_test)
        return data.class_incremental(data.from_arrays(*arrays, name="mine", class_names={0: name}))

    Learner(config, devices=1).fit(day(decomposed, 0), tmp_path)
    assert load_memory(tmp_path).names == (composed,)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"class_names": [decomposed]}))
    with pytest.raises(OtherConfiguration, match="holds a run on other images of"):
        Learner(config, devices=1).fit(day(composed, 1), tmp_path)
    assert Learner(config, devices=1).fit(day(composed, 0), tmp_path)["finished"]  # The same images: nothing to do.
