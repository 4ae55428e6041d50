"""Convolutions against a NumPy oracle and XLA's own, to the second derivative."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support import children

from dgm_jax import nn
from dgm_jax.nn import convolution
from dgm_jax.nn.geometry import Geometry

# (kernel, stride, padding, (height, width), c_in, c_out)
GEOMETRIES = [
    (1, 1, 0, (3, 4), 2, 3),
    (3, 1, 1, (6, 5), 3, 4),
    (4, 1, 0, (1, 1), 5, 2),
    (4, 2, 1, (4, 6), 1, 3),
    (5, 2, 2, (7, 10), 3, 1),
    (3, 3, 0, (7, 5), 2, 2),
    (2, 3, 2, (5, 8), 2, 3),
]
WIDE_GRID = [
    (k, stride, padding, size, c_in, c_out)
    for k in (1, 2, 3, 5)
    for stride in (1, 2, 3)
    for padding in (0, 1, 2)
    for size, c_in, c_out in (((6, 6), 1, 2), ((5, 9), 3, 1))
]


def square(stride, padding):
    return Geometry((stride,) * 2, ((padding,) * 2,) * 2, (1, 1), (1, 1), 1)


def fits(geometry):
    """Whether `conv` has an output, and `conv_transpose` one that is not empty."""
    k, stride, padding, size, *_ = geometry
    return min(size) + 2 * padding >= k, (min(size) - 1) * stride - 2 * padding + k > 0


def data(geometry, seed=0):
    k, _, _, size, c_in, c_out = geometry
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, *size, c_in))), jnp.asarray(rng.normal(size=(k, k, c_in, c_out)))


def numpy_conv(x, kernel, *, stride, padding):
    """The defining sum: out[i, j] = sum over a, b of x[i s - p + a, j s - p + b] @ kernel[a, b]."""
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, cols = ((n - k) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), rows, cols, kernel.shape[-1]))
    for i in range(rows):
        for j in range(cols):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.einsum("nabc,abco->no", window, kernel)
    return out


def numpy_conv_transpose(x, kernel, *, stride, padding):
    """The defining sum: out[i s - p + a, j s - p + b] += x[i, j] @ kernel[a, b], what falls outside dropped."""
    k = kernel.shape[0]
    n, rows, cols, _ = x.shape
    out = np.zeros((n, (rows - 1) * stride + k, (cols - 1) * stride + k, kernel.shape[-1]))
    for i in range(rows):
        for j in range(cols):
            spread = np.einsum("nc,abco->nabo", x[:, i, j], kernel)
            out[:, i * stride : i * stride + k, j * stride : j * stride + k] += spread
    return out[:, padding : out.shape[1] - padding, padding : out.shape[2] - padding]


def xla_conv(x, kernel, *, stride, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, [(padding,) * 2] * 2, dimension_numbers=numbers)


def xla_conv_transpose(x, kernel, *, stride, padding):
    """As the linear transpose of XLA's convolution, whose kernel maps c_out channels to c_in."""
    k = kernel.shape[0]
    size = ((n - 1) * stride - 2 * padding + k for n in x.shape[1:3])
    image = jax.ShapeDtypeStruct((len(x), *size, kernel.shape[-1]), x.dtype)

    def back(y):
        return xla_conv(y, kernel.transpose(0, 1, 3, 2), stride=stride, padding=padding)

    return jax.linear_transpose(back, image)(x)[0]


PAIRS = {"conv": (nn.conv, xla_conv), "conv_transpose": (nn.conv_transpose, xla_conv_transpose)}


def derivatives(layer, *, stride, padding):
    """A function of (x, kernel, weight) that returns the output, the gradients, and the gradients of their square."""

    def loss(x, kernel, weight):
        return jnp.sum(weight * jnp.sin(layer(x, kernel, stride=stride, padding=padding)))

    def penalty(x, kernel, weight):
        return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, kernel, weight))

    def everything(x, kernel, weight):
        y = layer(x, kernel, stride=stride, padding=padding)
        return y, jax.grad(loss, (0, 1))(x, kernel, weight), jax.grad(penalty, (0, 1))(x, kernel, weight)

    return everything


