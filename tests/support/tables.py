"""Made-up runs of the table."""

from dgm_jax.reporting.table import Result
from dgm_jax.runs.summary import Summary

QUALITY = {"generated_sample_accuracy": 0.75, "judge_accuracy": 0.99, "frechet_distance": 3.0}
QUALITY |= {"precision": 0.5, "recall": 0.25}


def summary(seed=0, final=0.5, readings=("consolidated", "auxiliary"), **changes):
    """A run of ten tasks that was never made."""
    rows = [
        {"task": t, "layer": 1, "width": 8, "gates": 8, "used": 4, "newly_reserved": 4 - t % 4, "reused": t % 4}
        | {"free": 2, "weights": 100 * (t + 1)}
        for t in range(10)
    ]
    fields = {
        "finished": True,
        "finished_tasks": 10,
        "tasks": [[c] for c in range(10)],
        "class_names": [str(c) for c in range(10)],
        "protocol": "strict",
        "method": "dgm",
        "variant": "dgma",
        "seed": seed,
        "final": 10,
        "averages": {n: {r: {"macro": final + (10 - n) / 100, "micro": final} for r in readings} for n in range(1, 11)},
        "dataset": "mnist",
        "config": {"epochs": 101},
        "confusion": dict.fromkeys(readings, [[90, 10], [0, 100]]),
        "forgetting": dict.fromkeys(readings, 0.25),
        "backward_transfer": dict.fromkeys(readings, -0.125),
        "bytes": {"memory": {"total": 50_000}, "images_replaced": 64 * 60_000, "image_count": 60_000},
        "seconds": {"train": 90.0, "evaluate": 30.0},
        "device": "1 x cpu",
        "versions": {},
        "capacity": rows,
    }
    return Summary(**fields | changes)


def result(method, seed=0, data="mnist", **changes):
    """A run of the table."""
    return Result(data, method, seed, f"python {method}", **changes)
