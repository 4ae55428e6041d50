"""The page of a run, and of several side by side: one file of HTML that needs no network and no script."""

import base64
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.config import KEEPS_IMAGES
from dgm_jax.errors import UserError
from dgm_jax.metrics import privacy
from dgm_jax.runs.folder import Workdir
from dgm_jax.runs.reading import RunFiles, read
from dgm_jax.system import files

_PERCENT = 100
_GATES = {"open_share": "open gates", "sparsity": "free capacity in use"}


def write(workdir: str | Path) -> Path:
    """Writes `report.html` into the folder of a run, finished or not.

    Returns:
      The page.

    Raises:
      UserError: if the folder is no run's, or a file in it cannot be read.
    """
    out = Workdir(workdir).report
    files.write_atomically(out, page(read(workdir)))
    return out


def write_at_the_end(folder: Workdir, note: Callable[[str], None]) -> None:
    """Writes the page of a run that has just ended; what keeps it from being written is told, for the run is whole."""
    try:
        write(folder.path)
    except ModuleNotFoundError as error:
        note(f"no {folder.report.name}, for {error.name} is not installed")
    except Exception as error:  # Whatever it is: hours of training are not to end in a traceback of a page.
        note(f"no {folder.report.name}: {type(error).__name__}: {error}")


def page(run: RunFiles) -> str:
    """The page of one run."""
    from dgm_jax.reporting import charts  # Matplotlib is slow to import.

    drawn: dict[str, Any] = {"accuracy": None, "growth": None} | _training(run)
    if run.summary is not None:
        tasks = list(range(run.finished_tasks))
        last_whole = _untested(run)["last_untested"] + 1 if _untested(run)["untested"] else 0
        curves = {reading: _broken(tasks, _percents(run.averages(reading)), last_whole) for reading in run.readings}
        drawn["accuracy"] = charts.lines("accuracy after each task, %", curves, x="after task", y="A_t, %", high=100.5)
        drawn["growth"] = _growth(run)
    return _render(
        "run.html",
        title=f"{run.stream['dataset']}, {run.method}",
        run=run,
        charts=drawn,
        minutes=_duration(sum(run.summary.seconds.values()) if run.summary else 0),
        task_names=_task_names(run),
        grid=_grid(run),
        real=[list(map(_data_uri, run.real.get(index, []))) for index in range(len(run.names))] if run.real else None,
        retained=_retained(run),
        confusion=_confusion(run),
        privacy=_privacy(run),
        **_untested(run),
        keeps_images=KEEPS_IMAGES,
    )


