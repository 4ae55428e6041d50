"""Every block of Python on the pages is run; for their commands see test_docs_commands.py."""

import hashlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support import small_runs, stopping
from support.pages import PAGES, ROOT, blocks

import dgm_jax
from dgm_jax.config import PRESETS
from dgm_jax.memory import export
from dgm_jax.memory import file as memory_file
from dgm_jax.system import checkpoint


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with what the pages assume: a finished run, exported files, the reader's images."""
    monkeypatch.chdir(tmp_path)
    small = small_runs.small("dgma", noise_dim=16, epochs=1)
    for name in ("digits", "folder"):
        monkeypatch.setitem(PRESETS, name, dict.fromkeys(("dgma", "dgmw"), small))
    finished = small_runs.finished(small_runs.small("dgma"), labels=(0, 1, 2, 3))
    small_runs.copied(finished.workdir, tmp_path / "runs" / "digits-dgma-seed0")
    classifier = dgm_jax.load_classifier(finished.workdir)
    memory_file.write("memory.safetensors", finished.memories[-1])
    Path("memory.stablehlo").write_bytes(export.to_stablehlo(finished.memories[-1]))
    Path("classifier.stablehlo").write_bytes(export.to_stablehlo(classifier))
    few = small_runs.digits(16, (0, 1), 30)
    return {
        "x_train": few.x_train,
        "y_train": few.y_train,
        "x_test": few.x_test,
        "y_test": few.y_test,
        "dgm_jax": dgm_jax,
        "config": small,
        "stream": small_runs.stream(small),
    }


def run(page: str, names: dict, only: slice = slice(None), then=lambda: None) -> None:
    for text in blocks(ROOT / page, "python")[only]:
        exec(compile(text, page, "exec"), names)
        then()


def test_restore_and_ship(desk) -> None:
    run("docs/ship.md", desk)
    assert set(desk["labels"].tolist()) <= {0, 1, 2, 3} and 0 <= desk["accuracy"] <= 1
    drawn = desk["memory"].sample(3, 128, jax.random.key(0))
    assert float(desk["brightness"](desk["params"], jax.random.key(0))) == pytest.approx(float(drawn.mean()), abs=1e-6)
    assert desk["header"]["format"] == 3 and desk["weights"].dtype == np.float32


ORBAX_ALONE = """
import hashlib, json, os, sys

class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "dgm_jax":
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocker())
found = []
for folder in sys.argv[1:-1]:
    os.chdir(folder)
    for lines in json.loads(sys.argv[-1]):
        names = {}
        exec(lines, names)
        import jax
        arrays = {
            jax.tree_util.keystr(path): (array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest())
            for path, array in jax.tree.leaves_with_path(names["state"])
        }
        found.append([names["after_task"], arrays, names.get("metadata")])
assert "dgm_jax" not in sys.modules
print(json.dumps(found))
"""


