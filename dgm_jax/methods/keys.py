"""What each random key of a run is for: it is derived from the seed's by its purpose, so that no two uses share it."""

from enum import IntEnum

import jax


class Purpose(IntEnum):
    """The uses of random numbers in a run of DGM; method analytic has `FILTERS` only."""

    INITIALISE = 0
    BEGIN_TASK = 1
    TRAIN = 2
    REPLAY = 3
    SAMPLE_FOR_CONSOLIDATION = 4
    CONSOLIDATE = 5
    EXPAND = 6
    SHOW = 7
    COMPARE = 8
    FILTERS = 9
    FORGET = 10
    CALIBRATE = 11


def derive_key(seed_key: jax.Array, purpose: Purpose, *numbers: int) -> jax.Array:
    """The key for a purpose, and for a task, epoch or class by its number."""
    key = jax.random.fold_in(seed_key, int(purpose))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key