def assert_trees_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), actual, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_values_follow_the_defining_sums(geometry, float64):
    """Both ways of computing either convolution, whichever this platform takes."""
    _, stride, padding, *_ = geometry
    x, kernel = data(geometry)
    forms = {
        numpy_conv: (convolution.conv_by_patches, convolution.conv_by_xla),
        numpy_conv_transpose: (convolution._conv_transpose_by_patches, convolution._conv_transpose_by_xla),
    }
    for (oracle, layers), possible in zip(forms.items(), fits(geometry), strict=True):
        if possible:
            expected = oracle(np.asarray(x), np.asarray(kernel), stride=stride, padding=padding)
            for layer in layers:
                actual = jax.jit(partial(layer, geometry=square(stride, padding)))(x, kernel)
                np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_shapes_over_a_wide_grid(name):
    """Traced, not compiled; and the same from the form that other platforms take."""
    layer, reference = PAIRS[name]
    xla = {"conv": convolution.conv_by_xla, "conv_transpose": convolution._conv_transpose_by_xla}[name]
    for k, stride, padding, size, c_in, c_out in WIDE_GRID:
        if fits((k, stride, padding, size))[list(PAIRS).index(name)]:
            arguments = jnp.ones((2, *size, c_in)), jnp.ones((k, k, c_in, c_out))
            forms = [partial(f, stride=stride, padding=padding) for f in (layer, reference)]
            forms.append(partial(xla, geometry=square(stride, padding)))
            shapes = {jax.eval_shape(form, *arguments).shape for form in forms}
            assert len(shapes) == 1, (k, stride, padding, size)


@pytest.mark.parametrize(
    "name, geometry",
    [
        ("conv", (3, 1, 1, (4, 5), 3, 2)),
        ("conv", (5, 2, 2, (5, 8), 1, 2)),
        ("conv", (2, 3, 2, (5, 4), 2, 1)),
        ("conv_transpose", (4, 1, 0, (1, 1), 3, 2)),
        ("conv_transpose", (4, 2, 1, (3, 4), 1, 2)),
        ("conv_transpose", (2, 3, 2, (5, 4), 2, 1)),
    ],
    ids=str,
)
def test_derivatives_agree_with_xla_to_second_order(name, geometry, float64):
    """Few geometries, being slow to compile: the derivatives of the others follow from the transpose, tested below."""
    _, stride, padding, *_ = geometry
    x, kernel = data(geometry)
    layer, reference = (derivatives(f, stride=stride, padding=padding) for f in PAIRS[name])
    shape = jax.eval_shape(partial(PAIRS[name][1], stride=stride, padding=padding), x, kernel).shape
    weight = jnp.asarray(np.random.default_rng(1).normal(size=shape))
    assert_trees_close(jax.jit(layer)(x, kernel, weight), jax.jit(reference)(x, kernel, weight))


@pytest.mark.parametrize("name", PAIRS)
def test_derivatives_without_jit_under_vmap_and_in_scan(name, float64):
    geometry = (2, 2, 1, (4, 6), 2, 2)
    everything, reference = (derivatives(f, stride=2, padding=1) for f in PAIRS[name])
    xs, kernels = (jnp.stack(pair) for pair in zip(data(geometry, 0), data(geometry, 1)))
    weight = jnp.ones(())
    expected = [jax.jit(reference)(*pair, weight) for pair in zip(xs, kernels)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)

    assert_trees_close(everything(xs[0], kernels[0], weight), expected[0])
    assert_trees_close(jax.jit(jax.vmap(everything, (0, 0, None)))(xs, kernels, weight), stacked)
    _, scanned = lax.scan(lambda carry, pair: (carry, everything(*pair, weight)), None, (xs, kernels))
    assert_trees_close(scanned, stacked)


