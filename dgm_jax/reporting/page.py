"""HTML pages of one run and of several runs side by side; each is one file that needs no network and no script."""

import base64
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.config import GENERATIVE, KEEPS_IMAGES
from dgm_jax.errors import UserError, naming_extras
from dgm_jax.metrics import privacy
from dgm_jax.reporting import charts
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import RunFiles, read
from dgm_jax.system import files

_GATE_METRICS = {"open_share": "open gates", "sparsity": "free capacity in use"}


@naming_extras()
def write(workdir: str | Path) -> Path:
    """Writes `report.html` into the folder of a run, finished or not.

    Returns:
      The path of the page.

    Raises:
      UserError: if the folder does not hold a run, or a file in it cannot be read.
    """
    out = Workdir(workdir).report
    files.write_atomically(out, page(read(workdir)))
    return out


def write_at_the_end(folder: Workdir, note: Callable[[str], None]) -> None:
    """Writes the page of a run that has just ended. A failure becomes a note, because the run itself is complete."""
    try:
        write(folder.path)
    except ModuleNotFoundError as error:
        note(f"no {folder.report.name}: {error}")
    except Exception as error:  # A failure to draw the page must never hide a finished run.
        note(f"no {folder.report.name}: {type(error).__name__}: {error}")


@naming_extras()
def page(run: RunFiles) -> str:
    """The page of one run."""
    n_untested, last_complete = _untested_classes(run)
    losses = {name: name.removesuffix("_loss") for line in run.epochs for name in line if name.endswith("_loss")}
    accuracy = growth = None
    if run.summary is not None:
        gap = last_complete + 1 if n_untested else 0
        curves = {reading: _curve(run.averages(reading), gap) for reading in run.readings}
        accuracy = _accuracy_chart(curves)
        growth = _growth_chart(run)
    return _render(
        "run.html",
        title=f"{run.stream['dataset']}, {run.method}",
        run=run,
        charts={
            "accuracy": accuracy,
            "growth": growth,
            "projection": _projection(run),
            "losses": _epoch_chart(run, "losses", losses, y="loss"),
            "gates": _epoch_chart(run, "gates, %", _GATE_METRICS, scale=100, y="%", low=0, high=100.5),
        },
        duration=_duration(sum(run.summary.seconds.values()) if run.summary else 0),
        task_names=_task_names(run),
        grid=_grid(run),
        real=None if run.are_vectors or not run.real else _real(run),
        retained=_retained(run),
        confusion=_confusion(run),
        privacy=_privacy(run),
        untested=n_untested,
        last_complete=last_complete,
        keeps_images=KEEPS_IMAGES,
        every=run.config.get("evaluate_every", 1),  # Runs of earlier versions evaluated after each task.
    )


@naming_extras()
def comparison(workdirs: Sequence[str | Path]) -> str:
    """The page of several runs.

    Raises:
      UserError: if a folder is named twice or does not hold a run, or a file in it cannot be read.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{', '.join(map(str, paths))}: the same run is named twice; name each run once")
    runs = dict(zip(_short_names(paths), map(read, paths), strict=True))
    curves = {name: _curve(run.averages(run.readings[0])) for name, run in runs.items() if run.summary is not None}
    weights = {
        name: (tasks, [sum(row["weights"] for row in run.rows(t)) / 1000 for t in tasks])
        for name, run in runs.items()
        if (tasks := [t for t in range(run.finished_tasks) if run.rows(t)])
    }
    names = dict.fromkeys(name for run in runs.values() for name in run.config)
    settings = {name: [run.config.get(name, "–") for run in runs.values()] for name in names}
    # Accuracies can be compared only if these are the same for all runs.
    comparable = {
        "data": [(run.stream["dataset"], run.stream.get("fingerprint")) for run in runs.values()],
        "tasks": [run.stream["tasks"] for run in runs.values()],
        "protocol": [run.protocol for run in runs.values()],
    }
    return _render(
        "comparison.html",
        title=f"{len(runs)} runs side by side",
        runs=runs,
        charts={
            "accuracy": _accuracy_chart(curves),
            "growth": weights
            and charts.lines("weights, thousands", weights, x="after task", y="weights, thousands", low=0),
        },
        differing=list(_differing(comparable)),
        settings=_differing(settings),
    )


def _differing(values: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Those entries whose values are not all equal."""
    return {name: of_runs for name, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}


def _render(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dgm_jax.reporting", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(size=_size, **values)


def _accuracy_chart(curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]]) -> Any:
    return charts.lines("accuracy after each task, %", curves, x="after task", y="A_t, %", high=100.5)


def _epoch_chart(run: RunFiles, title: str, names: Mapping[str, str], *, scale: float = 1, **axis: Any) -> Any:
    """Curves of those metrics that the run has, over all epochs; `names` are what the chart calls them."""
    # Methods that count steps have other epochs than the setting says.
    epochs = (
        run.config["epochs"] if run.config["method"] in GENERATIVE else 1 + max(line["epoch"] for line in run.epochs)
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
    """How many images, or vectors, that were drawn again after the next task equal the earlier ones bit for bit."""
    compared = same = 0
    kind = "vectors" if run.are_vectors else "images"
    for earlier, later in itertools.pairwise(after[kind] for after in run.drawn):
        equal = (earlier == later[: len(earlier)]).reshape(*earlier.shape[:2], -1).all(axis=2)
        compared, same = compared + equal.size, same + int(equal.sum())
    return {"compared": compared, "same": same, "equal": compared == same}


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


def _task_names(run: RunFiles) -> list[str]:
    names = []
    for task in range(run.finished_tasks):
        classes = run.names_of(task)
        names.append(f"task {task}: {', '.join(classes[:3])}{' …' if len(classes) > 3 else ''}")
    return names


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, just long enough to differ from each other."""
    resolved = [path.resolve().parts for path in paths]
    depth = next(d for d in itertools.count(1) if len({parts[-d:] for parts in resolved}) == len(resolved))
    return ["/".join(parts[-depth:]) for parts in resolved]


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, format="PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _curve(values: Sequence[float | None], gap: int = 0) -> tuple[list[float], list[float | None]]:
    """Percents after the tasks that were measured; interrupted before task number `gap`, if that is not 0."""
    points: dict[float, float | None] = {t: 100 * value for t, value in enumerate(values) if value is not None}
    if gap:
        points[gap - 0.5] = None
    places = sorted(points)
    return places, [points[place] for place in places]


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
