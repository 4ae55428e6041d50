"""Optax transformations that protect reserved weights and compensate the gradients of embeddings.

Chain `protect` before a *freshly initialised* optimiser without weight decay. Otherwise a moment from before a weight
was reserved, or the decay, would change it although its gradient is blocked (DGM section 3.1, HAT section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dgm_jax.nn.masked import gates_weights
from dgm_jax.nn.wiring import INPUT, Ends, chain, check_ends

if TYPE_CHECKING:
    import optax

CLIP = 50.0  # The product form clips |s e| at this value, so that cosh does not overflow: HAT section 2.4.


def multipliers(
    reserved: Sequence[jax.Array], kernels: Sequence[jax.Array], ends: Sequence[Ends] | None = None
) -> list[jax.Array]:
    """The factors by which to multiply the gradient of each kernel, for a network of masked layers.

    DGMw: `1 - reserved`. DGMa: `1 - min(reserved[out], reserved_below[in])`: a weight is blocked if the units at both
    its ends are reserved; the inputs of the network count as reserved. Source: DGM section 3.1, equation 4.

    Args:
      reserved: cumulative masks, bool: [c_out] for each layer (DGMa), or one per kernel, of its shape (DGMw).
      kernels: the kernels, [..., c_in, c_out]; only their shapes and dtypes are used.
      ends: the layers that each kernel connects (`wiring`); None: a chain.

    Returns:
      For each kernel an array of 0 (blocked) and 1 (free), of its rank and dtype, which broadcasts against it.

    Raises:
      ValueError: if masks, kernels and ends do not fit each other.
    """
    ends = chain(len(kernels)) if ends is None else ends
    of_weights = len(reserved) > 0 and gates_weights(reserved[0])
    n_masks = len(kernels) if of_weights else len({target for _, target in ends})
    if len(reserved) != n_masks:
        raise ValueError(
            f"{len(reserved)} reserved masks; expected {n_masks}, one per {'kernel' if of_weights else 'layer'}"
        )
    check_ends(ends, len(kernels))
    result = []
    for number, (kernel, (source, target)) in enumerate(zip(kernels, ends, strict=True)):
        mask = reserved[number if of_weights else target].astype(bool)
        below = jnp.ones((1,), bool) if source == INPUT else reserved[source].astype(bool)
        blocked = mask if of_weights else jnp.logical_and(below[:, None], mask[None])
        if blocked.shape[-1] != kernel.shape[-1] or blocked.shape[-2] not in (1, kernel.shape[-2]):
            raise ValueError(f"a reserved mask of shape {mask.shape} does not fit a kernel of shape {kernel.shape}")
        free = jnp.logical_not(blocked).astype(kernel.dtype)
        result.append(jnp.expand_dims(free, range(kernel.ndim - free.ndim)))
    return result


def protect() -> optax.GradientTransformationExtraArgs:
    """Blocks the gradients of reserved weights.

    `update` takes the extra argument `multipliers`: a tree like the gradients, in which None stands for a subtree that
    is not protected. Chain it before the optimiser:

        optimiser = optax.chain(nn.protect(), optax.adam(1e-3))
        updates, state = optimiser.update(gradients, state, multipliers={"kernel": nn.multipliers(...), "head": None})

    Source: DGM equation 4.
    """
    import optax  # Imported here so that sampling from a memory does not need optax.

    def update(updates, state, params=None, *, multipliers, **_):
        del params

        def block(multiplier, subtree):
            return subtree if multiplier is None else jax.tree.map(jnp.multiply, subtree, multiplier)

        return jax.tree.map(block, multipliers, updates, is_leaf=lambda leaf: leaf is None), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def compensate(clip: float = CLIP) -> optax.GradientTransformationExtraArgs:
    """Rescales the plain gradients of embeddings: the product form of the compensation of HAT (section 2.4).

    Multiplies them by `(S / s) (cosh(clip(s e)) + 1) / (cosh(e) + 1)`. In float32 the plain gradient of an open,
    saturated gate (`s e` above 17) is 0, and no factor can restore it; `gate(e, s, S)` has the same derivative in
    closed form, without this limit.

    `update` needs `params` (the embeddings) and the extra arguments `scale` (`s`) and `epoch_scale` (`S_i`). If the
    tree holds more than embeddings, select them with `optax.masked`.

    Args:
      clip: bound on |s e|, > 0.
    """
    import optax  # Imported here so that sampling from a memory does not need optax.

    def update(updates, state, params=None, *, scale, epoch_scale, **_: Any):
        if params is None:
            raise ValueError("compensate needs the embeddings: call update(gradients, state, params, ...)")

        def factor(embedding):
            saturation = jnp.cosh(jnp.clip(scale * embedding, -clip, clip)) + 1
            return (epoch_scale / scale) * saturation / (jnp.cosh(embedding) + 1)

        return jax.tree.map(lambda g, e: g * factor(e), updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
