"""Events of a run of two tasks, as callbacks hear of them."""

from pathlib import Path
from typing import Any

from dgm_jax.config import Config
from dgm_jax.runs.events import RunStart, TaskEnd, TaskStart
from dgm_jax.runs.summary import Summary

METRICS = {
    "critic_loss": -0.3125,
    "generator_loss": 0.5,
    "classifier_loss": 0.0421,
    "sparsity": 0.7,
    "scale": 35000.0,
    "open_share": 0.338,
}
ROW = {"layer": 1, "width": 80, "gates": 80, "used": 34, "newly_reserved": 8, "reused": 26, "free": 1046}


def run_start(**changes) -> RunStart:
    event: dict[str, Any] = {
        "config": Config().with_changes(epochs=20, precision="float32"),
        "epochs": 20,
        "workdir": Path("runs/a"),
        "devices": ["cpu:0"],
        "platform": "cpu",
        "dataset": "digits",
        "seeds": (3,),
        "tasks": (("0", "1"), ("2",)),
        "train_counts": (1290, 147),
        "test_count": 360,
        "estimated_seconds": 170.0,
        "resumed_from": None,
    }
    return RunStart(**(event | changes))


def task_start(task: int = 1, first_epoch: int = 0) -> TaskStart:
    return TaskStart(
        task=task,
        classes=("2",),
        epochs=20,
        first_epoch=first_epoch,
        steps=4,
        images_per_step=32,
        widths=(80, 40, 20),
        physical_widths=(80, 40, 20),
    )


def task_end(task: int = 1, names: tuple[str, ...] = ("0", "1", "2")) -> TaskEnd:
    return TaskEnd(
        task=task,
        seed=3,
        accuracy={"consolidated": [0.9861, 0.97, 1.0][: len(names)], "auxiliary": [0.5, 0.0, 1.0][: len(names)]},
        average={"consolidated": {"macro": 0.9854, "micro": 0.984}, "auxiliary": {"macro": 0.5, "micro": 0.48}},
        forgetting={"consolidated": 0.0123, "auxiliary": 0.4},
        class_names=names,
        capacity=[ROW, ROW | {"layer": 2}],
        widths=(88, 44, 22),
        seconds=81.0,
        protocol="strict",
    )


def summary(**changes) -> Summary:
    values: dict[str, Any] = {
        "dataset": "digits",
        "finished": True,
        "finished_tasks": 2,
        "protocol": "strict",
        "method": "dgm",
        "variant": "dgma",
        "seed": 3,
        "averages": {
            5: {"consolidated": {"macro": 0.99, "micro": 0.99}},
            10: {"consolidated": {"macro": 0.951, "micro": 0.95}, "auxiliary": {"macro": 0.8, "micro": 0.7}},
        },
        "final": 10,
        "forgetting": {"consolidated": 0.02, "auxiliary": 0.1},
        "confusion": {},
        "bytes": {},
        "seconds": {"train": 190.0, "replay": 2.0},
        "tasks": [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]],
        "class_names": [str(i) for i in range(10)],
        "versions": {},
        "device": "1 x cpu",
        "config": {},
    }
    return Summary(**(values | changes))
