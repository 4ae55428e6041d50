"""The page of a run shows what the run measured, and a real browser displays it."""

import base64
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import accessibility, small_runs
from support.marks import slow_but
from support.page_tables import Tables

from dgm_jax import Learner
from dgm_jax.commands.main import main
from dgm_jax.config import preset
from dgm_jax.reporting import page as report
from dgm_jax.reporting import rendering, settings
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import NoRun, read

MEASURES = Path(__file__).parents[2] / "docs" / "measures.md"
BESIDE = small_runs.small("dgma", image_size=8, combined=True, filters=6)  # As in tests/methods/test_analytic.py.
RUNS = {
    "dgma": lambda: small_runs.finished(small_runs.small("dgma")).workdir,
    "dgmw-pairs": lambda: (
        small_runs.finished(
            small_runs.small("dgmw", image_size=8, headroom=2), labels=small_runs.SIX, classes_per_task=2
        ).workdir
    ),
}


@pytest.fixture(scope="module", params=slow_but(list(RUNS), "dgmw-pairs"))
def run(request) -> Path:
    return RUNS[request.param]()


@pytest.fixture(scope="module")
def baseline() -> Path:
    return small_runs.finished(small_runs.small("dgma", method="finetune", image_size=8)).workdir


class TestPage:
    def test_is_there_at_the_end_of_a_run(self, run, baseline):
        for folder in (run, baseline):
            assert (folder / "report.html").read_text() == report.page(read(folder))

    def test_of_a_method_that_trains_nothing(self, baseline, tmp_path):
        """It has no line of an epoch, and all else."""
        folder = small_runs.copied(baseline, tmp_path / "run")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        kept = [line for line in lines if json.loads(line)["kind"] != "epoch"]
        assert 0 < len(kept) < len(lines)
        (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in kept))
        text = report.page(read(folder))
        assert Tables(text).rows["forgetting"] == Tables(report.page(read(baseline))).rows["forgetting"]

    def test_needs_no_network_and_no_script(self, run):
        text = (run / "report.html").read_text()
        tables = Tables(text)
        assert tables.outside == [] and not re.search(r"@import|url\(\s*['\"]?http", text)

    def test_says_what_the_run_measured(self, run):
        found = read(run)
        tables = Tables(report.page(found)).rows
        for reading in ("consolidated", "auxiliary"):
            matrix = found.matrices[reading]
            rows = [row for row in tables["forgetting"] if row[0].startswith("task ")]
            shown = rows[: len(matrix)] if reading == "consolidated" else rows[-len(matrix) :]
            for row, values in zip(shown, matrix, strict=True):
                expected = ["" if v is None else f"{100 * v:.1f}" for v in values]
                assert [cell.strip() for cell in row[1:]] == expected
            (falls,) = [row[1:] for row in tables["forgetting"] if row[0] == reading]
            expected = ["–" if v is None else f"{100 * v:.1f}" for v in found.summary.forgetting_by_class[reading]]
            assert falls == expected
            confusion = found.summary.confusion[reading]
            counts = [row[1:] for row in tables["confusion"] if row[0] in found.names]
            part = counts[: len(confusion)] if reading == "consolidated" else counts[-len(confusion) :]
            assert [[int(cell or 0) for cell in row] for row in part] == confusion

    def test_the_grid_shows_what_was_drawn_and_that_it_did_not_change(self, run):
        text = (run / "report.html").read_text()
        found = read(run)
        compared = sum(then["images"].shape[0] * 12 for then in found.drawn[:-1])
        assert (
            f"All {compared} images that were generated again after a later task are <b>equal bit for bit</b>" in text
        )
        uris = re.findall(r'<img src="(data:image/png;base64,[^"]+)" alt="([^"]+), generated after task (\d+)"', text)
        assert len(uris) == sum(len(then["images"]) for then in found.drawn)
        by_class: dict[str, set[str]] = {}
        for uri, name, _ in uris:
            by_class.setdefault(name, set()).add(uri)
        assert set(by_class) == set(found.names) and all(len(images) == 1 for images in by_class.values())

    def test_a_changed_image_is_reported(self, run, tmp_path):
        folder = small_runs.copied(run, tmp_path / "run")
        path = folder / "samples" / "after_task_02.npz"
        with np.load(path) as arrays:
            changed = dict(arrays)
        changed["images"][0, 0, 0, 0] ^= 1
        np.savez(path, **changed)
        text = report.page(read(folder))
        assert "<b>1 of " in text and "images changed</b> after a later task" in text

    def test_real_images_only_if_asked_for(self, run, tmp_path):
        assert "a real training image" not in (run / "report.html").read_text()
        config = small_runs.small("dgma")
        stream = small_runs.stream(config)
        Learner(config, devices=1, show_real=True).fit(stream, tmp_path / "run")
        text = (tmp_path / "run" / "report.html").read_text()
        uris = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="(\d), a real training image"', text)
        assert [name for _, name in uris] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
        digits = small_runs.digits(16)
        for number, (uri, name) in enumerate(uris):
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))
            expected = digits.x_train[digits.y_train == int(name), ..., 0]
            assert np.array_equal(shown, expected[number % 3])

    def test_shows_distances_to_training_images(self, run):
        text = (run / "report.html").read_text()
        assert "Only a guarantee such as differential privacy could show that" in text
        rows = Tables(text).rows["privacy"]
        privacy = read(run).summary.privacy
        assert [row[0] for row in rows[2:]] == [row["class"] for row in privacy]
        assert float(rows[2][1]) == pytest.approx(privacy[0]["pixels"]["generated"]["median"], abs=5e-4)

    def test_tasks_and_accuracies_are_counted_as_in_files(self, run):
        """From 0, with the names of all classes; A_n is over n classes."""
        found = read(run)
        text = report.page(found)
        assert rendering.COUNTING in text and rendering.COUNTING.partition(", here")[0] in MEASURES.read_text()
        rows = [row for row in Tables(text).rows["accuracy"] if row[0].isdecimal()]
        assert [row[0] for row in rows] == [str(task) for task in range(found.n_tasks)]
        assert [row[1] for row in rows] == [", ".join(found.names_of(task)) for task in range(found.n_tasks)]
        assert [row[2] for row in rows] == [f"A_{found.n_seen(task)}" for task in range(found.n_tasks)]
        expected = [f"{100 * a:.1f}" for a in found.averages("consolidated")]
        assert [row[3] for row in rows] == expected and all(row[2][2:] in str(found.summary.averages) for row in rows)

    def test_the_combined_reading_and_its_bytes(self):
        run = read(small_runs.finished(BESIDE).workdir)
        text, memory = report.page(run), run.summary.bytes["memory"]
        (value, size), *_ = re.findall(r"accuracy, combined</dt><dd>([\d.]+) % <small>A_3, with ([\d.]+) kB", text)
        assert value == f"{100 * run.averages('combined')[-1]:.1f}"
        assert size == rendering.size(memory["total"]).split()[0]
        without = memory["total"] - sum(memory[part] for part in ("filters", "gram", "class_sums", "counts"))
        assert f"% <small>A_3, with {rendering.size(without)}" in text
        rows = {row[0]: row[2] for row in Tables(text).rows["kept"][1:]}
        assert rows["gram, only for the readings analytic and combined"] == f"{memory['gram']:,}"
        assert accessibility.faults(text) == []
        assert rows["total"] == f"{memory['total']:,}" and "single training images can be recognised" in text

    def test_settings_differ_from_the_nearest_preset(self, run, tmp_path):
        def shown(folder: Path) -> tuple[str, dict[str, list[str]]]:
            text = report.page(read(folder))
            (caption,) = re.findall(r"<caption>Settings that differ from the preset ([^<]+)</caption>", text)
            rows = Tables(text).rows["settings"]
            end = next(i for i, row in enumerate(rows) if row == ["setting", "value"])
            return caption, {row[0]: row[1:] for row in rows[1:end]}

        nearest, rows = shown(run)
        assert nearest.endswith(", the nearest one") and rows["scale_max"][0] == "100.0"
        folder = small_runs.copied(run, tmp_path / "run")
        (folder / "commands.txt").write_text("python -m experiments.digits --preset mnist --variant x\n")
        named, rows = shown(folder)
        config, mnist = read(folder).config, preset("mnist", read(folder).config["variant"]).flat()
        assert named == "mnist" and "seed" not in rows
        differing = [name for name in config if config[name] != mnist[name]]
        differing = [name for name in differing if name not in ("seed", "checkpoint_seconds")]
        assert list(rows) == [name for name in differing if name != "precision"]  # That of the device is no choice.
        assert all(values == [str(config[name]), str(mnist[name])] for name, values in rows.items())
        (folder / "commands.txt").write_text("python -m experiments.digits --preset mnist --precision float32\n")
        assert list(shown(folder)[1]) == differing and "precision" in differing

    def test_of_equally_near_presets_that_of_the_experiment_is_named(self, baseline):
        """A method that reads few settings has those of several presets."""
        config = {"method": "analytic", "image_size": 32, "filters": 100, "mirror": False}
        for command in ("python -m experiments.folder --data mine", "dgm-jax learn folder --data mine"):
            found = settings.from_preset(dataclasses.replace(read(baseline), config=config, commands=(command,)))
            assert (found.preset, found.is_named, found.differences) == ("folder", False, {})

    def test_all_settings_stand_in_their_groups(self, run, baseline):
        for folder in (run, baseline):
            groups = settings.grouped(read(folder).config)
            assert {name: value for group in groups.values() for name, value in group.items()} == read(folder).config
            assert groups["What a run sees of the data set"].keys() == {"image_size", "train_per_class", "held_out"}
            text = (folder / "report.html").read_text()
            assert [title for title in groups if f'scope="rowgroup">{title}</th>' in text] == list(groups)

    def test_of_a_run_in_progress(self, tmp_path):
        folder = small_runs.copied(RUNS["dgma"](), tmp_path / "run")
        shutil.rmtree(folder / "samples")
        for name in ("summary.json", "accuracy_matrix.csv", "report.html"):
            (folder / name).unlink()
        assert main(["report", str(folder)]) == 0
        text = (folder / "report.html").read_text()
        assert "No task is finished yet; " in text and "<h2>Training</h2>" in text
        assert accessibility.faults(text) == []

    def test_of_a_baseline(self, baseline):
        text = (baseline / "report.html").read_text()
        assert accessibility.faults(text) == []
        assert "finetune has no memory that keeps generating the same images" in text
        assert "<h2>Growth</h2>" not in text and "<h2>Forgetting</h2>" in text
        assert "batch_size" in text and "scale_max" not in text
        counted = read(baseline).summary.bytes["memory"]
        assert list(counted) == ["classifier", "total"]
        assert re.search(rf"kept from task to task</dt><dd>{counted['total'] / 1000:.0f}[.\d]* kB <small>for ", text)
        assert [row[0] for row in Tables(text).rows["kept"][1:]] == list(counted)

    def test_names_are_text(self, run, tmp_path):
        """A class folder may be called anything."""
        folder = small_runs.copied(run, tmp_path / "run")
        for name in ("config.json", "summary.json"):
            content = json.loads((folder / name).read_text())
            content["class_names"][0] = "<script>alert(1)</script>"
            (folder / name).write_text(json.dumps(content))
        text = report.page(read(folder))
        assert "<script" not in text and html.escape("<script>alert(1)</script>", quote=False) in text

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("summary.json", b"{}"),
            ("summary.json", b"[]"),
            ("summary.json", b'{"finished": tr'),
            ("summary.json", b"\xff"),
            ("config.json", b'{"format_version": 1}'),
            ("accuracy_matrix.csv", b""),
            ("accuracy_matrix.csv", b"protocol,reading,after_task,0\nstrict,consolidated,0,none\n"),
            ("metrics.jsonl", b'{"kind": "epoch"}\n'),
            ("samples/after_task_01.npz", b"PK\3\4"),
        ],
    )
    def test_files_that_are_damaged(self, name, content, tmp_path, capsys):
        folder = small_runs.copied(RUNS["dgma"](), tmp_path / "run")
        (folder / name).write_bytes(content)
        assert main(["report", str(folder)]) == 2
        error = capsys.readouterr().err
        damaged = folder / name if name == "summary.json" else f"a file in {folder}"
        assert error.startswith(f"error: {damaged} cannot be read (") and error.count("\n") == 1

    def test_a_page_that_cannot_be_written_does_not_end_a_run(self, tmp_path):
        notes: list[str] = []
        folder = small_runs.copied(RUNS["dgma"](), tmp_path / "run")
        (folder / "summary.json").write_text("{}")
        report.write_at_the_end(Workdir(folder), notes.append)
        assert len(notes) == 1 and notes[0].startswith("no report.html: ")

    def test_a_task_whose_summary_is_not_written_yet(self, run, tmp_path):
        """The matrix and the samples are written before it."""
        folder = small_runs.copied(run, tmp_path / "run")
        summary = json.loads((folder / "summary.json").read_text())
        n = sum(map(len, summary["tasks"][:2]))
        shorter = {"finished": False, "finished_tasks": 2, "final": n}
        shorter["confusion"] = {k: [row[:n] for row in rows[:n]] for k, rows in summary["confusion"].items()}
        shorter |= {name: [row for row in summary[name] if row["task"] < 2] for name in ("capacity", "privacy")}
        (folder / "summary.json").write_text(json.dumps(summary | shorter))
        text = report.page(read(folder))
        assert "In progress: 2 of 3 tasks are finished" in text
        Tables(text)

    def test_empty_commands_are_no_commands(self, run, tmp_path):
        folder = small_runs.copied(run, tmp_path / "run")
        (folder / "commands.txt").write_text("")
        assert "<pre>" not in report.page(read(folder))
        (folder / "commands.txt").write_text("python -m a\npython -m b --c 'd'\npython -m a\n")
        assert "<pre>python -m a\npython -m b --c &#39;d&#39;</pre>" in report.page(read(folder))

    def test_folders_that_are_none(self, tmp_path, run, capsys):
        with pytest.raises(NoRun, match="no such folder"):
            report.write(tmp_path / "none")
        assert main(["report", str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"error: {tmp_path} has no config.json; expected the --workdir of a run\n"


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command = [str(CHROMIUM), *quiet, f"--user-data-dir={profile}", "--window-size=400,6000", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    return done


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
class TestBrowser:
    def test_elements_are_there(self, tmp_path):
        page = browse(RUNS["dgma"]() / "report.html", tmp_path, "--dump-dom").stdout
        sections = re.findall(r'<section id="(\w+)"', page)
        expected = ["accuracy", "forgetting", "memory", "growth", "kept"]
        expected += ["privacy", "confusion", "training", "settings"]
        assert sections == expected and len(re.findall(r"<svg", page)) == 4

    def test_it_is_printed(self, tmp_path):
        out = tmp_path / "page.pdf"
        browse(RUNS["dgma"]() / "report.html", tmp_path / "profile", f"--print-to-pdf={out}", "--no-pdf-header-footer")
        assert out.read_bytes().startswith(b"%PDF") and out.stat().st_size > 20_000

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_is_shown_in_both_schemes(self, scheme, tmp_path):
        """No console errors; in the scheme's colours, to the end of the page, with the charts' lines in it."""
        picture = tmp_path / "page.png"
        dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
        done = browse(RUNS["dgma"]() / "report.html", tmp_path / "profile", *dark, f"--screenshot={picture}")
        assert picture.exists(), done.stderr
        pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
        corner = pixels[2, 2].sum()
        assert corner < 150 if scheme == "dark" else corner > 700
        content = np.abs(pixels.sum(axis=2) - corner) > 200
        assert 0.01 < content.mean() < 0.5
        assert np.flatnonzero(content.any(axis=1)).max() > 2500, "the page ends early"
        blue = (np.abs(pixels - [47, 127, 214]).sum(axis=2) < 40).sum()
        assert blue > 200, "no line of a chart"


def test_more_than_a_hundred_tasks_are_in_their_order(tmp_path):
    folder = Workdir(tmp_path)
    folder.samples.mkdir()
    names = [f"after_task_{task:02d}.npz" for task in range(8, 112)]
    for name in names:
        (folder.samples / name).touch()
    assert [path.name for path in folder.drawn()] == names
