"""Counting by program against counting by hand, and against the analytic count that a run's estimate uses."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from support.small_runs import small

from benchmarks.arithmetic import Product, gflop, plainly, products, times
from dgm_jax.models import dcgan
from dgm_jax.nn import conv

A, B = jnp.ones((3, 4)), jnp.ones((4, 5))
IMAGES, KERNEL = jnp.ones((2, 8, 8, 3)), jnp.ones((5, 5, 3, 7))
LAYOUT = ("NHWC", "HWIO", "NHWC")


def test_a_dot():
    assert products(jnp.matmul, A, B) == {Product(1, 3, 4, 5): 1}
    assert gflop({Product(1, 3, 4, 5): 2}) == pytest.approx(240e-9)


def test_a_batch_of_dots():
    assert products(jnp.matmul, jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))) == {Product(2, 3, 4, 5): 1}


def test_a_gradient():
    loss = jax.grad(lambda a, b: jnp.sum(jnp.sin(a @ b)), argnums=(0, 1))
    assert gflop(products(loss, A, B)) == pytest.approx(3 * 120e-9)
    linear = jax.grad(lambda a, b: jnp.sum(a @ b))  # It needs no value of the product: only the gradients are counted.
    assert gflop(products(linear, A, B)) == pytest.approx(120e-9)


def test_unused_products_do_not_count():
    def first(a, b):
        return jax.jit(lambda: (a @ b, b @ b.T))()[0]

    assert products(first, A, B) == {Product(1, 3, 4, 5): 1}


def strided(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2, 2), [(2, 2)] * 2, dimension_numbers=LAYOUT)


def spread(x, kernel):
    padding = [(2, 2)] * 2
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=LAYOUT)


@pytest.mark.parametrize("function", [partial(conv, stride=2, padding=2), strided], ids=["patches", "xla"])
def test_a_convolution_both_ways(function):
    by_hand = 2 * (2 * 4 * 4) * (5 * 5 * 3) * 7 * 1e-9
    assert gflop(products(function, IMAGES, KERNEL)) == pytest.approx(by_hand)
    both = jax.grad(lambda x, k: jnp.sum(jnp.sin(function(x, k))), argnums=(0, 1))
    assert gflop(products(both, IMAGES, KERNEL)) == pytest.approx(3 * by_hand, rel=0.01)


def test_zeros_between_the_pixels_do_not_count():
    kernel = jnp.ones((4, 4, 3, 7))  # Each of the 8x8 pixels is multiplied by all 16 taps.
    by_hand = 2 * (2 * 8 * 8) * (4 * 4 * 3) * 7 * 1e-9
    assert gflop(products(spread, IMAGES, kernel)) == pytest.approx(by_hand, rel=0.1)  # Some fall off the border.


def test_a_loop_of_products_is_refused():
    def loop(a, b):
        return lax.fori_loop(0, 3, lambda i, c: c @ b, a)

    with pytest.raises(ValueError, match=r"products inside stablehlo.while cannot be counted: count those of its body"):
        products(loop, A, jnp.ones((4, 4)))
    assert products(lambda a, b: lax.fori_loop(0, 3, lambda i, c: c + 1, a) @ b, A, B) == {Product(1, 3, 4, 5): 1}


def test_plain_products_have_the_shapes_counted():
    counted = Counter({Product(1, 3, 4, 5): 2, Product(2, 3, 4, 1): 1})
    shapes = Counter(result.shape for result in plainly(counted)())
    assert shapes == {(3, 5): 2, (2, 3, 1): 1}
    assert times(counted, 3)[Product(1, 3, 4, 5)] == 6


def test_agrees_with_the_analytic_count_of_a_discriminator():
    width = 4
    config = small(image_size=16, discriminator_width=width)
    params, statistics = dcgan.init_discriminator(
        jax.random.key(0), width=width, image_size=config.data.image_size, channels=1, n_classes=10
    )
    counted = products(
        lambda p, x: dcgan.discriminate(p, statistics, x, train=True)[0], params, jnp.ones((8, 16, 16, 1))
    )
    analytic = 8e-9 * dcgan.discriminator_flops(width, config.data.image_size, 1)
    heads = 8e-9 * 2 * (4 * 4 * 2 * width) * (10 + 1)  # The analytic count leaves the linear heads out.
    assert gflop(counted) == pytest.approx(analytic + heads)
