"""A run's numbers and pictures as TensorBoard reads them: the same as in metrics.jsonl and samples/."""

from pathlib import Path
from typing import Any

import numpy as np

from dgm_jax.errors import UserError
from dgm_jax.runs.events import Callback, EpochEnd, RunEnd, RunStart, TaskEnd


class TensorBoard(Callback):
    """Writes event files into `tensorboard/` in the folder of the run.

    The horizontal axis counts epochs over all tasks. Of several seeds, what is measured after a task stands under the
    seed's number, and the metrics of an epoch are their mean.
    """

    def __init__(self) -> None:
        """Makes sure that tensorboardX is there.

        Raises:
          UserError: if it is not.
        """
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise UserError(
                f"TensorBoard's files need {error.name}, which is not installed: python -m pip install tensorboardX"
            ) from error
        self._new_writer = SummaryWriter
        self._writer: Any = None
        self._workdir = Path()
        self._epochs = 1
        self._several = False

    def on_run_start(self, event: RunStart) -> None:
        """Opens a file; what an interrupted sitting wrote of epochs that are done again is hidden."""
        self._workdir, self._epochs, self._several = event.workdir, event.epochs, len(event.seeds) > 1
        task, epochs_done = event.resumed_from or (0, 0)
        self._writer = self._new_writer(
            str(event.workdir / "tensorboard"), purge_step=task * self._epochs + epochs_done + 1
        )

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Writes the epoch's metrics."""
        step = event.task * self._epochs + event.epoch + 1
        for name, value in event.metrics.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        self._writer.flush()  # An interrupt would lose what is still in its queue.

    def on_task_end(self, event: TaskEnd) -> None:
        """Writes accuracies, forgetting, widths, and the picture of what the memory draws."""
        step = (event.task + 1) * self._epochs
        prefix = f"seed{event.seed}/" if self._several else ""
        scalars = {
            **{f"A/{reading}/{kind}": v for reading, means in event.average.items() for kind, v in means.items()},
            **{f"forgetting/{reading}": value for reading, value in event.forgetting.items()},
            **event.metrics,
            **{f"width/{layer}": width for layer, width in enumerate(event.widths, start=1)},
        }
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
        if self._writer is not None:  # None: the run was finished already.
            self._writer.close()
