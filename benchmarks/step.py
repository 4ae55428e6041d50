"""Seconds of a training iteration and of its parts, beside plain matrix products of the same arithmetic.

Each part is timed in turns with a program of exactly its matrix products, in the same process: their ratio shows how
far the part is from the limit of this machine, however fast or busy the machine is. Widths are those that generators
with the authors' settings had before tasks 0, 2, 5 and 9 of MNIST (batch 64, 32x32x1, ten tasks of one class, a
classifier step for every task so far).

    python -m benchmarks.step --data-dir DIR --out step.jsonl
    python -m benchmarks.step --points dgma-9 dgmw-9
"""

import dataclasses
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import arithmetic, machine
from benchmarks.points import POINTS, TASKS, Point, settings, widths_of_tasks
from dgm_jax import data
from dgm_jax.config import Config, Precision
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.models.generator import conditioned_noise
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.training.devices import choose_devices, data_parallel, matmul_precision
from dgm_jax.training.epoch import ReplayedImages, TaskImages, run_steps
from dgm_jax.training.gates import slopes
from dgm_jax.training.shapes import physical_widths
from dgm_jax.training.state import Capacity, Clock, TrainState
from dgm_jax.training.step import Step
from dgm_jax.training.subnetwork import find_open_units
from dgm_jax.training.task import Networks, begin_task
from dgm_jax.training.trainer import Trainer

SECONDS = 3.0  # For each part.
_EPOCH = 50  # The epoch that is timed: gates are neither all soft nor settled.


@dataclass(frozen=True)
class Scene:
    """Everything that an iteration at a point works on."""

    trainer: Trainer
    state: TrainState
    capacity: Capacity
    images: TaskImages
    replay: ReplayedImages
    key: jax.Array
    task: int
    mask_epochs: int

    @property
    def steps(self) -> int:
        """Iterations in an epoch."""
        return int(self.images.count) // self.trainer.config.gan.batch_size


def make_scene(point: Point, config: Config, dataset: Dataset, physical: Sequence[int] | None = None) -> Scene:
    """Builds the state before a task whose generator has these widths, in arrays of these or of the physical widths.

    Random gates are reserved; their number is the growth of the generator since the first task. Real images of the
    earlier classes take the place of generated ones.
    """
    labels = dataset.labels
    networks = Networks(config, channels=dataset.x_train.shape[3], n_classes=len(labels), max_heads=1)
    trainer = Trainer(networks, choose_devices(1))
    key = jax.random.key(0)
    generator = np.random.default_rng(0)
    reserved = []
    for shape, first in zip(*map(networks.mask_shapes, (point.widths, networks.first_widths)), strict=True):
        gates = np.arange(math.prod(shape)) >= math.prod(first)
        reserved.append(generator.permutation(gates).reshape(shape))
    state, capacity = begin_task(
        networks,
        key,
        networks.new_kernels(key, point.widths),
        reserved,
        physical=physical or point.widths,
        classes=[point.task],
        discriminator=None,
    )
    newest = dataset.x_train[dataset.y_train == labels[point.task]]
    images = TaskImages(newest, np.full(len(newest), point.task, np.int32), np.int32(len(newest)))
    tasks = len(labels) - 1
    counts = np.where(np.arange(tasks) < point.task, len(newest), 0)
    old = np.zeros((tasks, *newest.shape), np.uint8)
    for u in range(point.task):
        old[u] = np.resize(dataset.x_train[dataset.y_train == labels[u]], newest.shape)
    old_labels = np.repeat(np.arange(tasks, dtype=np.int32)[:, None], len(newest), axis=1)
    replay = ReplayedImages(old, old_labels, counts.astype(np.int32))
    place = trainer.stack_runs
    return Scene(
        trainer=trainer,
        state=place([state]),
        capacity=place([capacity]),
        images=place([images]),
        replay=place([replay]),
        key=key,
        task=point.task,
        mask_epochs=config.gan.epochs,
    )


