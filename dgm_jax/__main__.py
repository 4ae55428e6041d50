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
    if not arguments.workdir.is_dir():
        raise UserError(f"{arguments.workdir}: no such folder; expected the --workdir of a run")
    if not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out {arguments.out}: there is no folder {arguments.out.parent}; make it first")
    if arguments.out.is_dir():
        raise UserError(f"--out {arguments.out} is a folder; expected a file, e.g. {arguments.out / 'grid.png'}")

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


def _prepare(arguments: argparse.Namespace) -> None:
    from dgm_jax.data.prepare import prepare

    print(f"{arguments.name} is ready in {prepare(arguments.name, arguments.data_dir)}")


if __name__ == "__main__":
    sys.exit(main())
