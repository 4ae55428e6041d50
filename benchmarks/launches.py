"""What an iteration would launch on an H200, found by compiling for it: no GPU and no driver are needed.

Prints kernels, exchanges between devices, FLOP and bytes of an iteration and of each classifier step in it, and the
milliseconds that they take at least (`benchmarks/kernels.py`). The chip is described in `benchmarks/h200.txtpb`. The
compiler has to be there: python -m pip install "jax[cuda13]"

    python -m benchmarks.launches
    python -m benchmarks.launches --points dgmw-9 --precision bf16 --out launches.jsonl
    python -m benchmarks.launches --points dgmw-9 --devices 8
"""

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import kernels, machine, step
from benchmarks.points import POINTS, TASKS, Point, settings, widths_of_tasks
from dgm_jax import data
from dgm_jax.errors import UserError, exit_status
from dgm_jax.training.devices import AXIS, data_parallel
from dgm_jax.training.epoch import run_steps
from dgm_jax.training.shapes import physical_widths
from dgm_jax.training.step import Step

Precision = Literal["float32", "tf32", "bf16"]
CHIP = Path(__file__).with_name("h200.txtpb")
IMAGES = 51_000  # Training images of MNIST without those held out.


def describe_chip(n_devices: int) -> list[Any]:
    """Returns the devices to compile for, which need not exist; call it before anything uses a device.

    Raises:
      UserError: if the compiler is not installed.
    """
    compiler = importlib.util.find_spec("jax_cuda13_plugin")
    if compiler is None or compiler.origin is None:
        raise UserError('there is no compiler for NVIDIA\'s GPUs here; python -m pip install "jax[cuda13]" brings it')
    tools = Path(compiler.origin).parents[1] / "nvidia" / "cu13"
    flags = f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={tools}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    os.environ["PATH"] = f"{tools / 'bin'}:{os.environ['PATH']}"
    jax.config.update("jax_platforms", "cpu")
    chip = topologies.get_topology_desc(platform="cuda", target_config=CHIP.read_text(), topology=f"1x1x{n_devices}")
    return list(chip.devices)


def compiled(point: Point, precision: Precision, devices: Sequence[Any]) -> str:
    """Compiles the program of a run at a point, in padded arrays as a run has them; returns its text."""
    config = settings(point.variant).with_changes(precision=precision)
    images = np.zeros((IMAGES, config.data.image_size, config.data.image_size), np.uint8)
    dataset = data.from_arrays(images, np.arange(IMAGES) % TASKS, images[:TASKS], np.arange(TASKS), name="nothing")
    history = [*widths_of_tasks(point.variant)[: point.task], point.widths]
    scene = step.make_scene(
        point, config, dataset, physical_widths(history, headroom=config.gates.headroom, n_tasks=TASKS)
    )
    n = len(devices)
    own = Step.of(config, AXIS if n > 1 else None)
    function = partial(run_steps, step=own, n_conditioned=scene.trainer.networks.n_conditioned, n_devices=n)
    sums = np.zeros(len(own.metric_names), np.float32)
    arguments = (scene.state, scene.images, scene.replay, scene.capacity, step.clock(scene), scene.key, sums)
    whole = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        (*arguments, np.int32(0), np.int32(1)),
    )
    program = jax.jit(data_parallel(function, devices, "shard_map"), donate_argnums=0)
    return str(program.lower(*abstract).compile().as_text())


def measure(text: str, precision: Precision, classifier_steps: int) -> dict[str, Any]:
    """Returns the figures of a compiled program: of an iteration, and of each classifier step in it."""
    (outer,) = kernels.loops(text)
    (inner,) = outer.inner
    parts = {"iteration": outer, "classifier_step": inner}
    figures = {
        name: {
            "launches": loop.launches,
            "exchanges": sum(kernel.is_exchange for kernel in loop.kernels),
            "gflop": sum(kernel.flop for kernel in loop.kernels) / 1e9,
            "megabytes": sum(kernel.bytes for kernel in loop.kernels) / 1e6,
            "milliseconds": 1e3 * loop.seconds(precision),
        }
        for name, loop in parts.items()
    }
    total = figures["iteration"]["milliseconds"] + classifier_steps * figures["classifier_step"]["milliseconds"]
    return figures | {"predicted_milliseconds": total}


def main(
    points: Sequence[str] = ("dgmw-9", "dgma-9"),
    precision: Precision = "tf32",
    devices: int = 1,
    out: Path | None = None,
) -> None:
    """Compiles, prints a table, and writes records.

    Args:
      points: variants and tasks, e.g. dgma-9 dgmw-9.
      precision: precision of matrix products.
      devices: how many GPUs share a mini-batch.
      out: file of JSON Lines; a line for each point is added.
    """
    names = [point.name for point in POINTS]
    unknown = [name for name in points if name not in names]
    if unknown:
        raise UserError(f"--points {' '.join(unknown)}: unknown; choose from {', '.join(names)}")
    chips = describe_chip(devices)
    print(f"{'point':8} {'part':16} {'launches':>8} {'exchanges':>9} {'GFLOP':>7} {'MB':>7} {'ms':>6}")
    for point in (point for point in POINTS if point.name in points):
        begun = time.perf_counter()
        figures = measure(compiled(point, precision, chips), precision, point.task + 1)
        for part in ("iteration", "classifier_step"):
            found = figures[part]
            print(
                f"{point.name:8} {part:16} {found['launches']:8} {found['exchanges']:9} {found['gflop']:7.2f} "
                f"{found['megabytes']:7.1f} {found['milliseconds']:6.3f}"
            )
        steps, total = point.task + 1, figures["predicted_milliseconds"]
        compiling = time.perf_counter() - begun
        print(
            f"{point.name:8} with {steps} classifier steps: {total:.2f} ms (compiled in {compiling:.0f} s)", flush=True
        )
        machine.keep(out, point=point.name, precision=precision, devices=devices, chip=CHIP.stem, **figures)


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.launches", description=__doc__)))
