"""The example in docs/ship.md: a network that is trained only on drawn images recognises real ones."""

import re
from pathlib import Path

import numpy as np
from support import small_runs

from dgm_jax.memory import file as memory_file

PAGE = Path(__file__).parents[2] / "docs" / "ship.md"


def test_a_flax_network_learns_from_a_memory(tmp_path, monkeypatch):
    """Two digits, learnt one after the other by a short run; a network that guesses is right in half of the cases."""
    config = small_runs.small(image_size=8, headroom=2, generator_width=16, discriminator_width=16, epochs=20)
    run = small_runs.finished(config, labels=(0, 1))
    monkeypatch.chdir(tmp_path)
    memory_file.write("memory.safetensors", run.memories[-1])
    (example,) = [text for text in re.findall("```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "batches" in text]
    names: dict = {}
    exec(compile(example.replace("range(500)", "range(60)"), PAGE, "exec"), names)
    assert len(names["real"].x_test) > 60 and 0.8 < names["accuracy"] <= 1
    assert np.array_equal(names["labels"], (0, 1))