def parts(scene: Scene) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Returns the three steps of an iteration, as pure functions, and their arguments after the state."""
    config = scene.trainer.config
    step = Step.of(config)
    keys = jax.random.split(scene.key, 3)
    batch = config.gan.batch_size
    labels = scene.images.labels[:batch]
    images = to_unit_range(scene.images.images[:batch])
    noise = partial(
        conditioned_noise,
        noise_dim=config.networks.noise_dim,
        n_conditioned=scene.trainer.networks.n_classes,
        classes=labels,
    )
    head = scene.capacity.heads[labels]
    scales = slopes(step.config, clock(scene), jnp.int32(scene.steps // 2))
    alpha = jax.random.uniform(keys[0], (batch,))
    return {
        "classifier": (step.classifier_step, (images, labels, scene.capacity.seen)),
        "critic": (step.critic_step, (images, head, noise(keys[1]), alpha, scales)),
        "generator": (step.generator_step, (images, labels, head, noise(keys[2]), scales, scene.capacity)),
    }


def settled(scene: Scene, shapes: Sequence[Sequence[int]]) -> Scene:
    """Returns the scene once masks are settled and every other gate is open; dgma then trains only its open units."""
    trainer = scene.trainer
    state, capacity = jax.tree.map(np.array, jax.device_get((scene.state, scene.capacity)))
    for embedding in state.generator.embeddings:
        live = np.isfinite(embedding)
        embedding[live] = np.resize([1, -1], live.sum())
    units = (
        find_open_units([state], shapes, trainer.networks.generator) if trainer.config.gates.variant == "dgma" else None
    )
    if units is not None:
        state, capacity = units[0].cut(state, capacity)
    return dataclasses.replace(
        scene, mask_epochs=0, state=trainer.stack_runs([state]), capacity=trainer.stack_runs([capacity])
    )


def clock(scene: Scene) -> Clock:
    """Returns the moment within a task's training that is timed."""
    epoch = min(_EPOCH, scene.trainer.config.gan.epochs // 2)
    return Clock(np.int32(scene.task), np.int32(epoch), np.int32(scene.mask_epochs), np.int32(scene.steps))


def keeping_state(function: Callable[..., Any], scene: Scene) -> Callable[..., Any]:
    """Returns a function without its first argument: the scene's state at first, then what it returned before."""
    state = jax.tree.map(lambda a: a.copy(), scene.state)  # The functions donate it.

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal state
        state, metrics = function(state, *arguments, **options)
        return state, metrics

    return call


def iteration_call(scene: Scene, replay_steps: int | None) -> Callable[[int], Any]:
    """Returns the program of a run as a function of the number of iterations."""
    trainer = scene.trainer
    step = Step.of(trainer.config.with_changes(replay_steps=replay_steps), trainer.step.axis_name)
    program = data_parallel(
        partial(run_steps, step=step, n_conditioned=trainer.networks.n_classes, n_devices=1), trainer.devices
    )
    no_sums = np.zeros(len(step.metric_names), np.float32)
    fixed = (scene.images, scene.replay, scene.capacity, clock(scene), scene.key, no_sums, np.int32(0))
    call = keeping_state(program, scene)
    return lambda iterations: call(*fixed, np.int32(iterations))


def measure(point: Point, config: Config, dataset: Dataset, *, seconds: float) -> dict[str, Any]:
    """Times all parts at a point, in the settings' precision.

    Args:
      point: before which task, at which widths.
      config: the settings; those of `settings`, or smaller ones in tests.
      dataset: images.
      seconds: how long to measure each part, without compiling.

    Returns:
      For each part "seconds", "gflop", "plain_seconds", "ratio" and "ratio_to_large_products"; and how long an epoch
      takes beyond its iterations.
    """
    with jax.default_matmul_precision(matmul_precision(config.gan.precision)):
        return _measure(point, config, dataset, seconds)


def _measure(point: Point, config: Config, dataset: Dataset, seconds: float) -> dict[str, Any]:
    scene = make_scene(point, config, dataset)
    steps = parts(scene)
    counted = {name: arithmetic.products(f, scene.state, *arguments) for name, (f, arguments) in steps.items()}
    plain = {name: arithmetic.plainly(products) for name, products in counted.items()}
    compare = partial(_compare, seconds=seconds)
    measured = {}
    for name, (function, arguments) in steps.items():
        call = keeping_state(jax.jit(function, donate_argnums=0), scene)
        measured[name] = compare(partial(call, *arguments), plain[name], counted[name])

    def whole(replay_steps: int | None, scene: Scene = scene) -> dict[str, Any]:
        repeats = {"classifier": min(point.task + 1, replay_steps or point.task + 1), "critic": 1, "generator": 1}
        total = sum((arithmetic.times(counted[name], n) for name, n in repeats.items()), Counter())
        call = iteration_call(scene, replay_steps)
        call(1)
        iterations = max(1, min(scene.steps, round(seconds / 4 / machine.timed(partial(call, 1)))))
        once = [plain[name] for name, n in repeats.items() for _ in range(n)]
        return compare(partial(call, iterations), lambda: [run() for run in once], total, times=iterations)

    measured["iteration"] = whole(config.replay.replay_steps)
    if point.task:  # Before the first task there is nothing to replay less of.
        measured["iteration, replay_steps=1"] = whole(1)
    history = [*widths_of_tasks(point.variant)[: point.task], point.widths]
    shapes = [
        physical_widths(history[: task + 1], headroom=config.gates.headroom, n_tasks=TASKS)
        for task in range(len(history))
    ]
    padded = make_scene(point, config, dataset, physical=shapes[-1])
    measured["same, padded as in a run"] = whole(1, padded)
    measured["same, masks settled"] = whole(1, settled(padded, shapes))
    iteration = measured["iteration"]
    if point.pytorch_seconds is not None:
        iteration["pytorch_seconds"] = point.pytorch_seconds
        iteration["ratio_to_pytorch"] = iteration["seconds"] / point.pytorch_seconds
    return {
        "widths": list(point.widths),
        "parts": measured,
        "epoch": _epoch(scene, iteration["seconds"], seconds=seconds),
        **machine.peak_bytes(),
    }


def _compare(
    call: Callable[[], Any],
    plain: Callable[[], Any],
    counted: Mapping[arithmetic.Product, int],
    *,
    seconds: float,
    times: int = 1,
) -> dict[str, float]:
    """Times a call that does its work `times` times, its matrix products once, and a large product, in turns."""
    large, large_gflop = machine.large_product()
    taken = machine.alternately([call, plain, large], seconds=seconds) / np.array([times, 1, 1])
    gflop = arithmetic.gflop(counted)
    part, same, _ = np.median(taken, axis=0)
    return {
        "seconds": float(part),
        "gflop": gflop,
        "plain_seconds": float(same),
        # The ratio of each round: a moment in which the machine is slow slows both sides.
        "ratio": statistics.median(taken[:, 0] / taken[:, 1]),
        "ratio_to_large_products": statistics.median(taken[:, 0] / taken[:, 2]) * large_gflop / gflop,
    }


def _epoch(scene: Scene, iteration_seconds: float, *, seconds: float) -> dict[str, float]:
    """Times the loop of a run, which also reads metrics and reports progress, in turns with its iterations only."""
    trainer = scene.trainer
    steps = max(1, min(scene.steps, round(seconds / iteration_seconds)))
    epoch = partial(
        keeping_state(trainer.run_epoch, scene),
        scene.images,
        scene.replay,
        scene.capacity,
        [scene.key],
        task=scene.task,
        epoch=int(clock(scene).epoch),
        steps=steps,
        on_steps=lambda n: None,
    )
    epoch()  # The first call compiles, and finds how many iterations to ask for at once.
    alone = partial(iteration_call(scene, trainer.config.replay.replay_steps), steps)
    taken = machine.alternately([epoch, alone], seconds=0)
    return {
        "seconds": statistics.median(taken[:, 0]),
        "steps": steps,
        "ratio_to_iterations": statistics.median(taken[:, 0] / taken[:, 1]),
    }


def table(name: str, measured: Mapping[str, Any]) -> str:
    """Returns the figures of a point as text."""
    lines = [f"{name:8} {'part':26} {'seconds':>9} {'GFLOP':>8} {'ratio':>6} {'large':>6} {'PyTorch':>7}"]
    for part, found in measured["parts"].items():
        ratios = [found["ratio"], found["ratio_to_large_products"], found.get("ratio_to_pytorch", math.nan)]
        lines.append(
            f"{name:8} {part:26} {found['seconds']:9.4f} {found['gflop']:8.3f}"
            f" {ratios[0]:6.2f} {ratios[1]:6.2f} {ratios[2]:7.2f}"
        )
    epoch = measured["epoch"]
    lines.append(f"{name:8} {'epoch':26} {epoch['seconds']:9.4f} {epoch['ratio_to_iterations']:.2f} x its iterations")
    return "\n".join(lines)


def main(
    data_dir: Path | None = None,
    points: Sequence[str] = (),
    precision: Precision = "float32",
    out: Path | None = None,
) -> None:
    """Measures the chosen points, prints tables, and writes records.

    Args:
      data_dir: folder of MNIST (default: digits take its place).
      points: variants and tasks, e.g. dgma-9 dgmw-9 (default: all points).
      precision: precision of matrix products.
      out: file of JSON Lines; a line for each point is added.
    """
    names = [point.name for point in POINTS]
    unknown = [name for name in points if name not in names]
    if unknown:
        raise UserError(f"--points {' '.join(unknown)}: unknown; choose from {', '.join(names)}")
    machine.check(precision, out)
    whole = data.load("mnist", data_dir) if data_dir else data.load("digits")
    dataset = whole.resized(settings("dgma").data.image_size)
    device, gflops = machine.describe(), machine.gflops()
    print(
        f"{device['device']}, {device['processor']}, {device['cores']} cores; "
        f"images of {dataset.name}; a large product: {gflops:.0f} GFLOP/s",
        flush=True,
    )
    with machine.compiled_once():
        for point in (point for point in POINTS if point.name in (points or names)):
            config = settings(point.variant).with_changes(precision=precision)
            measured = measure(point, config, dataset, seconds=SECONDS)
            print(table(point.name, measured), flush=True)
            named = {"point": point.name, "images": dataset.name, "precision": precision}
            machine.keep(out, **named, **measured, large_product_gflops=gflops)
            jax.clear_caches()  # On a CPU, each program takes many memory maps, and their number is limited.
    print(machine.peak_in_words())


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.step", description=__doc__)))
