"""Physical widths: few shapes a run, none too narrow, none lavish."""

import numpy as np
import pytest

from dgm_jax.training.shapes import physical_widths


def _plan(history, headroom=2, n_tasks=None):
    n_tasks = n_tasks or len(history)
    return [physical_widths(history[: t + 1], headroom=headroom, n_tasks=n_tasks) for t in range(len(history))]


def _steady(first, rates, n_tasks, power=1.0):
    return [tuple(int(f + f * r * t**power) for f, r in zip(first, rates)) for t in range(n_tasks)]


# Logical widths before each task of runs on real images, seed 0.
MEASURED = {
    "digits dgma": [
        (40, 20),
        (71, 29),
        (86, 40),
        (107, 52),
        (124, 59),
        (141, 66),
        (153, 74),
        (171, 77),
        (188, 80),
        (196, 83),
    ],
    "digits dgmw": [
        (16, 8),
        (20, 10),
        (24, 11),
        (28, 12),
        (31, 14),
        (35, 15),
        (38, 17),
        (41, 18),
        (44, 19),
        (47, 20),
    ],
    "mnist dgma": [
        (40, 20, 10),
        (65, 34, 20),
        (79, 44, 28),
        (99, 52, 36),
        (115, 64, 44),
        (134, 76, 49),
        (150, 84, 58),
        (169, 94, 63),
        (186, 102, 67),
        (203, 109, 72),
    ],
    "mnist dgmw": [
        (32, 16, 8),
        (42, 17, 11),
        (51, 19, 13),
        (60, 20, 15),
        (68, 21, 17),
        (76, 22, 20),
        (84, 23, 22),
        (92, 24, 24),
        (100, 25, 26),
        (107, 26, 28),
    ],
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_ten_task_run_has_at_most_three_shapes(name):
    history = MEASURED[name]
    assert len(history) == 10
    plan = _plan(history)
    assert len(set(plan)) <= 3
    for widths, physical in zip(history, plan):
        assert all(p >= w for p, w in zip(physical, widths, strict=True))
        assert all(p <= max(2 * f, 2.5 * w + 8) for p, w, f in zip(physical, widths, history[0]))


@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.4, 0.3), (0.8, 0.8), (1.0, 0.2), (0.05, 0.9)])
@pytest.mark.parametrize("power", [0.7, 1.0, 1.1])
def test_shapes_are_few_at_any_rate_of_growth(rates, power):
    assert len(set(_plan(_steady((40, 20), rates, 10, power)))) <= 3


def test_shapes_grow_with_the_logarithm_of_the_number_of_tasks():
    counts = [len(set(_plan(_steady((40, 20), (0.5, 0.4), n)))) for n in (10, 50, 250)]
    assert counts[0] <= 3 and np.all(np.diff(counts) <= 4)  # log_1.5(5)


def test_growth_up_to_the_headroom_changes_no_shape():
    assert set(_plan([(8, 4), (16, 8), (16, 8)])) == {(16, 8)}
    assert _plan([(8, 4), (17, 8), (17, 8)])[1:] == [(32, 16)] * 2


def test_more_room_than_the_run_can_need_is_not_made():
    wide, tight = (physical_widths([(8,), (16,), (32,)], headroom=2, n_tasks=n) for n in (10, 3))
    assert wide == (64,) and tight == (40,)
