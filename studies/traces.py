"""What traces a class leaves in a memory that learnt and forgot it (docs/forget.md, "Traces").

For each seed and each class that is forgotten, three kinds of memories draw the same classes in the end: one learnt all
classes and forgot this one; one learnt the same stream without it; and one learnt another class in its place and forgot
that one. What tells the first kind from the second is a trace of forgetting, or of the class; what tells it from the
third is a trace of this very class. No two memories have a seed in common:

    python -m studies.traces digits --variant dgmw --seeds 0,1,2,3 --base epochs=30 --runs DIR \\
        --out results/traces.jsonl

A record is one memory and one class. Training images of the class, and of the others, measure: `weights` is the size of
the memory; `probe`, how well few labelled images tell the class in features of each network that is kept (AUROC);
`share` and `nearest`, what is drawn in each of `WAYS`, as the share that a judge (trained on real images of all classes
of the data set) takes for the class, and as the mean distance of its real images to the nearest drawn one; `relearnt`,
the judge's share of right images when the class is learnt (again), epoch by epoch. Runs and records that are there are
not made again.
"""

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional, arg

from dgm_jax import Learner, data, forget, load_classifier, load_memory, metrics
from dgm_jax.commands.arguments import parse_options
from dgm_jax.commands.experiments import find
from dgm_jax.commands.options import parse_seeds
from dgm_jax.config import Config, Variant, preset
from dgm_jax.data import Dataset, pictures
from dgm_jax.errors import UserError, exit_status
from dgm_jax.loading import load_method
from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.memory import Memory
from dgm_jax.memory.task import TaskMemory
from dgm_jax.methods import METHODS
from dgm_jax.methods.dgm import DGM
from dgm_jax.methods.method import TaskInput, Watch
from dgm_jax.metrics.privacy import nearest_distances
from dgm_jax.models.closed_form import Sums, ridge_regression
from dgm_jax.models.generator import conditioned_noise
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.opening import place_in
from dgm_jax.system.compilation import keep_programs
from dgm_jax.system.pinned import new_key, pinned
from dgm_jax.training import task as tasks
from studies import choosing, results

KINDS = ("forgotten", "other", "never")  # Which class a memory learnt and forgot: this one, another one, none.
WAYS = ("as learnt", "all gates", "random gates", "entry", "entry, all gates")  # Of drawing: see `drawn`.
_LABELLED = 5  # Images of a class that the probe learns from, and how often they are drawn anew.
_DRAWN = 128  # Images in a batch that is drawn.
_BATCHES = 4  # Batches for each task and way.
_EPOCHS = 20  # Of learning the class again.
_RELEARNT = 0.8  # The judge's share of right images at which the class counts as learnt.


