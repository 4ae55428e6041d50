"""Back to an earlier day: a new run goes on from what another run knew after a task."""

import json

import jax
import numpy as np
import pytest
from support import checks, small_runs
from support.marks import slow_but

from dgm_jax import data, load_memory
from dgm_jax.commands import learn
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.methods.feature_memory import FeatureMemory
from dgm_jax.models.discriminator import for_classes
from dgm_jax.runs.branching import branch
from dgm_jax.runs.continuation import LearntSoFar, place_after
from dgm_jax.runs.events import Callback
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import place_in
from dgm_jax.system import checkpoint
from dgm_jax.training.classifier import init_classifier

# The discriminator goes on, so that the class head of the next task is that of the checkpoint.
CONFIG = small_runs.small("dgma", image_size=8, epochs=2, reinitialise_discriminator=False)


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Interrupt(Callback):
    def on_epoch_end(self, event):
        if (event.task, event.epoch) == (1, 0):
            raise KeyboardInterrupt


def test_the_same_tasks_again_are_learnt_bit_for_bit_as_before(tmp_path):
    watch = small_runs.finished(CONFIG)
    source, folder, before = watch.workdir, tmp_path / "again", _files(watch.workdir)
    branch(source, 0, small_runs.stream(CONFIG), folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["0"]
    checks.assert_equal_trees(small_runs.draw_all(load_memory(folder)), watch.drawn[0])
    with pytest.raises(KeyboardInterrupt):
        small_runs.fit(CONFIG, folder, _Interrupt())
    branch(source, 0, small_runs.stream(CONFIG), folder)  # The same command again changes nothing.
    summary = small_runs.fit(CONFIG, folder)
    for task in (1, 2):
        old, new = (checkpoint.read(workdir / "checkpoints" / str(task)) for workdir in (source, folder))
        checks.assert_equal_trees(old.tree, new.tree)
    first = json.loads((source / "summary.json").read_text())
    assert summary["A_3"] == first["A_3"] and summary["A_1"] == first["A_1"] and summary["finished"]
    assert (folder / "metrics.jsonl").read_text() == (source / "metrics.jsonl").read_text()
    assert (folder / "samples" / "after_task_00.npz").read_bytes() == before[source / "samples" / "after_task_00.npz"]
    assert (folder / "report.html").exists()
    assert _files(source) == before, "the other run is only read"


# With one new class there are two in all, where the other run had three.
@pytest.mark.parametrize("labels", slow_but([(4, 5), (4,)], (4, 5)))
def test_other_classes_follow_an_earlier_task(labels, tmp_path):
    watch, folder = small_runs.finished(CONFIG), tmp_path / "other"
    branch(watch.workdir, 0, small_runs.stream(CONFIG, labels=labels), folder)
    summary = small_runs.fit(CONFIG, folder, labels=labels)
    known = [0, *labels]
    assert summary["tasks"] == [[label] for label in known] and summary["finished"]
    memory = load_memory(folder)
    assert memory.names == tuple(map(str, known))
    assert memory.tasks[1].widths == load_memory(watch.workdir).tasks[1].widths, "as it had grown for the next task"
    checks.assert_equal_trees({0: small_runs.draw_all(memory)[0]}, watch.drawn[0])
    assert np.array(summary["confusion"]["consolidated"]).shape == (len(known), len(known))
    assert json.loads((folder / "begun_from.json").read_text()) == {
        "workdir": str(watch.workdir.resolve()),
        "after_task": 0,
    }


def test_what_cannot_follow_is_refused_and_leaves_nothing(tmp_path):
    source, folder = small_runs.finished(CONFIG).workdir, tmp_path / "new"

    def refused(message, stream, after_task=1, to=folder):
        with pytest.raises(OtherConfiguration, match=message):
            branch(source, after_task, stream, to)

    same = small_runs.stream(CONFIG)
    refused(r"has no state after task 3, only those after tasks 0, 1, 2 \(0 is the first", same, 3)
    refused("has no state after task -1", same, -1)
    reordered = small_runs.stream(CONFIG, class_order=(0, 2, 1))
    refused("after task 1 knows class 0, and this is not the stream that the class came in; give the same", reordered)
    refused("knows class 1, and this is not .* pass --more-of-known", small_runs.stream(CONFIG, labels=(1, 5)))
    larger = small_runs.stream(small_runs.small("dgma"), labels=(5,))
    refused("after task 1 has learnt images of 8x8x1, these are 16x16x1", larger)
    with pytest.raises(ConfigError, match="noise_dim=8 has no room for the one-hot of 8 classes"):
        branch(source, 1, small_runs.stream(CONFIG, labels=(3, 4, 5, 6, 7, 8)), folder)
    assert not folder.exists()
    (folder / "mine").mkdir(parents=True)
    refused(r"holds something else than a run from .* after task 1 \(mine\); choose another --workdir", same)
    branch(source, 1, same, tmp_path / "other")
    refused("holds something else than a run from .* after task 0", same, 0, tmp_path / "other")


def test_more_images_of_a_known_class_follow_an_earlier_task(tmp_path):
    """If that is asked for; the stage that a class came in is still that stage."""
    source, folder = small_runs.finished(CONFIG).workdir, tmp_path / "more"
    stream = small_runs.stream(CONFIG, labels=(1, 5))
    branch(source, 1, stream, folder, more_of_known=True)
    config = json.loads((folder / "config.json").read_text())
    assert config["stream"]["tasks"] == [[0], [1], [1], [5]] and config["stages"] == [2, 2]
    for how in ({}, {"more_of_known": True}):
        placed = place_in(Workdir(folder), stream, **how)
        assert placed.known and placed.begins and placed.stream.repeated(2) == ("1",)
    branch(source, 1, stream, folder, more_of_known=True)  # The same command again changes nothing.
    assert json.loads((folder / "config.json").read_text()) == config
    branch(source, 1, small_runs.stream(CONFIG), tmp_path / "again", more_of_known=True)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["stream"]["tasks"] == [[0], [1], [2]]


def test_a_folder_that_was_half_made_is_made_again(tmp_path):
    """A kill came before config.json was written."""
    source, folder, stream = small_runs.finished(CONFIG).workdir, tmp_path / "new", small_runs.stream(CONFIG)
    branch(source, 1, stream, folder)
    made = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    branch(source, 1, stream, folder)
    assert (folder / "config.json").read_bytes() == made
    assert len(checkpoint.read(folder / "checkpoints" / "1").metadata["memory"]["tasks"]) == 2


def test_the_command_goes_back(tmp_path, learner, capsys):
    source = small_runs.finished(CONFIG).workdir
    words = ["--image-size", "8", "--workdir", str(tmp_path / "new"), "--from", str(source)]
    assert learn.run("digits", [*words, "--after-task", "1"]) == 2
    assert "knows class 0, and this is not the stream that the class came in" in capsys.readouterr().err
    assert learn.run("digits", words) == learn.run("digits", ["--after-task", "1"]) == 2
    assert capsys.readouterr().err.count("error: --from and --after-task go together") == 2


def test_the_first_tasks_of_several_stages():
    stream = {"dataset": "mine", "fingerprint": "a+b", "tasks": [[0], [1, 2], [3]], "train_counts": [[5], [6, 7], [8]]}
    learnt = LearntSoFar(stream | {"image_shape": [8, 8, 1]}, ("cat", "dog", "fish", "bird"), (2, 1))
    for n, stages, names, fingerprint in ((1, (1,), 1, "a"), (2, (2,), 3, "a"), (3, (2, 1), 4, "a+b")):
        first = learnt.first_tasks(n)
        assert (first.stages, len(first.names), first.stream["fingerprint"]) == (stages, names, fingerprint)
        assert len(first.stream["tasks"]) == len(first.stream["train_counts"]) == n
    assert learnt.first(1) == learnt.first_tasks(2) and learnt.first_tasks(3) == learnt
    digits = small_runs.digits(8, (0, 1))
    new = data.class_incremental(digits)
    placement = place_after(new, learnt, 2)
    assert placement.stages == (2, 2) and placement.stream.class_names == ("cat", "dog", "fish", "0", "1")
    assert placement.stream.tasks == ((0,), (1, 2), (3,), (4,))


def test_outputs_of_classes_that_were_not_learnt_are_left_out():
    params = init_classifier(jax.random.key(0), CONFIG, channels=1, n_classes=5).params
    fewer, more = for_classes(params, 3), for_classes(params, 7)
    assert for_classes(params, 5) is params
    np.testing.assert_array_equal(fewer.classifier.kernel, params.classifier.kernel[:, :3])
    np.testing.assert_array_equal(fewer.classifier.bias, params.classifier.bias[:3])
    np.testing.assert_array_equal(more.classifier.kernel[:, :5], params.classifier.kernel)
    assert more.classifier.kernel.shape[1] == 7 and not np.any(more.classifier.bias[5:])
    tree = {"gram": np.arange(3.0), "class_sums": np.arange(8.0).reshape(4, 2), "counts": np.array([2, 1, 0, 0])}
    for n in (2, 4, 6):
        sums = FeatureMemory.from_tree(tree, n).sums
        assert sums.of_class.shape == (n, 2) and sums.counts[:2].tolist() == [2, 1] and sums.counts[2:].sum() == 0
