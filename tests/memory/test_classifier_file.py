"""A classifier in one file: it scores as that of the run does; what is none is refused."""

import copy
import dataclasses
import math
import random
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
from support import children, damage, small_runs

from dgm_jax import load_classifier, load_memory
from dgm_jax.commands.main import main
from dgm_jax.errors import NewerFormat, NoMemory
from dgm_jax.memory import classifier_section
from dgm_jax.memory import file as memory_file
from dgm_jax.memory.classifier import Classifier
from dgm_jax.memory.container import Section, pack, unpack
from dgm_jax.memory.file import DamagedMemoryFile, encode
from dgm_jax.models import NETWORKS, pair


def by_hand(network: str, image_size: int, channels: int) -> Classifier:
    """With random arrays, a critic that is conditioned on the class, and an output that is not used yet."""
    params, statistics = pair(network).init_discriminator(
        jax.random.key(0), width=5, image_size=image_size, channels=channels, n_classes=4
    )
    rng = np.random.default_rng(1)
    shape = params.critic.kernel.shape
    random_numbers = jax.tree.map(lambda a: rng.uniform(0.1, 1, a.shape).astype(np.float32), (params, statistics))
    params = dataclasses.replace(random_numbers[0], projection=rng.normal(size=shape[::-1]).astype(np.float32))
    shape = (image_size, image_size, channels)
    names = ("a", "katze \U0001f408", '"c"')
    own = {"image_shape": shape, "labels": (-3, 2**40, 7), "names": names}
    return Classifier(params, random_numbers[1], network, **own)


CLASSIFIERS = {
    "dcgan": lambda: by_hand("dcgan", 16, 3),
    "resnet": lambda: by_hand("resnet", 8, 1),
    "consolidated": lambda: load_classifier(small_runs.unequal().workdir),
    "auxiliary": lambda: load_classifier(small_runs.unequal().workdir, reading="auxiliary"),
}


@pytest.fixture(scope="module", params=CLASSIFIERS)
def classifier(request):
    return CLASSIFIERS[request.param]()


@pytest.fixture
def section() -> Section:
    """Of a classifier; its header may be changed."""
    made = classifier_section.encode(load_classifier(small_runs.unequal().workdir))
    return Section(copy.deepcopy(made.header), dict(made.tensors))


def decode(content: bytes) -> Classifier:
    classifier = memory_file.decode(content).classifier
    assert classifier is not None
    return classifier


def images(classifier: Classifier, n: int = 300) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *classifier.image_shape), np.uint8)


def test_its_logits_are_bit_for_bit_the_same(classifier, tmp_path):
    path = tmp_path / "classifier.safetensors"
    assert memory_file.write(path, classifier=classifier) == path.stat().st_size
    loaded = load_classifier(path)
    pixels = images(classifier)
    assert loaded.logits(pixels).tobytes() == classifier.logits(pixels).tobytes()
    assert loaded.features(pixels).tobytes() == classifier.features(pixels).tobytes()
    for name in ("labels", "names", "network", "image_shape", "n_outputs"):
        assert getattr(loaded, name) == getattr(classifier, name)
    assert encode(None, loaded) == path.read_bytes()


def test_a_temperature_is_kept_where_there_is_one(classifier, tmp_path):
    path = tmp_path / "classifier.safetensors"
    calibrated = dataclasses.replace(classifier, temperature=0.7)
    memory_file.write(path, classifier=calibrated)
    assert load_classifier(path).temperature == 0.7 and encode(None, load_classifier(path)) == path.read_bytes()
    assert list(unpack(path.read_bytes(), ("classifier",))) == ["classifier"]  # As readers of earlier versions see it.
    plain = dataclasses.replace(classifier, temperature=1.0, threshold=None)
    assert b"confidence" not in encode(None, plain) and decode(encode(None, plain)).temperature == 1
    with_threshold = dataclasses.replace(plain, threshold=-2.5)
    assert decode(encode(None, with_threshold)).threshold == -2.5 and decode(encode(None, plain)).threshold is None
    pixels = images(classifier, 20)
    logits = classifier.logits(pixels)[:, : len(classifier.labels)].astype(float) / 0.7
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = calibrated.predict(pixels)
    np.testing.assert_allclose(found[1], odds / odds.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7)
    assert np.array_equal(found[0], plain.predict(pixels)[0])


