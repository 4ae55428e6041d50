"""The folder of a run: whose it is, and the tables in it."""

import dataclasses
import json
import re

import numpy as np
import pytest

from dgm_jax.config import Config
from dgm_jax.config.removed import REMOVED
from dgm_jax.errors import ConfigError, OtherConfiguration
from dgm_jax.runs.folder import FORMAT_VERSION, Workdir

CONFIG = Config().with_changes(batch_size=64, variant="dgma")
STREAM = {"tasks": [[3], [1, 4]], "image_shape": (32, 32, 1)}


def _claimed(path):
    path.mkdir(exist_ok=True)
    folder = Workdir(path)
    folder.claim(CONFIG, STREAM, resume_anyway=False)
    return folder


def test_naming_a_folder_touches_nothing(tmp_path):
    Workdir(tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_a_new_folder_gets_the_configuration(tmp_path):
    found = json.loads(_claimed(tmp_path).config.read_text())
    assert found["format_version"] == FORMAT_VERSION
    assert found["protocol"] == "strict"
    assert found["config"] == CONFIG.flat()
    assert found["stream"] == {"tasks": [[3], [1, 4]], "image_shape": [32, 32, 1]}


def test_the_same_run_may_come_back(tmp_path):
    before = _claimed(tmp_path).config.read_bytes()
    assert _claimed(tmp_path).config.read_bytes() == before


def test_how_the_critic_is_told_the_class_may_change_where_tasks_have_one(tmp_path):
    """It has not acted so far; folders of presets that did not have it go on."""
    told = CONFIG.with_changes(critic_condition="projection")
    alone = {**STREAM, "tasks": [[3], [1], [4]]}
    for name, stream in (("pairs", STREAM), ("alone", alone)):
        Workdir(tmp_path / name).path.mkdir()
        Workdir(tmp_path / name).claim(CONFIG, stream, resume_anyway=False)
    Workdir(tmp_path / "alone").claim(told, alone, resume_anyway=False)
    with pytest.raises(OtherConfiguration, match="critic_condition is 'none', now 'projection'"):
        Workdir(tmp_path / "pairs").claim(told, STREAM, resume_anyway=False)


STUBBORN = CONFIG.with_changes(batch_size=32, variant="dgmw")  # Arrays or results depend on these.
CHANGEABLE = CONFIG.with_changes(epochs=7, checkpoint_epochs=2)


def _refused(folder, config, stream=STREAM, *, resume_anyway=False):
    """The text of the refusal, without the folder; it must change nothing."""
    before = folder.config.read_bytes()
    with pytest.raises(OtherConfiguration) as caught:
        folder.claim(config, stream, resume_anyway=resume_anyway)
    assert folder.config.read_bytes() == before
    start = f"{folder.path} holds a run with other settings: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    folder = _claimed(tmp_path)
    assert (
        _refused(folder, STUBBORN)
        == "variant is 'dgma', now 'dgmw'; batch_size is 64, now 32. Choose another --workdir."
    )
    assert _refused(folder, CHANGEABLE) == (
        "epochs is 101, now 7; checkpoint_epochs is 10, now 2. "
        "Choose another --workdir, or pass --resume-anyway to go on with the settings given now."
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": "mnist"}, "the data set None, now it is 'mnist'"),
        ({"tasks": [[1], [3, 4]]}, "the tasks [[3], [1, 4]], now they are [[1], [3, 4]]"),
        ({"fingerprint": "0"}, "other images of None"),
    ],
)
def test_other_data_are_refused_without_a_list_of_numbers(tmp_path, change, told):
    folder = _claimed(tmp_path)
    with pytest.raises(OtherConfiguration) as caught:
        folder.claim(STUBBORN, STREAM | change, resume_anyway=True)
    assert str(caught.value) == f"{tmp_path} holds a run on {told}; choose another --workdir."


def test_resume_anyway_writes_the_settings_given_now_and_keeps_the_earlier_ones(tmp_path):
    folder = _claimed(tmp_path)
    folder.claim(CHANGEABLE, STREAM, resume_anyway=True)
    found = folder.read_config()
    assert found["config"] == CHANGEABLE.flat()
    assert found["before"] == [CONFIG.flat()]
    folder.claim(CHANGEABLE, STREAM, resume_anyway=False)  # It is the folder's own now.
    folder.claim(CONFIG, STREAM, resume_anyway=True)
    assert folder.read_config()["before"] == [CONFIG.flat(), CHANGEABLE.flat()]


def test_resume_anyway_does_not_cover_what_the_run_is_made_of(tmp_path):
    text = _refused(_claimed(tmp_path), dataclasses.replace(STUBBORN, epochs=7), resume_anyway=True)
    assert text.endswith(". A run cannot go on with another batch_size, variant; use another --workdir.")


@pytest.mark.parametrize("resume_anyway", [False, True])
def test_a_finished_run_keeps_its_settings(tmp_path, resume_anyway):
    folder = _claimed(tmp_path)
    folder.summary.write_text('{"finished": true}')
    folder.claim(CONFIG, STREAM, resume_anyway=resume_anyway)
    text = _refused(folder, CHANGEABLE, resume_anyway=resume_anyway)
    assert text.endswith(". It is finished; choose another --workdir.")


def test_a_setting_that_came_after_the_folder_was_at_its_default(tmp_path):
    folder = _claimed(tmp_path)
    found = folder.read_config()
    del found["config"]["seed"]
    folder.config.write_text(json.dumps(found))
    folder.claim(CONFIG, STREAM, resume_anyway=False)
    with pytest.raises(OtherConfiguration, match="seed is 0, now 1"):
        folder.claim(CONFIG.with_changes(seed=1), STREAM, resume_anyway=False)


@pytest.mark.parametrize("resume_anyway", [False, True])
def test_a_folder_from_before_settings_were_removed(tmp_path, resume_anyway):
    """It goes on if those were at their defaults."""
    folder = _claimed(tmp_path)
    found = folder.read_config()
    folder.config.write_text(json.dumps(found | {"config": found["config"] | REMOVED}))
    folder.claim(CONFIG, STREAM, resume_anyway=resume_anyway)
    folder.config.write_text(json.dumps(found | {"config": found["config"] | {"adversarial_loss": "hinge"}}))
    text = f"{tmp_path} holds a run with adversarial_loss='hinge', removed after commit c36b15c"
    with pytest.raises(OtherConfiguration, match=f"^{re.escape(text)}"):
        folder.claim(CONFIG, STREAM, resume_anyway=resume_anyway)


def test_checkpoints_without_a_configuration(tmp_path):
    (tmp_path / "checkpoints" / "0000000001").mkdir(parents=True)
    text = f"{tmp_path} has checkpoints but no config.json; choose another --workdir"
    with pytest.raises(OtherConfiguration, match=f"^{re.escape(text)}$"):
        Workdir(tmp_path).claim(CONFIG, STREAM, resume_anyway=False)


def test_a_newer_format(tmp_path):
    folder = _claimed(tmp_path)
    folder.config.write_text(json.dumps(folder.read_config() | {"format_version": FORMAT_VERSION + 1}))
    for attempt in (lambda: folder.claim(CONFIG, STREAM, resume_anyway=True), folder.read_config):
        with pytest.raises(ConfigError, match=f"was written in format {FORMAT_VERSION + 1}.*upgrade dgm_jax"):
            attempt()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": "x"}', "null"])
def test_a_configuration_that_cannot_be_read(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path / 'config.json'))} cannot be read"):
        Workdir(tmp_path).claim(CONFIG, STREAM, resume_anyway=False)


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
