"""`python -m dgm_jax ...`: what one does before and after a run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dgm_jax.errors import UserError, exit_status

_COLUMNS = 16  # Of a picture of samples; more images of a class go to further rows.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 2 after an error that the user can mend."""
    arguments = _parser().parse_args(argv)
    return exit_status(lambda: arguments.command(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dgm_jax", description="What one does before and after a run.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sample = commands.add_parser(
        "sample",
        help="draw images of learnt classes from a run's memory",
        description="Draws images of learnt classes from the memory of a run, and writes them as one picture.",
    )
    sample.add_argument("workdir", metavar="WORKDIR", type=Path, help="the folder of the run")
    sample.add_argument(
        "--classes", type=int, nargs="+", required=True, metavar="LABEL", help="classes, as the data set labels them"
    )
    sample.add_argument("--n", type=int, default=64, help="images of each class (default: 64)")
    sample.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture to write, e.g. grid.png")
    sample.add_argument(
        "--after-task", type=int, metavar="K", help="the memory as it was after task K; the first is 0 (default: now)"
    )
    sample.add_argument("--seed", type=int, default=0, help="another seed draws other images (default: 0)")
    sample.set_defaults(command=_sample)

    report = commands.add_parser(
        "report",
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
        help="write a run's memory as one file, to ship it",
        description="Writes the memory of a run as one file, with only what drawing from it needs; docs/formats.md "
        "describes it. Load it by dgm_jax.load_memory(FILE).",
    )
    export.add_argument("workdir", metavar="WORKDIR", type=Path, help="the folder of the run, or an exported file")
    export.add_argument("out", metavar="FILE", type=Path, help="the file to write, e.g. memory.dgm")
    export.add_argument(
        "--to",
        choices=("dgm", "npz", "stablehlo"),
        default="dgm",
        help="dgm: our own format; npz: its arrays, for NumPy; stablehlo: a program that draws, for JAX without us "
        "(default: dgm)",
    )
    export.add_argument(
        "--after-task", type=int, metavar="K", help="the memory as it was after task K; the first is 0 (default: now)"
    )
    export.set_defaults(command=_export)

    prepare = commands.add_parser(
        "prepare",
        help="make a data set readable: download it, or rewrite its tfrecord files",
        description="Downloads a data set through TFDS, or rewrites its tfrecord files, in the array_record format "
        "that runs read. This alone needs TensorFlow: python -m pip install -r requirements-prepare.txt",
    )
    prepare.add_argument("name", metavar="NAME", help="mnist, cifar10, svhn or imagenet32")
    prepare.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="where TFDS keeps its data sets")
    prepare.set_defaults(command=_prepare)
    return parser


def _sample(arguments: argparse.Namespace) -> None:
    # Everything that can be refused is refused before the slow imports and the drawing.
    if arguments.n < 1:
        raise UserError(f"--n {arguments.n}: expected at least 1 image of each class")
    _require_memory(arguments.workdir)
    _require_place(arguments.out, "--out ", "grid.png")

    import jax

    import dgm_jax
    from dgm_jax import images

    memory = dgm_jax.load_memory(arguments.workdir, after_task=arguments.after_task)
    names = [str(label) for label in memory.labels]
    if memory.names:
        names = [label if label == name else f"{label} {name}" for label, name in zip(names, memory.names)]
    known = dict(zip(memory.labels[: memory.n_classes], names))
    unknown = [str(label) for label in arguments.classes if label not in known]
    if unknown:
        raise UserError(f"--classes {' '.join(unknown)}: unknown to the memory; it knows {', '.join(known.values())}")

    key = jax.random.key(arguments.seed)
    rows = {known[label]: memory.sample(label, arguments.n, key) for label in arguments.classes}
    images.write_png(arguments.out, images.labelled_grid(rows, columns=min(arguments.n, _COLUMNS)))
    print(f"{arguments.n} images of each of {len(rows)} classes are in {arguments.out}")


def _report(arguments: argparse.Namespace) -> None:
    several = len(arguments.workdirs) > 1
    out = arguments.out or (Path("comparison.html") if several else arguments.workdirs[0] / "report.html")
    for workdir in arguments.workdirs:
        _require_run(workdir)
    _require_place(out, "--out " if arguments.out else "", "report.html")

    from dgm_jax import files, report
    from dgm_jax.report.reading import read

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
    missing = [str(path) for path in arguments.images if not path.is_file()]
    if missing:
        raise UserError(f"{', '.join(missing[:5])}: no such file; expected image files")

    from dgm_jax.classifier import load_classifier
    from dgm_jax.data.folders import read_images

    classifier = load_classifier(arguments.workdir, reading=arguments.reading)
    height, _, channels = classifier.image_shape
    labels, probabilities = classifier.predict(read_images(arguments.images, size=height, channels=channels))
    names = dict(zip(classifier.labels, classifier.names))
    for path, label, share in zip(arguments.images, labels, probabilities.max(axis=1)):
        print(f"{path}\t{label}\t{names[label]}\t{share:.3f}")


def _require_run(path: Path) -> None:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected the --workdir of a run")


def _export(arguments: argparse.Namespace) -> None:
    _require_memory(arguments.workdir)
    _require_place(arguments.out, "", "memory.dgm")

    import dgm_jax
    from dgm_jax import export, files, memory_file

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