@pytest.mark.parametrize("name", PAIRS)
def test_forward_mode_and_transposes_agree_with_xla(name, float64):
    x, kernel = data((3, 2, 1, (5, 4), 2, 3))
    ours, reference = (partial(f, stride=2, padding=1) for f in PAIRS[name])

    def everything(layer):
        y, tangent = jax.jvp(layer, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))
        hessian = jax.hessian(lambda k: jnp.sum(jnp.sin(layer(x, k))))(kernel)
        return y, tangent, jax.jacfwd(layer, 1)(x, kernel), hessian

    assert_trees_close(jax.jit(everything, static_argnums=0)(ours), jax.jit(everything, static_argnums=0)(reference))
    y = ours(x, kernel)
    transposed = jax.linear_transpose(lambda x: ours(x, kernel), x)(y)
    assert_trees_close(transposed, jax.vjp(lambda x: reference(x, kernel), x)[1](y))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dgm_jax import nn

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
layers = {
    "conv": (lambda k, x: nn.conv(x, k, stride=1, padding=1), (3, 3, 3, 5), (4, 8, 8, 3)),
    "conv_transpose": (lambda k, x: nn.conv_transpose(x, k, stride=2, padding=1), (4, 4, 3, 5), (4, 8, 8, 3)),
    "dense": (lambda k, x: nn.masked_dense({"kernel": k}, x), (3, 4), (4, 6, 3)),
}
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
    put = lambda a, spec: jax.device_put(jnp.asarray(a), NamedSharding(mesh, spec))
    for name, (layer, *shapes) in layers.items():
        k, x = (rng.normal(size=shape) for shape in shapes)
        mapped = jax.shard_map(layer, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))
        loss = lambda f: lambda k, x: (f(k, x) ** 2).sum()
        penalty = lambda f: lambda k, x: (jax.grad(loss(f), 1)(k, x) ** 2).sum()
        for of in (loss, penalty):
            expected = jax.jit(jax.grad(of(layer), (0, 1)))(jnp.asarray(k), jnp.asarray(x))
            for function in (layer, mapped):
                found = jax.jit(jax.grad(of(function), (0, 1)))(put(k, P()), put(x, P("d")))
                for a, b in zip(found, expected):
                    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
            print(kind, name, of.__name__)
mesh = jax.make_mesh((2,), ("d",))
for name, (layer, *shapes) in layers.items():  # Rows are split, not the batch.
    k, x = (jnp.asarray(rng.normal(size=shape)) for shape in shapes)
    split = jax.device_put(x, NamedSharding(mesh, P(None, "d")))
    found = jax.jit(layer)(jax.device_put(k, NamedSharding(mesh, P())), split)
    np.testing.assert_allclose(found, layer(k, x), rtol=1e-9)
    print("rows", name)
"""


def test_derivatives_of_sharded_arrays():
    """Under `shard_map` with its checks, and with sharding in types, which `jax.make_mesh` gives by default."""
    (out,) = children.outputs(children.start(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert len(out.splitlines()) == 15


@pytest.mark.parametrize("name", PAIRS)
def test_gradient_through_a_scan_and_a_checkpoint(name, float64):
    """The forward pass is traced before it is differentiated."""
    x, kernel = data((1, 1, 0, (4, 5), 2, 2))

    def deep(x, kernel, layer, wrap):
        block = wrap(lambda x, w: jnp.tanh(layer(x, w, stride=1, padding=0)))
        y, _ = lax.scan(lambda x, _: (block(x, kernel), None), x, length=2)
        return jnp.sum(y**2)

    ours, reference = PAIRS[name]
    gradient = jax.jit(jax.grad(deep, (0, 1)), static_argnums=(2, 3))
    expected = gradient(x, kernel, reference, lambda f: f)
    for wrap in (jax.jit, jax.checkpoint):
        assert_trees_close(gradient(x, kernel, ours, wrap), expected)


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if fits(g)[0]], ids=str)
def test_fold_is_the_transpose_of_unfold(geometry, float64):
    """<unfold(x), p> = <x, fold(p)>, and each is the other's derivative."""
    k, stride, padding, *_ = geometry
    x, _ = data(geometry)
    shape = jax.eval_shape(lambda x: nn.unfold(x, k, stride, padding), x).shape
    p = jnp.asarray(np.random.default_rng(2).normal(size=shape))

    @jax.jit
    def both(x, p):
        patches, back = jax.vjp(lambda x: nn.unfold(x, k, stride, padding), x)
        folded, forth = jax.vjp(lambda p: nn.fold(p, k, stride, padding, x.shape[1:3]), p)
        return patches, folded, forth(x)[0], back(p)[0]

    patches, folded, *derivatives = both(x, p)
    np.testing.assert_allclose(np.vdot(patches, p), np.vdot(x, folded), rtol=1e-9)
    np.testing.assert_array_equal(derivatives[0], patches)
    np.testing.assert_array_equal(derivatives[1], folded)


