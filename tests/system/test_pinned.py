"""What is trained and drawn does not hang on settings of JAX that somebody made for the whole process."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from support import children

from dgm_jax import load_memory
from dgm_jax.memory import memory_section
from dgm_jax.memory.container import DamagedMemoryFile, Section
from dgm_jax.system.pinned import KEYS, OtherGenerator, new_key, pinned

MEMORY = Path(__file__).parents[1] / "fixtures" / "format-1" / "memory.dgm"
FLAGS = {
    "JAX_ENABLE_X64": "1",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_TRANSFER_GUARD": "disallow_explicit",
    "JAX_RANDOM_SEED_OFFSET": "7",
}
DRAW = f"""
import hashlib, tempfile
import jax, numpy as np
from pathlib import Path
from dgm_jax import load_memory, load_classifier
from dgm_jax.memory import export
from dgm_jax.system.pinned import new_key, pinned

def digest(*arrays):
    return hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()

memory, key = load_memory({str(MEMORY)!r}), new_key(3)
print("drawn", digest(*(memory.sample(label, 5, key) for label in memory.labels[:2])))
program = jax.export.deserialize(bytearray(export.to_stablehlo(memory)))
with pinned():
    print("exported", digest(program.call(jax.random.key_data(key), np.int32(0), np.int32(memory.labels[0]))[:5]))
"""
TRAIN = """
from support import small_runs

folder = Path(tempfile.mkdtemp())
for variant in ("dgma", "dgmw"):
    config = small_runs.small(variant, image_size=8, epochs=2)
    summary = small_runs.fit(config, folder / variant)
    trained = load_memory(folder / variant)
    print(variant, digest(*trained.kernels, trained.sample(trained.labels[0], 5, key)))
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    print("predicted", digest(*load_classifier(folder / variant).predict(images)))
"""


def test_no_setting_of_jax_changes_a_bit():
    """All settings at once: drawing, exporting, training and predicting."""
    (plain,) = children.outputs(children.start(DRAW + TRAIN))
    (changed,) = children.outputs(children.start(DRAW + TRAIN, **FLAGS))
    assert changed == plain and len(plain.splitlines()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_no_setting_alone_changes_what_is_drawn(name):
    """Two settings could undo each other."""
    plain, changed = children.outputs(children.start(DRAW), children.start(DRAW, **{name: FLAGS[name]}))
    assert changed == plain


def test_a_key_of_another_generator_is_refused():
    memory = load_memory(MEMORY)
    text = "a key of the generator rbg would draw other images than those of threefry2x32; make the key with "
    text += "jax.random.key(seed, impl='threefry2x32')"
    with pytest.raises(OtherGenerator, match=f"^{re.escape(text)}$"):
        memory.sample(memory.labels[0], 2, jax.random.key(0, impl="rbg"))
    with pytest.raises(TypeError, match=r"^key=0; expected a random key, such as jax.random.key\(0\)$"):
        memory.sample(memory.labels[0], 2, 0)
    with pytest.raises(OtherGenerator):
        next(memory.stream(memory.labels[0], 2, jax.random.key(0, impl="unsafe_rbg")))
    with jax.default_prng_impl("rbg"):
        for draw in (memory.sample, memory.images):
            with pytest.raises(OtherGenerator, match="whose keys have the shape"):
                draw(0, 2, jax.random.PRNGKey(0))
    old_form = memory.sample(memory.labels[0], 2, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(old_form, memory.sample(memory.labels[0], 2, new_key(0)))


def test_the_memory_file_names_its_generator():
    section = memory_section.encode(load_memory(MEMORY))
    assert section.header["keys"] == KEYS
    with pytest.raises(DamagedMemoryFile, match="random numbers of 'xyz', only threefry2x32 is known"):
        memory_section.decode(Section(section.header | {"keys": "xyz"}, section.tensors))


def test_the_generator_is_the_one_of_every_memory_so_far():
    for flag in (True, False):
        with jax.threefry_partitionable(flag), pinned():
            bits = jax.random.bits(jax.random.key(7), (3,)).tolist()
        assert bits == [2895194379, 4185947648, 1300703658], flag


def test_settings_are_as_they_were_afterwards():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        with pinned():
            assert jax.numpy.ones(2, np.float32).dtype == jax.numpy.asarray(1.0).dtype == np.float32
        assert jax.numpy.asarray(1.0).dtype == np.float64
