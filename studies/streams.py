"""What the stream does: the order of the classes, how many come in a task, and how many there are.

Each grouping is learnt in several orders of the classes; the first one is the natural order. Each order has a seed of
its own, so that the spread is that of orders and seeds together. Several data sets can be joined into a longer stream.
As in `studies.tune`, the last quarter of each class's training images takes the place of the test images, which are
not read. `--figure` draws accuracy, memory and time, task by task.

    python -m studies.streams digits --preset digits --groups 1,2,5 --orders 3 --out results/streams.jsonl
    python -m studies.streams digits+mnist --preset joined --base warm_start=true --train-per-class 180 \\
        --data-dir DIR --out results/streams.jsonl
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import positive, whole_numbers
from dgm_jax import data
from dgm_jax.config import Config, preset, preset_for
from dgm_jax.data import Dataset
from dgm_jax.errors import UserError, exit_status
from dgm_jax.system.compilation import keep_programs
from studies import results
from studies.choosing import changed, learn


def class_order(dataset: Dataset, number: int) -> list[int]:
    """Returns the labels in an order: number 0 is the natural one, each other number seeds a permutation."""
    labels = list(dataset.labels)
    return np.random.default_rng(number).permutation(labels).tolist() if number else labels


def learn_orders(config: Config, dataset: Dataset, *, group: int, orders: int) -> dict[str, Any]:
    """Learns the classes in several orders, `group` at a time: `choosing.learn`, with an order in place of a seed."""
    each = [
        learn(config, dataset, [number], class_order=class_order(dataset, number), classes_per_task=group)
        for number in range(orders)
    ]

    def gathered(field: str) -> dict[str, Any]:
        return {name: [value for part in each for value in part[field][name]] for name in each[0][field]}

    weights = [value for part in each for value in part["weights"]]
    return {"accuracy": gathered("accuracy"), "weights": weights, "by_task": gathered("by_task")}


def draw_figure(records: Sequence[dict[str, Any]], out: Path) -> None:
    """Draws accuracy, memory and time against the classes seen: the mean and range over the orders of each record."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for number, record in enumerate(records):
        for axis, name, factor in zip(axes, ("accuracy", "kB", "seconds"), (100, 1, 1), strict=True):
            values = factor * np.asarray(record["by_task"].get(name, []))
            if not values.size:
                continue
            seen = record["group"] * np.arange(1, values.shape[1] + 1)
            axis.plot(seen, values.mean(axis=0), ".-", color=f"C{number}", label=label_of(record))
            axis.fill_between(seen, values.min(axis=0), values.max(axis=0), color=f"C{number}", alpha=0.15)
    for axis, label in zip(axes, ("A_t, %", "memory, kB", "seconds a task"), strict=True):
        axis.set(xlabel="classes seen", ylabel=label)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def label_of(record: dict[str, Any]) -> str:
    """Returns the name of a record in messages and figures."""
    tasks = record["classes"] // record["group"]
    name = f"{record['data']}, {record['preset']} {record['variant']}, {tasks} x {record['group']}"
    return name + (f", {record['change']}" if record["change"] else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Learns each grouping in each order, and adds a line to the file for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set, or several with + between them")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--variants", nargs="+", choices=("dgma", "dgmw"), default=("dgma", "dgmw"))
    parser.add_argument("--train-per-class", type=positive, default=500, help="a quarter of them judges")
    parser.add_argument(
        "--groups", type=whole_numbers, default="1", help="classes in a task, e.g. 2; or several to try, 1,2,5"
    )
    parser.add_argument("--orders", type=positive, default=3, help="number of orders of the classes")
    parser.add_argument("--base", default="", metavar="NAME=VALUE[,...]", help="changes made in all rows")
    parser.add_argument("--data-dir", type=Path, default=data.default_folder(), help="folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON Lines; lines are added")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw accuracy, memory and time, task by task")
    options = parser.parse_args(argv)
    keep_programs()
    shown: list[dict[str, Any]] = []
    name = preset_for(options.preset, options.data)
    configs = {variant: changed(preset(name, variant), options.base) for variant in options.variants}
    sizes = {config.data.image_size for config in configs.values()}
    datasets = {size: _load(options.data.split("+"), options.data_dir, size) for size in sizes}
    for group in options.groups:  # All groups are checked before any work begins.
        for config in configs.values():
            n_classes = len(datasets[config.data.image_size].labels)
            if n_classes % group:
                raise UserError(f"--groups {group}: {n_classes} classes do not split into tasks of {group} each")
    for variant, config in configs.items():
        chosen = datasets[config.data.image_size].first_per_class(options.train_per_class).for_choosing()
        for group in options.groups:
            entry = {"data": options.data, "variant": variant, "change": options.base, "group": group}
            entry |= {"classes": len(chosen.labels), "orders": options.orders}
            entry |= {"train_per_class": options.train_per_class}
            measure = partial(learn_orders, config, chosen, group=group, orders=options.orders)
            record = results.once(options.out, entry, config, name, measure)
            shown = [*shown, record]
            if options.figure:
                draw_figure(shown, options.figure)
            accuracy = next(iter(record["accuracy"].values()))
            each = ", ".join(f"{100 * value:.1f}" for value in accuracy)
            label = f"{label_of(record)}: {results.spread(accuracy)} ({each})"
            print(f"{label}; {record['minutes']:.1f} min", flush=True)
    return 0


def _load(names: Sequence[str], data_dir: Path, size: int) -> Dataset:
    each = [data.load(name, data_dir) for name in names]
    return data.join(each, size) if len(each) > 1 else each[0].resized(size)


if __name__ == "__main__":
    sys.exit(exit_status(main, interrupted="interrupted; run the same command to resume"))
