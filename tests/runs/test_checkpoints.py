"""Which checkpoint of a run counts: the newest intact one, wherever it lies and whichever version wrote it."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import format_1, small_runs
from support.checks import assert_equal_trees, assert_same_results
from support.marks import slow_but
from support.stopping import TINY, Log, interrupt

from dgm_jax import load_classifier, load_memory
from dgm_jax.runs import checkpoints
from dgm_jax.runs.checkpoints import RunCheckpoints
from dgm_jax.runs.folder import Workdir
from dgm_jax.system import checkpoint
from dgm_jax.training import trainer

State = tuple[dict[str, Any], dict[str, Any]]


def state(finished_tasks: int, epochs_done: int = 0) -> State:
    """A tree that no other position has, and the metadata of this position."""
    record = {"finished_tasks": finished_tasks, "epochs_done": epochs_done}
    return {"a": np.array([finished_tasks, epochs_done])}, {"record": record}


def undamaged(text: str) -> None:
    raise AssertionError(f"no damage expected: {text}")


def newest(directory: Path) -> tuple[int, int]:
    found = checkpoints.restore(directory, undamaged)
    assert found is not None
    assert tuple(found.tree["a"]) == checkpoints.position(found)
    return checkpoints.position(found)


def names(directory: Path) -> list[str]:
    """Of all checkpoints, and of whatever else lies beside them."""
    folders = [directory, *directory.glob("within_task")]
    return sorted(path.relative_to(directory).as_posix() for folder in folders for path in folder.iterdir())


def damage(folder: Path) -> None:
    os.truncate(max((folder / "state" / "d").iterdir(), key=lambda path: path.stat().st_size), 5)


def test_a_run_from_its_first_save_to_its_last(tmp_path: Path) -> None:
    saves = RunCheckpoints(tmp_path)
    assert saves.restore(undamaged) is None and saves.newest is None
    assert checkpoints.restore(tmp_path / "none", undamaged) is None
    for epochs_done in (2, 4, 10):
        saves.save_in_progress(0, epochs_done, *state(0, epochs_done))
        assert newest(tmp_path) == (0, epochs_done)
    assert names(tmp_path) == ["within_task", "within_task/10", "within_task/4"]
    saves.save_finished(0, *state(1))
    assert names(tmp_path) == ["0"] and newest(tmp_path) == (1, 0)
    saves.save_in_progress(1, 2, *state(1, 2))
    assert names(tmp_path) == ["0", "within_task", "within_task/1000002"] and newest(tmp_path) == (1, 2)
    assert saves.newest == tmp_path / "within_task" / "1000002"
    for task in range(1, 12):
        saves.save_finished(task, *state(task + 1))
    assert names(tmp_path) == sorted(map(str, range(12))) and newest(tmp_path) == (12, 0)
    found = RunCheckpoints(tmp_path).restore(undamaged)
    assert found is not None and found.folder == tmp_path / "11"


def test_what_is_saved_is_seen_by_its_names(tmp_path: Path) -> None:
    folder = Workdir(tmp_path)
    saves, seen = RunCheckpoints(folder.checkpoints), [folder.saved()]
    for epochs_done in (1, 2, 3):
        saves.save_in_progress(0, epochs_done, *state(0, epochs_done))
        seen.append(folder.saved())
    saves.save_finished(0, *state(1))
    assert folder.saved() == ["0"] and seen[0] == [] and seen[-1] == ["within_task/2", "within_task/3"]
    assert all(before != after for before, after in zip(seen, [*seen[1:], folder.saved()], strict=True))


def test_the_newest_finished_tasks_are_kept(tmp_path: Path) -> None:
    saves = RunCheckpoints(tmp_path, kept=2)
    for task in range(12):
        (tmp_path / "99").mkdir(exist_ok=True)  # Another program's; it counts for nothing.
        saves.save_finished(task, *state(task + 1))
    assert names(tmp_path) == ["10", "11", "99"]


def test_a_finished_task_is_whole_before_anything_of_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = RunCheckpoints(tmp_path)
    saves.save_finished(0, *state(1))
    saves.save_in_progress(1, 1, *state(1, 1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for what, left in (("save", ["0", "within_task", "within_task/1000001"]), ("delete", None)):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, what, killed)
            with pytest.raises(KeyboardInterrupt):
                saves.save_finished(1, *state(2))
        assert names(tmp_path) == (left or ["0", "1", "within_task", "within_task/1000001"])
    (tmp_path / "within_task" / ".1000002.partial").mkdir()
    assert newest(tmp_path) == (2, 0)
    assert "within_task" in names(tmp_path), "who only reads deletes nothing"
    RunCheckpoints(tmp_path).restore(undamaged)
    assert names(tmp_path) == ["0", "1"]


def test_a_damaged_one_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    saves = RunCheckpoints(tmp_path)
    saves.save_finished(0, *state(1))
    saves.save_in_progress(1, 1, *state(1, 1))
    saves.save_in_progress(1, 2, *state(1, 2))
    damage(tmp_path / "within_task" / "1000002")
    told: list[str] = []
    found = checkpoints.restore(tmp_path, told.append)
    assert found is not None and checkpoints.position(found) == (1, 1)
    (text,) = told
    assert text.startswith(f"{tmp_path}/within_task/1000002 is damaged: state/d/")
    assert text.endswith(f"; {tmp_path}/within_task/1000001 is used instead.")

    shutil.rmtree(tmp_path / "within_task" / "1000001" / "state")
    (tmp_path / "7").mkdir()  # Orbax would take this empty folder for the newest step.
    told.clear()
    saves = RunCheckpoints(tmp_path)
    found = saves.restore(told.append)
    assert found is not None and checkpoints.position(found) == (1, 0) and len(told) == 3
    assert "7 is damaged: checkpoint.json: expected a description, found no file" in told[0]
    assert saves.newest == tmp_path / "0"
    saves.save_in_progress(1, 1, *state(1, 1))  # Over the damaged one.
    saves.save_finished(1, *state(2))
    assert names(tmp_path) == ["0", "1", "7"]


def test_no_intact_one_is_an_error_that_names_each(tmp_path: Path) -> None:
    for task in (0, 1):
        RunCheckpoints(tmp_path).save_finished(task, *state(task + 1))
        damage(tmp_path / str(task))
    with pytest.raises(checkpoint.DamagedCheckpoint, match="no intact checkpoint is left in") as caught:
        checkpoints.restore(tmp_path, undamaged)
    assert f"{tmp_path}/0 is damaged" in str(caught.value) and f"{tmp_path}/1 is damaged" in str(caught.value)


@pytest.mark.parametrize("metadata", [state(1)[1], {}, {"record": None}])
def test_a_name_that_the_checkpoint_does_not_confirm_counts_for_nothing(metadata: Any, tmp_path: Path) -> None:
    saves = RunCheckpoints(tmp_path)
    saves.save_finished(0, *state(1))
    saves.save_finished(1, *state(2))
    checkpoint.save(tmp_path / "9", state(1)[0], metadata)
    told: list[str] = []
    found = checkpoints.restore(tmp_path, told.append)
    assert found is not None and checkpoints.position(found) == (2, 0)
    (text,) = told
    assert f"{tmp_path}/9 is damaged: expected (finished tasks, epochs done) (10, 0), as the folder's name says" in text


@pytest.mark.parametrize(
    "failure", [MemoryError("Unable to allocate 2.00 GiB"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))]
)
def test_a_failure_of_the_environment_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """The newest checkpoint is intact: an older one in its place would lose work."""
    for task in (0, 1):
        RunCheckpoints(tmp_path).save_finished(task, *state(task + 1))
    for where in ((checkpoint.ocp, "load"), (checkpoint, "_describe_files"), (Path, "read_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(*where, lambda *_, **__: (_ for _ in ()).throw(failure))
            with pytest.raises(type(failure)):
                checkpoints.restore(tmp_path, undamaged)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 1)
        with pytest.raises(checkpoint.NewerFormat):
            checkpoints.restore(tmp_path, undamaged)
    assert newest(tmp_path) == (2, 0)


def test_one_that_is_deleted_while_it_is_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = RunCheckpoints(tmp_path)
    saves.save_in_progress(0, 1, *state(0, 1))
    read = checkpoint.read

    def read_late(folder: Path) -> checkpoint.Checkpoint:
        monkeypatch.setattr(checkpoint, "read", read)
        saves.save_finished(0, *state(1))
        return read(folder)

    monkeypatch.setattr(checkpoint, "read", read_late)
    assert newest(tmp_path) == (1, 0)


def test_only_those_that_hold_what_is_asked_for(tmp_path: Path) -> None:
    saves = RunCheckpoints(tmp_path)
    saves.save_finished(0, *state(1))
    for epochs_done in (1, 2):
        _, metadata = state(1, epochs_done)
        saves.save_in_progress(1, epochs_done, {"b": np.ones(1)}, metadata)
    told: list[str] = []
    found = checkpoints.restore(tmp_path, told.append, wanted=lambda found: "a" in found.tree)
    assert found is not None and checkpoints.position(found) == (1, 0) and not told
    damage(tmp_path / "within_task" / "1000002")
    assert checkpoints.restore(tmp_path, told.append, wanted=lambda found: "c" in found.tree) is None
    assert len(told) == 1 and "1000002 is damaged" in told[0]


# ---- Folders that an earlier version began ----


def test_the_order_over_both_layouts(tmp_path: Path) -> None:
    """Numbers alone would put 0000999999, the end of task 0, far behind 3."""
    for number, position in {"0000000002": (0, 2), "0000999999": (1, 0), "0001000002": (1, 2)}.items():
        format_1.save(tmp_path / number, *state(*position))
        assert newest(tmp_path) == position
    saves = RunCheckpoints(tmp_path)
    assert saves.restore(undamaged) is not None
    saves.save_in_progress(1, 4, *state(1, 4))
    saves.save_in_progress(1, 6, *state(1, 6))
    assert newest(tmp_path) == (1, 6)
    assert names(tmp_path) == ["0000999999", "within_task", "within_task/1000004", "within_task/1000006"]
    saves.save_finished(1, *state(2))
    assert names(tmp_path) == ["0000999999", "1"] and newest(tmp_path) == (2, 0)
    format_1.save(tmp_path / "0001999999", *state(2))
    (tmp_path / "0001999999" / "arrays" / "_METADATA").unlink()
    assert newest(tmp_path) == (2, 0), "the damaged one was replaced by one of this version"
    RunCheckpoints(tmp_path, kept=1).save_finished(2, *state(3))
    assert names(tmp_path) == ["2"]


@pytest.mark.parametrize("variant", slow_but(["dgma", "dgmw"], "dgma"))
@pytest.mark.parametrize("place", [("epoch end", 1, 2), ("train", 2, 0)], ids=["within a task", "between tasks"])
def test_a_run_that_an_earlier_version_began_ends_with_the_same_bits(variant, place, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer, "_SECONDS_PER_CALL", 0.0)  # The run can be stopped in the middle of an epoch.
    config = small_runs.small(variant, image_size=8)
    interrupt(config, tmp_path, *place)
    format_1.rewrite(tmp_path / "checkpoints")
    before = names(tmp_path / "checkpoints")
    assert all(len(name) == 10 for name in before)
    log = Log()
    small_runs.fit(config, tmp_path, log)
    (start,) = log.heard("on_run_start")
    assert_same_results(tmp_path, small_runs.finished(config).workdir)
    if place[0] == "epoch end":
        assert start.resumed_from == (1, 2) and before == ["0000999999", "0001000001", "0001000002"]
        assert names(tmp_path / "checkpoints") == ["0000999999", "1", "2"]
    else:
        assert start.resumed_from == (2, 0) and before == ["0000999999", "0001999999"]
        assert names(tmp_path / "checkpoints") == [*before, "2"]


def test_a_finished_run_of_an_earlier_version_is_loaded(tmp_path) -> None:
    whole = small_runs.finished(TINY)
    folder = small_runs.copied(whole.workdir, tmp_path / "run")
    format_1.rewrite(folder / "checkpoints")
    assert_equal_trees(small_runs.draw_all(load_memory(folder)), whole.drawn[-1])
    images = small_runs.digits(8).x_test
    for reading in ("consolidated", "auxiliary"):
        ours, theirs = (load_classifier(path, reading=reading).predict(images) for path in (folder, whole.workdir))
        assert_equal_trees(ours, theirs)
    log = Log()
    small_runs.fit(TINY, folder, log)
    assert [name for name, _ in log.events] == ["on_run_end"]
    assert names(folder / "checkpoints") == ["0000999999", "0001999999", "0002999999"]