def test_orbax_alone_reads_the_newest_finished_task(tmp_path) -> None:
    """The page's lines, in a process that cannot import this package; also while the next task is in progress."""
    config = small_runs.small("dgmw", image_size=8)
    folders = [tmp_path / "finished", tmp_path / "stopped"]
    runs = [folder / "runs" / "digits-dgma-seed0" for folder in folders]
    small_runs.copied(small_runs.finished(config).workdir, runs[0])
    stopping.interrupt(config, runs[1], "epoch end", 1, 2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("within_task" in path.parts for path in files)

    first, second = [text for text in blocks(ROOT / "docs" / "ship.md", "python") if "orbax" in text]
    assert all(len([line for line in text.splitlines() if line]) == 5 for text in (first, second))
    command = [sys.executable, "-c", ORBAX_ALONE, *map(str, folders), json.dumps([first, second])]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = iter(json.loads(ended.stdout.splitlines()[-1]))
    for run, after_task in zip(runs, (2, 0), strict=True):
        ours = checkpoint.read(run / "checkpoints" / str(after_task))
        expected = {
            jax.tree_util.keystr(path): [list(a.shape), str(a.dtype), hashlib.sha256(a.tobytes()).hexdigest()]
            for path, a in jax.tree.leaves_with_path(ours.tree)
        }
        for metadata in (ours.metadata, None):  # The older interface is not asked for them.
            assert next(found) == [after_task, expected, metadata]
        masks = ours.tree["memory"]["tasks"][0]["masks"] + ours.tree["memory"]["reserved"]
        assert all(mask.dtype == bool and mask.ndim == 4 for mask in masks)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_readme(desk) -> None:
    demo, use, layers = blocks(ROOT / "README.md", "python")
    exec(compile(demo, "README.md", "exec"), desk)
    assert desk["images"].shape == (64, 32, 32, 1)
    exec(compile(use, "README.md", "exec"), desk)
    assert desk["images"].shape == (64, 16, 16, 1)
    import jax.numpy as jnp
    import optax

    desk |= {"embedding": jnp.zeros(6), "s": 1.0, "epoch_scale": 1.0, "kernel": jnp.ones((4, 4, 3, 6)), "optax": optax}
    desk |= {"x": jnp.ones((2, 8, 8, 3)), "reserved": jnp.zeros(6, bool)}
    exec(compile(layers, "README.md", "exec"), desk)
    assert desk["y"].shape == (2, 5, 5, 6)


def test_get_started(desk, capsys) -> None:
    run("docs/start.md", desk)
    assert 0 <= float(capsys.readouterr().out.splitlines()[-1]) <= 1
    assert Path("runs/mine/report.html").exists()


def test_own_images(desk) -> None:
    modes, learning, using = range(3)  # The blocks of Python on the page.
    run("docs/own-images.md", desk, slice(learning, learning + 1))
    names = {0: "nought", 1: "one"}
    summary = desk["learn"](desk["x_train"], desk["y_train"], desk["x_test"], desk["y_test"], names)
    assert summary["finished"]
    run("docs/own-images.md", desk, slice(modes, modes + 1))
    assert desk["images"].shape == (10, 16, 16, 1)
    run("docs/own-images.md", desk, slice(using, None))
    assert desk["memory"].names == ("nought", "one") and len(desk["labels"]) == len(desk["x_test"])


def test_a_stream_without_tasks(tmp_path, monkeypatch) -> None:
    """The second batch brings enough images of one class, the third of the other, and old ones again."""
    monkeypatch.chdir(tmp_path)
    trains_nothing = small_runs.small(method="analytic", image_size=8, filters=4)
    monkeypatch.setitem(PRESETS, "folder", {"dgma": trains_nothing})
    few = small_runs.digits(8, (0, 1, 2), 40)
    rows = [np.flatnonzero(few.y_train == label) for label in range(3)]
    parts = ([*rows[1][:20], *rows[0][:10]], [*rows[1][20:], *rows[2][:9]], [*rows[0][10:], *rows[1][:5]])
    names = {"batches": lambda: [(few.x_train[part], few.y_train[part]) for part in parts]}
    run("docs/stream.md", names)
    assert names["summary"]["tasks"] == [[1], [0]] and names["summary"]["finished"]
    assert {label: len(images) for label, images in names["gathering"].waiting.items()} == {2: 9}


def test_vectors(desk, monkeypatch, capsys) -> None:
    small = small_runs.vectors(epochs=1)
    monkeypatch.setitem(PRESETS, "vectors", {"dgma": small})
    few = small_runs.digits(1, (0, 1))
    arrays = {
        "y_train": few.y_train,
        "y_test": few.y_test,
        "x_train": few.x_train[:, 0, 0],
        "x_test": few.x_test[:, 0, 0],
    }
    names = desk | arrays
    run("docs/vectors.md", names)
    assert names["vectors"].shape == (64, 64) and len(names["labels"]) == len(few.x_test)

    np.savez("features.npz", **arrays)
    runpy.run_path(str(ROOT / "examples" / "vectors.py"))["main"]("features.npz", "runs/example")
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:4]] == ["consolidated", "auxiliary", "analytic", "combined"]
    assert out[-1].startswith("of 100 vectors drawn of class 0, ")


def test_formats(desk) -> None:
    run("docs/formats.md", desk)
    assert np.asarray(desk["images"]).shape == (128, 16, 16, 1) and not np.isnan(desk["images"]).any()
    assert desk["labels"].shape == (128,) and set(np.asarray(desk["labels"]).tolist()) <= {0, 1, 2, 3}


def test_forget(desk, capsys) -> None:
    run("docs/forget.md", desk)
    assert capsys.readouterr().out.startswith("('0', '1', '2') [")
    assert dgm_jax.load_memory("runs/digits-dgma-seed0").labels == (0, 1, 2)


