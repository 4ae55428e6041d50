"""The HTML page of a run: one file that needs no network and no script."""

import base64
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.config import GENERATIVE, KEEPS_IMAGES
from dgm_jax.errors import naming_extras
from dgm_jax.metrics import privacy
from dgm_jax.reporting import charts, rendering, settings
from dgm_jax.reporting.side_by_side import comparison as comparison
from dgm_jax.runs.comparing import FEATURES, bytes_of_reading, compared_readings
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import RunFiles, read
from dgm_jax.system import files

_GATE_METRICS = {"open_share": "open gates", "sparsity": "free capacity in use"}


@naming_extras()
def write(workdir: str | Path) -> Path:
    """Writes `report.html` into the folder of a run, finished or not, or of several seeds of a run.

    Returns:
      The path of the page.

    Raises:
      UserError: if the folder does not hold a run, or a file in it cannot be read.
    """
    out = Workdir(workdir).report
    files.write_atomically(out, of_folder(workdir))
    return out


def write_at_the_end(folder: Workdir, note: Callable[[str], None]) -> None:
    """Writes the page of what has just ended. A failure becomes a note, because the run itself is complete."""
    try:
        write(folder.path)
    except ModuleNotFoundError as error:
        note(f"no {folder.report.name}: {error}")
    except Exception as error:  # A failure to draw the page must never hide a finished run.
        note(f"no {folder.report.name}: {type(error).__name__}: {error}")


def of_folder(workdir: str | Path) -> str:
    """The page of the folder of a run, or of several seeds of a run; raises UserError as `write`."""
    folder = Workdir(workdir)
    several = not folder.config.exists() and folder.seeds()
    return comparison([workdir]) if several else page(read(workdir))


@naming_extras()
def page(run: RunFiles) -> str:
    """The page of one run."""
    n_untested, last_complete = _untested_classes(run)
    losses = {name: name.removesuffix("_loss") for line in run.epochs for name in line if name.endswith("_loss")}
    accuracy = growth = None
    if run.summary is not None:
        gap = last_complete + 1 if n_untested else 0
        accuracy = rendering.accuracy_chart(
            {reading: rendering.curve(run.averages(reading), gap) for reading in run.readings}
        )
        growth = _growth_chart(run)
    return rendering.render(
        "run.html",
        title=f"{run.stream['dataset']}, {run.method}",
        run=run,
        charts={
            "accuracy": accuracy,
            "growth": growth,
            "projection": _projection(run),
            "losses": _epoch_chart(run, "losses", losses, y="loss"),
            "gates": _epoch_chart(run, "gates, %", _GATE_METRICS, scale=100, y="%", low=0, high=100),
        },
        duration=rendering.duration(sum(run.summary.seconds.values()) if run.summary else 0),
        task_names=_task_names(run),
        classes_of_tasks=[run.names_of(task) for task in range(run.finished_tasks)],
        grid=_grid(run),
        real=None if run.are_vectors or not run.real else _real(run),
        retained=_retained(run),
        confusion=_confusion(run),
        privacy=_privacy(run),
        compared=_compared(run),
        of_features=FEATURES,
        from_preset=settings.from_preset(run),
        groups=settings.grouped(run.config),
        untested=n_untested,
        last_complete=last_complete,
        keeps_images=KEEPS_IMAGES,
        every=run.config.get("evaluate_every", 1),  # Runs of earlier versions evaluated after each task.
    )


def _epoch_chart(run: RunFiles, title: str, names: Mapping[str, str], *, scale: float = 1, **axis: Any) -> Any:
    """Curves of those metrics that the run has, over all epochs; `names` are what the chart calls them."""
    # Methods that count steps have other epochs than the setting says.
    epochs = (
        run.config["epochs"]
        if run.config["method"] in GENERATIVE
        else 1 + max((line["epoch"] for line in run.epochs), default=0)
    )
    places = [line["task"] + (line["epoch"] + 1) / epochs for line in run.epochs]
    curves = {
        label: (places, [scale * line[name] if name in line else None for line in run.epochs])
        for name, label in names.items()
        if any(name in line for line in run.epochs)
    }
    return curves and charts.lines(title, curves, x="task", marks=False, **axis)


def _growth_chart(run: RunFiles) -> Any:
    tasks = [task for task in range(run.finished_tasks) if run.rows(task)]
    if not tasks:
        return None
    totals = [{part: sum(row[part] for row in run.rows(task)) for part in run.rows(task)[0]} for task in tasks]
    parts = {
        "reused": [total["reused"] for total in totals],
        "new": [total["newly_reserved"] for total in totals],
        "reserved, closed": [total["gates"] - total["used"] - total["free"] for total in totals],
        "free": [total["free"] for total in totals],
    }
    return charts.stacked("gates used after each task", list(map(str, tasks)), parts, x="after task", y="gates")


