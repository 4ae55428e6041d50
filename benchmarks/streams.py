"""What the stream does: the order of the classes, how many come at a time, and how many there are in all.

Each grouping is learnt in several orders of the classes, the first of them the natural one; each order with a seed of
its own, so that the spread is that of orders and seeds together. Several data sets can be joined to a longer stream. As
with `benchmarks.tune`, a quarter of each class's training images takes the place of the test images, which are not
read. Beside the numbers a figure is drawn: accuracy, memory and time, task by task.

    python -m benchmarks.streams digits --preset digits --groups 1,2,5 --orders 3 --data-dir DIR --out orders.json
    python -m benchmarks.streams digits+mnist --preset joined --base warm_start=true --train-per-class 180 \\
        --data-dir DIR --out many.json
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.arguments import positive, whole_numbers
from benchmarks.choosing import changed, judge
from dgm_jax import data
from dgm_jax.config import Config, preset, preset_for
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.system.compilation import keep_programs


def order(dataset: Dataset, number: int) -> list[int]:
    """The labels in an order: number 0 is the natural one, others are drawn by their number."""
    labels = list(dataset.labels)
    return np.random.default_rng(number).permutation(labels).tolist() if number else labels


def learnt(config: Config, dataset: Dataset, *, group: int, orders: int) -> dict[str, Any]:
    """Learns the classes in several orders, `group` at a time: as `choosing.judge`, an order in place of a seed."""
    each = [
        judge(config, dataset, [number], class_order=order(dataset, number), classes_per_task=group)
        for number in range(orders)
    ]
    reading = next(iter(each[0]["mean"]))
    by_task = {name: [own for part in each for own in part["by_task"][name]] for name in each[0]["by_task"]}
    return {
        "accuracy": [part["mean"][reading] for part in each],
        "weights": [weights for part in each for weights in part["weights"]],
        "by_task": by_task,
    }


def figure(entries: Sequence[dict[str, Any]], out: Path) -> None:
    """Draws accuracy, memory and time against the classes seen: of each entry the mean and range over its orders."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for number, entry in enumerate(entries):
        for axis, name, factor in zip(axes, ("accuracy", "kB", "seconds"), (100, 1, 1), strict=True):
            values = factor * np.asarray(entry["by_task"].get(name, []))
            if not values.size:
                continue
            seen = entry["group"] * np.arange(1, values.shape[1] + 1)
            axis.plot(seen, values.mean(axis=0), ".-", color=f"C{number}", label=name_of(entry))
            axis.fill_between(seen, values.min(axis=0), values.max(axis=0), color=f"C{number}", alpha=0.15)
    for axis, label in zip(axes, ("A_t, %", "memory, kB", "seconds a task"), strict=True):
        axis.set(xlabel="classes seen", ylabel=label)
        axis.grid(alpha=0.3)
    drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    drawing.savefig(out, dpi=110)
    pyplot.close(drawing)


def name_of(entry: dict[str, Any]) -> str:
    """What an entry is called in words and figures."""
    tasks = entry["classes"] // entry["group"]
    name = f"{entry['data']}, {entry['preset']} {entry['variant']}, {tasks} x {entry['group']}"
    return name + (f", {entry['change']}" if entry["change"] else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Learns each grouping in each order, and writes and draws what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set, or several with + between them")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--variants", nargs="+", choices=("dgma", "dgmw"), default=("dgma", "dgmw"))
    parser.add_argument("--train-per-class", type=positive, default=500, help="a quarter of them to judge by")
    parser.add_argument(
        "--groups",
        type=whole_numbers,
        default="1",
        help="classes a task, e.g. 2; or several to try, 1,2,5",
    )
    parser.add_argument("--orders", type=positive, default=3, help="how many orders of the classes")
    parser.add_argument("--base", default="", metavar="NAME=VALUE[,...]", help="changes made in all")
    parser.add_argument("--data-dir", type=Path, default=data.default_folder(), help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, added to; the figure lies beside it")
    options = parser.parse_args(argv)
    keep_programs()
    shown: list[dict[str, Any]] = []
    name = preset_for(options.preset, options.data)
    configs = {variant: changed(preset(name, variant), options.base) for variant in options.variants}
    sizes = {config.data.image_size for config in configs.values()}
    datasets = {size: _load(options.data.split("+"), options.data_dir, size) for size in sizes}
    for group in options.groups:  # All, before any work.
        for config in configs.values():
            n_classes = len(datasets[config.data.image_size].labels)
            if n_classes % group:
                raise UserError(f"--groups {group}: {n_classes} classes do not split into tasks of {group} each")
    for variant, config in configs.items():
        chosen = datasets[config.data.image_size].first_per_class(options.train_per_class).for_choosing()
        for group in options.groups:
            entry = {"data": options.data, "preset": name, "variant": variant, "change": options.base}
            entry |= {"group": group, "classes": len(chosen.labels), "orders": options.orders}
            entry |= {"train_per_class": options.train_per_class, "config": config.flat()}
            measure = partial(learnt, config, chosen, group=group, orders=options.orders)
            known = results.once(options.out, entry, measure)
            shown = [*shown, known]
            figure(shown, options.out.with_suffix(".png"))
            each = ", ".join(f"{100 * value:.1f}" for value in known["accuracy"])
            said = f"{results.spread(known['accuracy'])} ({each})"
            print(f"{name_of(entry)}: {said}; {known['minutes']:.1f} min", flush=True)
    return 0


def _load(names: Sequence[str], data_dir: Path, size: int) -> Dataset:
    each = [data.load(name, data_dir) for name in names]
    return data.join(each, size) if len(each) > 1 else each[0].resized(size)


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to go on"))
