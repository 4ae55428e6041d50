"""Parameters as types: the leaves of each come in the order of a dict's, and trees for checkpoints keep their names."""

import dataclasses

import jax
import numpy as np
import pytest
from support import checks, small_runs

from dgm_jax.models import pair
from dgm_jax.training.state import from_tree, sampler_params, to_tree
from dgm_jax.training.task import begin_task
from dgm_jax.types import DiscriminatorParams, norms_from_tree, params_to_tree, statistics_from_tree


def _state(network: str, **changes):
    """A state before the first step, and a copy whose numbers all differ."""
    config = small_runs.residual(**changes) if network == "resnet" else small_runs.small(image_size=16, **changes)
    networks = small_runs.trainer(config, max_heads=2).networks
    widths = networks.first_widths
    reserved = [np.zeros(shape, bool) for shape in networks.mask_shapes(widths)]
    kernels = networks.new_kernels(jax.random.key(0), widths)
    state, _ = begin_task(
        networks, jax.random.key(1), kernels, reserved, physical=widths, classes=(0, 1), discriminator=None
    )
    numbers = iter(range(10_000))
    return state, jax.tree.map(lambda leaf: np.full_like(leaf, next(numbers)), state)


@pytest.fixture(scope="module", params=["dcgan", "resnet"])
def states(request):
    return _state(request.param, generator_average=0.5, critic_condition="projection")


def test_leaves_have_the_order_of_a_dict_s(states):
    """Sums over leaves, such as a global norm, depend on it in their last bits."""
    _, state = states
    for params in (state.generator, state.discriminator, state.average, state.generator_statistics):
        as_dicts = params_to_tree(params)
        leaves = jax.tree.leaves(params)
        assert len(leaves) > 1 and [int(leaf.flat[0]) for leaf in leaves] == sorted(int(x.flat[0]) for x in leaves)
        for ours, theirs in zip(leaves, jax.tree.leaves(as_dicts), strict=True):
            assert ours is theirs


def test_as_a_tree_and_back(states):
    _, state = states
    generator, discriminator = map(params_to_tree, (state.generator, state.discriminator))
    assert set(generator) == {"kernels", "norms", "heads", "embeddings"}
    assert set(generator["norms"][0]) == {"scale", "shift"}
    trunk = {"trunk"} if "trunk" in discriminator else {"stem", "blocks", "features"}
    assert set(discriminator) == {"critic", "classifier", "projection"} | trunk
    assert set(discriminator["critic"]) == {"kernel", "bias"}
    checks.assert_equal_trees(DiscriminatorParams.from_tree(discriminator), state.discriminator)
    drawn_with = sampler_params(state.generator, state.generator_statistics)
    tree = params_to_tree(drawn_with)
    assert set(tree) == {"generator", "statistics"} and set(tree["generator"]) == {"kernels", "norms", "heads"}
    checks.assert_equal_trees(norms_from_tree(tree["generator"]["norms"]), state.generator.norms)
    checks.assert_equal_trees(statistics_from_tree(tree["statistics"]), state.generator_statistics)


def test_a_training_state_is_saved_under_the_names_of_dicts(states):
    fresh, state = states
    tree = to_tree(state)
    assert set(tree["generator"]) == set(tree["generator_optimiser"]["1" if "1" in tree else "2"]["0"]["mu"])
    assert set(tree["average"]) == {"generator", "statistics"} and "embeddings" not in tree["average"]["generator"]
    assert set(tree["generator"]["norms"]["0"]) == {"scale", "shift"}
    assert set(tree["discriminator_statistics"]["0"]) == {"mean", "var"}
    checks.assert_equal_trees(from_tree(fresh, tree), state)


def test_without_a_projection_none_is_saved():
    fresh, state = _state("dcgan")
    tree = to_tree(state)
    assert "average" not in tree and "projection" not in tree["discriminator"]
    checks.assert_equal_trees(from_tree(fresh, tree), state)


@pytest.mark.parametrize("network", ["dcgan", "resnet"])
def test_a_projection_is_a_part_that_may_be_missing(network):
    params, _ = pair(network).init_discriminator(jax.random.key(0), width=2, image_size=8, channels=1, n_classes=3)
    told = dataclasses.replace(params, projection=np.zeros((2, 4), np.float32))
    assert len(jax.tree.leaves(told)) == len(jax.tree.leaves(params)) + 1
    assert jax.tree.structure(dataclasses.replace(told, projection=None)) == jax.tree.structure(params)