def comparison(workdirs: Sequence[str | Path]) -> str:
    """The page of several runs.

    Raises:
      UserError: if a folder is named twice, is no run's, or a file in it cannot be read.
    """
    from dgm_jax.reporting import charts

    paths = [Path(workdir) for workdir in workdirs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{', '.join(map(str, paths))}: a run is there twice; name each once")
    runs = dict(zip(_short(paths), map(read, paths), strict=True))
    curves = {
        name: (list(range(run.finished_tasks)), _percents(run.averages(run.readings[0])))
        for name, run in runs.items()
        if run.summary is not None
    }
    sizes = {
        name: (tasks, [sum(row["weights"] for row in run.rows(t)) / 1000 for t in tasks])
        for name, run in runs.items()
        if (tasks := [t for t in range(run.finished_tasks) if run.rows(t)])
    }
    settings = {name: [run.config.get(name) for run in runs.values()] for name in next(iter(runs.values())).config}
    alike = {
        "data": lambda run: (run.stream["dataset"], run.stream.get("fingerprint")),
        "tasks": lambda run: run.stream["tasks"],
        "protocol": lambda run: run.protocol,
    }
    return _render(
        "comparison.html",
        title=f"{len(runs)} runs side by side",
        runs=runs,
        charts={
            "accuracy": charts.lines("accuracy after each task, %", curves, x="after task", y="A_t, %", high=100.5),
            "growth": sizes
            and charts.lines("weights, thousands", sizes, x="after task", y="weights, thousands", low=0),
        },
        differing=[
            what for what, of in alike.items() if any(of(a) != of(b) for a, b in itertools.pairwise(runs.values()))
        ],
        settings={name: values for name, values in settings.items() if any(v != values[0] for v in values)},
    )


def _render(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dgm_jax.reporting", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(size=_size, **values)


def _training(run: RunFiles) -> dict[str, Any]:
    """Charts of losses and gates over all epochs."""
    from dgm_jax.reporting import charts

    lines = run.epochs
    if not lines:
        return {"losses": None, "gates": None}
    places = [line["task"] + (line["epoch"] + 1) / run.config["epochs"] for line in lines]

    def series(names: Mapping[str, str], scale: float = 1) -> dict[str, tuple[list[float], list[float | None]]]:
        return {
            said: (places, [scale * line[name] if name in line else None for line in lines])
            for name, said in names.items()
            if any(name in line for line in lines)
        }

    losses = {name: name.removesuffix("_loss") for line in lines for name in line if name.endswith("_loss")}
    gates = series(_GATES, _PERCENT)
    return {
        "losses": charts.lines("losses", series(losses), x="task", y="loss", marks=False),
        "gates": gates and charts.lines("gates, %", gates, x="task", y="%", low=0, high=100.5, marks=False),
    }


def _growth(run: RunFiles) -> Any:
    from dgm_jax.reporting import charts

    tasks = [task for task in range(run.finished_tasks) if run.rows(task)]
    if not tasks:
        return None
    totals = [{part: sum(row[part] for row in run.rows(task)) for part in run.rows(task)[0]} for task in tasks]
    parts = {
        "re-used": [total["reused"] for total in totals],
        "new": [total["newly_reserved"] for total in totals],
        "reserved, closed": [total["gates"] - total["used"] - total["free"] for total in totals],
        "free": [total["free"] for total in totals],
    }
    return charts.stacked("gates used after each task", list(map(str, tasks)), parts, x="after task", y="gates")


def _grid(run: RunFiles) -> Sequence[tuple[str, list[str | None]]]:
    """A row for each class: the first image drawn of it after each task, as data URIs."""
    if not run.drawn:
        return []
    rows: list[tuple[str, list[str | None]]] = []
    for index, name in enumerate(run.names):
        cells = [_data_uri(then["images"][index, 0]) if index < len(then["images"]) else None for then in run.drawn]
        rows.append((name, cells))
    return rows


def _retained(run: RunFiles) -> dict[str, Any]:
    """How many images that were drawn again after a later task are equal bit for bit to the first ones."""
    compared = same = 0
    for earlier, later in itertools.pairwise(run.drawn):
        n = len(earlier["images"])
        equal = (earlier["images"] == later["images"][:n]).all(axis=(2, 3, 4))
        compared, same = compared + equal.size, same + int(equal.sum())
    return {"compared": compared, "same": same, "equal": compared == same}


def _confusion(run: RunFiles) -> dict[str, list[list[tuple[int, float]]]]:
    """Counts, and shares of the true class's images."""
    return {
        reading: [[(count, count / max(sum(row), 1)) for count in row] for row in rows]
        for reading, rows in (run.summary.confusion if run.summary else {}).items()
    }


def _untested(run: RunFiles) -> dict[str, int]:
    """How many classes seen have no test images at the end, and after which task that began."""
    if not run.finished_tasks:
        return {"untested": 0, "last_untested": 0}
    rows = run.matrices[run.readings[0]]
    missing = [row[: run.n_seen(task)].count(None) for task, row in enumerate(rows)]
    whole = [task for task, count in enumerate(missing) if not count]
    return {"untested": missing[-1], "last_untested": whole[-1] if whole else -1}


def _privacy(run: RunFiles) -> dict[str, Any] | None:
    """How many classes there are, which come nearer to their training images than chance explains, and copies."""
    rows = run.summary.privacy if run.summary else []
    if not rows:
        return None
    nearer = [privacy.is_nearer(row) for row in rows]
    return {
        "classes": len(rows),
        "nearer": [row["class"] for row, is_nearer in zip(rows, nearer, strict=True) if is_nearer],
        "unknown": nearer.count(None),
        "copies": sum(row["copies"] for row in rows),
    }


def _task_names(run: RunFiles) -> list[str]:
    names = []
    for task in range(run.finished_tasks):
        classes = run.names[run.n_seen(task - 1) : run.n_seen(task)]
        names.append(f"task {task}: {', '.join(classes[:3])}{' …' if len(classes) > 3 else ''}")
    return names


def _short(paths: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells them apart."""
    resolved = [path.resolve().parts for path in paths]
    depth = next(d for d in itertools.count(1) if len({parts[-d:] for parts in resolved}) == len(resolved))
    return ["/".join(parts[-depth:]) for parts in resolved]


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, format="PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _broken(
    places: Sequence[float], values: Sequence[float], at: int
) -> tuple[Sequence[float], Sequence[float | None]]:
    """A line with a gap before place number `at`, where what is averaged over changes; 0: none."""
    return ([*places[:at], at - 0.5, *places[at:]], [*values[:at], None, *values[at:]]) if at else (places, values)


def _percents(values: Sequence[float]) -> list[float]:
    return [_PERCENT * value for value in values]


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
