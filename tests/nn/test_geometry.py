"""Convolutions with every option of `flax.linen.Conv`, against XLA's own in float64."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from support import children

from dgm_jax import nn
from dgm_jax.nn.platforms import FORMS

LAYOUT = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}

# Together these cover every option and most pairs of options: (space, kernel, options).
CONVOLUTIONS = [
    ((6, 5), (3, 2, 2, 3), {"stride": (2, 1), "padding": "SAME"}),
    ((7, 6), (2, 3, 2, 3), {"stride": (1, 2), "padding": ((1, 2), (0, 3)), "kernel_dilation": (2, 1)}),
    ((4, 3), (3, 2, 2, 3), {"stride": (2, 3), "padding": (1, (2, 0)), "input_dilation": (2, 3)}),
    ((5, 6), (3, 3, 2, 6), {"stride": 1, "padding": "SAME", "kernel_dilation": 2, "feature_group_count": 2}),
    ((5, 6), (2, 2, 1, 8), {"stride": 2, "padding": "VALID", "feature_group_count": 4}),
    ((9,), (3, 2, 4), {"stride": 2, "padding": ((2, 1),), "kernel_dilation": 2}),
    ((5,), (4, 1, 4), {"stride": 1, "padding": 2, "input_dilation": 3, "feature_group_count": 2}),
    ((3, 4, 5), (2, 3, 1, 2, 3), {"stride": (1, 2, 2), "padding": "SAME"}),
    ((3, 2, 4), (2, 2, 2, 1, 4), {"stride": 2, "padding": 1, "input_dilation": (1, 2, 1), "feature_group_count": 2}),
]
TRANSPOSED = [
    ((3, 4), (3, 2, 2, 3), {"stride": (2, 1), "padding": ((1, 0), (0, 0))}),
    ((3, 4), (2, 3, 2, 3), {"stride": (1, 2), "padding": 1, "kernel_dilation": (3, 2)}),
    ((3, 2), (2, 2, 1, 6), {"stride": (3, 1), "padding": 0, "feature_group_count": 2}),
    ((5,), (4, 2, 3), {"stride": 3, "padding": (1,)}),
    ((2, 3, 2), (2, 1, 3, 2, 3), {"stride": (1, 2, 2), "padding": (0, 0, (1, 0))}),
]


def data(space, kernel, options):
    rng = np.random.default_rng(0)
    c_in = kernel[-2] * options.get("feature_group_count", 1)
    return jnp.asarray(rng.normal(size=(2, *space, c_in))), jnp.asarray(rng.normal(size=kernel))


def each(value, axes):
    return value if isinstance(value, tuple) else (value,) * axes


def xla_conv(x, kernel, *, stride, padding, input_dilation=1, kernel_dilation=1, feature_group_count=1):
    """As `flax.linen.Conv` calls it; 'SAME' is that of the dilated window."""
    axes = x.ndim - 2
    if not isinstance(padding, str):
        padding = [each(pair, 2) for pair in each(padding, axes)]
    numbers = [each(value, axes) for value in (input_dilation, kernel_dilation)]
    return lax.conv_general_dilated(
        x, kernel, each(stride, axes), padding, *numbers, LAYOUT[axes], feature_group_count=feature_group_count
    )


def xla_conv_transpose(x, kernel, *, stride, padding, kernel_dilation=1, feature_group_count=1):
    """As the linear transpose of XLA's convolution; its kernel maps c_out channels to c_in."""
    axes, groups = x.ndim - 2, feature_group_count
    *window, c_in, c_out = kernel.shape
    steps, dilations = each(stride, axes), each(kernel_dilation, axes)
    pads = [each(pair, 2) for pair in each(padding, axes)]
    size = [
        (n - 1) * s - sum(p) + (k - 1) * d + 1 for n, s, p, k, d in zip(x.shape[1:], steps, pads, window, dilations)
    ]
    image = jax.ShapeDtypeStruct((len(x), *size, c_out), x.dtype)
    turned = jnp.swapaxes(kernel.reshape(*window, c_in, groups, c_out // groups), -3, -1)
    turned = turned.reshape(*window, c_out // groups, groups * c_in)

    def back(y):
        options = {"kernel_dilation": kernel_dilation, "feature_group_count": groups}
        return xla_conv(y, turned, stride=stride, padding=padding, **options)

    return jax.linear_transpose(back, image)(x)[0]


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), actual, expected)


CASES = [(nn.conv, xla_conv, case) for case in CONVOLUTIONS]
CASES += [(nn.conv_transpose, xla_conv_transpose, case) for case in TRANSPOSED]


def named(value):
    """The name of a function, without its address: all workers must give a test the same name."""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize("layer, reference, case", CASES, ids=named)
def test_values_and_gradients(layer, reference, case, float64):
    """Of the form of this platform; the values also of the form that others take."""
    x, kernel = data(*case)

    def everything(layer):
        def loss(x, kernel):
            y = layer(x, kernel, **case[2])
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(lambda x, kernel: jax.grad(loss, (0, 1), has_aux=True)(x, kernel))

    expected = everything(reference)(x, kernel)
    assert_close(everything(layer)(x, kernel), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMS["convolution"], "cpu", "xla")
        assert_close(jax.jit(partial(layer, **case[2]))(x, kernel), expected[1])


@pytest.mark.parametrize("layer, reference, case", [CASES[1], CASES[-3]], ids=named)
def test_second_derivatives_and_forward_mode(layer, reference, case, float64):
    x, kernel = data(*case)

    def everything(layer):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(layer(x, kernel, **case[2])))

        def penalty(x, kernel):
            return jnp.sum(jax.grad(loss)(x, kernel) ** 2)

        def derivatives(x, kernel):
            tangent = jax.jvp(lambda k: layer(x, k, **case[2]), (kernel,), (jnp.cos(kernel),))[1]
            return jax.grad(penalty, (0, 1))(x, kernel), tangent, jax.jvp(jax.grad(loss), (x, kernel), (x, kernel))[1]

        return jax.jit(derivatives)

    assert_close(everything(layer)(x, kernel), everything(reference)(x, kernel))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    "space, window, options",  # Windows that are larger, as large and smaller than the stride.
    [
        ((3, 4), (5, 2), {"stride": (2, 2)}),
        ((3, 4), (1, 3), {"stride": (2, 1), "kernel_dilation": (1, 2)}),
        ((4,), (2,), {"stride": 4}),
    ],
)
def test_named_paddings_of_transposed_convolutions(padding, space, window, options, float64):
    """`lax.conv_transpose` does not flip its kernel."""
    axes = len(space)
    x, kernel = data(space, (*window, 2, 3), options)
    strides, dilation = each(options["stride"], axes), each(options.get("kernel_dilation", 1), axes)

    @jax.jit
    def both(x, kernel):
        y, pull = jax.vjp(partial(nn.conv_transpose, padding=padding, **options), x, kernel)
        flipped = jnp.flip(kernel, range(axes))
        return y, lax.conv_transpose(x, flipped, strides, padding, dilation, LAYOUT[axes]), pull(y)[0]

    y, expected, back = both(x, kernel)
    assert_close(y, expected)
    assert_close(np.vdot(back, x), np.vdot(y, y))  # The map is linear in x.


