"""The method of docs/extend.md, as a reader would copy it: it can use several seeds and devices, and resume."""

import json
import re
import signal
from pathlib import Path

import pytest
from support import checks, children, small_runs

from dgm_jax import Learner
from dgm_jax.methods import METHODS
from dgm_jax.methods.method import Method
from dgm_jax.runs import checkpoints

# The page's method takes the place of a known one, because the settings accept only the names of known methods.
NAME = "er"
# 250 steps a task are three epochs of at most 100 steps, with a checkpoint after each.
CONFIG = small_runs.small(method=NAME, image_size=8, consolidation_steps=250, checkpoint_seconds=0)
LABELS = (0, 1)


def method_of_the_page() -> type[Method]:
    """Executes the first block of Python in the section on methods, and returns the class that it defines."""
    page = Path(__file__).parents[2] / "docs" / "extend.md"
    section = page.read_text().partition("\n## A method\n")[2].partition("\n## ")[0]
    code = re.search(r"^```python\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    assert code is not None
    names: dict = {}
    exec(compile(code[1], str(page), "exec"), names)
    return names["RingBuffer"]


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> type[Method]:
    method = method_of_the_page()
    monkeypatch.setitem(METHODS, NAME, method)
    return method


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder and the summary of a run from begin to end, which no test writes into."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, NAME, method_of_the_page())
        return workdir, small_runs.fit(CONFIG, workdir, labels=LABELS)


def in_a_child(*lines: str, **environment: str):
    """Starts a process that registers the method and then runs `lines`."""
    setup = [
        "import json, signal, sys",
        f"sys.path.append({str(Path(__file__).parent)!r})",
        "import test_extend",
        "from support import small_runs, stopping",
        "from dgm_jax import Learner",
        "test_extend.METHODS[test_extend.NAME] = test_extend.method_of_the_page()",
    ]
    return children.start("\n".join([*setup, *lines]), **environment)


def test_it_learns_and_keeps_images(undisturbed, registered) -> None:
    workdir, summary = undisturbed
    assert summary["A_2"]["classifier"]["macro"] > 0.9  # Without the kept images it would be 0.5.
    kept = small_runs.newest(workdir).tree
    assert kept["labels"].tolist() == [c for c in range(2) for _ in range(registered.per_class)]
    assert summary["bytes"]["memory"]["images"] == 2 * registered.per_class * 8 * 8


def test_two_seeds_are_learnt_side_by_side(undisturbed, tmp_path) -> None:
    workdir, alone = undisturbed
    streams = [small_runs.stream(CONFIG, LABELS) for _ in range(2)]
    both = Learner(CONFIG, devices=1).fit_seeds([CONFIG.seed, CONFIG.seed + 1], streams, tmp_path)
    accuracies = both["A_2"]["classifier"]["macro"]["values"]
    assert accuracies[0] == pytest.approx(alone["A_2"]["classifier"]["macro"], abs=0.05)
    assert accuracies[1] > 0.9
    first, single = small_runs.newest(tmp_path / f"seed{CONFIG.seed}").tree, small_runs.newest(workdir).tree
    checks.assert_equal_trees(first["images"], single["images"])


@pytest.mark.slow
def test_on_two_devices(undisturbed, tmp_path) -> None:
    workdir, on_one = undisturbed
    child = in_a_child(
        "learner = Learner(test_extend.CONFIG, devices=2)",
        f"print(json.dumps(learner.fit(small_runs.stream(test_extend.CONFIG, test_extend.LABELS), {str(tmp_path)!r})))",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    (printed,) = children.outputs(child)
    summary = json.loads(printed.splitlines()[-1])
    assert summary["device"].startswith("2 x ")
    assert summary["A_2"]["classifier"]["macro"] == pytest.approx(on_one["A_2"]["classifier"]["macro"], abs=0.05)
    checks.assert_equal_trees(small_runs.newest(tmp_path).tree["images"], small_runs.newest(workdir).tree["images"])


def test_killed_within_a_task_it_ends_bit_for_bit_alike(undisturbed, tmp_path) -> None:
    workdir, whole = undisturbed
    child = in_a_child(
        "stop = stopping.Stop('epoch end', 1, 1, signal.SIGKILL)",
        f"small_runs.fit(test_extend.CONFIG, {str(tmp_path)!r}, stop, labels=test_extend.LABELS)",
    )
    try:
        _, error = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == -signal.SIGKILL, error
    assert checkpoints.position(small_runs.newest(tmp_path)) == (1, 1)  # One epoch of the second task is done.
    resumed = small_runs.fit(CONFIG, tmp_path, labels=LABELS)
    assert resumed["A_2"] == whole["A_2"]
    checks.assert_equal_trees(small_runs.newest(tmp_path).tree, small_runs.newest(workdir).tree)
    for name in ("metrics.jsonl", "accuracy_matrix.csv"):
        assert (tmp_path / name).read_text() == (workdir / name).read_text()
