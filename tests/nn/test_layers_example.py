"""Runs the example of docs/layers.md as it stands there."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "docs" / "layers.md"


def test_the_example_keeps_its_first_task_bit_for_bit(capsys):
    example, of_flax = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(compile(example, str(PAGE), "exec"), names)
    exec(compile(of_flax, str(PAGE), "exec"), names)
    assert names["params"]["params"]["kernel"].shape == (3, 3, 3, 16)
    printed = capsys.readouterr().out

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