def test_conv_transpose_is_the_gradient_of_conv(float64):
    x, kernel = data((3, 2, 1, (5, 7), 3, 4))

    @jax.jit
    def both(x, kernel):
        y, back = jax.vjp(lambda x: nn.conv(x, kernel, stride=2, padding=1), x)
        return back(y)[0], nn.conv_transpose(y, kernel.transpose(0, 1, 3, 2), stride=2, padding=1)

    np.testing.assert_allclose(*both(x, kernel), rtol=1e-9)


def test_numbers_of_numpy_are_whole_numbers_too():
    x, kernel = data((4, 2, 1, (4, 4), 2, 3))
    for layer in (nn.conv, nn.conv_transpose):
        np.testing.assert_array_equal(
            layer(x, kernel, stride=np.int64(2), padding=np.uint8(1)), layer(x, kernel, stride=2, padding=1)
        )


def test_a_batch_may_be_empty():
    x, kernel = data((4, 2, 1, (4, 4), 2, 3))
    for layer in (nn.conv, nn.conv_transpose):
        gradient = jax.grad(lambda k, layer=layer: jnp.sum(layer(x[:0], k, stride=2, padding=1)))(kernel)
        assert gradient.shape == kernel.shape and not gradient.any()


def test_precision_follows_the_inputs(dtype):
    x, kernel = (a.astype(dtype) for a in data((4, 2, 1, (4, 4), 2, 3)))
    for layer in (nn.conv, nn.conv_transpose):
        assert jax.eval_shape(partial(layer, stride=2, padding=1), x, kernel).dtype == dtype


@pytest.mark.parametrize("layer", [nn.conv, nn.conv_transpose])
@pytest.mark.parametrize(
    "x, kernel",
    [
        ((2, 6, 6, 3), (3, 3, 4, 5)),
        ((6, 6, 3), (3, 3, 3, 5)),
        ((2, 6, 6, 6, 6, 3), (3, 3, 3, 3, 3, 5)),
        ((2, 6, 6, 3), (3, 5)),
    ],
)
def test_shapes_that_do_not_fit_are_named(layer, x, kernel):
    text = f"x has shape {x} and kernel {kernel}; expected [batch, *space, c_in] and [*window, c_in, c_out], "
    text += "with as many axes of window as of space (1 to 3)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        layer(jnp.ones(x), jnp.ones(kernel), stride=1, padding=1)


def test_a_window_larger_than_the_image_is_refused():
    text = "a 5x5 kernel does not fit an image of (8, 2) with padding 1"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.conv(jnp.ones((1, 8, 2, 3)), jnp.ones((5, 5, 3, 1)), stride=1, padding=1)


def test_a_padding_that_drops_everything_is_refused():
    with pytest.raises(ValueError, match="padding 2 leaves no output"):
        nn.conv_transpose(jnp.ones((1, 1, 1, 1)), jnp.ones((3, 3, 1, 1)), stride=1, padding=2)


def test_a_padding_that_drops_all_of_the_shorter_side_is_refused():
    with pytest.raises(ValueError, match=r"padding 2 leaves no output for an image of \(1, 9\)"):
        nn.conv_transpose(jnp.ones((1, 1, 9, 1)), jnp.ones((3, 3, 1, 1)), stride=1, padding=2)


def test_one_padded_window_is_not_the_whole_image():
    """A window as large as the image that meets it once, and not from its corner on."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 4, 4, 3)).astype(np.float32), rng.normal(size=(4, 4, 3, 5)).astype(np.float32)
    arguments = {"window_strides": (3, 3), "padding": [(1, 1)] * 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    expected, transpose = jax.vjp(lambda x: jax.lax.conv_general_dilated(x, kernel, **arguments), x)
    actual, ours = jax.vjp(lambda x: nn.conv(x, kernel, stride=3, padding=1), x)
    assert actual.shape == (2, 1, 1, 5)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours(actual)[0], transpose(actual)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES[:2])
def test_the_form_of_xla_is_xla_s_convolution_on_every_platform(geometry):
    _, stride, padding, *_ = geometry
    x, kernel = data(geometry)
    ours = nn.conv(x, kernel, stride=stride, padding=padding, form="xla")
    np.testing.assert_array_equal(ours, xla_conv(x, kernel, stride=stride, padding=padding))