@st.composite
def geometries(draw):
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))

    def some(least, most):
        return draw(st.one_of(st.integers(least, most), st.tuples(*[st.integers(least, most)] * axes)))

    pair = st.tuples(st.integers(0, 2), st.integers(0, 2))
    space, window = (tuple(draw(st.integers(1, n)) for _ in range(axes)) for n in (7, 4))
    options = {
        "stride": some(1, 3),
        "padding": draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.integers(0, 2), st.tuples(*[pair] * axes))),
        "input_dilation": some(1, 3),
        "kernel_dilation": some(1, 3),
        "feature_group_count": groups,
    }
    return space, (*window, 2, 2 * groups), options


@settings(max_examples=40, deadline=None, derandomize=True)
@given(geometries())
def test_shapes_and_what_does_not_fit(case):
    """Traced, not compiled: the shape is that of XLA's convolution, or there is none."""
    space, kernel, options = case
    axes = len(space)
    dilated = isinstance(options["padding"], str) and set(each(options["input_dilation"], axes)) != {1}
    assume(not dilated)  # XLA refuses it.
    arrays = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in data(*case)]
    expected = jax.eval_shape(partial(xla_conv, **options), *arrays).shape
    if 0 in expected:
        with pytest.raises(ValueError, match="kernel does not fit an image of"):
            jax.eval_shape(partial(nn.conv, **options), *arrays)
    else:
        assert jax.eval_shape(partial(nn.conv, **options), *arrays).shape == expected


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_masked_layers_take_the_same_options(kind, float64):
    layers = {"conv": (nn.masked_conv, nn.conv), "conv_transpose": (nn.masked_conv_transpose, nn.conv_transpose)}
    masked, plain = layers[kind]
    options = {"stride": (1, 2), "padding": "SAME", "kernel_dilation": (2, 1), "feature_group_count": 2}
    if kind == "conv":
        options |= {"padding": ((1, 0), 1), "input_dilation": (1, 2)}
    x, kernel = data((4, 3), (2, 3, 1, 4), options)
    units, weights = jnp.array([0.0, 1, 0.5, 0]), jnp.asarray(np.random.default_rng(1).random(kernel.shape))

    @jax.jit
    def everything(x, kernel):
        gated = [masked({"kernel": kernel}, x, gate, **options) for gate in (units, weights)]
        return gated, plain(x, kernel, **options), plain(x, kernel * weights, **options)

    (by_units, by_weights), ungated, expected = everything(x, kernel)
    assert_close(by_units, ungated * jnp.broadcast_to(units, ungated.shape))
    assert not np.any(np.asarray(by_units)[..., [0, 3]])
    assert_close(by_weights, expected)


