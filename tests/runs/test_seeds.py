"""Several seeds side by side: each as if it had run alone, whatever the others do."""

import json
import shutil

import jax
import numpy as np
import pytest
from support import children, small_runs
from support.marks import slow_but

from dgm_jax import Learner, load_memory
from dgm_jax.commands.learn import seeds_report
from dgm_jax.errors import ConfigError, NoMemory, OtherConfiguration
from dgm_jax.metrics.intervals import interval
from dgm_jax.runs.events import Callback
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import read_answers, read_summary
from dgm_jax.training import devices, trainer

# No headroom: the seeds outgrow their arrays differently, and are trained in arrays that hold the widest.
CONFIG = small_runs.small("dgma", image_size=8, generator_width=12, headroom=1, epochs=2, checkpoint_seconds=0)
LABELS = (0, 1)
LABELS_OF_PAIRS = (0, 1, 2, 3)
SEEDS = (0, 5)


class Log(Callback):
    def __init__(self):
        self.tasks, self.ends = [], []

    def on_task_start(self, event):
        self.tasks.append(event)

    def on_task_end(self, event):
        self.ends.append((event.task, event.seed))


def _fit(workdir, log=None, seeds=SEEDS):
    learner = Learner(CONFIG, devices=1, callbacks=[log] if log else [])
    return learner.fit_seeds(seeds, [small_runs.stream(CONFIG, LABELS) for _ in seeds], workdir)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(folder, summary, what was said)."""
    folder, log = tmp_path_factory.mktemp("seeds") / "run", Log()
    return folder, _fit(folder, log), log


def _assert_alike(a, b):
    """Two memories, equal to rounding."""
    assert a.widths == b.widths and a.labels == b.labels
    for mine, other in zip(a.tasks, b.tasks, strict=True):
        for mask, expected in zip(mine.masks, other.masks, strict=True):
            np.testing.assert_array_equal(mask, expected)
    for kernel, expected in zip(a.kernels, b.kernels, strict=True):
        np.testing.assert_allclose(kernel, expected, rtol=1e-3, atol=1e-4)
    for label in a.labels:
        drawn, expected = (small_runs.draw_all(memory)[label] for memory in (a, b))
        np.testing.assert_allclose(drawn, expected, atol=1e-3)


def test_each_seed_is_as_if_it_had_run_alone(together):
    folder, _, log = together
    for seed in SEEDS:
        alone = small_runs.finished(CONFIG.with_changes(seed=seed), labels=LABELS)
        _assert_alike(load_memory(folder / f"seed{seed}"), load_memory(alone.workdir))
        mine, other = (json.loads((f / "summary.json").read_text()) for f in (folder / f"seed{seed}", alone.workdir))
        for name in ("A_1", "A_2", "forgetting", "widths", "parameters", "bytes", "seed", "config"):
            assert mine[name] == other[name], name
    widths = [load_memory(folder / f"seed{seed}").widths for seed in SEEDS]
    assert widths[0] != widths[1]  # Else nothing was shown.
    assert log.tasks[1].physical_widths >= tuple(map(max, zip(*widths)))
    assert log.ends == [(0, 0), (0, 5), (1, 0), (1, 5)]


@pytest.mark.parametrize("variant", slow_but(["dgma", "dgmw"], "dgma"))
def test_several_classes_a_task(variant, tmp_path):
    """With a critic that is told the class, which acts there alone."""
    config = small_runs.small(variant, image_size=8, epochs=2, critic_condition="projection", warm_start=True)
    streams = [small_runs.stream(config, LABELS_OF_PAIRS, classes_per_task=2) for _ in SEEDS]
    summary = Learner(config, devices=1).fit_seeds(SEEDS, streams, tmp_path)
    assert [len(task) for task in summary["tasks"]] == [2, 2]
    for seed in SEEDS:
        own = config.with_changes(seed=seed)
        alone = small_runs.finished(own, labels=LABELS_OF_PAIRS, classes_per_task=2)
        _assert_alike(load_memory(tmp_path / f"seed{seed}"), load_memory(alone.workdir))


@pytest.mark.slow
def test_with_all_that_goes_beyond_the_paper(tmp_path):
    """And with masks that settle before a task ends."""
    config = small_runs.beyond("dgma", mask_share=0.5, headroom=1)
    streams = [small_runs.stream(config, LABELS_OF_PAIRS, classes_per_task=2) for _ in SEEDS]
    Learner(config, devices=1).fit_seeds(SEEDS, streams, tmp_path)
    for seed in SEEDS:
        alone = small_runs.finished(config.with_changes(seed=seed), labels=LABELS_OF_PAIRS, classes_per_task=2)
        _assert_alike(load_memory(tmp_path / f"seed{seed}"), load_memory(alone.workdir))


def test_the_summary_has_mean_and_deviation(together):
    folder, summary, _ = together
    assert json.loads((folder / "summary.json").read_text()) == summary
    each = [json.loads((folder / f"seed{seed}" / "summary.json").read_text()) for seed in SEEDS]
    values = [s["A_2"]["consolidated"]["macro"] for s in each]
    assert summary["seeds"] == list(SEEDS) and summary["protocol"] == "strict"
    assert summary["A_2"]["consolidated"]["macro"] == {
        "mean": pytest.approx(np.mean(values)),
        "sd": pytest.approx(np.std(values, ddof=1)),
        "values": values,
    }
    assert summary["forgetting"]["auxiliary"]["values"] == [s["forgetting"]["auxiliary"] for s in each]


def test_the_report_has_an_interval_where_it_is_defined(together, tmp_path):
    together, summary, _ = together
    assert len(seeds_report(summary, together)) == 2, "two seeds have none"
    folder = small_runs.copied(together, tmp_path / "three")
    small_runs.copied(folder / "seed0", folder / "seed7")
    summary = summary | {"seeds": [*SEEDS, 7]}
    own = [read_answers(of := Workdir(folder / f"seed{s}"), read_summary(of)) for s in summary["seeds"]]
    expected = interval([answers["consolidated"] for answers in own])
    said, note, _ = seeds_report(summary, folder)
    average = summary["A_2"]["consolidated"]["macro"]
    bounds = f"[{100 * max(expected.low, 0):.1f}, {100 * expected.high:.1f}]"
    assert f"consolidated {100 * average['mean']:.1f} +- {100 * average['sd']:.1f} % {bounds}, auxiliary " in said
    assert note == "in brackets: 95 % interval of the mean, over seeds and test images (docs/measures.md)"
    copied = small_runs.copied(folder, tmp_path / "run")
    (copied / "seed5" / "predictions.npz").write_bytes(b"")
    assert seeds_report(summary, copied)[1].startswith(f"note: no interval: {copied / 'seed5' / 'predictions.npz'}")
    (copied / "seed5" / "predictions.npz").unlink()  # As a run of an earlier version.
    assert "[" not in "".join(seeds_report(summary, copied))


def test_a_seed_that_is_behind_catches_up(together, tmp_path):
    """As after a kill between the saves of two seeds, or a damaged checkpoint."""
    folder, summary, _ = together
    shutil.copytree(folder, tmp_path / "run")
    checkpoints = sorted((tmp_path / "run" / "seed5" / "checkpoints").iterdir())
    for newest in checkpoints[1:]:  # The first is the end of task 0.
        shutil.rmtree(newest)
    log = Log()
    again = _fit(tmp_path / "run", log)
    assert log.ends == [(1, 5)]
    _assert_alike(load_memory(tmp_path / "run" / "seed5"), load_memory(folder / "seed5"))
    assert again["A_2"]["auxiliary"]["macro"]["values"][0] == summary["A_2"]["auxiliary"]["macro"]["values"][0]


def test_the_folder_of_a_single_run_is_left_alone(together):
    folder, _, _ = together
    single = folder / "seed0"
    before = (single / "summary.json").read_bytes()
    with pytest.raises(OtherConfiguration) as error:
        _fit(single)
    assert str(error.value) == f"{single} is the folder of a run of one seed; choose another workdir"
    assert (single / "summary.json").read_bytes() == before


def test_the_folder_of_several_seeds_is_left_alone(together):
    folder, summary, _ = together
    with pytest.raises(OtherConfiguration) as error:
        small_runs.fit(CONFIG, folder, labels=LABELS)
    assert str(error.value) == f"{folder} holds the runs of several seeds (seed0, seed5); choose another --workdir"
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_a_memory_is_that_of_one_seed(together):
    folder, _, _ = together
    with pytest.raises(NoMemory) as error:
        load_memory(folder)
    assert str(error.value) == f"{folder} holds the runs of several seeds; choose one: seed0, seed5"


def test_seeds_with_orders_of_their_own(tmp_path):
    """Each run, its memory and its pictures have the labels of its own order."""
    orders = {seed: order for seed, order in zip(SEEDS, ((0, 1), (1, 0)), strict=True)}
    streams = [small_runs.stream(CONFIG, LABELS, class_order=order) for order in orders.values()]
    log = Log()
    summary = Learner(CONFIG, devices=1, callbacks=[log]).fit_seeds(SEEDS, streams, tmp_path)
    assert "tasks" not in summary and [start.classes for start in log.tasks] == [("0/1",), ("1/0",)]
    for seed, order in orders.items():
        folder = tmp_path / f"seed{seed}"
        own, given = CONFIG.with_changes(seed=seed), {} if order == (0, 1) else {"class_order": order}
        alone = small_runs.finished(own, labels=LABELS, **given)
        _assert_alike(load_memory(folder), load_memory(alone.workdir))
        mine, other = (json.loads((f / "summary.json").read_text()) for f in (folder, alone.workdir))
        assert mine["tasks"] == other["tasks"] == [[label] for label in order]
        assert mine["A_2"] == other["A_2"] and mine["class_names"] == [str(label) for label in order]
        with np.load(folder / "samples" / "after_task_01.npz") as drawn:
            assert drawn["labels"].tolist() == list(order)


def test_streams_must_be_alike():
    learner = Learner(CONFIG, devices=1)
    streams = [small_runs.stream(CONFIG, labels) for labels in (LABELS, (0, 2))]
    with pytest.raises(ConfigError) as error:
        learner.fit_seeds(SEEDS, streams, "nowhere")
    assert str(error.value) == (
        "the streams of seeds 0 and 5 differ in classes, which seeds that are trained side by side share; "
        "train each by itself (learn --seeds N,N,... --jobs N)"
    )
    with pytest.raises(ConfigError, match="^1 streams for 2 seeds; give one for each$"):
        learner.fit_seeds(SEEDS, streams[:1], "nowhere")


def test_a_seed_given_twice():
    with pytest.raises(ConfigError) as error:
        _fit("nowhere", seeds=(1, 2, 1))
    assert str(error.value) == "seeds=1,2,1 names a seed twice; give each once"


# ---- devices ----


def apart(tmp_path, code, n=3):
    names = f"import pathlib, test_seeds as t\nfolder = pathlib.Path({str(tmp_path)!r})\n"
    children.outputs(children.start(names + code, **children.virtual_devices(n)))


def test_each_device_trains_a_seed_of_its_own(tmp_path):
    apart(tmp_path, "t.train_two_seeds(folder)")


def train_two_seeds(folder):
    """On three devices; a batch of seven does not split over two. When the run is resumed, one seed is behind."""
    config, used = CONFIG.with_changes(batch_size=7), set()

    def place(*arguments, **options):
        placed = devices.place(*arguments, **options)
        used.update(shard.device for leaf in jax.tree.leaves(placed) for shard in leaf.addressable_shards)
        return placed

    def fit():
        streams = [small_runs.stream(config, LABELS) for _ in SEEDS]
        return Learner(config, devices="all").fit_seeds(SEEDS, streams, folder / "apart")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer, "place", place)
        summary = fit()
    assert used == set(jax.devices()[:2])
    assert json.loads((folder / "apart" / "seed5" / "summary.json").read_text())["device"] == "2 x cpu"
    for seed in SEEDS:
        own = config.with_changes(seed=seed)
        Learner(own).fit(small_runs.stream(own, LABELS), folder / f"alone{seed}")
        _assert_alike(load_memory(folder / "apart" / f"seed{seed}"), load_memory(folder / f"alone{seed}"))
    behind = folder / "apart" / "seed5"
    shutil.rmtree(behind / "checkpoints" / "1")  # As if this seed had been stopped in task 1.
    assert fit()["A_2"] == summary["A_2"]
    _assert_alike(load_memory(behind), load_memory(folder / "alone5"))


@pytest.mark.slow
def test_a_device_trains_several_seeds_side_by_side(tmp_path):
    apart(tmp_path, "t.train_four_seeds(folder)")


def train_four_seeds(folder):
    """Three devices: two of them train two seeds each, as a single one would train all; here by shard_map."""
    seeds = (0, 1, 2, 3)
    for name, count in (("one", 1), ("all", "all")):
        streams = [small_runs.stream(CONFIG, LABELS) for _ in seeds]
        Learner(CONFIG, devices=count, backend="shard_map").fit_seeds(seeds, streams, folder / name)
    for seed in seeds:
        _assert_alike(*(load_memory(folder / name / f"seed{seed}") for name in ("all", "one")))
