"""Callbacks that log a run to Weights & Biases or MLflow. Copy the one you need, and what both share.

    from callbacks import MLflowCallback
    Learner(config, callbacks=[MLflowCallback("mine")]).fit(stream, "runs/mine")

Without a server both keep files here: W&B with WANDB_MODE=offline, MLflow by itself. To try one on digits:

    python -m pip install wandb                       # or mlflow
    python -m examples.callbacks wandb runs/tracked   # or mlflow
"""

import sys

from dgm_jax import Callback, Learner, data
from dgm_jax.config import preset


class Tracker(Callback):
    """What both share: the names of all values, and steps, which count epochs over all tasks."""

    is_open = False

    def on_run_start(self, event):
        self.epochs, self.workdir, self.several_seeds = event.epochs, event.workdir, len(event.seeds) > 1
        self.start(event)
        self.is_open = True

    def on_epoch_end(self, event):
        values = {f"train/{name}": value for name, value in event.metrics.items()}
        self.log(values, event.task * self.epochs + event.epoch + 1)

    def on_task_end(self, event):
        step, prefix = (event.task + 1) * self.epochs, f"seed{event.seed}/" if self.several_seeds else ""
        values = {f"A/{reading}/{kind}": v for reading, means in event.average.items() for kind, v in means.items()}
        values |= {f"forgetting/{reading}": v for reading, v in event.forgetting.items() if v is not None}
        self.log({prefix + name: value for name, value in (values | event.metrics).items()}, step)
        picture = self.workdir / prefix / "samples" / f"after_task_{event.task:02d}.png"
        if picture.exists():  # What the memory draws now.
            self.show(f"{prefix}memory", picture, step)

    def on_run_end(self, event):
        if self.is_open:  # It is called once for each seed, and alone if the run was finished before.
            self.stop()
        self.is_open = False


class WandbCallback(Tracker):
    """Weights & Biases. A run that is resumed becomes a further run there, in the same group."""

    def __init__(self, project="dgm"):
        import wandb

        self.wandb, self.project = wandb, project

    def start(self, event):
        settings, folder = event.config.flat(), event.workdir
        self.run = self.wandb.init(project=self.project, group=folder.name, dir=str(folder), config=settings)
        self.run.define_metric("*", step_metric="epoch")

    def log(self, values, step):
        self.run.log(values | {"epoch": step})

    def show(self, name, picture, step):
        self.log({name: self.wandb.Image(str(picture))}, step)

    def stop(self):
        self.run.finish()


class MLflowCallback(Tracker):
    """MLflow. A run that is resumed becomes a further run there, of the same name."""

    def __init__(self, experiment="dgm"):
        import mlflow

        self.mlflow, self.experiment = mlflow, experiment

    def start(self, event):
        self.mlflow.set_experiment(self.experiment)
        self.mlflow.start_run(run_name=event.workdir.name)
        self.mlflow.log_params(event.config.flat())

    def log(self, values, step):
        self.mlflow.log_metrics(values, step=step)

    def show(self, name, picture, step):
        self.mlflow.log_artifact(str(picture), name)

    def stop(self):
        self.mlflow.end_run()


def main(tracker: str, workdir: str) -> None:
    """Learns digits and logs the run."""
    callback = {"wandb": WandbCallback, "mlflow": MLflowCallback}[tracker]()
    config = preset("digits")
    stream = data.class_incremental(data.load("digits").resized(config.data.image_size))
    Learner(config, callbacks=[callback]).fit(stream, workdir)


if __name__ == "__main__":
    main(*sys.argv[1:])
