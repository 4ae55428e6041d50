"""Damage to files, and values that a hostile writer may put into a header; the same in every run."""

import random
from typing import Any

_KINDS = ("flip", "cut", "drop", "insert", "overwrite")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three changes; often in its first 400 bytes, where headers are."""
    changed = content
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(changed), rng.choice((400, 2**20))) or 1)
        some = rng.randbytes(rng.randint(1, 64))
        kind = rng.choice(_KINDS)
        if kind == "flip":
            changed = changed[:at] + bytes([(changed[at] if changed else 0) ^ rng.randint(1, 255)]) + changed[at + 1 :]
        elif kind == "cut":
            changed = changed[:at]
        elif kind == "drop":
            changed = changed[:at] + changed[at + len(some) :]
        elif kind == "insert":
            changed = changed[:at] + some + changed[at:]
        else:
            changed = changed[:at] + some[:16] + changed[at + 16 :]
    return changed


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any value that JSON can hold; often one that a header might have."""
    simple = (
        None,
        True,
        False,
        rng.randint(-(2**70), 2**70),
        rng.randint(-2, 40),
        rng.random(),
        float("nan"),
        float("inf"),
        "".join(chr(rng.randrange(0x300)) for _ in range(rng.randint(0, 8))),
        rng.choice(("dcgan", "resnet", "units", "weights")),
        [rng.randint(-1, 300) for _ in range(rng.randint(0, 4))],
    )
    if depth < 3 and rng.random() < 0.3:
        inner = [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
        return inner if rng.random() < 0.5 else {str(key): item for key, item in enumerate(inner)}
    return rng.choice(simple)
