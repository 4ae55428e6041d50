"""`python -m dgm_jax ...`: what one does before and after a run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dgm_jax.errors import UserError, exit_status

if TYPE_CHECKING:
    import jax

    from dgm_jax import Memory

_COLUMNS = 16  # Of a picture of samples; more images of a class go to further rows.
_MOST_IN_PICTURE = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 2 after an error that the user can mend."""
    arguments = _parser().parse_args(argv)
    return exit_status(lambda: arguments.command(arguments), debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dgm_jax", description="What one does before and after a run.")
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show where an error comes from")
    of_memory = argparse.ArgumentParser(add_help=False)
    of_memory.add_argument("workdir", metavar="WORKDIR", type=Path, help="the folder of the run, or an exported file")
    of_memory.add_argument(
        "--after-task", type=int, metavar="K", help="the memory as it was after task K; the first is 0 (default: now)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sample = commands.add_parser(
        "sample",
        parents=[debug, of_memory],
        help="draw images of learnt classes from a run's memory",
        description="Draws images of learnt classes from the memory of a run, and writes them as one picture, or each "
        "as a file of its own.",
    )
    sample.add_argument(
        "--classes", nargs="+", required=True, metavar="CLASS", help="classes, as the data set labels them, or by name"
    )
    sample.add_argument("--n", type=int, default=64, help="images of each class (default: 64)")
    sample.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE|FOLDER",
        help="the picture to write, e.g. grid.png; or a folder (any other name) for OUT/CLASS/000000.png and so on",
    )
    sample.add_argument("--seed", type=_seed, default=0, help="another seed draws other images (default: 0)")
    sample.set_defaults(command=_sample)

    report = commands.add_parser(
        "report",
        parents=[debug],
        help="write the page of a run, finished or not, or of several side by side",
        description="Writes one page that tells how a run went, to be opened in a browser; of several runs, a page "
        "that compares them. It needs no network.",
    )
    report.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+", help="the folder of a run")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page to write (default: WORKDIR/report.html; of several runs, comparison.html)",
    )
    report.set_defaults(command=_report)

    predict = commands.add_parser(
        "predict",
        parents=[debug],
        help="tell the class of images",
        description="Tells, for each image file, its class among those that a run has learnt, by the run's classifier.",
    )
    predict.add_argument("workdir", metavar="WORKDIR", type=Path, help="the folder of the run")
    predict.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="an image file")
    predict.add_argument(
        "--reading",
        choices=("consolidated", "auxiliary"),
        default="consolidated",
        help="which classifier (default: consolidated)",
    )
    predict.set_defaults(command=_predict)

    export = commands.add_parser(
        "export",
        parents=[debug, of_memory],
        help="write a run's memory as one file, to ship it",
        description="Writes the memory of a run as one file, with only what drawing from it needs; docs/formats.md "
        "describes it. Load it by dgm_jax.load_memory(FILE).",
    )
    export.add_argument("out", metavar="FILE", type=Path, help="the file to write, e.g. memory.dgm")
    export.add_argument(
        "--to",
        choices=("dgm", "npz", "stablehlo"),
        default="dgm",
        help="dgm: our own format; npz: its arrays, for NumPy; stablehlo: a program that draws, for JAX without us "
        "(default: dgm)",
    )
    export.set_defaults(command=_export)

    prepare = commands.add_parser(
        "prepare",
        parents=[debug],
        help="make a data set readable: download it, or rewrite its tfrecord files",
        description="Downloads a data set through TFDS, or rewrites its tfrecord files, in the array_record format "
        "that runs read. This alone needs TensorFlow: python -m pip install -r requirements-prepare.txt",
    )
    prepare.add_argument("name", metavar="NAME", help="mnist, cifar10, svhn or imagenet32")
    prepare.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="where TFDS keeps its data sets")
    prepare.set_defaults(command=_prepare)
    return parser


def _seed(text: str) -> int:
    if not 0 <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to {2**32 - 1}")
    return int(text)


