"""Moments, norms and sums as one vector, as GPUs take them, against those of single arrays."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from support import checks, small_runs

from dgm_jax.nn import platforms
from dgm_jax.training import vectors
from dgm_jax.training.task import begin_task


def _tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 3, 2, 4), "norm": [(4,), (4,)], "bias": (1,)}
    return jax.tree.map(lambda s: rng.normal(size=s).astype(np.float32), shapes, is_leaf=lambda s: isinstance(s, tuple))


def test_adam_of_a_vector_is_adam_of_arrays():
    """New parameters, and the state with its names and shapes, over several steps."""
    own, reference = (adam(1e-2, b1=0.5, b2=0.9) for adam in (vectors.adam, optax.adam))
    params = _tree(0)
    state = expected_state = reference.init(params)
    for step in range(4):
        gradients = _tree(step + 1)
        with platforms.compiled_for("cuda"):
            updates, state = own.update(gradients, state, params)
            new = vectors.applied(params, updates)
        expected, expected_state = reference.update(gradients, expected_state, params)
        compare = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)  # Remainders of a loop may round otherwise.
        jax.tree.map(compare, new, optax.apply_updates(params, expected))
        jax.tree.map(compare, state, expected_state)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_norms_and_sums_are_those_of_all_entries(platform):
    tree = _tree(0)
    entries = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]).astype(np.float64)
    with platforms.compiled_for(platform):
        assert float(vectors.norm(tree)) == pytest.approx(np.linalg.norm(entries), rel=1e-6)
        parts = vectors.joined(jax.tree.leaves(tree))
    assert len(parts) == (1 if platform == "cuda" else 4)
    assert sum(float(part.sum()) for part in parts) == pytest.approx(entries.sum(), rel=1e-5)


@pytest.mark.parametrize("gradient", ["closed", "product"])  # They differ in the generator's stages.
def test_a_packed_state_is_restored(gradient):
    trainer = small_runs.trainer(small_runs.small("dgmw", gate_gradient=gradient))
    networks, widths = trainer.networks, trainer.networks.first_widths
    key = jax.random.key(0)
    reserved = [np.zeros(shape, bool) for shape in networks.mask_shapes(widths)]
    state, _ = begin_task(
        networks,
        key,
        networks.new_kernels(key, widths),
        reserved,
        physical=widths,
        classes=(0,),
        discriminator=None,
    )
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype), state)
    with platforms.compiled_for("cuda"):
        pack, unpack = vectors.packing(state)
        packed = pack(state)
        checks.assert_equal_trees(unpack(packed), state)
    for name in ("generator", "discriminator"):
        size = sum(leaf.size for leaf in jax.tree.leaves(getattr(state, name)))
        shapes = [leaf.shape for leaf in jax.tree.leaves(getattr(packed, f"{name}_optimiser"))]
        assert shapes == [(), (size,), (size,)]  # The count, and both moments.
        assert getattr(packed, name).shape == (size,)
    with platforms.compiled_for("cpu"):
        assert vectors.packing(state)[0](state) is state
