"""Classes removed on request from the folder of a run: what goes, what stays, what is said, and kills at every step."""

import base64
import html
import io
import itertools
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import accessibility, checks, children, small_runs, stopping

from dgm_jax import Learner, forget, load_classifier, load_memory
from dgm_jax.commands.main import main
from dgm_jax.errors import NoMemory, OtherConfiguration, UserError
from dgm_jax.memory.forgetting import read_weights, weights_of_class, without_classes
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import place_in
from dgm_jax.runs.reading import read, read_summary
from dgm_jax.system import checkpoint, exchange
from dgm_jax.system.lock import RunLock, WorkdirInUse

ALONE = small_runs.small("dgma", image_size=8, headroom=2, combined=True, filters=3, consolidation_means=True)
PAIRS = small_runs.small("dgmw", image_size=8, headroom=2, reinitialise_discriminator=False, warm_start=True)
LABELS = {"alone": (0, 1, 2), "pairs": (0, 1, 2, 3)}
FORGOTTEN = {"alone": 1, "pairs": 1}


def learnt(kind: str, folder: Path) -> Path:
    config, n = (ALONE, 1) if kind == "alone" else (PAIRS, 2)
    stream = small_runs.stream(config, LABELS[kind], classes_per_task=n)
    Learner(config, devices=1, show_real=True).fit(stream, folder)
    return folder