def test_both_in_one_file(classifier, tmp_path):
    memory = small_runs.unequal().memories[-1]
    path = tmp_path / "both.safetensors"
    memory_file.write(path, memory, classifier)
    assert encode(load_memory(path)) == encode(memory)
    assert encode(None, load_classifier(path)) == encode(None, classifier)
    assert encode(*memory_file.read(path)) == path.read_bytes()
    with safetensors.safe_open(path, framework="np") as file:
        names = list(file.keys())
        kernel = file.get_tensor("classifier.params.classifier.kernel")
    assert np.array_equal(kernel, classifier.params.classifier.kernel) and "memory.weights" in names
    assert not any("projection" in name for name in names)


def test_what_a_file_does_not_hold(tmp_path):
    run = small_runs.unequal()
    classifier = load_classifier(run.workdir)
    memory_file.write(tmp_path / "memory.safetensors", run.memories[-1])
    memory_file.write(tmp_path / "classifier.safetensors", None, classifier)
    with pytest.raises(NoMemory, match="holds a memory and no classifier; export it with --what classifier"):
        load_classifier(tmp_path / "memory.safetensors")
    with pytest.raises(NoMemory, match="holds a classifier and no memory; export it with --what memory"):
        load_memory(tmp_path / "classifier.safetensors")
    for options in ({"after_task": 1}, {"reading": "auxiliary"}):
        with pytest.raises(NoMemory, match="holds one classifier; after_task and reading choose"):
            load_classifier(tmp_path / "classifier.safetensors", **options)
    with pytest.raises(ValueError, match="nothing to write"):
        encode()


def test_loading_needs_jax_numpy_and_safetensors_only(tmp_path):
    run = small_runs.unequal()
    classifier = load_classifier(run.workdir)
    path = tmp_path / "both.safetensors"
    memory_file.write(path, run.memories[-1], classifier)
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        others = ("flax", "optax", "orbax", "chex", "PIL", "scipy", "sklearn", "rich", "tyro", "matplotlib", "jinja2",
            "etils", "tensorflow", "tensorflow_datasets", "array_record", "flatbuffers", "torch")
        if name.partition(".")[0] in others and not name.startswith("jax"):
            raise ImportError(name + " is not to be needed")