def test_a_bias_is_refused_by_name():
    """No gate would protect it, and a closed unit would emit it."""
    calls = [
        (nn.masked_dense, (3, 2), (1, 3), {}),
        (nn.masked_conv, (1, 3, 2), (1, 4, 3), {"stride": 1, "padding": 0}),
        (nn.masked_conv_transpose, (1, 3, 2), (1, 4, 3), {"stride": 1, "padding": 0}),
    ]
    text = re.escape("params has ['bias', 'kernel']; expected only ['kernel']. A masked layer has no bias")
    for layer, kernel, x, options in calls:
        with pytest.raises(ValueError, match=f"^{text}"):
            layer({"kernel": jnp.ones(kernel), "bias": jnp.ones(2)}, jnp.ones(x), **options)


def test_channels_that_do_not_split_into_groups_are_named():
    text = "x has shape (1, 4, 3) and kernel (1, 1, 4); expected [batch, *space, c_in] and [*window, c_in / 2, c_out], "
    text += "with as many axes of window as of space (1 to 3) and c_out a multiple of 2"
    for layer in (nn.conv, nn.conv_transpose):
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            layer(jnp.ones((1, 4, 3)), jnp.ones((1, 1, 4)), stride=1, padding=0, feature_group_count=2)
        with pytest.raises(ValueError, match="c_out a multiple of 3"):
            layer(jnp.ones((1, 4, 3)), jnp.ones((1, 1, 4)), stride=1, padding=0, feature_group_count=3)
        with pytest.raises(ValueError, match="feature_group_count=0; expected"):
            layer(jnp.ones((1, 4, 3)), jnp.ones((1, 1, 4)), stride=1, padding=0, feature_group_count=0)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"stride": 0}, "stride=0; expected a whole number >= 1, or one for each axis (2)"),
        ({"stride": (1, 2, 1)}, "stride=(1, 2, 1); expected a whole number >= 1, or one for each axis (2)"),
        ({"stride": 1.0}, "stride=1.0; expected a whole number >= 1, or one for each axis (2)"),
        ({"kernel_dilation": (1, -1)}, "kernel_dilation=(1, -1); expected"),
        ({"padding": -1}, "padding=-1; expected 'SAME', 'VALID', a whole number >= 0, or a number or a pair (before"),
        ({"padding": "CIRCULAR"}, "padding='CIRCULAR'; expected 'SAME', 'VALID'"),
        ({"padding": ((1, 2), (1, 2, 3))}, "padding=((1, 2), (1, 2, 3)); expected"),
        ({"padding": (1, 1, 1)}, "padding=(1, 1, 1); expected"),
    ],
)
def test_an_option_out_of_range_is_named(options, text):
    options = {"stride": 1, "padding": 0} | options
    for layer in (nn.conv, nn.conv_transpose):
        with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
            layer(jnp.ones((1, 8, 8, 1)), jnp.ones((3, 3, 1, 1)), **options)


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=re.escape("a window of (3, 3) does not fit an image of (2, 4)")):
        nn.unfold(jnp.ones((1, 2, 4, 1)), 3, 1, 0)
    with pytest.raises(ValueError, match=re.escape("patches at (2, 2) positions; an image of (4, 5) has (2, 3)")):
        nn.fold(jnp.ones((1, 2, 2, 9)), 3, 1, 0, (4, 5))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dgm_jax import nn

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
k, x = jnp.asarray(rng.normal(size=(2, 2, 1, 2))), jnp.asarray(rng.normal(size=(2, 3, 4, 2)))
conv = partial(nn.conv, stride=(1, 2), padding="SAME", kernel_dilation=(1, 2), feature_group_count=2)
layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2}
layers = {"conv": conv, "general": partial(nn.conv_general_dilated, window_strides=(1, 2), padding="SAME", **layout)}
for name, layer in layers.items():
    def derivatives(layer):
        loss = lambda x, k: jnp.sum(layer(x, k) ** 2)
        penalty = lambda x, k: jnp.sum(jax.grad(loss)(x, k) ** 2)
        return lambda x, k: (
            jax.grad(jax.checkpoint(penalty), (0, 1))(x, k), jax.jvp(layer, (x, k), (x, k)), jax.hessian(loss, 1)(x, k),
        )

    expected = jax.jit(derivatives(layer))(x, k)
    for kind in (AxisType.Auto, AxisType.Explicit)[name == "general" :]:
        mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
        split, whole = (NamedSharding(mesh, spec) for spec in (P("d"), P()))
        mapped = jax.shard_map(layer, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
        for function in (layer, mapped):
            found = jax.jit(derivatives(function))(jax.device_put(x, split), jax.device_put(k, whole))
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
            print(name, kind)
"""


def test_derivatives_of_sharded_arrays():
    (out,) = children.outputs(children.start(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert len(out.splitlines()) == 6