class Case:
    """A run before and after it forgot a class."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.label = kind, FORGOTTEN[kind]
        self.before = learnt(kind, folder / "before")
        for name, options in (("m.safetensors", []), ("m.npz", ["--to", "npz"]), ("c.st", ["--what", "both"])):
            assert main(["export", str(self.before), str(self.before / name), *options]) == 0
        early = self.before / "early.safetensors"
        assert main(["export", str(self.before), str(early), "--after-task", "0"]) == 0
        (self.before / "notes").mkdir()
        (self.before / "notes" / "mine.txt").write_text("a note")
        (self.before / "tensorboard").mkdir()
        (self.before / "begun_from.json").write_text("{}")
        (self.before / ".predictions.npz.0a.tmp").write_bytes(b"what a kill left")
        self.drawn = small_runs.draw_all(load_memory(self.before))
        self.folder = small_runs.copied(self.before, folder / "after")
        self.done = forget(self.folder, [self.label])


@pytest.fixture(scope="module", params=["alone", "pairs"])
def case(request, tmp_path_factory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


ALONE_ONLY = pytest.mark.parametrize("case", ["alone"], indirect=True)  # What follows does not depend on the tasks.


def needles(folder: Path, label: int) -> dict[str, bytes]:
    """The arrays that belong to a class, as bytes; those of a task only if the class was alone in it."""
    memory, state = load_memory(folder), small_runs.newest(folder).tree
    index = memory.labels.index(label)
    task = next(task for task in memory.tasks if index in task.classes)
    place = task.classes.index(index)
    found = {"head": task.heads[place], "auxiliary": state["auxiliary"]["params"]["classifier"]["kernel"][:, index]}
    if len(task.classes) == 1:
        found |= {f"scale {i}": norm.scale for i, norm in enumerate(task.norms)}
        found |= {f"shift {i}": norm.shift for i, norm in enumerate(task.norms)}
        found |= {f"mean {i}": running.mean for i, running in enumerate(task.statistics)}
        found |= {f"var {i}": running.var for i, running in enumerate(task.statistics)}
    if "means" in state:
        found["mean image"] = state["means"][index]
    if "features" in state:
        found["class sums"] = state["features"]["class_sums"][index]
    for path in sorted((folder / "samples").glob("*.npz")):
        with np.load(path) as arrays:
            if f"class_{index}" in arrays:
                found["real"] = arrays[f"class_{index}"][0]
            elif label in arrays.get("labels", []):
                images = arrays["images"][arrays["labels"].tolist().index(label)]
                found |= {"drawn": images[0], "row of a picture": np.repeat(images[0, 4, :, 0], 6)}
    return {name: np.ascontiguousarray(array).tobytes() for name, array in found.items()}


def haystacks(folder: Path) -> dict[str, bytes]:
    """All that the files of a folder hold: their bytes, their arrays (matrices transposed, too), and their pictures."""
    found: dict[str, bytes] = {}

    def add(name: str, array: np.ndarray) -> None:
        found[name] = array.tobytes()
        if array.ndim == 2:
            found[f"{name} transposed"] = array.T.tobytes()

    def add_picture(name: str, content: bytes) -> None:
        add(name, np.asarray(Image.open(io.BytesIO(content))))

    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() and (path / "checkpoint.json").exists():
            for where, leaf in jax.tree.leaves_with_path(checkpoint.read(path).tree):
                add(f"{name} {jax.tree_util.keystr(where)}", np.asarray(leaf))
        if not path.is_file():
            continue
        content = found[name] = path.read_bytes()
        if content.startswith(b"PK"):
            with np.load(path) as arrays:
                for key, array in arrays.items():
                    add(f"{name} {key}", array)
        if path.suffix == ".png":
            add_picture(name, content)
        for number, inner in enumerate(re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", content)):
            add_picture(f"{name} {number}", base64.b64decode(inner))
    return found


def test_no_file_holds_an_array_of_the_class(case):
    sought, before, after = needles(case.before, case.label), haystacks(case.before), haystacks(case.folder)
    for name, needle in sought.items():
        assert any(needle in hay for hay in before.values()), f"the test does not find {name} where it is"
        assert [where for where, hay in after.items() if needle in hay] == [], name


def test_weights_that_only_the_class_used_are_gone_and_free(case):
    before, after = load_memory(case.before), load_memory(case.folder)
    index = before.labels.index(case.label)
    left, freed = without_classes(before, [index]), 0
    alone = replace(before, tasks=tuple(task for task in before.tasks if index in task.classes))
    for old, new, own, still in zip(before.kernels, after.kernels, read_weights(alone), read_weights(left)):
        assert old[still].tobytes() == new[still].tobytes()
        gone = own & ~still
        assert not np.isin(old[gone], new).any() and np.all(new[gone] != 0), "fresh ones"
        freed += gone.sum()
    checks.assert_equal_trees(list(after.reserved), list(left.reserved))
    (one,) = case.done.classes
    assert (one["weights"], one["shared_weights"]) == weights_of_class(before, left, index)
    assert freed == one["weights"] - one["shared_weights"] > 0
    assert one["share"] == pytest.approx(one["shared_weights"] / one["weights"], abs=1e-6)


def test_other_classes_are_drawn_bit_for_bit_as_before(case):
    memory = load_memory(case.folder)
    assert memory.labels == tuple(label for label in LABELS[case.kind] if label != case.label)
    for label, images in small_runs.draw_all(memory).items():
        assert images.tobytes() == case.drawn[label].tobytes()
    with pytest.raises(ValueError, match=f"knows no class {case.label}; it knows"):
        memory.sample(case.label, 1, jax.random.key(0))
    with pytest.raises(NoMemory, match=f"after_task={len(memory.tasks)}, but"):
        load_memory(case.folder, after_task=len(memory.tasks))


def test_the_classifier_is_trained_anew_without_the_class(case):
    classifier, before = load_classifier(case.folder), load_classifier(case.before)
    assert classifier.labels == load_memory(case.folder).labels and classifier.n_outputs == len(classifier.labels)
    images = case.drawn[LABELS[case.kind][0]]
    assert not np.allclose(classifier.features(images), before.features(images), rtol=0, atol=1e-3)
    labels, probabilities = classifier.predict(images)
    assert case.label not in labels and probabilities.shape[1] == len(classifier.labels)
    if case.kind == "alone":  # Nothing reads the discriminator again.
        with pytest.raises(NoMemory, match="no classifier 'auxiliary'.*missing until the next task"):
            load_classifier(case.folder, reading="auxiliary")
    else:
        kept = load_classifier(case.folder, reading="auxiliary")
        stays = [label != case.label for label in LABELS["pairs"]]
        old = load_classifier(case.before, reading="auxiliary").params.classifier
        assert kept.labels == classifier.labels
        assert kept.params.classifier.kernel.tobytes() == np.ascontiguousarray(old.kernel[:, stays]).tobytes()


def test_what_is_said(case):
    (one,) = read_summary(Workdir(case.folder)).forgotten
    assert case.done.classes == (one,) and one["class"] == str(case.label)
    said, page = " | ".join(one["remains"]), html.unescape((case.folder / "report.html").read_text())
    assert accessibility.faults((case.folder / "report.html").read_text()) == []
    assert f"({100 * one['share']:.1f} %)" in said
    expected = ["Gram matrix", "filters"] if case.kind == "alone" else ["its task, with which 0 are drawn", "discrim"]
    assert all(text in said for text in expected)
    assert all(text in page for text in one["remains"]) and "class removal and not exact unlearning" in page
    # A memory exported before the class was learnt does not know it.
    exports, stays = ["c.st", "early.safetensors", "m.npz", "m.safetensors"], case.kind == "alone"
    assert list(case.done.removed) == [name for name in exports if not (stays and name.startswith("early"))]
    assert case.done.others == ("early.safetensors", "notes")[0 if stays else 1 :]
    assert not {"tensorboard", "predictions.npz", ".predictions.npz.0a.tmp"} & {p.name for p in case.folder.iterdir()}
    assert (case.folder / "notes" / "mine.txt").exists() and (case.folder / ".lock").exists()
    assert case.done.left == tuple(str(label) for label in LABELS[case.kind] if label != case.label)


@ALONE_ONLY
def test_a_page_of_one_task_compares_nothing(case, tmp_path):
    folder = small_runs.copied(case.folder, tmp_path / "run")
    forget(folder, [0])
    page = (folder / "report.html").read_text()
    assert "images that were generated again" not in page and "always from the same random numbers." in page


def test_history_is_that_of_the_other_classes(case):
    before, now = read(case.before), read(case.folder)
    gone = LABELS[case.kind].index(case.label)
    rows = [t for t in range(before.n_tasks) if case.kind == "pairs" or t != gone]
    assert now.finished_tasks == len(rows) == now.n_tasks and now.summary.confusion == {}
    for reading, matrix in before.matrices.items():
        assert now.matrices[reading] == [[a for i, a in enumerate(matrix[t]) if i != gone] for t in rows]
    for reading, measured in before.summary.calibration.items():  # Known only of tasks before the class came.
        left = [measured[t] if before.n_seen(t) <= gone else None for t in rows]
        assert now.summary.calibration.get(reading, [None] * len(rows)) == left
    last = now.summary.averages[now.summary.final]["consolidated"]
    confusion = np.delete(np.array(before.summary.confusion["consolidated"]), gone, axis=0)
    correct = [row[i] for row, i in zip(confusion, (i for i in range(len(LABELS[case.kind])) if i != gone))]
    assert last["micro"] == pytest.approx(sum(correct) / confusion.sum())
    assert {line["task"] for line in checks.lines(case.folder)} == set(range(len(rows)))
    assert [row["class"] for row in now.summary.privacy] == [
        row["class"] for row in before.summary.privacy if row["class"] != str(case.label)
    ]
    for old, new in zip([before.drawn[t] for t in rows], now.drawn, strict=True):
        stays = old["labels"] != case.label
        checks.assert_equal_trees({name: array[stays] for name, array in old.items()}, new)
    assert now.summary.bytes["image_count"] < before.summary.bytes["image_count"]


def test_tasks_that_began_as_the_class_are_named(case):
    begun_as, left = (read_summary(Workdir(folder)).facts["begun_as"] for folder in (case.before, case.folder))
    copied = [one["remains"][-1] for one in case.done.classes if "began as copies" in one["remains"][-1]]
    if case.kind == "alone":
        assert begun_as == [[], [], []] and left == [[], []] and not copied
    else:
        assert begun_as == [[], [1, 1]] and left == [[], []]
        assert copied == ["masks, norms and output layers of 2, 3 began as copies (warm start)"]


def test_the_commands_work(case, tmp_path, capsys):
    folder, out = str(case.folder), tmp_path / "m.safetensors"
    assert main(["sample", folder, "--classes", "0", "--n", "3", "--out", str(tmp_path / "grid.png")]) == 0
    assert main(["sample", folder, "--classes", str(case.label), "--out", str(tmp_path / "no.png")]) == 2
    assert "unknown to the memory; it knows" in capsys.readouterr().err
    assert main(["export", folder, str(out), "--what", "both"]) == 0
    for label, images in small_runs.draw_all(load_memory(out)).items():
        assert images.tobytes() == case.drawn[label].tobytes()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    assert main(["predict", folder, str(tmp_path / "x.png"), "--unknown"]) == 0
    assert main(["report", folder, "--out", str(tmp_path / "page.html")]) == 0
    assert main(["report", folder, str(case.before), "--out", str(tmp_path / "both.html")]) == 0


def test_the_run_goes_on_with_new_classes(case, tmp_path, capsys):
    """And with the one that was forgotten, as with any other."""
    folder, config = small_runs.copied(case.folder, tmp_path / "run"), ALONE if case.kind == "alone" else PAIRS
    with pytest.raises(OtherConfiguration):
        Learner(config, devices=1).fit(small_runs.stream(config, LABELS[case.kind]), folder)
    for label in (7, case.label) if case.kind == "alone" else (7,):
        summary = Learner(config, devices=1).fit(small_runs.stream(config, (label,), (label,)), folder)
        assert summary["finished"]
    memory = load_memory(folder)
    assert set(memory.labels) == {*(LABELS["alone"] if case.kind == "alone" else (0, 2, 3)), 7}
    now = small_runs.draw_all(memory)
    for label in set(LABELS[case.kind]) - {case.label}:
        assert now[label].tobytes() == case.drawn[label].tobytes()
    run = read(folder)
    assert [one["class"] for one in run.summary.forgotten] == [str(case.label)]
    n = len(case.done.left)
    assert all((a["images"][:n] == b["images"][:n]).all() for a, b in itertools.pairwise(run.drawn[1:]))
    assert main(["forget", str(folder), "--classes", "7"]) == 0
    said = capsys.readouterr().out
    assert "forgot 7; still known: " in said and "not exact unlearning" in said
    for label, images in small_runs.draw_all(load_memory(folder)).items():
        assert images.tobytes() == now[label].tobytes()


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of all files but the page and the lock."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if name not in ("report.html", ".lock")}


def test_killed_before_it_is_decided_nothing_has_changed(case, tmp_path, monkeypatch):
    folder = small_runs.copied(case.before, tmp_path / "run")
    before = files_of(folder)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(exchange, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(folder, [case.label])
    assert {name: content for name, content in files_of(folder).items() if not name.startswith(".exchange/")} == before
    assert load_memory(folder).labels == LABELS[case.kind]
    forget(folder, [case.label])
    assert load_memory(folder).labels == load_memory(case.folder).labels
    now, then = files_of(folder), files_of(case.folder)
    for name in ("accuracy_matrix.csv", "capacity.csv", "config.json", "metrics.jsonl", "summary.json"):
        assert now[name] == then[name]


KILLED_AT_EVERY_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from dgm_jax.system import exchange

decided, folder, expected = (Path(word) for word in sys.argv[1:])
STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")

def killed_at(step):
    seen = 0
    def hook(event, _):
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    exchange.finish(folder)
    os._exit(0)

def content(top):  # Copies are links, so that a file is what it was if its number is.
    return {path.relative_to(top): path.stat().st_ino for path in top.rglob("*") if path.is_file()}

step, status = 0, 1
while status:
    step += 1 if step < 40 else 9  # From there on it deletes many files, one as the other.
    shutil.copytree(decided, folder, copy_function=os.link)
    child = os.fork()
    if not child:
        killed_at(step)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    if status and exchange.is_pending(folder):
        exchange.finish(folder)
    assert content(folder) == content(expected), step
    assert not (folder / exchange.STAGING).exists(), step
    shutil.rmtree(folder)
print(step)
"""


