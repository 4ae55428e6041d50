"""A memory for those who have no dgm_jax: arrays, and a program that draws."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from support import children, small_runs
from support.marks import slow_but

from dgm_jax import load_classifier
from dgm_jax.errors import UserError
from dgm_jax.memory import export
from dgm_jax.memory.file import decode, encode
from dgm_jax.memory.memory import CHUNK

RUNS = {
    "dgma": lambda: small_runs.finished(small_runs.small("dgma")),
    "dgmw-pairs": lambda: small_runs.finished(
        small_runs.small("dgmw", image_size=8, headroom=2), labels=small_runs.SIX, classes_per_task=2
    ),
    "dgma-unequal": small_runs.unequal,
    "dgma-resnet": lambda: small_runs.finished(small_runs.residual("dgma", seed=1)),
}


@pytest.fixture(scope="module", params=slow_but(list(RUNS), "dgma", "dgmw-pairs", "dgma-unequal"))
def memory(request):
    return RUNS[request.param]().memories[-1]


def test_the_program_draws_what_the_memory_draws(memory, tmp_path):
    """In a process that has JAX and not this package; equal to rounding, for it is compiled as one program."""
    (tmp_path / "memory.stablehlo").write_bytes(export.to_stablehlo(memory))
    labels = memory.labels[: memory.n_classes]
    code = f"""
import sys, jax, numpy as np
call = jax.export.deserialize(bytearray(open({str(tmp_path / "memory.stablehlo")!r}, "rb").read())).call
key = jax.random.key_data(jax.random.key(3))
drawn = {{str(label): call(key, np.int32(0), np.int32(label)) for label in {labels}}}
drawn["later"] = call(key, np.int32(128), np.int32({labels[0]}))
drawn["unknown"] = call(key, np.int32(0), np.int32(-99))
np.savez({str(tmp_path / "drawn.npz")!r}, **drawn)
assert not any(name.startswith("dgm_jax") for name in sys.modules)
"""
    children.outputs(children.start(code))
    with np.load(tmp_path / "drawn.npz") as file:
        drawn = dict(file)
    for label in labels:
        expected = np.asarray(memory.sample(label, CHUNK, jax.random.key(3)))
        np.testing.assert_allclose(drawn[str(label)], expected, rtol=0, atol=5e-6)
        assert np.std(expected) > 5e-5  # Ten times the tolerance.
    later = np.asarray(memory.sample(labels[0], 2 * CHUNK, jax.random.key(3)))[CHUNK:]
    np.testing.assert_allclose(drawn["later"], later, rtol=0, atol=5e-6)
    assert np.isnan(drawn["unknown"]).all()


def test_the_program_predicts_what_the_classifier_predicts(tmp_path):
    """In a process that has JAX and not this package, for any number of images."""
    run = small_runs.unequal()
    classifier = load_classifier(run.workdir)
    images = np.concatenate([np.asarray(run.memories[-1].sample(label, 3, jax.random.key(0))) for label in (12, 41)])
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "classifier.stablehlo").write_bytes(export.to_stablehlo(classifier))
    code = f"""
import sys, jax, numpy as np
call = jax.export.deserialize(bytearray(open({str(tmp_path / "classifier.stablehlo")!r}, "rb").read())).call
images = np.load({str(tmp_path / "images.npy")!r})
np.savez({str(tmp_path / "predicted.npz")!r}, *call(images), *call(images[:1]))
assert not any(name.startswith("dgm_jax") for name in sys.modules)
"""
    children.outputs(children.start(code))
    with np.load(tmp_path / "predicted.npz") as file:
        predicted = dict(file)
    labels, probabilities = classifier.predict(images)
    assert np.array_equal(predicted["arr_0"], labels) and predicted["arr_0"].dtype == np.int32
    np.testing.assert_allclose(predicted["arr_1"], probabilities, rtol=0, atol=2e-6)
    assert predicted["arr_2"].tolist() == [labels[0]]
    np.testing.assert_allclose(predicted["arr_3"], probabilities[:1], rtol=0, atol=2e-6)


def test_labels_of_more_than_32_bits(memory):
    large = decode(encode(memory)).memory
    object.__setattr__(large, "labels", (2**31, *large.labels[1:]))
    with pytest.raises(UserError, match="to 2147483648 do not fit into the program's 32 bits"):
        export.to_stablehlo(large)
    classifier = load_classifier(small_runs.unequal().workdir)
    with pytest.raises(UserError, match="from -2147483649 to 900 do not fit"):
        export.to_stablehlo(dataclasses.replace(classifier, labels=(-(2**31) - 1, *classifier.labels[1:])))


def test_npz_has_every_array(memory):
    arrays = np.load(io.BytesIO(export.to_npz(memory)), allow_pickle=False)
    assert tuple(arrays["labels"]) == memory.labels[: memory.n_classes]
    assert tuple(arrays["names"]) == memory.names[: memory.n_classes]
    for i, kernel in enumerate(memory.kernels):
        assert np.array_equal(arrays[f"kernel_{i}"], kernel)
    for t, task in enumerate(memory.tasks):
        assert tuple(arrays[f"task_{t}_widths"]) == task.widths
        assert np.array_equal(arrays[f"task_{t}_heads"], task.heads)
        for i, mask in enumerate(task.masks):
            assert np.array_equal(arrays[f"task_{t}_mask_{i}"], mask)
        for i in range(len(task.norms)):
            for name, value in (vars(task.norms[i]) | vars(task.statistics[i])).items():
                assert np.array_equal(arrays[f"task_{t}_norm_{i}_{name}"], value)
