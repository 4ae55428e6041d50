"""The folder of a run: whose it is, and the tables in it."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from dgm_jax import data
from dgm_jax.config import Config, upgraded
from dgm_jax.config.formats import REMOVED
from dgm_jax.data.stream import describe
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.runs import opening
from dgm_jax.runs.continuation import Placement
from dgm_jax.runs.folder import FORMAT_VERSION, Workdir
from dgm_jax.runs.reading import read_config

CONFIG = Config().with_changes(batch_size=64, variant="dgma")


def _stream(name="digits", order=(3, 1, 4), sizes=(1, 2), value=0):
    images, labels = np.full((6, 8, 8, 1), value, np.uint8), np.repeat([1, 3, 4], 2)
    dataset = data.from_arrays(images, labels, images, labels, name=name)
    return data.class_incremental(dataset, class_order=order, classes_per_task=sizes)


def _claim(folder, config=CONFIG, stream=None, *, resume_anyway=False):
    stream = stream or _stream()
    opening.claim(folder, config, Placement(stream, (stream.n_tasks,), known=False), resume_anyway=resume_anyway)


def _claimed(path):
    path.mkdir(exist_ok=True)
    folder = Workdir(path)
    _claim(folder)
    return folder


def _found(folder):
    return json.loads(folder.config.read_text())


def _write(folder, settings, **changes):
    folder.config.write_text(json.dumps(_found(folder) | {"config": settings} | changes))


def test_naming_a_folder_touches_nothing(tmp_path):
    Workdir(tmp_path / "run")
    assert not any(tmp_path.iterdir())


class TestPrecision:
    """ "auto" becomes the precision of the folder's run; in a new folder that of the device."""

    CPU, TPU = (SimpleNamespace(platform=name) for name in ("cpu", "tpu"))
    GPU = SimpleNamespace(platform="gpu", compute_capability="9.0")

    @pytest.mark.parametrize(("device", "expected"), [(CPU, "float32"), (GPU, "tf32"), (TPU, "bf16")])
    def test_of_a_new_folder(self, device, expected, tmp_path):
        assert opening.with_precision(CONFIG, Workdir(tmp_path), device).gan.precision == expected
        given = CONFIG.with_changes(precision="bf16")
        assert opening.with_precision(given, Workdir(tmp_path), device) is given

    @pytest.mark.parametrize("device", [CPU, GPU, TPU])
    def test_of_a_run_is_kept_on_another_platform(self, device, tmp_path):
        folder = Workdir(tmp_path)
        _claim(folder, CONFIG.with_changes(precision="float32"))
        resumed = opening.with_precision(CONFIG, folder, device)
        assert resumed.gan.precision == "float32"
        _claim(folder, resumed)
        with pytest.raises(OtherConfiguration, match="with other settings: precision is 'float32', now 'bf16'"):
            _claim(folder, CONFIG.with_changes(precision="bf16"))

    @pytest.mark.parametrize("device", [CPU, TPU])
    def test_of_a_run_that_the_device_lacks(self, device, tmp_path):
        folder = Workdir(tmp_path)
        _claim(folder, CONFIG.with_changes(precision="tf32"))
        name = device.platform.upper()
        text = (
            f"{tmp_path} holds a run with precision='tf32', and a {name} has no such numbers; resume it on a device of "
            "the same kind as before, or choose another --workdir"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            opening.with_precision(CONFIG, folder, device)
        assert opening.with_precision(CONFIG, folder, self.GPU).gan.precision == "tf32"

    def test_of_an_early_run_is_float32(self, tmp_path):
        folder = _claimed(tmp_path)
        _write(folder, {"batch_size": 64, "method": "dgm"}, format_version=1)
        assert opening.with_precision(CONFIG, folder, self.GPU).gan.precision == "float32"


def test_a_new_folder_gets_the_configuration(tmp_path):
    found = _found(_claimed(tmp_path))
    assert found["format_version"] == FORMAT_VERSION == 2
    assert found["protocol"] == "strict"
    assert found["config"] == dataclasses.asdict(CONFIG)
    assert found["config"]["gan"]["batch_size"] == 64
    assert found["stream"] == describe(_stream())


def test_the_same_run_may_come_back(tmp_path):
    before = _claimed(tmp_path).config.read_bytes()
    assert _claimed(tmp_path).config.read_bytes() == before


def test_the_critic_may_see_the_class_from_now_on_if_tasks_have_one(tmp_path):
    """It has had no effect so far, so folders of presets that did not have it can continue."""
    conditioned = CONFIG.with_changes(critic_condition="projection")
    single = _stream(sizes=1)
    for name, stream in (("pairs", _stream()), ("single", single)):
        Workdir(tmp_path / name).path.mkdir()
        _claim(Workdir(tmp_path / name), CONFIG, stream)
    _claim(Workdir(tmp_path / "single"), conditioned, single)
    with pytest.raises(OtherConfiguration, match="critic_condition is 'none', now 'projection'"):
        _claim(Workdir(tmp_path / "pairs"), conditioned)


STUBBORN = CONFIG.with_changes(batch_size=32, variant="dgmw")  # Arrays or results depend on these.
CHANGEABLE = CONFIG.with_changes(epochs=7, checkpoint_seconds=2)


def _refused(folder, config, *, resume_anyway=False):
    """The text of the refusal, without the folder; it must change nothing."""
    before = folder.config.read_bytes()
    with pytest.raises(OtherConfiguration) as caught:
        _claim(folder, config, resume_anyway=resume_anyway)
    assert folder.config.read_bytes() == before
    start = f"{folder.path} holds a run with other settings: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    folder = _claimed(tmp_path)
    assert (
        _refused(folder, STUBBORN)
        == "batch_size is 64, now 32; variant is 'dgma', now 'dgmw'. Choose another --workdir."
    )
    assert _refused(folder, CHANGEABLE) == (
        "checkpoint_seconds is 60.0, now 2; epochs is 101, now 7. "
        "Choose another --workdir, or pass --resume-anyway to continue with the settings given now."
    )


def test_another_method_is_refused_whatever_its_own_settings(tmp_path):
    joint = Config(method="joint").with_changes(batch_size=64)
    assert _refused(_claimed(tmp_path), joint) == "method is 'dgm', now 'joint'. Choose another --workdir."


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (_stream("mnist"), "the data set 'digits', now it is 'mnist'"),
        (_stream("digits, fold 1 of 5"), "the data set 'digits', now it is 'digits, fold 1 of 5'"),
        (_stream(order=(1, 3, 4)), "the tasks [[3], [1, 4]], now they are [[1], [3, 4]]"),
        (_stream(value=1), "other images of 'digits'"),
    ],
)
def test_other_data_are_refused_without_a_list_of_numbers(tmp_path, stream, said):
    folder = _claimed(tmp_path)
    with pytest.raises(OtherConfiguration) as caught:
        _claim(folder, STUBBORN, stream, resume_anyway=True)
    assert str(caught.value) == f"{tmp_path} holds a run on {said}; choose another --workdir."


