"""Which images a run learnt from, as attacks find it (membership inference, docs/privacy.md).

Each run learns a random half of every class of one pool of training images. Then each run is attacked, with all others
as the attacker's shadow runs: by what its classifiers say of an image (LiRA, Carlini et al. 2022), and by how near its
drawn images come to it (GAN-Leaks, Chen et al. 2020). Joint training, whose classifier sees all real images at once,
shows what the attacks find where they work:

    SMALL=image_size=8,batch_size=16,discriminator_width=16,consolidation_steps=1600,consolidation_shift=0
    python -m studies.privacy cifar10 --base generator_width=8,epochs=100,$SMALL --data-dir DIR --runs runs/dgmw \
        --out results/privacy.jsonl
    python -m studies.privacy cifar10 --base method=joint,$SMALL --data-dir DIR --runs runs/joint \
        --out results/privacy.jsonl

A record has, for each attack and run, the area under the ROC curve (`auroc`) and the share of members found at 1 %
false positives (`true_positives`). Runs that are finished are not learnt again.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from tyro.conf import Positional, arg

from dgm_jax import Learner, data, load_classifier, load_memory, metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.commands.experiments import find
from dgm_jax.config import FROZEN, Config, Variant, best, preset
from dgm_jax.data import Dataset, TaskStream
from dgm_jax.data.dataset import rows_of
from dgm_jax.errors import UserError, exit_status
from dgm_jax.loading import load_method
from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.metrics import membership, privacy
from dgm_jax.system.compilation import keep_programs
from studies import choosing, results

# Attack -> its scores, from values of each image in each run [runs, n], members, and the number of the attacked run.
ATTACKS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "value": lambda values, is_member, target: values[target],
    "calibrated": membership.compared_with_unseen,
    "likelihood ratio": membership.likelihood_ratios,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Runs on random halves of a pool, each attacked with the help of the others."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    preset: str | None = None  # the settings, e.g. best (default: those of the data)
    variant: Variant = "dgmw"  # what masks gate
    base: Annotated[str, arg(metavar="NAME=VALUE[,...]")] = ""  # changes of the preset; method=joint for joint training
    classes: int = 5  # the first ones; joint training learns them at once, other methods one by one
    train_per_class: int = 100  # images of a class in the pool; each run learns a half
    count: int = 16  # runs
    draws: int = 2000  # images drawn of each class, if the method has a memory
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    runs: Path  # folder of the runs, a subfolder for each
    out: Path  # file of JSON Lines; a line is added


def random_half(labels: np.ndarray, number: int) -> np.ndarray:
    """Which images the run of this number learns: a random half of each class, bool [n]."""
    rng, is_member = np.random.default_rng(number), np.zeros(len(labels), bool)
    for rows in rows_of(labels).values():
        is_member[rng.permutation(rows)[: len(rows) // 2]] = True
    return is_member


def observed(config: Config, pool: Dataset, is_member: np.ndarray, folder: Path, draws: int) -> dict[str, Any]:
    """Learns a run, unless it is finished, and looks at it as an attacker would.

    Args:
      config: the settings; its seed is also that of the drawn images.
      pool: its training images are looked at.
      is_member: which of them the run learns, bool [n].
      folder: of the run.
      draws: images drawn of each class.

    Returns:
      "seen": values of each image, high for members, [n]: for each classifier the log-odds of the right class, and for
      a memory, by the name "drawn", the distance to the nearest drawn image of the class, negative. "accuracy": that of
      each classifier on members and on the others. "nearer" and "compared": classes whose drawn images are nearer to
      training images than chance explains, as the run itself measured, and all classes.
    """
    half = replace(pool, x_train=pool.x_train[is_member], y_train=pool.y_train[is_member])
    stream = data.class_incremental(half, classes_per_task=1 if config.method in FROZEN else len(pool.labels))
    summary = Learner(config, devices=1).fit(stream, folder)
    truth = np.searchsorted(pool.labels, pool.y_train)
    found: dict[str, Any] = {"seen": {}, "accuracy": {}}
    for name, classifier in _classifiers(config, stream, folder).items():
        logits = classifier.logits(pool.x_train)[:, : len(pool.labels)]
        found["seen"][name] = membership.log_odds(logits, truth)
        is_right = logits.argmax(axis=1) == truth
        found["accuracy"][name] = [float(np.mean(is_right[rows])) for rows in (is_member, ~is_member)]
    if config.method in FROZEN:
        found["seen"]["drawn"] = -distances_to_drawn(load_memory(folder), pool, draws, jax.random.key(config.seed))
        found |= {"nearer": sum(privacy.is_nearer(row) is True for row in summary["privacy"])}
        found |= {"compared": len(summary["privacy"])}
    jax.clear_caches()  # Each learner compiles its own programs, and a process can hold only a limited number.
    return found


def _classifiers(config: Config, stream: TaskStream, folder: Path) -> dict[str, Classifier]:
    if config.method in FROZEN:
        return {reading: load_classifier(folder, reading=reading) for reading in ("consolidated", "auxiliary")}
    method, state = load_method(config, stream, folder)
    return {"joint": method.setting.classifier(state.params, state.statistics, stream.n_tasks - 1)}


def distances_to_drawn(memory: Memory, pool: Dataset, draws: int, key: jax.Array) -> np.ndarray:
    """The distance of each training image of a pool to the nearest of many drawn images of its class: float64 [n]."""
    distances = np.zeros(len(pool.y_train))
    for index, label in enumerate(pool.labels):
        rows = pool.y_train == label
        drawn = memory.images(index, draws, jax.random.fold_in(key, index))
        distances[rows] = privacy.nearest_distances(pool.x_train[rows] / 255, drawn / 255)
    return distances


def attacked(values: np.ndarray, is_member: np.ndarray, images: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """What each attack finds in each run.

    Args:
      values: of each image in each run, [runs, n], high for members.
      is_member: which images a run learnt, bool [runs, n].
      images: the images that count, bool [n].
    """
    found: dict[str, dict[str, list[float]]] = {}
    for name, attack in ATTACKS.items():
        pairs = []
        for target, learnt in enumerate(is_member):
            scores = attack(values, is_member, target)
            pairs.append((scores[images & learnt], scores[images & ~learnt]))
        found[name] = {
            "auroc": [metrics.auroc(*pair) for pair in pairs],
            "true_positives": [membership.true_positives(*pair) for pair in pairs],
        }
    return found


def measured(config: Config, pool: Dataset, options: Options) -> dict[str, Any]:
    """Learns all runs, and attacks each: what a record says."""
    is_member = np.stack([random_half(pool.y_train, number) for number in range(options.count)])
    runs = []
    for number, learnt in enumerate(is_member):
        own, folder = config.with_changes(seed=number), options.runs / f"run{number}"
        runs.append(observed(own, pool, learnt, folder, options.draws))
        print(f"run {number}: accuracy on members and others {runs[-1]['accuracy']}", flush=True)
    values = {name: np.stack([run["seen"][name] for run in runs]) for name in runs[0]["seen"]}
    everything, newest = np.ones(len(pool.y_train), bool), pool.y_train == pool.labels[-1]
    found = {
        "members": int(is_member[0].sum()),
        "others": int((~is_member[0]).sum()),
        "accuracy": {name: [run["accuracy"][name] for run in runs] for name in runs[0]["accuracy"]},
        "attacks": {name: attacked(own, is_member, everything) for name, own in values.items()},
        "attacks_on_newest_class": {name: attacked(own, is_member, newest) for name, own in values.items()},
    }
    return found | {name: sum(run[name] for run in runs) for name in ("nearer", "compared") if name in runs[0]}


def main(argv: Sequence[str] | None = None) -> int:
    """Learns and attacks the runs, prints what the attacks found, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.privacy", description=__doc__)
    keep_programs()
    for name, least in (("count", 3), ("classes", 2), ("train_per_class", 2), ("draws", 1)):
        if getattr(options, name) < least:
            option = name.replace("_", "-")
            raise UserError(f"--{option} {getattr(options, name)}: expected at least {least}; give a larger number")
    dataset = data.load(options.data, options.data_dir or data.default_folder())
    pool = dataset.of_classes(dataset.labels[: options.classes]).first_per_class(options.train_per_class)
    base = options.preset or find(options.data).preset
    settings = best(options.variant, **pool.shown) if base == "best" else preset(base, options.variant)
    config = choosing.changed(settings, options.base)
    if config.method not in (*FROZEN, "joint"):
        raise UserError(f"--base {options.base}: method={config.method!r}; expected one of dgm, separate and joint")
    entry = {"data": options.data, "variant": options.variant if config.method == "dgm" else None}
    entry |= {name: getattr(options, name) for name in ("classes", "train_per_class", "count", "draws")}
    record = results.once(
        options.out,
        {"what": "runs", "method": config.method} | entry,
        config,
        (base, settings),
        lambda: measured(config, pool.resized(config.data.image_size), options),
    )
    print(f"{record['members']} members and {record['others']} others in each of {options.count} runs")
    for place in ("attacks", "attacks_on_newest_class"):
        for seen, attacks in record[place].items():
            for attack, found in attacks.items():
                said = ", ".join(f"{of} {results.spread(found[of])}" for of in ("auroc", "true_positives"))
                print(f"{place:25} {seen:15} {attack:18} {said}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command to resume"))