sys.meta_path.insert(0, Refuse())
import dgm_jax, jax, numpy as np
classifier, memory = dgm_jax.load_classifier({str(path)!r}), dgm_jax.load_memory({str(path)!r})
pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
print(classifier.predict(memory.sample(12, 3, jax.random.key(0)))[0].shape)
print(classifier.logits(pixels).tobytes().hex())
"""
    (out,) = children.outputs(children.start(code))
    shape, logits = out.splitlines()
    assert shape == "(3,)" and logits == classifier.logits(images(classifier)).tobytes().hex()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("image_size", "channels"), [(8, 1), (32, 3), (64, 3)])
def test_the_shapes_that_a_width_means(network, image_size, channels):
    """Those of a fresh network of this width, for each network."""
    header = classifier_section._Header(network, image_size, channels, [0], ["0"])
    for width, n_classes in ((1, 3), (5, 2)):
        fresh = pair(network).init_discriminator(
            jax.random.key(0), width=width, image_size=image_size, channels=channels, n_classes=n_classes
        )
        arrays = classifier_section._by_name(fresh)
        assert header.shapes(arrays) == {name: array.shape for name, array in arrays.items()}


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"network": "exec"}, "network 'exec' is none of"),
            ({"network": ["dcgan"]}, "network"),
            ({"network": "resnet"}, "lacks arrays or has superfluous ones"),
            ({"image_size": 16}, "lacks arrays or has superfluous ones|expected float32"),
            ({"image_size": 8.0}, "image_size 8.0"),
            ({"channels": 3}, "expected float32"),
            ({"labels": [1, 1, 2, 3, 4, 5]}, "a label that two classes have"),
            ({"labels": "123456"}, "is no list"),
            ({"names": ["a"]}, "6 labels and 1 names"),
            ({"labels": list(range(9)), "names": ["a"] * 9}, "9 classes, but fewer outputs"),
            ({"more": 1}, "cannot be read"),
        ],
    )
    def test_a_header_that_cannot_be(self, section, change, said):
        with pytest.raises(DamagedMemoryFile, match=said):
            decode(pack({"classifier": Section(section.header | change, section.tensors)}))

    def test_arrays_that_cannot_be(self, section):
        tensors = section.tensors
        for name, array in tensors.items():
            fewer = {other: kept for other, kept in tensors.items() if other != name}
            with pytest.raises(DamagedMemoryFile):
                decode(pack({"classifier": Section(section.header, fewer)}))
            bad = array.copy()
            bad.flat[0] = np.nan
            for wrong in (array[:-1], array[None], array.astype(np.float64), array.astype(np.int32), array[:0], bad):
                with pytest.raises(DamagedMemoryFile):
                    decode(pack({"classifier": Section(section.header, tensors | {name: wrong})}))
        with pytest.raises(DamagedMemoryFile, match="superfluous ones: more"):
            decode(pack({"classifier": Section(section.header, tensors | {"more": np.ones(1, np.float32)})}))

    @pytest.mark.parametrize(
        ("change", "said"),
        [({"temperature": bad}, "a temperature of .* is not valid") for bad in (0.0, -1.0, 1, None, "1.0", [1.0])]
        + [({"threshold": bad}, "a threshold of .* is not valid") for bad in (math.nan, math.inf, 3, "1.0", False)]
        + [({"optional": False}, "section 'confidence' is not in the form"), ({"more": 1}, "'confidence' is not in")],
    )
    def test_a_confidence_that_cannot_be(self, section, change, said):
        confidence = Section({"optional": True, "temperature": 2.0, "threshold": None} | change, {})
        with pytest.raises(DamagedMemoryFile, match=said):
            decode(pack({"classifier": section, "confidence": confidence}))

    def test_a_confidence_of_no_classifier(self):
        with pytest.raises(DamagedMemoryFile, match="a section 'confidence' and no classifier"):
            decode(pack({"confidence": Section({"optional": True, "temperature": 2.0}, {})}))

    def test_a_negative_variance(self):
        section = classifier_section.encode(by_hand("resnet", 8, 1))
        negative = section.tensors | {"statistics.2.var": -section.tensors["statistics.2.var"]}
        with pytest.raises(DamagedMemoryFile, match="variance in it is negative"):
            decode(pack({"classifier": Section(section.header, negative)}))

    def test_heads_that_announce_much(self, section):
        """A small file cannot make a large network: only its own arrays are looked at."""
        critic = np.zeros((2**24, 0), np.float32)
        with pytest.raises(DamagedMemoryFile, match="expected float32"):
            decode(pack({"classifier": Section(section.header, section.tensors | {"params.critic.kernel": critic})}))

    def test_a_hostile_file_is_refused_or_is_a_classifier(self, section):
        rng, read = random.Random(0), 0
        fields: list[Any] = list(section.header)
        for _ in range(500):
            header = section.header | {rng.choice(fields): damage.value(rng)}
            changed = pack({"classifier": Section(header, section.tensors)})
            try:
                classifier = decode(changed)
            except (DamagedMemoryFile, NewerFormat):
                continue
            assert encode(None, classifier) == changed
            read += 1
        assert read > 0


def test_the_commands(tmp_path, capsys):
    run = small_runs.unequal()
    both, one = tmp_path / "both.safetensors", tmp_path / "one.safetensors"
    assert main(["export", str(run.workdir), str(both), "--what", "both"]) == 0
    assert f"6 classes in {both.stat().st_size:,} bytes (both, safetensors)" in capsys.readouterr().out
    assert main(["export", str(run.workdir), str(one), "--what", "classifier", "--after-task", "0"]) == 0
    assert load_classifier(one).labels == load_classifier(run.workdir, after_task=0).labels == (12, 900, -3)
    assert load_classifier(both).labels == load_memory(both).labels
    capsys.readouterr()
    picture = tmp_path / "grid.png"
    assert main(["sample", str(both), "--classes", "12", "--n", "1", "--out", str(picture)]) == 0
    capsys.readouterr()
    printed = []
    for source in (run.workdir, both):
        assert main(["predict", str(source), str(picture)]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0].startswith(f"{picture}\t")
    for words, said in (
        (["--what", "both", "--to", "stablehlo"], "a program either draws or predicts; choose memory or classifier"),
        (["--what", "classifier", "--to", "npz"], "only a memory is written --to npz"),
    ):
        assert main(["export", str(run.workdir), str(tmp_path / "none"), *words]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "none").exists()
    for name, words in (("m.npz", []), ("m.stablehlo", ["--to", "npz"]), ("m.safetensors", ["--to", "npz"])):
        assert main(["export", str(run.workdir), str(tmp_path / name), *words]) == 2
        assert f"; give --to {name.removeprefix('m.')}, or another name" in capsys.readouterr().err
        assert not (tmp_path / name).exists()