def test_resume_anyway_writes_the_settings_given_now_and_keeps_the_earlier_ones(tmp_path):
    folder = _claimed(tmp_path)
    _claim(folder, CHANGEABLE, resume_anyway=True)
    found = _found(folder)
    assert found["config"] == dataclasses.asdict(CHANGEABLE)
    assert found["before"] == [dataclasses.asdict(CONFIG)]
    _claim(folder, CHANGEABLE)  # These are the folder's settings now.
    _claim(folder, CONFIG, resume_anyway=True)
    assert _found(folder)["before"] == [dataclasses.asdict(CONFIG), dataclasses.asdict(CHANGEABLE)]


def test_resume_anyway_does_not_cover_what_the_run_is_made_of(tmp_path):
    text = _refused(_claimed(tmp_path), STUBBORN.with_changes(epochs=7), resume_anyway=True)
    assert text.endswith(". A run cannot continue with another batch_size, variant; use another --workdir.")


@pytest.mark.parametrize("resume_anyway", [False, True])
def test_a_finished_run_keeps_its_settings(tmp_path, resume_anyway, monkeypatch):
    folder = _claimed(tmp_path)
    monkeypatch.setattr(opening, "_is_finished", lambda *_: True)
    _claim(folder, resume_anyway=resume_anyway)
    text = _refused(folder, CHANGEABLE, resume_anyway=resume_anyway)
    assert text.endswith(". It is finished; choose another --workdir.")


# ---- format 1, without groups ----


def _in_format_1(folder, **changes):
    own = {"memory_size": 200, "ewc_weight": 1e5, "alignment_weight": 300.0}
    _write(folder, CONFIG.flat() | own | changes, format_version=1)


