"""What the table compares: data sets, methods with their arguments, and changes of DGM."""

from dataclasses import dataclass, field
from typing import get_args

from dgm_jax.config import Method


@dataclass(frozen=True)
class Compared:
    """A method of the table."""

    arguments: tuple[str, ...]
    as_large_as: tuple[str, str] | None = None  # The row and reading whose bytes it gets; None: its settings say.
    in_quick: bool = True  # Whether --quick has it.
    wider: float = 1  # How many times as wide as its settings say the generator is.
    at_once: bool = False  # Whether it learns all classes in one task, for as many steps as bring anything.


@dataclass(frozen=True)
class Data:
    """A data set of the table, as a stream of tasks."""

    experiment: str
    arguments: tuple[str, ...]
    classes: int
    # Of joint training, doubled until two doublings in a row brought less than 0.3 points (`studies.steps`). CIFAR-10
    # was not doubled further than this; Fashion-MNIST, SVHN and ImageNet-50 have the steps of data like them.
    ceiling_steps: int
    quick: dict[str, int]  # Settings of --quick.
    chosen: dict[str, tuple[str, ...]] = field(default_factory=dict)  # Method -> settings chosen on held-out images.


_FIFTY = ("--classes", "first:50")
_PAIRS = ("--classes-per-task", "2")
_SHORT_NOISE: dict[str, tuple[str, ...]] = {
    "separate": ("--noise-dim", "12")
}  # In small generators most weights read the noise.
DATA = {
    "digits": Data("digits", (), 10, 12_800, {}, _SHORT_NOISE),
    "mnist-500": Data("mnist", ("--train-per-class", "500"), 10, 6_400, {"epochs": 10}, _SHORT_NOISE),
    "mnist": Data("mnist", (), 10, 25_600, {"epochs": 1}),
    "fashion": Data("fashion", (), 10, 25_600, {"epochs": 5}),
    "fashion-pairs": Data("fashion", _PAIRS, 10, 25_600, {"epochs": 5}),
    "svhn": Data("svhn", (), 10, 409_600, {"epochs": 5}),
    "cifar10": Data("cifar10", (), 10, 409_600, {"epochs": 5}),
    "cifar10-pairs": Data("cifar10", _PAIRS, 10, 409_600, {"epochs": 5}),
    "imagenet50": Data("imagenet50", _FIFTY, 50, 409_600, {"epochs": 1}),  # The images of --images.
    "imagenet50-stand-in": Data("imagenet50", _FIFTY, 50, 409_600, {"epochs": 1}),  # Others, in --data-dir.
}
QUICK = {"consolidation_steps": 800}  # Of all data.
_SIZED = ("er-balanced", "icarl", "gdumb")  # With 200 images, with as many bytes as DGM, and with as many of JPEG.
_GENERATORS = ("dgr", "mergan", "mergan-jtr")
_BEST = ("--preset", "best")
_ARGUMENTS = {  # Name -> arguments.
    "joint": (*_BEST, "--method", "joint"),
    "dgma": (*_BEST, "--variant", "dgma", "--combined"),
    "dgmw": (*_BEST, "--variant", "dgmw", "--combined"),
    **{
        method: (*_BEST, "--method", method)
        for method in get_args(Method)
        if method not in ("dgm", "joint", "separate")
    },
    "er-balanced": (*_BEST, "--method", "er", "--mini-batches", "balanced"),
}
_MEMORY, _WHOLE = ("dgmw", "consolidated"), ("dgmw", "combined")
COMPARED = {
    "ceiling": Compared(_ARGUMENTS["joint"], at_once=True),
    **{name: Compared(arguments) for name, arguments in _ARGUMENTS.items()},
    "dgmw-unmasked-as-dgmw": Compared(
        (*_BEST, "--variant", "dgmw", "--masks", "none", "--no-warm-start", "--no-combined"), _MEMORY, in_quick=False
    ),
    "separate": Compared((*_BEST, "--method", "separate", "--variant", "dgmw", "--combined"), _MEMORY),
    **{f"{name}-as-dgmw": Compared(_ARGUMENTS[name], _MEMORY, in_quick=False) for name in (*_GENERATORS, *_SIZED)},
    **{
        f"{name}-jpeg-as-dgmw": Compared((*_ARGUMENTS[name], "--memory-format", "jpeg"), _MEMORY, in_quick=False)
        for name in _SIZED
    },
    "analytic-as-combined": Compared(_ARGUMENTS["analytic"], _WHOLE, in_quick=False),
}
# DGM with generators of three sizes, and for each of them other methods with as many bytes.
_SIZES = {"dgmw-half": 0.5, "dgmw": 1, "dgmw-double": 2}
BUDGETS = {
    "ceiling": COMPARED["ceiling"],
    "joint": COMPARED["joint"],
    **{size: Compared(_ARGUMENTS["dgmw"], wider=wider) for size, wider in _SIZES.items()},
    **{
        f"{name}-as-{size}{'-combined' * (reading == 'combined')}": Compared(arguments, (size, reading))
        for name, arguments, reading in (
            ("separate", COMPARED["separate"].arguments, "consolidated"),
            ("icarl-jpeg", COMPARED["icarl-jpeg-as-dgmw"].arguments, "consolidated"),
            ("gdumb-jpeg", COMPARED["gdumb-jpeg-as-dgmw"].arguments, "consolidated"),
            ("er-balanced-jpeg", COMPARED["er-balanced-jpeg-as-dgmw"].arguments, "consolidated"),
            ("analytic", _ARGUMENTS["analytic"], "combined"),
        )
        for size in _SIZES
    },
}
ABLATIONS = {  # What the paper claims, one part changed at a time.
    f"{variant}: {change}": Compared(("--variant", variant, *arguments))
    for variant in ("dgma", "dgmw")
    for change, arguments in {
        "as it is": (),
        "no expansion": ("--no-expansion",),
        "random masks": ("--masks", "random"),
        "no masks": ("--masks", "none"),
        "no re-use": ("--no-reuse",),
        "masks learnt to the end": ("--mask-share", "1"),
        "no sparsity": ("--sparsity-weight", "0"),
        "strong sparsity": ("--sparsity-weight", "0.4" if variant == "dgma" else "0.16"),  # Twice that of digits.
        "slope up to 100": ("--scale-max", "100"),
        "slope up to 10,000": ("--scale-max", "10000"),
        "slope anneals within epochs": ("--anneal-within-epoch",),
        "gate gradient: product": ("--gate-gradient", "product"),
        "fresh replay": ("--replay", "fresh"),
        **({"gate before norm": ("--gate-position", "before_norm")} if variant == "dgma" else {}),
    }.items()
}