def test_extend(desk, capsys) -> None:
    callback, use, _, source = blocks(ROOT / "docs" / "extend.md", "python")  # The method: methods/test_extend.py.
    for text in (callback, use, source):
        exec(compile(text, "docs/extend.md", "exec"), desk)
    printed = re.findall(r"^task (\d), consolidated: ([\d.]+)%$", capsys.readouterr().out, flags=re.MULTILINE)
    lines = [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    means = [line["average"]["consolidated"]["macro"] for line in lines if line["kind"] != "epoch"]
    assert printed == [(str(task), f"{100 * mean:.1f}") for task, mean in enumerate(means)] and len(printed) == 3
    assert desk["stream"].class_names == ("dog", "cat")


def test_many_hosts(desk, monkeypatch) -> None:
    """The example for many hosts, with one process that joins no other."""
    (text,) = blocks(ROOT / "docs" / "devices.md", "python")
    monkeypatch.setattr("dgm_jax.system.processes.join", lambda *_: None)
    exec(compile(text.replace("/shared/run", "shared-run"), "docs/devices.md", "exec"), desk)
    assert Path("shared-run/summary.json").exists()


def test_stock_flax_layers() -> None:
    names: dict = {}
    run("docs/layers.md", names, slice(1, None))  # The first block is an excerpt: examples/test_pages.py.
    assert names["params"]["params"]["kernel"].shape == (3, 3, 3, 16)


def test_the_width_of_a_baseline(capsys) -> None:
    run("docs/baselines.md", {})
    assert f"--generator-width {capsys.readouterr().out.split()[0]}`" in (ROOT / "docs/baselines.md").read_text()


def test_every_block_of_python_is_run() -> None:
    """A page with Python is run above, or has a separate test."""
    run_above = (
        "ship",
        "start",
        "own-images",
        "stream",
        "arrays",
        "formats",
        "forget",
        "extend",
        "devices",
        "baselines",
    )
    run_above += ("vectors", "layers")
    tested = {"README.md", *(f"docs/{name}.md" for name in run_above)}
    tested.add("docs/flax.md")  # examples/test_pages.py: excerpts; examples/test_layers.py: Haiku.
    tested.add("docs/tour.md")  # tests/test_tour.py
    with_python = {str(page.relative_to(ROOT)) for page in PAGES if blocks(page, "python")}
    assert with_python == tested and len(blocks(ROOT / "docs/flax.md", "python")) == 4


def test_every_other_block_has_a_test() -> None:
    """What examples print: examples/test_layers.py; in flax.md a call, too: nn/test_flax_models.py; a tree of folders:
    commands/test_folder.py; settings: test_docs_commands.py; equations: the site, which `.ci/run` builds.
    """
    found = {
        (page.name, language): len(blocks(page, language))
        for page in PAGES
        for language in set(re.findall(r"^```(\w*)\n.*?^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE))
        if language not in ("bash", "python", "math")
    }
    plain = {("flax.md", ""): 4, ("layers.md", ""): 1, ("own-images.md", ""): 1}
    assert found == plain | {("formats.md", "toml"): 1}


def test_from_files_to_arrays(monkeypatch, tmp_path) -> None:
    """Each block reads small files of its format, made here, as the arrays that they were made of."""
    import gzip
    import io
    import pickle

    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    from dgm_jax.data import from_arrays, from_npz

    monkeypatch.chdir(tmp_path)
    save, idx, cifar, parquet, table, tensors = blocks(ROOT / "docs/arrays.md", "python")
    rng, labels = np.random.default_rng(0), np.array([0, 1, 1, 0])
    grey, colour = rng.integers(0, 256, (4, 28, 28), np.uint8), rng.integers(0, 256, (4, 32, 32, 3), np.uint8)

    for part, name in (("train", "train"), ("test", "t10k")):
        for kind, header, values in (("images-idx3", 16, grey), ("labels-idx1", 8, labels.astype(np.uint8))):
            Path(f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(bytes(header) + values.tobytes()))
        lines = [",".join(map(str, [y, *x.ravel()])) for x, y in zip(grey, labels)]
        Path(f"{part}.csv").write_text("\n".join(["label," + ",".join("p" * 784), *lines]))
        files = [io.BytesIO() for _ in colour]
        for file, image in zip(files, colour):
            Image.fromarray(image).save(file, format="PNG")
        rows = {"image": [{"bytes": file.getvalue(), "path": None} for file in files], "label": labels}
        pyarrow.parquet.write_table(pyarrow.table(rows), f"{part}.parquet")
    Path("cifar-10-batches-py").mkdir()
    batch = {b"data": colour.transpose(0, 3, 1, 2).reshape(4, -1), b"labels": labels.tolist()}
    for name in ("data_batch_1", "test_batch"):
        Path("cifar-10-batches-py", name).write_bytes(pickle.dumps(batch))

    channels_first = colour.transpose(0, 3, 1, 2) / 255
    cases = ((idx, grey), (cifar, colour), (parquet, colour), (table, grey), (tensors, colour))
    for block, expected in cases:
        desk = {"x_train": channels_first, "x_test": channels_first, "y_train": labels, "y_test": labels, "np": np}
        exec(compile(block, "docs/arrays.md", "exec"), desk)
        np.testing.assert_array_equal(desk["x_train"], expected)
        np.testing.assert_array_equal(desk["y_test"], labels)
        exec(compile(save, "docs/arrays.md", "exec"), desk)
        dataset = from_npz("mine.npz")
        assert dataset.class_names == {0: "cat", 1: "dog"} and not dataset.notes
        from_arrays(desk["x_train"], desk["y_train"], desk["x_test"], desk["y_test"])