def _sample(arguments: argparse.Namespace) -> None:
    # Everything that can be refused is refused before the slow imports and the drawing.
    n, out = arguments.n, arguments.out
    if n < 1:
        raise UserError(f"--n {n}: expected at least 1 image of each class")
    _require_memory(arguments.workdir)
    in_picture = out.suffix.lower() == ".png"
    if in_picture:
        _require_place(out, "--out ", "grid.png")
        if n * len(arguments.classes) > _MOST_IN_PICTURE:
            raise UserError(
                f"--n {n}: more than {_MOST_IN_PICTURE:,} images are no picture; give a folder, e.g. --out "
                f"{out.with_suffix('')}, for a file each"
            )
    elif out.is_file() or (out.suffix and not out.is_dir()):
        raise UserError(f"--out {out}: expected a picture's name that ends in .png, or a folder")

    import jax

    import dgm_jax
    from dgm_jax.data import pictures as images

    memory = dgm_jax.load_memory(arguments.workdir, after_task=arguments.after_task)
    known = dict(zip(memory.labels[: memory.n_classes], memory.names))
    said = {label: str(label) if str(label) == name else f"{label} {name}" for label, name in known.items()}
    by_word = {str(label): label for label in known}
    for label, name in known.items():
        if by_word.setdefault(name, label) != label and name in arguments.classes:
            raise UserError(
                f"--classes {name}: {name} is the label of class {known[by_word[name]]!r}, and the name of the class "
                f"of label {label}; say {label} for the latter, {known[by_word[name]]} for the former"
            )
    unknown = [word for word in arguments.classes if word not in by_word]
    if unknown:
        raise UserError(f"--classes {' '.join(unknown)}: unknown to the memory; it knows {', '.join(said.values())}")
    labels = list(dict.fromkeys(by_word[word] for word in arguments.classes))
    key = jax.random.key(arguments.seed)
    if in_picture:
        rows = {said[label]: memory.sample(label, n, key) for label in labels}
        images.write_png(out, images.labelled_grid(rows, columns=min(n, _COLUMNS)))
    else:
        _write_each(memory, labels, n, key, out)
    print(f"{n} images of each of {len(labels)} classes are in {out}")


def _write_each(memory: "Memory", labels: Sequence[int], n: int, key: "jax.Array", out: Path) -> None:
    """A file for each image, part by part: there may be more than memory holds."""
    from tqdm import tqdm

    from dgm_jax.data import pictures as images

    full = [
        str(out / str(label)) for label in labels if (out / str(label)).is_dir() and any((out / str(label)).iterdir())
    ]
    if full:
        raise UserError(f"--out {out}: {', '.join(full)} holds files already; choose another folder")
    with tqdm(total=n * len(labels), unit="image") as bar:
        for label in labels:
            folder = out / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            done = 0
            for part in memory.stream(label, n, key):
                for image in images.to_uint8(part):
                    images.write_png(folder / f"{done:06}.png", image)
                    done += 1
                bar.update(len(part))


def _report(arguments: argparse.Namespace) -> None:
    several = len(arguments.workdirs) > 1
    out = arguments.out or (Path("comparison.html") if several else arguments.workdirs[0] / "report.html")
    for workdir in arguments.workdirs:
        _require_run(workdir)
    _require_place(out, "--out " if arguments.out else "", "report.html")

    from dgm_jax.reporting import page as report
    from dgm_jax.runs.reading import read
    from dgm_jax.system import files

    try:
        text = report.comparison(arguments.workdirs) if several else report.page(read(arguments.workdirs[0]))
    except ModuleNotFoundError as error:
        raise UserError(
            f"a page needs {error.name}, which is not installed: python -m pip install {error.name}"
        ) from error
    files.write_atomically(out, text)
    print(f"the page is {out}")


def _predict(arguments: argparse.Namespace) -> None:
    _require_run(arguments.workdir)
    for path in arguments.images:
        if not path.is_file():
            raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected image files")

    from dgm_jax.data.folders import read_images
    from dgm_jax.loading import load_classifier

    classifier = load_classifier(arguments.workdir, reading=arguments.reading)
    height, _, channels = classifier.image_shape
    labels, probabilities = classifier.predict(read_images(arguments.images, size=height, channels=channels))
    names = dict(zip(classifier.labels, classifier.names))
    for path, label, share in zip(arguments.images, labels, probabilities.max(axis=1)):
        print(f"{path}\t{label}\t{names[label]}\t{share:.3f}")


def _require_run(path: Path) -> None:
    if path.is_file():
        raise UserError(f"{path} is a file; expected the --workdir of a run (an exported memory holds nothing else)")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected the --workdir of a run")


def _export(arguments: argparse.Namespace) -> None:
    _require_memory(arguments.workdir)
    _require_place(arguments.out, "", "memory.dgm")

    import dgm_jax
    from dgm_jax.memory import export
    from dgm_jax.memory import file as memory_file
    from dgm_jax.system import files

    memory = dgm_jax.load_memory(arguments.workdir, after_task=arguments.after_task)
    encode = {"dgm": memory_file.encode, "npz": export.to_npz, "stablehlo": export.to_stablehlo}[arguments.to]
    content = encode(memory)
    files.write_atomically(arguments.out, content)
    print(f"{arguments.out}: {memory.n_classes} classes in {len(content):,} bytes ({arguments.to})")


def _require_memory(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such folder or file; expected the --workdir of a run, or an exported memory")


def _require_place(out: Path, option: str, example: str) -> None:
    if not out.absolute().parent.is_dir():
        raise UserError(f"{option}{out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise UserError(f"{option}{out} is a folder; expected a file, e.g. {out / example}")


def _prepare(arguments: argparse.Namespace) -> None:
    from dgm_jax.data.prepare import prepare

    print(f"{arguments.name} is ready in {prepare(arguments.name, arguments.data_dir)}")


if __name__ == "__main__":
    sys.exit(main())
