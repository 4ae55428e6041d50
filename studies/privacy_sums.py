"""Which images sums of features were made of, as an attack finds it (docs/privacy.md).

Method `analytic`, and `dgm` with `--combined`, keep the Gram matrix of the features of all images. The leverage of an
image in it is low if the image is part of it (`dgm_jax.metrics.membership.leverages`). The attacker has the sums and
the filters, from two checkpoints also the sums of the one class that was learnt between them, as far as float32 tells
them apart; and may have other images of the same source, whose sums say how large the leverage of an image would be:

    python -m studies.privacy_sums cifar10 --data-dir DIR --out results/privacy.jsonl

The training and test images are put together and split at random: images that are learnt, others, and reference images,
in which the filters are found, too. So it is the sums alone that give something away.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from tyro.conf import Positional, arg

from dgm_jax import data, metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.commands.experiments import find
from dgm_jax.config import preset
from dgm_jax.data import Dataset
from dgm_jax.data.dataset import rows_of
from dgm_jax.errors import UserError, exit_status
from dgm_jax.methods.feature_memory import Features
from dgm_jax.methods.keys import Purpose, derive_key
from dgm_jax.metrics import membership
from dgm_jax.models.patch_filters import learn_filters
from dgm_jax.system.compilation import keep_programs
from studies import choosing, results


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sums over so many images of each class, and what the attacker has besides."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    base: Annotated[str, arg(metavar="NAME=VALUE[,...]")] = ""  # settings of method analytic, e.g. filters=25
    images: tuple[int, ...] = (100, 200, 400, 800, 1600, 4000)  # of each class that are learnt: a row for each
    others: int = 400  # images of each class that are not learnt; as many that are, at most, are attacked
    references: tuple[int, ...] = (200, 1600)  # images of each class that the attacker has: an attack for each
    seed: int = 0  # of the split and of the filters
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    out: Path  # file of JSON Lines; a line is added


@dataclass(frozen=True)
class Split:
    """Features of images, float32 [classes, images, views, features]; a second view is the mirror image."""

    learnt: np.ndarray
    others: np.ndarray
    reference: np.ndarray


def split(dataset: Dataset, seed: int, n_filters: int, *, mirror: bool, sizes: tuple[int, int, int]) -> Split:
    """Splits all images of each class at random into learnt, other and reference images, so many of each class.

    Raises:
      UserError: if a class has too few images.
    """
    images = np.concatenate([dataset.x_train, dataset.x_test])
    rows = rows_of(np.concatenate([dataset.y_train, dataset.y_test])).values()
    fewest, wanted = min(map(len, rows)), sum(sizes)
    if fewest < wanted:
        raise UserError(
            f"{wanted} images of each class are wanted, {' + '.join(map(str, sizes))} that are learnt, others and "
            f"reference images; {dataset.name} has {fewest}: lower --images, --others or --references"
        )
    rng = np.random.default_rng(seed)
    chosen = [images[rng.permutation(own)[:wanted]] for own in rows]
    key = derive_key(jax.random.key(seed), Purpose.FILTERS)
    features = Features(learn_filters(key, chosen[0][-sizes[2] :], n_filters))
    views = [[own, own[:, :, ::-1]] if mirror else [own] for own in chosen]
    found = np.stack([np.stack([features(view) for view in own], axis=1) for own in views])
    return Split(*np.split(found, np.cumsum(sizes)[:2], axis=1))


def grams(features: np.ndarray, n: int) -> np.ndarray:
    """The Gram matrix of each class's first n images, in which all views count for one image: float64 [classes, d, d].

    Args:
      features: [classes, images, views, d].
      n: how many.
    """
    flat = [np.asarray(own[:n], np.float64).reshape(-1, own.shape[-1]) for own in features]
    return np.stack([own.T @ own for own in flat]) / features.shape[2]


def leverages(gram: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Leverages of images [classes, images, views, d], of all views together: float64 [classes, images]."""
    flat = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
    return membership.leverages(gram, flat).reshape(features.shape[:3]).sum(axis=2)


