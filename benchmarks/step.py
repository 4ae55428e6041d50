"""Seconds of a training iteration and of its parts, beside plain matrix products of the same arithmetic.

Each part is timed in turns with a program of exactly its matrix products, in the same process: their ratio shows how
far the part is from the limit of this machine, however fast or busy the machine is. Widths are those that generators
with the authors' settings had before tasks 0, 2, 5 and 9 of MNIST (batch 64, 32x32x1, ten tasks of one class, a
classifier step for every task so far).

    python -m benchmarks.step --data-dir DIR --out step.jsonl
    python -m benchmarks.step --points dgma-9 dgmw-9 --compare step.jsonl
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
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import arg

from benchmarks import arithmetic, machine, records
from benchmarks.points import POINTS, TASKS, Point, settings, widths_of_tasks
from benchmarks.replay import CHUNK, REPLAYED, memory_at, replay_products
from dgm_jax import data
from dgm_jax.commands.arguments import parse_options
from dgm_jax.config import Config, Precision
from dgm_jax.data import DataError, Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.models.generator import conditioned_noise
from dgm_jax.models.prediction import to_unit_range
from dgm_jax.training.devices import choose_devices, data_parallel
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


def load_images(data_dir: Path | None, size: int, *, needed: bool = False) -> Dataset:
    """Loads MNIST from a folder, at this size; without a folder, from the default one, or else scikit-learn's digits.

    Raises:
      DataError: if MNIST is missing, and the folder was given or MNIST is `needed`.
    """
    try:
        dataset = data.load("mnist", data_dir or data.default_folder())
    except DataError:
        if data_dir is not None or needed:
            raise
        dataset = data.load("digits")
    return dataset.resized(size)


def make_scene(point: Point, config: Config, dataset: Dataset, physical: Sequence[int] | None = None) -> Scene:
    """Builds the state before a task whose generator has these widths, in arrays of these or of the physical widths.

    Random gates are reserved: as many as the generator has grown by since the first task. Real images of the earlier
    classes take the place of generated ones.
    """
    labels = dataset.labels
    networks = Networks(config, channels=dataset.x_train.shape[3], n_classes=len(labels), max_heads=1)
    trainer = Trainer(networks, choose_devices(1, config.gan.batch_size))
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
    head = labels - scene.capacity.first_class
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


def part_call(scene: Scene, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """Returns a step as a separate program, which keeps its state from call to call."""
    program = jax.jit(function, donate_argnums=0)
    state = jax.tree.map(lambda a: a.copy(), scene.state)  # The program donates its copy.

    def call() -> Any:
        nonlocal state
        state, metrics = program(state, *arguments)
        return state, metrics

    return call


def iteration_call(scene: Scene, replay_steps: int | None) -> Callable[[int], Any]:
    """Returns the program of a run as a function of the number of iterations."""
    trainer = scene.trainer
    step = Step.of(trainer.config.with_changes(replay_steps=replay_steps), trainer.step.axis_name)
    program = data_parallel(
        partial(run_steps, step=step, n_conditioned=trainer.networks.n_classes, n_devices=1), trainer.devices
    )
    state = jax.tree.map(lambda a: a.copy(), scene.state)

    def call(iterations: int) -> Any:
        nonlocal state
        state, sums = program(
            state,
            scene.images,
            scene.replay,
            scene.capacity,
            clock(scene),
            scene.key,
            np.zeros(len(step.metric_names), np.float32),
            np.int32(0),
            np.int32(iterations),
        )
        return state, sums

    return call


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
    with jax.default_matmul_precision(config.matmul_precision):
        return _measure(point, config, dataset, seconds)


def _measure(point: Point, config: Config, dataset: Dataset, seconds: float) -> dict[str, Any]:
    scene = make_scene(point, config, dataset)
    steps = parts(scene)
    counted = {name: arithmetic.products(f, scene.state, *arguments) for name, (f, arguments) in steps.items()}
    plain = {name: arithmetic.plainly(products) for name, products in counted.items()}
    compare = partial(_compare, seconds=seconds)
    measured = {
        name: compare(part_call(scene, f, arguments), plain[name], counted[name])
        for name, (f, arguments) in steps.items()
    }

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
    memory = memory_at([point.widths], point.variant, config, scene.trainer.networks.n_classes)
    chunk = replay_products(memory, 0, CHUNK)
    chunk_plainly, chunks = arithmetic.plainly(chunk), REPLAYED // CHUNK
    measured[f"replay of {REPLAYED}"] = compare(
        partial(memory.images, 0, REPLAYED, scene.key),
        lambda: [chunk_plainly() for _ in range(chunks)],
        arithmetic.times(chunk, chunks),
    )
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
    part, same, best = np.median(taken, axis=0)
    return {
        "seconds": float(part),
        "gflop": gflop,
        "gflops": gflop / float(part),
        "plain_seconds": float(same),
        # The ratio of each round: a moment in which the machine is slow slows both sides.
        "ratio": statistics.median(taken[:, 0] / taken[:, 1]),
        "ratio_to_large_products": statistics.median(taken[:, 0] / taken[:, 2]) * large_gflop / gflop,
        "large_product_gflops": large_gflop / float(best),
    }


def _epoch(scene: Scene, iteration_seconds: float, *, seconds: float) -> dict[str, float]:
    """Times the loop of a run, with its calls, metrics and progress, in turns with the iterations alone."""
    trainer = scene.trainer
    steps = max(1, min(scene.steps, round(seconds / iteration_seconds)))
    state = jax.tree.map(lambda a: a.copy(), scene.state)

    def epoch() -> Any:
        nonlocal state
        state, means = trainer.run_epoch(
            state,
            scene.images,
            scene.replay,
            scene.capacity,
            [scene.key],
            task=scene.task,
            epoch=int(clock(scene).epoch),
            steps=steps,
            on_steps=lambda n: None,
        )
        return state

    epoch()  # The first call compiles, and finds how many iterations to ask for at once.
    alone = partial(iteration_call(scene, trainer.config.replay.replay_steps), steps)
    taken = machine.alternately([epoch, alone], seconds=0)
    return {
        "seconds": statistics.median(taken[:, 0]),
        "steps": steps,
        "ratio_to_iterations": statistics.median(taken[:, 0] / taken[:, 1]),
    }


def table(points: Mapping[str, Any]) -> str:
    """Returns the figures as text."""
    head = (
        f"{'point':8} {'part':26} {'seconds':>9} {'GFLOP':>8} {'GFLOP/s':>8} {'plain s':>9} {'ratio':>6} {'large':>6}"
    )
    lines = [head + f" {'PyTorch s':>10} {'ratio':>6}"]
    for name, point in points.items():
        for part, found in point["parts"].items():
            line = (
                f"{name:8} {part:26} {found['seconds']:9.4f} {found['gflop']:8.3f} {found['gflops']:8.1f}"
                f" {found['plain_seconds']:9.4f} {found['ratio']:6.2f} {found['ratio_to_large_products']:6.2f}"
            )
            if "pytorch_seconds" in found:
                line += f" {found['pytorch_seconds']:10.3f} {found['ratio_to_pytorch']:6.2f}"
            lines.append(line)
        epoch = point["epoch"]
        lines.append(
            f"{name:8} {'epoch of ' + str(epoch['steps']) + ' iterations':26} {epoch['seconds']:9.4f}"
            f" {'':35} {epoch['ratio_to_iterations']:6.2f} x its iterations"
        )
    return "\n".join(lines)


def points_of(file: Path) -> dict[str, Any]:
    """Returns the last record of each point in a file."""
    return {record["point"]: record for record in records.read(file) if "point" in record}


def comparison(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, float]:
    """Returns new / old for every number of seconds, and every ratio, that two results share; named by its path."""
    ours, theirs = flattened(new), flattened(old)
    return {
        path: value / theirs[path]
        for path, value in ours.items()
        if theirs.get(path) and any(word in path.rpartition("/")[2] for word in ("seconds", "ratio"))
    }


def comparison_table(new: Mapping[str, Any], old: Mapping[str, Any], file: Path) -> str:
    """Returns the comparison as text."""
    lines = [f"{quotient:8.3f}  {path}" for path, quotient in comparison(new, old).items()]
    return "\n".join([f"new / old, where old is {file}:", *lines])


def flattened(tree: Any, path: str = "") -> dict[str, float]:
    """Returns all numbers of nested dicts, named by their paths."""
    if isinstance(tree, Mapping):
        flat = [flattened(value, f"{path}/{key}" if path else key) for key, value in tree.items()]
        return {name: value for part in flat for name, value in part.items()}
    return {path: tree} if isinstance(tree, int | float) else {}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and with what it is compared."""

    data_dir: Annotated[
        Path | None,
        arg(
            metavar="DIR",
            help="folder of MNIST",
            help_behavior_hint="(default: the usual one, or digits if there is none)",
        ),
    ] = None
    points: Annotated[
        tuple[str, ...],
        arg(
            metavar="POINT [POINT ...]",
            help="variants and tasks, e.g. dgma-9 dgmw-9",
            help_behavior_hint="(default: all points)",
        ),
    ] = ()
    precision: Annotated[Precision, arg(help="precision of matrix products")] = "float32"
    out: Annotated[
        Path | None,
        arg(metavar="FILE", help="file of JSON Lines; a line for each point is added", help_behavior_hint=""),
    ] = None
    compare: Annotated[
        Path | None, arg(metavar="FILE", help="file of an earlier measurement", help_behavior_hint="")
    ] = None


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the chosen points, prints a table, and writes or compares records."""
    options = parse_options(Options, argv, program="python -m benchmarks.step", description=__doc__)
    names = [point.name for point in POINTS]
    unknown = [name for name in options.points if name not in names]
    if unknown:
        raise UserError(f"--points {' '.join(unknown)}: unknown; choose from {', '.join(names)}")
    machine.check(options.precision, options.out)
    old = points_of(options.compare) if options.compare else {}
    dataset = load_images(options.data_dir, settings("dgma").data.image_size)
    where = machine.where()
    gflops = machine.gflops()
    device = where["machine"]
    print(
        f"{device['device']}, {device['processor']}, {device['cores']} cores; "
        f"images of {dataset.name}; a large product: {gflops:.0f} GFLOP/s",
        flush=True,
    )
    found: dict[str, Any] = {}
    with machine.compiled_once():
        for point in (point for point in POINTS if point.name in (options.points or names)):
            config = settings(point.variant).with_changes(precision=options.precision)
            measured = measure(point, config, dataset, seconds=SECONDS)
            found[point.name] = measured
            print(table({point.name: measured}), flush=True)
            if options.out:  # After each point: a benchmark that is interrupted keeps what it found.
                named = {"point": point.name, "images": dataset.name, "precision": options.precision}
                records.append(options.out, {**named, **measured, "large_product_gflops": gflops, **where})
            jax.clear_caches()  # On a CPU, each program takes many memory maps, and their number is limited.
    print(f"peak memory: {machine.in_words(machine.peak_bytes())}")
    if options.compare and old:
        print(comparison_table(found, old, options.compare))


if __name__ == "__main__":
    sys.exit(exit_status(main))