@pytest.fixture
def decided(case, tmp_path, monkeypatch) -> Path:
    """The folder of a run that was killed right after it was decided that the class goes."""
    folder = small_runs.copied(case.before, tmp_path / "decided")
    with monkeypatch.context() as patched:
        patched.setattr(exchange, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            forget(folder, [case.label])
    return folder


@ALONE_ONLY
def test_killed_at_every_step_it_is_finished_by_the_next_opening(decided, tmp_path):
    """Whatever changes a name on the disk is a step; a process is killed before each of them."""
    undisturbed = Path(shutil.copytree(decided, tmp_path / "undisturbed", copy_function=os.link))
    exchange.finish(undisturbed)
    code = f"import sys; sys.argv[1:] = {[str(decided), str(tmp_path / 'run'), str(undisturbed)]}\n"
    (said,) = children.outputs(children.start(code + KILLED_AT_EVERY_STEP))
    assert int(said) > 40


@ALONE_ONLY
@pytest.mark.parametrize("opening", ["memory", "classifier", "page", "learn", "forget"])
def test_whatever_opens_the_folder_finishes(case, decided, opening):
    opened = {
        "memory": load_memory,
        "classifier": load_classifier,
        "page": read,
        "learn": lambda folder: _refused(case, folder),
        "forget": lambda folder: _unknown(case, folder),
    }
    with RunLock(decided), pytest.raises(WorkdirInUse):
        opened[opening](decided)
    opened[opening](decided)
    assert not exchange.is_pending(decided) and case.label not in load_memory(decided).labels


def _refused(case: Case, folder: Path) -> None:
    config = ALONE if case.kind == "alone" else PAIRS
    stream = small_runs.stream(config, LABELS[case.kind], classes_per_task=1 if case.kind == "alone" else 2)
    with pytest.raises(OtherConfiguration, match="has learnt class 0 before"):
        Learner(config, devices=1).fit(stream, folder)


def _unknown(case: Case, folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        forget(folder, [case.label])
    if isinstance(caught.value, WorkdirInUse):
        raise caught.value
    assert f"--classes {case.label}: unknown to the memory; it knows" in str(caught.value)


def test_what_is_refused(case):
    refused = [
        (["0", "nine"], "--classes nine: unknown to the memory; it knows 0, 1, 2"),
        (LABELS[case.kind], "no class would be left in .*; delete the folder instead"),
        ([], "name at least one class"),
    ]
    for words, expected in refused:
        with pytest.raises(UserError, match=expected):
            forget(case.before, words)
    assert not (case.before / exchange.STAGING).exists()


def test_methods_that_cannot_are_refused(tmp_path):
    config = small_runs.small("dgma", method="finetune", image_size=8)
    small_runs.fit(config, tmp_path, labels=(0, 1))
    with pytest.raises(UserError, match="a run of finetune, .* only runs of dgm, analytic, separate can"):
        forget(tmp_path, [0])


def test_analytic_forgets_sums(tmp_path):
    config = small_runs.small(method="analytic", image_size=8, filters=3)
    small_runs.fit(config, tmp_path)
    before = small_runs.newest(tmp_path).tree
    done = forget(tmp_path, ["1"])
    after = small_runs.newest(tmp_path).tree
    assert after["class_sums"].tobytes() == before["class_sums"][[0, 2]].tobytes() and len(after["counts"]) == 2
    assert after["gram"].tobytes() == before["gram"].tobytes()
    assert "weights" not in done.classes[0] and any("Gram matrix" in what for what in done.classes[0]["remains"])
    assert small_runs.fit(config, tmp_path, labels=(1,))["finished"]


def test_a_task_in_progress_is_given_up(tmp_path):
    """And the classes that were announced; the run takes them as new ones."""
    options = {"labels": LABELS["pairs"], "classes_per_task": 2}
    stopping.interrupt(PAIRS, tmp_path, "epoch end", 1, 1, **options)
    drawn, folder = small_runs.draw_all(load_memory(tmp_path)), Workdir(tmp_path)
    done = forget(tmp_path, [0])
    assert done.dropped == ("2", "3") and done.left == ("1",)
    assert read_summary(folder).finished and [path.name for path in folder.checkpoints.iterdir()] == ["0"]
    placed = place_in(folder, small_runs.stream(PAIRS, (2, 3)))
    assert placed.known and placed.stages == (1, 2) and placed.stream.classes == (1, 2, 3)
    assert small_runs.draw_all(load_memory(tmp_path))[1].tobytes() == drawn[1].tobytes()


def test_a_class_of_vectors(tmp_path):
    """The scale stays, which is said, and so do the vectors that were drawn of the other classes."""
    folder = small_runs.copied(small_runs.finished(small_runs.vectors(combined=True)).workdir, tmp_path / "run")
    before, samples = load_memory(folder), folder / "samples" / "after_task_02.npz"
    drawn = small_runs.draw_all(before)
    with np.load(samples) as arrays:
        rows = {label: arrays["vectors"][place] for place, label in enumerate(arrays["labels"].tolist())}
    said = " | ".join(forget(folder, [1]).classes[0]["remains"])
    assert "one sum over the vectors of all classes" in said and "filters" not in said
    assert "the scale of the vectors, mean and deviation of each number in the run's first task, stays" in said
    after = load_memory(folder)
    checks.assert_equal_trees(after.scale, before.scale)
    checks.assert_equal_trees(small_runs.draw_all(after), {label: drawn[label] for label in (0, 2)})
    assert load_classifier(folder).labels == (0, 2)
    with np.load(samples.with_name("after_task_01.npz")) as arrays:
        assert arrays["labels"].tolist() == [0, 2]
        np.testing.assert_array_equal(arrays["vectors"], [rows[0], rows[2]])
