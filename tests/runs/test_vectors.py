"""Vectors from end to end: what is learnt, kept, drawn, exported and predicted, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support import accessibility, checks, small_runs
from support.marks import slow_but
from support.stopping import interrupt

import dgm_jax
from dgm_jax import Learner, data
from dgm_jax.commands import main
from dgm_jax.config import preset
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.memory import export, file
from dgm_jax.memory.classifier import BadImages
from dgm_jax.memory.container import DamagedMemoryFile, Section, pack
from dgm_jax.memory.memory import CHUNK, Memory
from dgm_jax.methods import feature_memory
from dgm_jax.metrics import privacy
from dgm_jax.models.closed_form import Sums, nearest_mean, ridge_discriminant
from dgm_jax.types import Scale

D = 64
KEY = jax.random.key(5)


@pytest.fixture(scope="module", params=slow_but(["dgma", "dgmw"], "dgma"))
def run(request):
    return small_runs.finished(small_runs.vectors(request.param, combined=True))


def _stream(**options):
    return small_runs.stream(small_runs.vectors(), **options)


# ---- the stream ----


def test_a_stream_scales_by_the_training_vectors_of_its_first_task():
    dataset, stream = small_runs.digits(1), _stream()
    stream.begin(0)
    first, labels = stream.train(0)
    assert first.shape == (24, 1, 1, D) and first.dtype == np.float32 and set(labels) == {0}
    assert not first.flags.writeable
    raw = dataset.x_train[dataset.y_train == 0][:, 0, 0].astype(np.float64)
    np.testing.assert_allclose(stream.scale.mean, raw.mean(axis=0), rtol=1e-6)
    deviation = raw.std(axis=0)
    least = 0.1 * np.sqrt(np.mean(deviation**2))
    assert (deviation == 0).any() and (deviation > least).any()  # Corners of the images are always black.
    np.testing.assert_allclose(stream.scale.deviation, np.maximum(deviation, least), rtol=1e-6)
    varies = deviation > least
    np.testing.assert_allclose(first[:, 0, 0].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(first[:, 0, 0].std(axis=0)[varies], 1, rtol=1e-4)
    stream.begin(2)
    later = stream.train(2)[0]
    np.testing.assert_allclose(stream.scale.restored(later)[:, 0], dataset.x_train[dataset.y_train == 2][:, 0, 0, 0])
    assert stream.test(2)[0].dtype == np.float32


def test_equal_vectors_are_not_scaled():
    stream = data.class_incremental(data.from_arrays(np.full((2, 3), 7.0), [0, 1], np.ones((2, 3)), [0, 1]))
    np.testing.assert_array_equal(stream.scale.deviation, 1)


@pytest.mark.parametrize(
    "x_train, x_test, said",
    [
        (
            np.ones((2, 1)),
            np.ones((2, 1)),
            r"x_train has shape \(2, 1\); expected vectors \[n, d\], at least one, of at",
        ),
        (np.array([[1, 2], [np.nan, 0]]), np.ones((2, 2)), "x_train has numbers that are not finite .* in 1 of 2 rows"),
        (np.array([[1, 2], [1e300, 0]]), np.ones((2, 2)), "x_train has numbers that are not finite as float32"),
        (np.ones((2, 3)), np.ones((2, 4)), "x_train holds vectors of 3 numbers, x_test of 4"),
        (
            np.ones((2, 4), int),
            np.ones((2, 4), int),
            r"has shape \(2, 4\).*If each row is a vector: x.astype\(np.float32\)",
        ),
    ],
)
def test_arrays_that_are_no_vectors(x_train, x_test, said):
    with pytest.raises(data.DataError, match=said):
        data.from_arrays(x_train, [0, 1], x_test, [0, 1])


def test_vectors_are_not_resized_and_not_joined():
    dataset = small_runs.digits(1)
    assert dataset.resized(1) is dataset
    with pytest.raises(
        data.DataError, match="digits holds vectors of 64 numbers, which cannot be scaled to images of 16"
    ):
        dataset.resized(16)
    with pytest.raises(data.DataError, match="digits: vectors cannot be joined"):
        data.join([dataset, dataclasses.replace(small_runs.digits(8), name="images")], 1)


# ---- settings ----


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"image_size": 8}, "network='mlp' is for vectors, but image_size=8"),
        ({"network": "dcgan"}, "image_size=1 is for vectors, which need network='mlp', not 'dcgan'"),
        ({"consolidation_network": "resnet"}, "need network='mlp', not 'resnet'"),
        ({"consolidation_shift": 1}, "consolidation_shift=1 is for images; vectors have no pixels"),
        ({"consolidation_flip": True}, "consolidation_flip=True is for images"),
        ({"consolidation_means": True}, "consolidation_means=True is for images"),
        ({"combined": True, "mirror": True, "filters": 5}, "filters=5 and mirror=True are for images"),
        (
            {"batch_size": 1},
            "the dense network normalises over the vectors of a mini-batch, and one vector has no spread",
        ),
    ],
)
def test_what_makes_no_sense_for_vectors_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        small_runs.vectors(**changes)


@pytest.mark.parametrize("method, changes", [("er", {"memory_format": "jpeg"}), ("analytic", {"filters": 5})])
def test_what_makes_no_sense_for_vectors_is_refused_of_baselines(method, changes):
    with pytest.raises(ConfigError, match="is for images; vectors have no pixels"):
        small_runs.vectors(method=method, **changes)


def test_images_and_vectors_do_not_mix(tmp_path):
    with pytest.raises(ConfigError, match="image_size=16, but the stream has vectors of 64 numbers; use network='mlp'"):
        Learner(small_runs.small()).fit(_stream(), tmp_path)
    with pytest.raises(ConfigError, match="image_size=1 is for vectors, but the stream has images"):
        Learner(small_runs.vectors()).fit(small_runs.stream(small_runs.small()), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_the_best_settings_for_vectors_are_those_of_the_preset():
    shown = small_runs.digits(1).shown
    assert shown == {"side": 0, "channels": D, "per_class": 24, "classes": 3}
    for variant in ("dgma", "dgmw"):
        assert dgm_jax.config.best(variant, **shown) == preset("vectors", variant)


# ---- what a memory keeps ----


def test_old_classes_draw_bit_for_bit_what_they_drew_while_the_network_grows(run):
    first, *_, last = run.memories
    assert len(run.drawn) == 3 and sum(last.widths) > sum(first.tasks[0].widths)
    for task, drawn in enumerate(run.drawn):
        for later in run.drawn[task + 1 :]:
            assert set(drawn) < set(later)
            for label, vectors in drawn.items():
                assert vectors.tobytes() == later[label].tobytes(), f"class {label} of task {task} drifted"
    checks.assert_equal_trees(small_runs.draw_all(dgm_jax.load_memory(run.workdir)), run.drawn[-1])


def test_the_scale_of_the_first_task_stays(run):
    for memory in run.memories:
        checks.assert_equal_trees(memory.scale, _stream().scale)
    assert run.memories[-1].bytes()["scale"] == 2 * 4 * D


def test_vectors_are_drawn_as_the_data_have_them(run):
    memory = run.memories[-1]
    drawn = np.asarray(memory.sample(2, 200, KEY))
    assert drawn.shape == (200, D) and drawn.dtype == np.float32 and np.std(drawn, axis=0).max() > 0
    assert 3 < drawn.mean() < 4  # Pixels were made floats from 3 to 4.
    scaled = memory.images(2, 200, KEY)
    assert scaled.shape == (200, 1, 1, D) and scaled.dtype == np.float32
    np.testing.assert_allclose(memory.scale.restored(scaled), drawn, rtol=1e-5, atol=1e-5)
    assert np.concatenate(list(memory.stream(2, 200, KEY))).tobytes() == drawn.tobytes()
    params, draw = memory.sampler(2)
    assert np.asarray(jax.jit(draw)(params, KEY, 3))[:100].tobytes() == drawn[3:103].tobytes()
    vectors, labels = next(memory.batches(6, KEY))
    assert vectors.shape == (6, D) and labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert "vectors of 64" in repr(memory)


def test_a_memory_and_a_classifier_go_through_one_file(run, tmp_path):
    memory, classifier = run.memories[-1], dgm_jax.load_classifier(run.workdir)
    file.write(tmp_path / "both.safetensors", memory, classifier)
    back = file.read(tmp_path / "both.safetensors")
    checks.assert_equal_trees(small_runs.draw_all(back.memory), run.drawn[-1])
    vectors = small_runs.digits(1).x_test[:, 0, 0]
    for mine, theirs in zip(classifier.predict(vectors), back.classifier.predict(vectors), strict=True):
        assert mine.tobytes() == theirs.tobytes()
    checks.assert_equal_trees(back.memory.scale, memory.scale)
    assert back.classifier.image_shape == (1, 1, D) and "vectors of 64" in repr(back.classifier)


@pytest.mark.parametrize(
    "section, change, said",
    [
        ("memory", lambda s: s.tensors.pop("scale"), "lacks arrays or has superfluous ones: scale"),
        ("classifier", lambda s: s.tensors.pop("scale"), "lacks arrays or has superfluous ones: scale"),
        ("memory", lambda s: s.tensors["scale"].__setitem__(-1, 0), "a deviation in it is not above 0"),
        ("classifier", lambda s: s.tensors["scale"].__setitem__((1, 0), -1), "a deviation in it is not above 0"),
        ("memory", lambda s: s.header.update(image_size=8), "image_size 8 is not within 1 to 1"),
        ("classifier", lambda s: s.header.update(channels=1), "channels 1 is not within 2 to"),
    ],
)
def test_files_that_cannot_be(section, change, said):
    run = small_runs.finished(small_runs.vectors("dgma", combined=True))
    of = {
        "memory": lambda: file.memory_section.encode(run.memories[-1]),
        "classifier": lambda: file.classifier_section.encode(dgm_jax.load_classifier(run.workdir)),
    }
    made = of[section]()
    made = Section(json.loads(json.dumps(made.header)), {name: np.copy(a) for name, a in made.tensors.items()})
    change(made)
    with pytest.raises(DamagedMemoryFile, match=said):
        file.decode(pack({section: made}))


def test_exports_without_this_package(run):
    memory, classifier = run.memories[-1], dgm_jax.load_classifier(run.workdir)
    draw = jax.export.deserialize(bytearray(export.to_stablehlo(memory))).call
    drawn = np.asarray(draw(jax.random.key_data(KEY), np.int32(0), np.int32(1)))
    np.testing.assert_allclose(drawn, np.asarray(memory.sample(1, CHUNK, KEY)), rtol=1e-5, atol=1e-5)
    predict = jax.export.deserialize(bytearray(export.to_stablehlo(classifier))).call
    labels, probabilities = predict(drawn)
    expected = classifier.predict(drawn)
    assert np.mean(np.asarray(labels) == expected[0]) > 0.98
    np.testing.assert_allclose(probabilities, expected[1], atol=1e-4)


def test_arrays_of_a_memory(run, tmp_path):
    memory = run.memories[-1]
    (tmp_path / "memory.npz").write_bytes(export.to_npz(memory))
    with np.load(tmp_path / "memory.npz") as arrays:
        assert str(arrays["network"]) == "mlp" and arrays["task_0_heads"].shape[-1] == D
        checks.assert_equal_trees(Scale(arrays["scale_mean"], arrays["scale_deviation"]), memory.scale)


def test_a_tree_and_back(run):
    memory = run.memories[-1]
    back = Memory.from_tree(*memory.to_tree())
    checks.assert_equal_trees((back.kernels, back.scale), (memory.kernels, memory.scale))


# ---- readings ----


def test_the_analytic_reading_is_that_of_the_vectors_themselves(run):
    """Ridge on the scaled vectors and a constant, from sums alone: recomputed here from all vectors at once."""
    stream = _stream()
    parts = []
    for task in range(3):
        stream.begin(task)
        parts.append(stream.train(task))
    rows = np.concatenate([images[:, 0, 0] for images, _ in parts]).astype(np.float64)
    one_hot = np.eye(3)[np.concatenate([labels for _, labels in parts])]
    solution = ridge_discriminant(Sums(rows.T @ rows, one_hot.T @ rows, one_hot.sum(axis=0)))
    images, labels = stream.test(2)
    expected = (images[:, 0, 0] @ solution.weights + solution.bias).argmax(axis=1)
    with np.load(run.workdir / "predictions.npz") as found:
        assert np.mean(found["analytic"] == expected) > 0.98
        assert np.mean(expected == labels) > 0.9
    state = small_runs.newest(run.workdir).tree["features"]
    assert "filters" not in state and state["class_sums"].shape == (3, D)


def test_the_nearest_class_mean_of_vectors():
    vectors = np.array([[0.0, 0], [2, 0], [9, 9], [9, 11]], np.float32)[:, None, None]
    sums = Sums(np.eye(2), np.array([[2.0, 0], [18, 20]]), np.array([2.0, 2]))
    memory = feature_memory.FeatureMemory(sums)
    (classifier,) = feature_memory.classifiers(memory, 2, {"ncm": nearest_mean}).values()
    assert classifier.logits(vectors).argmax(axis=1).tolist() == [0, 0, 1, 1]


def test_a_classifier_reads_vectors_as_the_data_have_them(run):
    classifier, stream = dgm_jax.load_classifier(run.workdir), _stream()
    stream.begin(2)
    scaled, _ = stream.test(2)
    labels, probabilities = classifier.predict(stream.scale.restored(scaled))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(labels == classifier.logits(scaled).argmax(axis=1)) > 0.98
    for bad, said in (
        (np.ones((2, 3)), r"vectors of float64 \[2, 3\]; expected floats \[n, 64\]"),
        (np.ones((2, D), int), r"vectors of int64 \[2, 64\]"),
        (np.full((1, D), np.inf), "not all finite"),
    ):
        with pytest.raises(BadImages, match=said):
            classifier.predict(bad)


def test_copied_vectors_are_found():
    random = np.random.default_rng(0)
    training, held_out = random.normal(size=(2, 60, 1, 1, 5)).astype(np.float32)
    measured = privacy.measure(training[:20], training, held_out, lambda x: x.reshape(len(x), -1))
    assert measured["copies"] == 20 and privacy.is_nearer(measured)
    fresh = random.normal(size=(40, 1, 1, 5)).astype(np.float32)
    assert not privacy.is_nearer(privacy.measure(fresh, training, held_out, lambda x: x.reshape(len(x), -1)))


# ---- runs ----


def test_interrupted_is_uninterrupted(tmp_path):
    config = small_runs.vectors("dgma", combined=True)
    interrupt(config, tmp_path, "epoch end", 1, 0)
    small_runs.fit(config, tmp_path)
    checks.assert_same_results(tmp_path, small_runs.finished(config).workdir)


def test_new_classes_on_another_day(run, tmp_path):
    """They are scaled as the first day's were, and old classes draw what they drew."""
    workdir = small_runs.copied(run.workdir, tmp_path / "run")
    config = small_runs.vectors(json.loads((workdir / "summary.json").read_text())["variant"], combined=True)
    images = small_runs.stream(small_runs.small(), labels=(3, 4))
    with pytest.raises(OtherConfiguration, match="has learnt vectors, these are images; choose another --workdir"):
        Learner(config).fit(images, workdir)
    few = small_runs.digits(1, (3, 4))
    few = data.from_arrays(few.x_train[:, 0, 0, :9], few.y_train, few.x_test[:, 0, 0, :9], few.y_test, name="digits")
    with pytest.raises(OtherConfiguration, match="has learnt vectors of 64 numbers, these have 9"):
        Learner(config).fit(data.class_incremental(few), workdir)
    small_runs.fit(config, workdir, labels=(3, 4))
    memory = dgm_jax.load_memory(workdir)
    assert memory.labels == (0, 1, 2, 3, 4)
    checks.assert_equal_trees(memory.scale, run.memories[-1].scale)
    again = small_runs.draw_all(memory)
    checks.assert_equal_trees({label: again[label] for label in (0, 1, 2)}, run.drawn[-1])


