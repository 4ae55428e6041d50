"""What the callbacks for W&B and MLflow call, by stand-ins that record it; the calls fit the real packages."""

import importlib
import inspect
import json
import sys
from unittest import mock

import pytest
from support import small_runs

from dgm_jax import Learner
from dgm_jax.config import PRESETS
from examples import callbacks

ANALYTIC = small_runs.small(method="analytic", image_size=8, filters=4)  # It trains nothing.


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins by name."""
    stand_ins = {name: mock.MagicMock() for name in ("wandb", "mlflow")}
    for name, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    return stand_ins


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with both callbacks: its folder and settings, and what was called of each package."""
    config, workdir = small_runs.small("dgma", precision="float32"), tmp_path_factory.mktemp("runs") / "tracked"
    with mock.patch.dict(sys.modules, wandb=mock.MagicMock(), mlflow=mock.MagicMock()) as modules:
        small_runs.fit(config, workdir, callbacks.WandbCallback("mine"), callbacks.MLflowCallback("mine"))
        return workdir, config, modules["wandb"], modules["mlflow"]


def expected(workdir, config):
    """Everything that is logged, from the run's own files: (step, values), in order."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        own = {name: value for name, value in line.items() if name not in ("kind", "task", "epoch", "protocol")}
        if line["kind"] == "epoch":
            step = line["task"] * config.gan.epochs + line["epoch"] + 1
            yield step, {f"train/{name}": value for name, value in own.items()}
        else:
            average = own.pop("average")
            means = {f"A/{reading}/{kind}": v for reading, kinds in average.items() for kind, v in kinds.items()}
            yield (line["task"] + 1) * config.gan.epochs, means | own


def pictures(workdir):
    return [str(workdir / "samples" / f"after_task_{task:02}.png") for task in range(3)]


def test_wandb_gets_the_numbers_and_pictures_of_the_run(tracked):
    workdir, config, wandb, _ = tracked
    wandb.init.assert_called_once_with(project="mine", group="tracked", dir=str(workdir), config=config.flat())
    run = wandb.init()
    run.define_metric.assert_called_once_with("*", step_metric="epoch")
    logged = [dict(call.args[0]) for call in run.log.call_args_list]
    shown = [values for values in logged if "memory" in values]
    assert [call.args for call in wandb.Image.call_args_list] == [(path,) for path in pictures(workdir)]
    assert [values["epoch"] for values in shown] == [3, 6, 9]
    numbers = [values for values in logged if "memory" not in values]
    check_numbers([(values.pop("epoch"), values) for values in numbers], expected(workdir, config))
    assert run.mock_calls[-1] == mock.call.finish()


def test_mlflow_gets_the_numbers_and_pictures_of_the_run(tracked):
    workdir, config, _, mlflow = tracked
    begin = [mock.call.set_experiment("mine"), mock.call.start_run(run_name="tracked")]
    assert mlflow.mock_calls[:3] == [*begin, mock.call.log_params(config.flat())]
    logged = [(call.kwargs["step"], call.args[0]) for call in mlflow.log_metrics.call_args_list]
    check_numbers(logged, expected(workdir, config))
    assert [call.args for call in mlflow.log_artifact.call_args_list] == [
        (path, "memory") for path in pictures(workdir)
    ]
    assert mlflow.mock_calls[-1] == mock.call.end_run() and mlflow.end_run.call_count == 1


def check_numbers(logged, expected):
    for (step, values), (at, wanted) in zip(logged, list(expected), strict=True):
        assert step == at and wanted.items() <= values.items()
        assert all(isinstance(value, float | int) for value in values.values())
        assert {name for name in values if name not in wanted} <= {"forgetting/consolidated", "forgetting/auxiliary"}


@pytest.mark.parametrize("name, package", [("wandb", 2), ("mlflow", 3)])
def test_the_calls_fit_the_signatures_of_the_real_package(tracked, name, package):
    pytest.importorskip(name, reason=f"{name} is needed only to log with it")
    real, checked = importlib.import_module(name), 0
    for called, args, kwargs in tracked[package].mock_calls:
        function = getattr(real.Run if called.startswith("init().") else real, called.removeprefix("init()."))
        bound = args if not called.startswith("init().") else (None, *args)
        inspect.signature(function).bind(*bound, **kwargs)
        checked += 1
    assert checked > 10


def test_seeds_side_by_side_have_names_of_their_own(packages, tmp_path):
    learner = Learner(ANALYTIC, devices=1, callbacks=[callbacks.MLflowCallback()])
    learner.fit_seeds([0, 1], [small_runs.stream(ANALYTIC) for _ in range(2)], tmp_path / "runs")
    mlflow = packages["mlflow"]
    names = {name for call in mlflow.log_metrics.call_args_list for name in call.args[0]}
    assert {name.partition("/")[0] for name in names} == {"seed0", "seed1"}
    assert mlflow.end_run.call_count == 1


def test_the_example_on_digits(packages, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "digits", {"dgma": ANALYTIC})
    callbacks.main("wandb", str(tmp_path / "run"))
    wandb = packages["wandb"]
    assert {call.args[0]["epoch"] for call in wandb.init().log.call_args_list} == set(range(1, 11))
    called = len(wandb.mock_calls)
    callbacks.main("wandb", str(tmp_path / "run"))  # The run is finished: there is nothing to log.
    assert len(wandb.mock_calls) == called
