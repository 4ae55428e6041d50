"""The benchmark of a step at a tiny point, through its command line."""

import jax
import pytest
from support import small_runs

from benchmarks import arithmetic, machine, records, replay, step
from benchmarks.points import Point, widths_of_tasks
from dgm_jax.errors import UserError
from dgm_jax.training import estimate

TINY = small_runs.small(image_size=8, noise_dim=12, discriminator_width=2, generator_width=2, replay_steps=None)


RUN = {"same, padded as in a run", "same, masks settled"}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(step, "POINTS", (Point("dgma", 0, (3,), 0.1),))
    monkeypatch.setattr(step, "settings", lambda variant: TINY.with_changes(variant=variant))
    monkeypatch.setattr(step, "SECONDS", 0.01)
    monkeypatch.setattr(machine, "LARGE", 64)
    jax.config.update("jax_disable_most_optimizations", True)  # Compiles faster.
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
def test_a_point_is_measured_and_written(tiny, tmp_path, capsys):
    file = tmp_path / "step.jsonl"
    step.main(out=file)
    (point,) = records.read(file)
    assert point["point"] == "dgma-0" and set(point["parts"]) == {
        "classifier",
        "critic",
        "generator",
        "iteration",
        *RUN,
    }
    for part in point["parts"].values():
        assert min(part[name] for name in ("seconds", "gflop", "ratio", "ratio_to_large_products")) > 0
    assert point["parts"]["iteration"]["ratio_to_pytorch"] > 0 and point["epoch"]["ratio_to_iterations"] > 0
    assert point["peak_host_bytes"] > 0 and point["images"] == "digits" and point["machine"]["cores"] > 0
    assert "images of digits" in capsys.readouterr().out


def test_counted_arithmetic_of_an_iteration_is_the_analytic_one():
    """The analytic count also has gradients with respect to first layers' inputs, and has no linear heads."""
    config = step.settings("dgma").with_changes(image_size=16, batch_size=16)
    point = Point("dgma", 2, (40, 24))
    scene = step.make_scene(point, config, small_runs.digits(16, tuple(range(10))))
    counted = {
        name: arithmetic.gflop(arithmetic.products(function, scene.state, *arguments))
        for name, (function, arguments) in step.parts(scene).items()
    }
    whole = 3 * counted["classifier"] + counted["critic"] + counted["generator"]
    assert whole == pytest.approx(1e-9 * estimate.iteration_flops(config, point.widths, 1, 3), rel=0.05)


def test_an_unknown_point_is_refused():
    with pytest.raises(UserError, match="--points dgma-1: unknown; choose from .*dgma-9"):
        step.main(points=["dgma-1"])


def test_replay_of_each_task(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "REPLAYED", 3)
    config = TINY.with_changes(variant="dgmw")
    measured = replay.measure([(3,), (5,)], "dgmw", config, seconds=0)
    assert len(measured["seconds"]) == len(measured["ratios"]) == 2
    assert all(ratio > 0 for ratio in (*measured["ratios"], measured["ratio_to_first_day"]))
    assert "task 1" in replay.table("dgmw", measured)
    first = replay.memory_at([(3,)], "dgmw", config, 10).images(0, 3, jax.random.key(0))
    assert first.shape == (3, 8, 8, 1)

    file = tmp_path / "replay.jsonl"
    monkeypatch.setattr(replay, "measure", lambda *_, **__: measured)
    replay.main(out=file)
    assert [(record["variant"], record["images"]) for record in records.read(file)] == [("dgma", 3), ("dgmw", 3)]


def test_widths_between_the_points_grow():
    widths = widths_of_tasks("dgma")
    assert len(widths) == 10 and widths[2] == (190, 101, 47) and widths == sorted(widths)