@pytest.mark.parametrize(
    "method", slow_but(["joint", "separate", "mergan", "dgr", "er", "icarl", "gdumb", "ewc", "finetune"], "er")
)
def test_baselines_learn_vectors(method, tmp_path):
    config = small_runs.vectors(method=method)
    summary = small_runs.fit(config, tmp_path)
    assert summary["finished"] and np.isfinite(summary["A_3"][summary_reading(summary)]["macro"])
    if method == "er":
        kept = small_runs.newest(tmp_path).tree["images"]
        assert kept.dtype == np.float32 and kept.shape == (72, 1, 1, D)
        assert summary["bytes"]["memory"]["images"] == 72 * D * 4 == summary["bytes"]["images_replaced"]


def summary_reading(summary):
    return next(iter(summary["forgetting"]))


def test_analytic_learns_vectors(tmp_path):
    summary = small_runs.fit(small_runs.vectors(method="analytic"), tmp_path)
    assert summary["A_3"]["analytic"]["macro"] > 0.9 and summary["A_3"]["ncm"]["macro"] > 0.75
    assert summary["bytes"]["memory"].keys() == {"gram", "class_sums", "counts", "total"}


# ---- commands ----


@pytest.fixture
def npz(tmp_path):
    dataset = small_runs.digits(1)
    path = tmp_path / "features.npz"
    parts = {"x_train": dataset.x_train[:, 0, 0], "x_test": dataset.x_test[:, 0, 0]}
    np.savez(path, y_train=dataset.y_train, y_test=dataset.y_test, **parts)
    return path


