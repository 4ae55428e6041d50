"""How wide a network becomes after a task, and the moving of arrays into wider shapes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import golden

from dgm_jax import nn


def ceil_div(a, b):
    return -(-a // b)


@pytest.mark.parametrize("variant", ["dgma", "dgmw"])
def test_golden_widths(variant):
    data = golden.load(f"expansion_{variant}")
    for j in range(int(data["n_cases"])):
        case = data[f"case{j}"]
        inputs, window = int(case["nz"]), int(case["kernel"]) ** 2
        widths = tuple(case["initial_widths"].tolist())
        taken = np.zeros(len(widths), int)
        rows = [(widths, taken)]
        for delta in case["newly_reserved"]:
            if variant == "dgma":
                widths = nn.grown_unit_widths(widths, delta.tolist())
            else:
                widths = nn.grown_weight_widths(widths, delta.tolist(), inputs=inputs, window=window)
            taken = taken + delta
            rows.append((widths, taken))
        for row, (widths, taken) in enumerate(rows):
            assert list(widths) == case["widths"][row].tolist(), f"case {j}, row {row}"
            gates = np.array(widths)
            if variant == "dgmw":
                gates = gates * np.array((inputs, *widths[:-1])) * window
            np.testing.assert_array_equal(gates - taken, case["free"][row])
            assert np.all(gates - taken >= case["free"][0])


@pytest.mark.parametrize("widths", [(8,), (12, 6, 3), (4, 4, 4, 4)])
def test_units_grow_by_what_was_reserved(widths):
    delta = [3 * i % 5 for i in range(len(widths))]
    assert nn.grown_unit_widths(widths, delta) == tuple(w + d for w, d in zip(widths, delta))


@pytest.mark.parametrize("seed", range(20))
def test_weights_grow_until_enough_are_free_and_no_further(seed):
    """One output channel fewer in any layer, given the layers below, would leave too few free weights."""
    rng = np.random.default_rng(seed)
    window = int(rng.integers(1, 5)) ** 2
    channels = rng.integers(1, 20, size=4).tolist()
    inputs, widths = channels[0], tuple(channels[1:])
    sizes = [a * b * window for a, b in zip(channels, widths)]
    delta = [int(rng.integers(0, n + 1)) for n in sizes]
    grown = nn.grown_weight_widths(widths, delta, inputs=inputs, window=window)
    for old, new, below, size, needed in zip(widths, grown, (inputs, *grown[:-1]), sizes, delta, strict=True):
        assert new >= old
        assert new * below * window - size >= needed
        assert new == old or (new - 1) * below * window - size < needed


def test_weights_grow_by_the_formula_of_section_7():
    nz, (c1, c2, c3), k2, (d1, d2, d3) = 16, (12, 6, 3), 16, (700, 900, 280)
    a1 = ceil_div(d1, nz * k2)
    a2 = max(0, ceil_div(d2 - a1 * c2 * k2, (c1 + a1) * k2))
    a3 = max(0, ceil_div(d3 - a2 * c3 * k2, (c2 + a2) * k2))
    grown = nn.grown_weight_widths((c1, c2, c3), (d1, d2, d3), inputs=nz, window=k2)
    assert grown == (c1 + a1, c2 + a2, c3 + a3) == (15, 9, 4)


def test_widths_stay_where_nothing_was_reserved():
    assert nn.grown_unit_widths((5, 4), (0, 0)) == (5, 4)
    assert nn.grown_weight_widths((5, 4), (0, 0), inputs=3, window=9) == (5, 4)


def test_widths_need_one_delta_a_layer():
    with pytest.raises(ValueError, match="zip"):
        nn.grown_unit_widths((5, 4), (1,))
    with pytest.raises(ValueError, match="2 pairs of ends for 3 kernels"):
        nn.grown_weight_widths((5, 4), (1, 2, 3), inputs=3, window=9)


# A layer, and a block of two more whose output a shortcut feeds as well; kernels of 4x4, 3x3, 3x3 and 1x1.
BLOCK, WINDOWS = [(nn.INPUT, 0), (0, 1), (1, 2), (0, 2)], [16, 9, 9, 1]


@pytest.mark.parametrize("seed", range(20))
def test_weights_of_a_block_grow_until_enough_are_free_in_each_branch_and_no_further(seed):
    rng = np.random.default_rng(seed)
    inputs, *widths = rng.integers(1, 20, size=4).tolist()

    def sizes(widths):
        channels = {nn.INPUT: inputs} | dict(enumerate(widths))
        return [channels[a] * channels[b] * k for (a, b), k in zip(BLOCK, WINDOWS, strict=True)]

    delta = [int(rng.integers(0, n + 1)) for n in sizes(widths)]
    grown = nn.grown_weight_widths(widths, delta, inputs=inputs, window=WINDOWS, ends=BLOCK)

    def suffices(widths_now, layer):
        """Whether every kernel that feeds a layer has gained as much as was reserved of it."""
        kernels = [i for i, (_, target) in enumerate(BLOCK) if target == layer]
        return all(sizes(widths_now)[i] - sizes(widths)[i] >= delta[i] for i in kernels)

    for layer, (old, new) in enumerate(zip(widths, grown, strict=True)):
        assert suffices(grown, layer)
        fewer = [*grown[:layer], new - 1, *grown[layer + 1 :]]
        assert new == old or (new > old and not suffices(fewer, layer))


@pytest.mark.parametrize(
    "ends, text",
    [
        ([(-1, 0), (0, 1)], "2 pairs of ends for 3 kernels"),
        ([(-1, 0), (0, 2), (0, 1)], r"must feed the layers 0, 1, 2, \.\.\. in this order"),
        ([(-1, 0), (0, 1), (0, 3)], r"must feed the layers 0, 1, 2, \.\.\. in this order"),
        ([(-1, 0), (1, 1), (0, 2)], "a layer before the one it feeds"),
        ([(-1, 0), (0, 1), (0, 1)], "feed 2 layers; there are 3"),
    ],
)
def test_ends_that_fit_nothing(ends, text):
    with pytest.raises(ValueError, match=text):
        nn.grown_weight_widths((5, 4, 3), (1, 2, 3), inputs=3, window=9, ends=ends)


@pytest.mark.parametrize(
    "width, bucket, padded", [(1, 8, 8), (8, 8, 8), (9, 8, 16), (16, 8, 16), (17, 8, 32), (100, 24, 192), (3, 1, 4)]
)
def test_padded_width(width, bucket, padded):
    assert nn.padded_width(width, bucket) == padded


def test_padded_widths_are_few():
    assert len({nn.padded_width(width, 16) for width in range(1, 641)}) == 7


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("kind", ["float32", "int32", "bool"])
@pytest.mark.parametrize(
    "old, fresh",
    [((3,), (5,)), ((2, 3), (2, 3)), ((2, 3), (4, 3)), ((2, 2, 3, 4), (2, 2, 6, 5)), ((0, 2), (3, 2)), ((), ())],
)
def test_expand_keeps_the_old_corner_bit_for_bit(old, fresh, kind, jit):
    rng = np.random.default_rng(0)
    old = jnp.asarray(rng.normal(size=old) * 3).astype(kind)
    fresh = jnp.asarray(rng.normal(size=fresh) * 3).astype(kind)
    moved = (jax.jit(nn.expand) if jit else nn.expand)(old, fresh)
    expected = np.array(fresh)
    expected[tuple(slice(0, n) for n in old.shape)] = old
    assert moved.dtype == fresh.dtype
    np.testing.assert_array_equal(moved, expected, strict=True)


def test_expand_keeps_infinities_and_nans():
    old = jnp.array([-jnp.inf, jnp.nan, -0.0])
    moved = np.asarray(nn.expand(old, jnp.full(5, -jnp.inf)))
    assert moved[:3].tobytes() == np.asarray(old).tobytes()
    assert np.all(np.isneginf(moved[3:]))


@pytest.mark.parametrize("keep", [(2, 3), (0, 3), (4, 4), (1, 1)])
def test_expand_keeps_the_logical_part_of_a_padded_array(keep):
    old, fresh = jnp.arange(16.0).reshape(4, 4), -jnp.ones((5, 4))
    moved = nn.expand(old, fresh, keep=keep)
    expected = np.array(fresh)
    expected[: keep[0], : keep[1]] = old[: keep[0], : keep[1]]
    np.testing.assert_array_equal(moved, expected)


def test_expand_may_shrink_the_padding():
    """The old padding goes, and only the logical part has to fit."""
    moved = nn.expand(jnp.arange(8.0), jnp.zeros(4), keep=[3])
    np.testing.assert_array_equal(moved, [0, 1, 2, 0])


def test_expand_maps_over_trees():
    old = {"kernel": jnp.ones((2, 3)), "scale": [jnp.ones(3)]}
    moved = jax.tree.map(nn.expand, old, {"kernel": jnp.zeros((4, 4)), "scale": [jnp.zeros(4)]})
    assert moved["kernel"].sum() == 6 and moved["scale"][0].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "old, fresh, keep, text",
    [
        ((4,), (3,), None, "an array of shape (4,) does not expand to (3,): no axis may shrink"),
        ((2, 5), (4, 4), None, "an array of shape (2, 5) does not expand to (4, 4): no axis may shrink"),
        ((3,), (3, 3), None, "an array of shape (3,) does not expand to (3, 3): no axis may shrink"),
        ((6,), (4,), (5,), "an array of shape (5,) does not expand to (4,): no axis may shrink"),
    ],
)
def test_expand_refuses_to_shrink(old, fresh, keep, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.expand(jnp.ones(old), jnp.ones(fresh), keep)


@pytest.mark.parametrize("old, keep", [((1,), (3,)), ((2, 2), (2, 3)), ((2, 2), (2,)), ((2, 2), (2, 2, 1))])
def test_expand_keeps_no_more_than_there_is(old, keep):
    text = f"keep={keep} does not fit an array of shape {old}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.expand(jnp.ones(old), jnp.zeros((4,) * len(old)), keep)
