"""The files for TensorBoard hold the same values as the other files of the run."""

import json
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from support import small_runs

from dgm_jax.errors import MissingExtra
from dgm_jax.reporting.tensorboard import TensorBoard

pytest.importorskip("tensorboardX", reason="tensorboardX is an extra")
from tensorboardX.proto import event_pb2  # noqa: E402


def events(folder):
    """Of all files, in order: length, checksum, event, checksum."""
    for path in sorted((folder / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            yield event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            at += 16 + size


def scalars(folder):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_the_same_numbers_and_pictures(tmp_path):
    config = small_runs.small("dgma")
    small_runs.fit(config, tmp_path, TensorBoard())
    found = scalars(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    checked = 0
    for line in lines:
        if line["kind"] == "epoch":
            step = line["task"] * config.gan.epochs + line["epoch"] + 1
            for name in set(line) - {"kind", "task", "epoch", "protocol"}:
                assert found[f"train/{name}", step] == pytest.approx(line[name], rel=1e-6)
                checked += 1
        else:
            step = (line["task"] + 1) * config.gan.epochs
            for reading, means in line["average"].items():
                for kind, value in means.items():
                    assert found[f"A/{reading}/{kind}", step] == pytest.approx(value, rel=1e-6)
            for name in set(line) - {"kind", "task", "protocol", "average"}:
                assert found[name, step] == pytest.approx(line[name], rel=1e-6)
                checked += 1
    assert checked > 50
    images = [v for event in events(tmp_path) for v in event.summary.value if v.HasField("image")]
    assert [value.tag for value in images] == ["memory"] * 3
    import io

    with Image.open(tmp_path / "samples" / "after_task_02.png") as picture:
        shown = np.asarray(Image.open(io.BytesIO(images[-1].image.encoded_image_string)).convert("L"))
        assert np.array_equal(shown, np.asarray(picture.convert("L")))


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtra, match=r'run: python -m pip install "dgm-jax\[tensorboard\]"'):
        TensorBoard()