def test_a_file_of_vectors_has_the_preset_of_vectors(npz, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(Learner, "fit", lambda self, stream, workdir, **_: asked.append((self.config, stream, workdir)))
    assert main.main(["learn", "arrays", "--npz", str(npz), "--variant", "dgmw"]) == 0
    ((config, stream, workdir),) = asked
    assert config.with_changes(precision="auto") == preset("vectors", "dgmw") and stream.image_shape == (1, 1, D)
    assert workdir.name == "arrays-vectors-dgmw-seed0"
    assert "vectors of 64 numbers" in capsys.readouterr().out
    assert main.main(["learn", "arrays", "--npz", str(npz), "--image-size", "16"]) == 2
    assert "network='mlp' is for vectors, but image_size=16" in capsys.readouterr().err
    assert not data.holds_vectors(tmp_path / "none.npz")
    np.savez(tmp_path / "images.npz", x_train=np.zeros((2, 8, 8)))
    assert not data.holds_vectors(tmp_path / "images.npz")


def test_drawing_and_predicting_by_command(run, npz, tmp_path, capsys):
    drawn = tmp_path / "drawn.npz"
    given = [str(run.workdir), "--classes", "2", "0", "--n", "3", "--seed", "5"]
    assert main.main(["sample", *given, "--out", str(drawn)]) == 0
    assert "3 vectors of each of 2 classes" in capsys.readouterr().out
    with np.load(drawn) as arrays:
        x, y = arrays["x"], arrays["y"]
    assert (
        y.tolist() == [2, 2, 2, 0, 0, 0] and x[:3].tobytes() == np.asarray(run.memories[-1].sample(2, 3, KEY)).tobytes()
    )
    assert main.main(["sample", *given, "--out", str(tmp_path / "grid.png")]) == 2
    assert "the memory draws vectors; expected a file's name that ends in .npz" in capsys.readouterr().err

    np.save(tmp_path / "one.npy", x[:1])
    assert main.main(["predict", str(run.workdir), str(drawn), str(tmp_path / "one.npy")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [*(f"{drawn}:{row}" for row in range(6)), f"{tmp_path}/one.npy:0"]
    labels, probabilities = dgm_jax.load_classifier(run.workdir).predict(x)
    assert [line.split("\t")[1] for line in lines[:6]] == list(map(str, labels))
    assert lines[-1].split("\t")[1:] == [str(labels[0]), str(labels[0]), f"{probabilities[0].max():.3f}"]

    (tmp_path / "picture.png").write_bytes(b"")
    np.save(tmp_path / "nan.npy", np.where(np.arange(len(x))[:, None] == 4, np.nan, x))
    for path, said in (
        (tmp_path / "nan.npy", "nan.npy: vectors of floats that are not all finite, in 1 of 6 rows, e.g. row 4; leave"),
        (tmp_path / "picture.png", "reads vectors, in .npy or .npz files"),
        (npz, "holds the arrays y_train, y_test, x_train, x_test; expected one, or one called x"),
    ):
        assert main.main(["predict", str(run.workdir), str(path)]) == 2
        assert said in capsys.readouterr().err


def test_a_run_on_images_takes_no_arrays(npz, tmp_path, capsys):
    workdir = str(small_runs.finished(small_runs.small("dgmw")).workdir)
    assert main.main(["predict", workdir, str(npz)]) == 2
    assert "reads image files" in capsys.readouterr().err
    assert main.main(["sample", workdir, "--classes", "0", "--out", str(tmp_path / "drawn.npz")]) == 2
    assert (
        "the memory draws images; expected a picture's name that ends in .png, or a folder" in capsys.readouterr().err
    )


def test_the_page_shows_a_projection(run, tmp_path):
    workdir = small_runs.copied(run.workdir, tmp_path / "run")
    page = (workdir / "report.html").read_text()
    assert accessibility.faults(page) == []
    assert "on the plane in which the generated ones vary most" in page and "training vectors (crosses)" not in page
    assert "All 72 vectors that were generated again" in page and "<b>equal bit for bit</b>" in page
    assert page.count("<use ") > 3 * 24 and "training images" not in page
    with np.load(workdir / "samples" / "after_task_02.npz") as arrays:
        vectors = dict(arrays)["vectors"]
    assert vectors.shape == (3, 24, D) and not list((workdir / "samples").glob("*.png"))