def scores(
    parts: Split, classes: list[int], learnt: dict[int, np.ndarray], known: dict[int, np.ndarray]
) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
    """Scores of learnt and of other images, [n] and [m], by the number of images of a class in the sums, and attack.

    Args:
      parts: the images.
      classes: whose sums are attacked: what they add to the sums of all other classes.
      learnt: Gram matrices of each class, by the number of its images.
      known: Gram matrices of the attacker's images of each class, by their number.
    """
    tried = [part[classes, : parts.others.shape[1]] for part in (parts.learnt, parts.others)]
    usual = {n: [leverages(own[classes].sum(axis=0), part) for part in tried] for n, own in known.items()}
    found = {}
    for n, of_class in learnt.items():
        # As two checkpoints have them: the sums of all images, and those of the classes before these.
        after, before = (np.float32(own.sum(axis=0)) for own in (of_class, np.delete(of_class, classes, axis=0)))
        between = np.subtract(after, before, dtype=np.float64)
        mine = [leverages(between, part) for part in tried]
        ratios = {
            f"ratio, {size} reference images a class": [own / other for own, other in zip(mine, theirs, strict=True)]
            for size, theirs in usual.items()
        }
        for attack, (members, others) in {"leverage": mine, **ratios}.items():
            found[n, attack] = -members[:, :n].ravel(), -others.ravel()
    return found


def attacked(parts: Split, images: Sequence[int], references: Sequence[int]) -> list[dict[str, Any]]:
    """What attacks find in the sums of all classes, and in each class's by itself: a row for each number of images."""
    learnt = {n: grams(parts.learnt, n) for n in images}
    known = {n: grams(parts.reference, n) for n in references}
    everything = list(range(len(parts.others)))
    rows = []
    for name, groups in {"all classes": [everything], "one class": [[own] for own in everything]}.items():
        found = [scores(parts, classes, learnt, known) for classes in groups]
        for n in images:
            pairs = {attack: [own[n, attack] for own in found] for size, attack in found[0] if size == n}
            row: dict[str, Any] = {"sums": name, "images": n * len(groups[0]), "features": parts.others.shape[-1]}
            row |= dict(zip(("members", "others"), map(len, pairs["leverage"][0]), strict=True))
            for measure, of in (("auroc", metrics.auroc), ("true_positives", membership.true_positives)):
                row[measure] = {attack: [of(*pair) for pair in own] for attack, own in pairs.items()}
            rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Attacks sums of several sizes, prints what was found, and adds a line to the file."""
    options = parse_options(Options, argv, program="python -m studies.privacy_sums", description=__doc__)
    keep_programs()
    images, references = list(options.images), list(options.references)
    if min([*images, *references, options.others]) < 1:
        raise UserError(
            f"--images {images} --others {options.others} --references {references}: expected at least 1 each"
        )
    dataset = data.load(options.data, options.data_dir or data.default_folder())
    name = find(options.data).preset
    settings = preset(name, "dgma")
    config = choosing.changed(settings, ",".join(filter(None, ["method=analytic", options.base])))
    config = config.with_changes(seed=options.seed)
    sizes = (max(images), options.others, max(references))

    def measure() -> dict[str, Any]:
        resized = dataset.resized(config.data.image_size)
        own = config.features
        parts = split(resized, options.seed, own.filters, mirror=own.mirror, sizes=sizes)
        return {"rows": attacked(parts, images, references)}

    entry = {"what": "sums", "data": options.data, "seed": options.seed, "images": images}
    entry |= {"others": options.others, "references": references}
    record = results.once(options.out, entry, config, (name, settings), measure)
    for row in record["rows"]:
        print(f"{row['sums']}: {row['images']} images, {row['features']} features, {row['images'] / row['features']:g}")
        for attack, areas in row["auroc"].items():
            found = results.spread(row["true_positives"][attack])
            print(f"  {attack:40} auroc {results.spread(areas)}, true positives {found}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command again"))
