"""Two days of digits as files; the first day's are deleted before the second."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import small_runs

from dgm_jax import load_memory
from examples import own_images


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = small_runs.small("dgma", image_size=8, headroom=2)
    monkeypatch.setattr(own_images, "best", lambda variant, **shown: config)
    monkeypatch.setattr(own_images, "SIZE", 8)
    monkeypatch.setattr(own_images, "PER_CLASS", 30)


def test_two_days(capsys):
    own_images.write_digits(Path("monday"), (0, 1))
    own_images.write_digits(Path("tuesday"), (2, 3))
    assert len(list(Path("monday").glob("*/*.png"))) == 60
    own_images.main("run", "monday")
    drawn = small_runs.draw_all(load_memory("run"))
    shutil.rmtree("monday")

    own_images.main("run", "tuesday")
    memory = load_memory("run")
    assert memory.names == ("0", "1", "2", "3")
    for label, images in drawn.items():
        assert images.tobytes() == small_runs.draw_all(memory)[label].tobytes()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[::2] for line in printed if line.endswith("%")] == [["0"], ["0", "1"], ["2"], ["2", "3"]]
    assert np.asarray(Image.open("run/drawn.png")).shape == (4 * 8, 10 * 8)

    own_images.main("run")  # The digits of both days, which it writes again, are learnt.
    printed = capsys.readouterr().out
    assert printed.count("all its classes are learnt already") == 2
    assert "run/drawn.png shows images drawn of 0, 1, 2, 3" in printed