@dataclass(frozen=True, kw_only=True)
class Options:
    """Classes that are forgotten, and memories that never learnt them."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]  # digits, mnist, fashion, svhn or cifar10
    variant: Variant = "dgma"  # what masks gate
    base: Annotated[str, arg(metavar="NAME=VALUE[,...]")] = ""  # changes of the preset of the data
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)  # labels, in the order in which they are learnt, one a task
    forgotten: tuple[int, ...] = (0, 2)  # those that are forgotten, each by itself
    other: int = 7  # the label that stands in for a forgotten one
    seeds: str = "0,1,2,3"  # three memories for each, and for each class that is forgotten
    data_dir: Path | None = None  # folder of data sets (default: the usual one)
    runs: Path  # folder of the runs, which is made
    out: Path  # file of JSON Lines; a line is added for each memory and class


@dataclass(frozen=True)
class Case:
    """A class, and what a memory knew of it."""

    classes: tuple[int, ...]  # That are learnt in turn, this one among them.
    label: int
    other: int
    kind: str  # One of KINDS.
    seed: int

    @property
    def learnt(self) -> list[int]:
        """The classes that the memory learns, in this order."""
        put = {"forgotten": [self.label], "other": [self.other], "never": []}[self.kind]
        return [label for of in self.classes for label in (put if of == self.label else [of])]

    @property
    def run_seed(self) -> int:
        """The seed of the run: no two kinds have it in common, so that nothing is alike but the images."""
        return len(KINDS) * self.seed + KINDS.index(self.kind)


# ---- Memories ----


@dataclass(frozen=True)
class Study:
    """The settings, the images, and what judges drawn ones."""

    config: Config
    dataset: Dataset  # Of all classes, at the size of the networks.
    runs: Path

    @cached_property
    def judge(self) -> Classifier:
        """A classifier of real images of all classes, trained for ten times as many steps as that of a memory."""
        settings = self.config.for_method("joint", METHODS["joint"].settings())
        settings = settings.with_changes(consolidation_steps=10 * settings.consolidation.consolidation_steps)
        folder, n = self.runs / "judge", len(self.dataset.labels)
        stream = data.class_incremental(self.dataset, classes_per_task=n)
        Learner(settings, devices=1).fit(stream, folder)
        method, state = load_method(settings, stream, folder)
        return method.classifier(0, state)  # type: ignore[attr-defined]  # Every `joint` has one.

    def measure(self, case: Case) -> dict[str, Any]:
        """Learns and forgets as the case says, and measures what is left; see the module's text."""
        config = self.config.with_changes(seed=case.run_seed)
        run = self.runs / f"{'-'.join(map(str, case.learnt))}-seed{case.run_seed}"
        images = self.dataset.of_classes(case.learnt)
        Learner(config, devices=1).fit(data.class_incremental(images, class_order=case.learnt), run)
        with tempfile.TemporaryDirectory() as folder:
            left = Path(shutil.copytree(run, Path(folder) / "run"))
            if case.kind != "never":
                forget(left, [{"forgotten": case.label, "other": case.other}[case.kind]])
            memory, networks = load_memory(left), {"classifier": load_classifier(left, reading="consolidated")}
            if not config.gan.reinitialise_discriminator:
                networks["discriminator"] = load_classifier(left, reading="auxiliary")
            found = {
                "weights": memory.parameters()["shared_weights"],
                "probe": {name: self.probed(network, memory, case.label) for name, network in networks.items()},
                **self.looked_for(memory, case),
                "relearnt": self.relearnt(config, case.label, left),
            }
        jax.clear_caches()  # Each learner compiles its own programs, and a process can hold only a limited number.
        return found

    def real(self, label: int) -> np.ndarray:
        """Training images of a class, uint8 [n, h, w, c]."""
        return self.dataset.x_train[self.dataset.y_train == label]

    def taken_for(self, images: np.ndarray, label: int) -> float:
        """The share of images that the judge takes for a class."""
        return float(np.mean(np.asarray(self.judge.labels)[self.judge.logits(images).argmax(axis=1)] == label))

    def probed(self, network: Classifier, memory: Memory, label: int) -> float:
        """The AUROC of a linear probe for the class against those of the memory, in the features of a network."""
        features = [network.features(self.real(of)).astype(np.float64) for of in (label, *memory.labels)]
        random, areas = np.random.default_rng(0), []
        for _ in range(_LABELLED):
            orders = [random.permutation(len(of)) for of in features]
            seen = [of[order[:_LABELLED]] for of, order in zip(features, orders, strict=True)]
            unseen = [of[order[_LABELLED:]] for of, order in zip(features, orders, strict=True)]
            score = _probe(seen[0], np.concatenate(seen[1:]))
            areas.append(metrics.auroc(score(unseen[0]), score(np.concatenate(unseen[1:]))))
        return statistics.mean(areas)

    def looked_for(self, memory: Memory, case: Case) -> dict[str, dict[str, float]]:
        """For each way of drawing, the share that is taken for the class, and how near its images the nearest are."""
        found: dict[str, dict[str, float]] = {"share": {}, "nearest": {}}
        for way in WAYS:
            images = drawn(memory, way, new_key(case.run_seed))
            found["share"][way] = self.taken_for(images, case.label)
            found["nearest"][way] = float(np.mean(nearest_distances(self.real(case.label) / 255, images / 255)))
        return found

    @pinned()
    def relearnt(self, config: Config, label: int, folder: Path) -> list[float]:
        """Learns the class in a folder that is left as it is: the share of right images drawn after each epoch."""
        stream = place_in(Workdir(folder), data.class_incremental(self.dataset.of_classes([label]))).stream
        method, state = load_method(config, stream, folder)
        assert isinstance(method, DGM)
        task, key = stream.n_tasks - 1, new_key(config.seed)
        state = method.expand(task - 1, key, state)
        stream.begin(task)
        given, watch, shares = TaskInput(key, state, *stream.train(task)), Watch(), []
        with method.setting.worker:
            training = method.begin(task, [given], watch)
            for epoch in range(min(_EPOCHS, config.gan.epochs)):
                method.train_epoch(training, epoch, watch)
                (now,), classes = training.running.states(), method.setting.tasks[task]
                kernels, learnt = tasks.freeze(method.networks, now, state.memory.widths, classes=classes)
                memory = replace(state.memory, kernels=kernels, tasks=(*state.memory.tasks, learnt))
                shares.append(self.taken_for(memory.images(classes[0], _DRAWN, key), label))
        return shares


