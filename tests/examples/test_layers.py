"""Runs the examples of masked layers, whose pages say what they print, and what docs/flax.md shows of Haiku."""

import importlib.util
import re
import runpy

import numpy as np
import pytest
from support.pages import ROOT, blocks


def run(name):
    """What the names of an example stand for, after `python -m examples.NAME`."""
    return runpy.run_module(f"examples.{name}", run_name="__main__")


def require_page_says(page, n, printed):
    """The n-th output on a page is what was printed, but for numbers: other machines round otherwise."""
    said = [text for text in blocks(ROOT / "docs" / page, "") if " task 0" in text][n].splitlines()
    assert [re.sub(r"[\d.]+", "0", line) for line in said] == [re.sub(r"[\d.]+", "0", line) for line in printed]
    for line, other in zip(said, printed):
        percents = [[float(share) for share in re.findall(r"([\d.]+)%", text)] for text in (line, other)]
        assert percents[0] == pytest.approx(percents[1], abs=2)


def test_plain_functions_keep_the_first_task_bit_for_bit(capsys):
    names = run("layers")
    printed = capsys.readouterr().out
    require_page_says("layers.md", 0, printed.splitlines())
    outputs, labels = names["outputs"], names["test_labels"]
    assert list(outputs) == [(0, 0), (1, 0), (1, 1)]
    for (task, seen), logits in outputs.items():
        accuracy = np.mean(np.argmax(logits, 1) == labels[labels // 5 == seen] % 5)
        assert accuracy > 0.9
        assert f"after task {task}: {accuracy:.1%} on task {seen}, " in printed
    assert np.asarray(outputs[0, 0]).tobytes() == np.asarray(outputs[1, 0]).tobytes()

    (_, masks), (_, later) = names["tasks"]
    for mask, later_mask in zip(masks, later, strict=True):
        assert 0 < mask.sum() < mask.size
        assert np.any(later_mask & ~mask)  # The second task has learnt units of its own.


def accuracies(printed):
    return [float(share) for share in re.findall(r"^([\d.]+)% on task", printed, flags=re.MULTILINE)]


def test_nnx_keeps_its_first_task_through_growth_and_learns_the_second_as_well_as_alone(capsys):
    names = run("layers_nnx")
    printed = capsys.readouterr().out
    require_page_says("flax.md", 0, printed.splitlines())
    first, again, second = accuracies(printed)
    assert first == again > 95
    assert names["before"].tobytes() == names["after"].tobytes()
    alone = names["Classifier"](names["widths"], names["nnx"].Rngs(2))
    names["test"](names["use"](alone, names["learn"](alone, task=1)), task=1)
    assert second >= accuracies(capsys.readouterr().out)[0] - 2
    used = [int(names["first"].masks[name].sum()) for name in ("conv1", "conv2", "dense")]
    grown = [n + u for n, u in zip(names["widths"], used, strict=True)]
    model = names["model"]
    assert [layer.kernel.shape[-1] for layer in (model.conv1, model.conv2, model.dense)] == grown
    assert all(0 < u < n for u, n in zip(used, names["widths"], strict=True))


def test_linen_keeps_its_first_task_and_learns_the_second_as_well_as_alone(capsys):
    names = run("layers_linen")
    printed = capsys.readouterr().out
    require_page_says("flax.md", 1, printed.splitlines())
    first, again, second = accuracies(printed)
    assert first == again > 95
    assert names["before"].tobytes() == names["after"].tobytes()
    start = names["net"].init(names["jax"].random.key(2), np.zeros((1, 8, 8, 1), np.float32), slope=None)
    names["test"](names["use"](*names["learn"](start, task=1)), task=1)
    assert second >= accuracies(capsys.readouterr().out)[0] - 2
    assert names["step"]._cache_size() == 2  # In a new TrainState the number of steps is a Python number.


def require(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; docs/flax.md names the version with which this was tried")


def test_equinox_keeps_its_first_task_and_learns_the_second_as_well_as_alone(capsys):
    require("equinox")
    names = run("layers_equinox")
    printed = capsys.readouterr().out
    require_page_says("flax.md", 2, printed.splitlines())
    first, again, second = accuracies(printed)
    assert first == again > 95
    assert names["before"].tobytes() == names["after"].tobytes()
    alone = names["Classifier"](names["layers"], names["first"][1])
    alone, learnt, _ = names["learn"](alone, names["free"], task=1)
    names["test"](alone, learnt, task=1)
    assert second >= accuracies(capsys.readouterr().out)[0] - 2


def test_haiku_moves_only_free_weights():
    require("haiku")
    page = ROOT / "docs" / "flax.md"
    haiku = page.read_text().partition("## Haiku")[2].partition("```python\n")[2].partition("```")[0]
    setup, _, step = haiku.rstrip().rpartition("\n")
    names: dict = {}
    exec(compile(setup, str(page), "exec"), names)
    before = [names["params"][name]["kernel"] for name in names["names"]]
    exec(step, names)
    blocked = names["nn"].reserved_weights(names["reserved"], before)
    for name, old, mask in zip(names["names"], before, blocked, strict=True):
        changed = np.asarray(names["params"][name]["kernel"]) != np.asarray(old)
        np.testing.assert_array_equal(changed, ~np.broadcast_to(mask, changed.shape))
