"""Writes the numbers and pictures of a run for TensorBoard; they are the same as in metrics.jsonl and samples/."""

from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.errors import naming_extras
from dgm_jax.runs.events import Callback, EpochEnd, RunEnd, RunStart, TaskEnd


class TensorBoard(Callback):
    """Writes event files into `tensorboard/` in the folder of the run.

    The horizontal axis counts epochs over all tasks. If several seeds are trained at once, metrics of an epoch are
    means over the seeds, and results after a task are written for each seed, with names such as
    "seed0/A/consolidated/macro".
    """

    @naming_extras()
    def __init__(self) -> None:
        """Checks that tensorboardX is installed.

        Raises:
          MissingExtra: if it is not.
        """
        from tensorboardX import SummaryWriter

        self._new_writer = SummaryWriter
        self._writer: Any = None
        self._workdir = Path()
        self._epochs = 1
        self._several_seeds = False

    def on_run_start(self, event: RunStart) -> None:
        """Opens a file. Epochs that an interrupted session wrote and that are now repeated are hidden."""
        self._workdir, self._epochs, self._several_seeds = event.workdir, event.epochs, len(event.seeds) > 1
        task, epochs_done = event.resumed_from or (0, 0)
        self._writer = self._new_writer(
            str(event.workdir / "tensorboard"), purge_step=task * self._epochs + epochs_done + 1
        )

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Writes the metrics of the epoch."""
        step = event.task * self._epochs + event.epoch + 1
        for name, value in event.metrics.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        self._writer.flush()  # Otherwise an interrupt would lose queued values.

    def on_task_end(self, event: TaskEnd) -> None:
        """Writes accuracies, forgetting, widths, and the picture of generated images."""
        step = (event.task + 1) * self._epochs
        prefix = f"seed{event.seed}/" if self._several_seeds else ""
        scalars: dict[str, float | None] = dict(event.metrics)
        scalars |= {f"A/{reading}/{kind}": v for reading, means in event.average.items() for kind, v in means.items()}
        scalars |= {f"forgetting/{reading}": value for reading, value in event.forgetting.items()}
        scalars |= {f"width/{layer}": width for layer, width in enumerate(event.widths, start=1)}
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(prefix + name, value, step)
        folder = self._workdir / prefix / "samples"
        picture = folder / f"after_task_{event.task:02d}.png"
        if picture.exists():
            from PIL import Image

            with Image.open(picture) as image:
                self._writer.add_image(f"{prefix}memory", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def on_run_end(self, event: RunEnd) -> None:
        """Closes the file."""
        del event
        if self._writer is not None:  # None if the run was already finished.
            self._writer.close()