def _grid(run: RunFiles) -> Sequence[tuple[str, list[str | None]]]:
    """For each class, its first generated image after each task, as data URIs; None before the class was learnt."""
    if not run.drawn or run.are_vectors:
        return []
    rows: list[tuple[str, list[str | None]]] = []
    for index, name in enumerate(run.names):
        images = [after["images"] for after in run.drawn]
        rows.append((name, [_data_uri(drawn[index, 0]) if index < len(drawn) else None for drawn in images]))
    return rows


def _real(run: RunFiles) -> list[list[str]]:
    """The real images of each class, as data URIs."""
    return [list(map(_data_uri, run.real.get(index, []))) for index in range(len(run.names))]


def _projection(run: RunFiles) -> Any:
    """Vectors drawn after the newest task, and real ones that are kept, on the plane in which the drawn vary most."""
    if not run.drawn or not run.are_vectors:
        return None
    drawn = run.drawn[-1]["vectors"].astype(np.float64)
    mean = drawn.mean(axis=(0, 1))
    axes = np.linalg.svd(drawn.reshape(-1, len(mean)) - mean, full_matrices=False)[2][:2].T

    def on_plane(vectors: np.ndarray) -> np.ndarray:
        return (vectors - mean) @ axes

    clouds = {name: on_plane(own) for name, own in zip(run.names, drawn)}
    real = {run.names[index]: on_plane(own) for index, own in run.real.items() if index < len(drawn)}
    return charts.points("drawn vectors on a plane", clouds, real, x="first principal axis", y="second")


def _retained(run: RunFiles) -> dict[str, Any]:
    """How many images, or vectors, that were drawn again after the next task equal the earlier ones bit for bit.

    Where that task brought more images of a class, the class is left out: some of its images then come from a new mode.
    """
    compared = same = 0
    kind, more = "vectors" if run.are_vectors else "images", False
    for task, (earlier, later) in enumerate(itertools.pairwise(after[kind] for after in run.drawn), start=1):
        stays = [name not in run.names_of(task) for name in run.names[: len(earlier)]]
        equal = (earlier == later[: len(earlier)])[stays].all(axis=tuple(range(2, earlier.ndim)))
        compared, same, more = compared + equal.size, same + int(equal.sum()), more or not all(stays)
    return {"things": kind, "compared": compared, "same": same, "equal": compared == same, "left_out": more}


def _confusion(run: RunFiles) -> dict[str, list[list[tuple[int, float]]]]:
    """By reading, the confusion matrix as counts and as shares of the images of the true class."""
    return {
        reading: [[(count, count / max(sum(row), 1)) for count in row] for row in rows]
        for reading, rows in (run.summary.confusion if run.summary else {}).items()
    }


def _untested_classes(run: RunFiles) -> tuple[int, int]:
    """How many of the classes seen have no test images now, and the last task after which all had some (-1: none)."""
    if not run.finished_tasks:
        return 0, 0
    rows = enumerate(run.matrices[run.readings[0]])
    missing = {task: row[: run.n_seen(task)].count(None) for task, row in rows if any(a is not None for a in row)}
    if not missing:  # No task was evaluated yet.
        return 0, 0
    return missing[max(missing)], max((task for task, count in missing.items() if not count), default=-1)


def _privacy(run: RunFiles) -> dict[str, Any] | None:
    """The classes whose images are nearer to training images than chance explains, and how many are exact copies."""
    rows = run.summary.privacy if run.summary else []
    if not rows:
        return None
    verdicts = [privacy.is_nearer(row) for row in rows]
    return {
        "classes": len(rows),
        "nearer": [row["class"] for row, is_nearer in zip(rows, verdicts, strict=True) if is_nearer],
        "unknown": verdicts.count(None),
        "copies": sum(row["copies"] for row in rows),
    }


def _compared(run: RunFiles) -> dict[str, float]:
    """The readings by which a run is compared, and the bytes that each needs."""
    if run.summary is None:
        return {}
    memory = run.summary.bytes["memory"]
    return {reading: bytes_of_reading(memory, reading) for reading in compared_readings(run.method, run.summary)}


def _task_names(run: RunFiles) -> list[str]:
    names = []
    for task in range(run.finished_tasks):
        classes = run.names_of(task)
        names.append(f"task {task}: {', '.join(classes[:3])}{' …' if len(classes) > 3 else ''}")
    return names


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, format="PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