# ---- What is looked for ----


def _probe(positive: np.ndarray, negative: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A linear score that is high for features like the first, [n, d], and low for those like the second."""
    features, counts = np.concatenate([negative, positive]), np.array([len(negative), len(positive)], float)
    of_class = np.stack([negative.sum(axis=0), positive.sum(axis=0)])
    weights = ridge_regression(Sums(features.T @ features, of_class, counts)).weights
    return lambda images: images @ (weights[:, 1] - weights[:, 0])


@pinned()
def drawn(memory: Memory, way: str, key: jax.Array) -> np.ndarray:
    """Images that someone could draw who has the memory and looks for a class that it does not know any more.

    Norms and output layers are those of the classes left, each in turn. What else differs is the way:
      "as learnt": nothing: the images of the classes left.
      "all gates": every gate is open that any of them opens, so that all weights that are shared take part.
      "random gates": each of these gates is open with a probability of one half.
      "entry": the entry of the noise that is 1 for the forgotten class is 1.
      "entry, all gates": both.
    Norms divide by the statistics of what is drawn, as the ones that were kept do not fit; only "as learnt" keeps them.

    Returns:
      uint8, [n, h, w, c].
    """
    random, images = np.random.default_rng(np.asarray(jax.random.key_data(key))), []
    taken = {entry for task in memory.tasks for entry in task.noise_entries}
    free = min(set(range(memory.noise_dim)) - taken)  # That of the forgotten class, or the first that no class had.
    for number, task in enumerate(memory.tasks):
        for batch in range(_BATCHES):
            own = jax.random.fold_in(key, _BATCHES * number + batch)
            if way == "as learnt":
                images.append(memory.images(task.classes[0], _DRAWN, own))
                continue
            changed = task
            if "gates" in way:
                share = 0.5 if way == "random gates" else 1.0
                changed = replace(
                    task,
                    masks=[reserved & (random.random(reserved.shape) < share) for reserved in _corners(memory, task)],
                )
            entry = free if "entry" in way else task.noise_entries[0]
            images.append(_generated(memory, changed, entry, own))
    return np.concatenate(images)


def _corners(memory: Memory, task: TaskMemory) -> Iterator[np.ndarray]:
    """The gates that some class opens, of the size that the network had when a task ended."""
    for reserved, mask in zip(memory.reserved, task.masks, strict=True):
        yield reserved[tuple(slice(0, n) for n in mask.shape)]


def _generated(memory: Memory, task: TaskMemory, entry: int, key: jax.Array) -> np.ndarray:
    cut, n_conditioned = memory.cut(task), max(task.n_conditioned, entry + 1)
    classes = jnp.full(_DRAWN, entry)
    noise = conditioned_noise(key, classes, noise_dim=memory.noise_dim, n_conditioned=n_conditioned)
    masks, head = [None] * len(cut.generator.kernels), jnp.zeros(_DRAWN, jnp.int32)  # The cut is masked already.
    images, _ = memory.generator.generate(cut.generator, cut.statistics, masks, noise, head, train=True)
    return pictures.to_uint8(np.asarray(images))


# ---- What was found ----


@dataclass(frozen=True)
class Statistic:
    """A number of each memory that may tell the kinds apart."""

    name: str
    of: Callable[[dict[str, Any]], float]  # A record -> the number.
    sign: int = 1  # -1: a small number speaks for a trace.


def epochs_to_learn(record: dict[str, Any]) -> float:
    """After how many epochs the share of right images was high enough; one more than there were if it never was."""
    shares = record["relearnt"]
    return next((n for n, share in enumerate(shares, start=1) if share >= _RELEARNT), len(shares) + 1)


def _entry(field: str, name: str, record: dict[str, Any]) -> float:
    return float(record[field][name])


def statistics_of(record: dict[str, Any]) -> list[Statistic]:
    """What a record has."""
    named = [
        Statistic(f"{field}, {name}", partial(_entry, field, name), -1 if field == "nearest" else 1)
        for field in ("probe", "share", "nearest")
        for name in record[field]
    ]
    return [
        Statistic("weights", lambda r: r["weights"]),
        *named,
        Statistic("learnt again, mean share", lambda r: statistics.mean(r["relearnt"])),
        Statistic("learnt again, epochs", epochs_to_learn, -1),
    ]


def told_apart(statistic: Statistic, these: Sequence[dict[str, Any]], those: Sequence[dict[str, Any]]) -> list[float]:
    """The AUC by which the statistic tells the first kind from the second, and its 95 % interval: [AUC, low, high]."""
    values = [statistic.sign * np.array([statistic.of(record) for record in kind]) for kind in (these, those)]
    area = metrics.auroc(*values)
    return [area, *auc_interval(area, len(these), len(those))]


def auc_interval(area: float, n: int, m: int) -> tuple[float, float]:
    """The 95 % interval of an AUC from so few as n and m values (Newcombe 2006, method 5); right also at 0 and 1."""

    def end(outer: float) -> float:
        near, far = area, outer
        for _ in range(50):
            middle, half = (near + far) / 2, (n + m) / 2 - 1
            spread = 1 + half * (1 - middle) / (2 - middle) + half * middle / (1 + middle)
            inside = abs(middle - area) <= 1.96 * (middle * (1 - middle) * spread / (n * m)) ** 0.5
            near, far = (middle, far) if inside else (near, middle)
        return near

    return end(0.0), end(1.0)


def report(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each class and statistic: mean and deviation of each kind, and the AUC against the other two."""
    for label in dict.fromkeys(record["forgotten"] for record in records):
        kinds = {k: [r for r in records if (r["forgotten"], r["kind"]) == (label, k)] for k in KINDS}
        for statistic in statistics_of(kinds["forgotten"][0]):
            values = {kind: [statistic.of(record) for record in of] for kind, of in kinds.items()}
            means = [_mean_and_deviation(of) for of in values.values()]
            areas = [told_apart(statistic, kinds["forgotten"], kinds[kind]) for kind in ("never", "other")]
            said = [f"AUC {area:.2f} [{low:.2f}, {high:.2f}]" for area, low, high in areas]
            yield f"class {label} {statistic.name:26}" + " ".join([*means, *said])


def _mean_and_deviation(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):9.3f}" + (f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures each memory, adds a line to the file for it, and prints what tells the kinds apart."""
    options = parse_options(Options, argv, program="python -m studies.traces", description=__doc__)
    if not set(options.forgotten) < set(options.classes) or options.other in options.classes:
        raise UserError(
            f"forgotten={options.forgotten} must be some of classes={options.classes}, and other={options.other} none"
        )
    keep_programs()
    name = find(options.data).preset
    settings = preset(name, options.variant)
    config = choosing.changed(settings, options.base)
    dataset = data.load(options.data, options.data_dir or data.default_folder()).resized(config.data.image_size)
    study, found = Study(config, dataset, options.runs), []
    facts = {"data": options.data, "variant": options.variant, "classes": list(options.classes), "other": options.other}
    for seed in parse_seeds(options.seeds, 0):
        for label in options.forgotten:
            for kind in KINDS:
                case = Case(options.classes, label, options.other, kind, seed)
                entry = facts | {"forgotten": label, "kind": kind, "seed": seed}
                measure = partial(study.measure, case)
                found.append(results.once(options.out, entry, config, (name, settings), measure))
                print(f"class {label}, {kind}, seed {seed}: {found[-1]['minutes']:.1f} min", flush=True)
    for line in report(found):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, resume="run the same command to resume"))