def test_a_folder_of_format_1_is_the_same_run(tmp_path):
    folder = _claimed(tmp_path)
    _in_format_1(folder)
    before = folder.config.read_bytes()
    _claim(folder)
    assert folder.config.read_bytes() == before
    assert _refused(folder, STUBBORN).startswith("batch_size is 64, now 32; variant is 'dgma', now 'dgmw'.")
    _claim(folder, CHANGEABLE, resume_anyway=True)
    found = _found(folder)
    assert found["format_version"] == 2 and found["config"] == dataclasses.asdict(CHANGEABLE)
    assert read_config(folder).before == [upgraded(CONFIG.flat())]


def test_an_unfinished_baseline_of_format_1_cannot_be_continued(tmp_path, monkeypatch):
    """Its random numbers were used in another order; those of dgm and of methods with a generator were not."""
    for method in ("finetune", "dgr"):
        folder = Workdir(tmp_path / method)
        folder.path.mkdir()
        config = CONFIG.for_method(method)
        _claim(folder, config)
        _write(
            folder, CONFIG.flat() | {"memory_size": 200, "alignment_weight": 300.0, "method": method}, format_version=1
        )
    _claim(Workdir(tmp_path / "dgr"), CONFIG.for_method("dgr"))
    with pytest.raises(
        OtherConfiguration, match="holds a run of finetune by an earlier version, .*choose another --workdir"
    ):
        _claim(Workdir(tmp_path / "finetune"), CONFIG.for_method("finetune"))
    monkeypatch.setattr(opening, "_is_finished", lambda *_: True)
    _claim(Workdir(tmp_path / "finetune"), CONFIG.for_method("finetune"))


def test_a_setting_that_was_added_later_was_at_its_default(tmp_path):
    folder = _claimed(tmp_path)
    _in_format_1(folder)
    _write(folder, {name: value for name, value in _found(folder)["config"].items() if name != "seed"})
    _claim(folder)
    with pytest.raises(OtherConfiguration, match="seed is 0, now 1"):
        _claim(folder, CONFIG.with_changes(seed=1))


@pytest.mark.parametrize("resume_anyway", [False, True])
def test_a_folder_from_before_settings_were_removed(tmp_path, resume_anyway):
    """It can continue if those had their default values."""
    folder = _claimed(tmp_path)
    _in_format_1(folder, **REMOVED)
    _claim(folder, resume_anyway=resume_anyway)
    _in_format_1(folder, adversarial_loss="hinge")
    text = f"{tmp_path} holds a run with adversarial_loss='hinge', removed after commit c36b15c"
    with pytest.raises(OtherConfiguration, match=f"^{re.escape(text)}"):
        _claim(folder, resume_anyway=resume_anyway)


# ---- what cannot be read ----


def test_checkpoints_without_a_configuration(tmp_path):
    (tmp_path / "checkpoints" / "0000000001").mkdir(parents=True)
    text = f"{tmp_path} has checkpoints but no config.json; choose another --workdir"
    with pytest.raises(OtherConfiguration, match=f"^{re.escape(text)}$"):
        _claim(Workdir(tmp_path))


def test_a_newer_format(tmp_path):
    folder = _claimed(tmp_path)
    folder.config.write_text(json.dumps(_found(folder) | {"format_version": FORMAT_VERSION + 1}))
    for attempt in (_claim, read_config):
        with pytest.raises(ConfigError, match=f"was written in format {FORMAT_VERSION + 1}.*upgrade dgm_jax"):
            attempt(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": "x"}', "null"])
def test_a_configuration_that_cannot_be_read(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path / 'config.json'))} cannot be read"):
        _claim(Workdir(tmp_path))


def test_accuracy_table(tmp_path):
    folder = Workdir(tmp_path)
    matrix = np.array([[1.0, np.nan], [0.25, 2 / 3]])
    folder.write_accuracy({"consolidated": matrix, "auxiliary": matrix[:1]}, ["3", "a,b"], "paper")
    assert folder.accuracy.read_text() == (
        'protocol,reading,after_task,3,"a,b"\n'
        "paper,consolidated,0,1.000000,\n"
        "paper,consolidated,1,0.250000,0.666667\n"
        "paper,auxiliary,0,1.000000,\n"
    )


def test_capacity_table(tmp_path):
    folder = Workdir(tmp_path)
    folder.write_capacity([], "strict")
    assert not folder.capacity.exists()
    folder.write_capacity([{"task": 0, "layer": 1, "free": 7}, {"task": 0, "layer": 2, "free": 0}], "strict")
    assert folder.capacity.read_text() == "protocol,task,layer,free\nstrict,0,1,7\nstrict,0,2,0\n"
