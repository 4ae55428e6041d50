"""Shared by the tests: the golden files' names in our trees, small runs on real digits, and programs compiled once."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from dgm_jax import Learner, Memory, data, load_memory
from dgm_jax.config import Config, all_facts
from dgm_jax.data import Dataset, TaskStream
from dgm_jax.methods import METHODS
from dgm_jax.models import dcgan
from dgm_jax.models.generator import Generator
from dgm_jax.runs.events import Callback, TaskEnd
from dgm_jax.system import checkpoint
from dgm_jax.training.task import Networks
from dgm_jax.training.trainer import Trainer
from dgm_jax.types import DiscriminatorParams, GeneratorParams, Linear, Norm, Statistics

DTYPES = ("float32", "float64")

# ---- networks ----


def chain(layers: Sequence[Any]) -> Generator:
    """The DCGAN generator of so many layers."""
    return dcgan.generator(4 * 2 ** len(layers))


# ---- programs ----

# Compiles ten times as fast; for programs that run once, on a handful of images.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)


@functools.cache
def scratch() -> Path:
    """A folder for what several test modules share; removed when the process ends."""
    holder = tempfile.TemporaryDirectory(prefix="dgm_jax_tests_")
    scratch.holder = holder  # type: ignore[attr-defined]  # Its finaliser removes the folder.
    return Path(holder.name)


def program_cache() -> Path:
    return scratch() / "programs"


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Keeps compiled programs on disk during a module: each `Learner` and each child process maps its own function.

    Import it into the modules that need it.
    """
    wanted = {
        "jax_compilation_cache_dir": str(program_cache()),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    configure(wanted)
    yield
    configure(before)


def configure(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


# ---- the golden files' names ----


def _array(named: Mapping[str, np.ndarray], name: str, dtype: Any) -> jax.Array:
    return jnp.asarray(named[name], dtype)


def _layers(named: Mapping[str, np.ndarray], prefix: str) -> list[int]:
    return sorted(int(name.removeprefix(prefix)) for name in named if name.removeprefix(prefix).isdecimal())


def discriminator(named: Mapping[str, np.ndarray], dtype: Any) -> DiscriminatorParams:
    """Our tree from the golden names of D's parameters (or of anything of their shapes)."""

    def linear(name: str) -> Linear:
        kernel = _array(named, f"{name}_w", dtype)
        return Linear(kernel.reshape(-1, kernel.shape[-1]), _array(named, f"{name}_b", dtype))

    trunk: list[dict[str, Any]] = []
    for i in _layers(named, "conv"):
        layer: dict[str, Any] = {"kernel": _array(named, f"conv{i}", dtype)}
        if i > 1:
            layer["norm"] = Norm(*(_array(named, f"norm{i}_{part}", dtype) for part in ("scale", "shift")))
        trunk.append(layer)
    return DiscriminatorParams({"trunk": trunk}, critic=linear("critic"), classifier=linear("class"))


def discriminator_names(params: DiscriminatorParams) -> dict[str, np.ndarray]:
    """Undoes `discriminator`."""
    named = {}
    for i, layer in enumerate(params.trunk["trunk"], start=1):
        named[f"conv{i}"] = layer["kernel"]
        if "norm" in layer:
            named |= {f"norm{i}_{part}": value for part, value in vars(layer["norm"]).items()}
    for name, head in (("critic", params.critic), ("class", params.classifier)):
        named[f"{name}_w"] = head.kernel.reshape(4, 4, -1, head.kernel.shape[-1])
        named[f"{name}_b"] = head.bias
    return {name: np.asarray(value) for name, value in named.items()}


def discriminator_statistics(named: Mapping[str, np.ndarray], dtype: Any) -> list[Statistics]:
    layers = sorted({int(name.removeprefix("norm").partition("_")[0]) for name in named})
    return [Statistics(*(_array(named, f"norm{i}_{part}", dtype) for part in ("mean", "var"))) for i in layers]


def discriminator_statistics_names(statistics: Any) -> dict[str, np.ndarray]:
    return {
        f"norm{i}_{part}": np.asarray(value)
        for i, running in enumerate(statistics, start=2)
        for part, value in vars(running).items()
    }


def generator(named: Mapping[str, np.ndarray], dtype: Any) -> GeneratorParams:
    """Our tree from the golden names of G's parameters."""
    layers = _layers(named, "w")
    return GeneratorParams(
        kernels=[_array(named, f"w{i}", dtype) for i in layers],
        norms=[Norm(*(_array(named, f"{part}{i}", dtype) for part in ("scale", "shift"))) for i in layers],
        heads=_array(named, "heads", dtype),
        embeddings=[_array(named, f"e{i}", dtype) for i in layers],
    )


def generator_names(params: GeneratorParams) -> dict[str, np.ndarray]:
    """Undoes `generator`."""
    named = {"heads": params.heads}
    for i, (kernel, norm, e) in enumerate(zip(params.kernels, params.norms, params.embeddings), start=1):
        named |= {f"w{i}": kernel, f"e{i}": e, f"scale{i}": norm.scale, f"shift{i}": norm.shift}
    return {name: np.asarray(value) for name, value in named.items()}


def generator_statistics(named: Mapping[str, np.ndarray], dtype: Any) -> list[Statistics]:
    layers = _layers(named, "mean")
    return [Statistics(*(_array(named, f"{part}{i}", dtype) for part in ("mean", "var"))) for i in layers]


def generator_statistics_names(statistics: Any) -> dict[str, np.ndarray]:
    return {f"{part}{i}": np.asarray(v) for i, own in enumerate(statistics, start=1) for part, v in vars(own).items()}


def numbered(named: Mapping[str, np.ndarray], prefix: str, dtype: Any) -> list[jax.Array]:
    """One array a layer: `mask1`, `mask2`, ..."""
    return [_array(named, f"{prefix}{i}", dtype) for i in _layers(named, prefix)]


def assert_named(
    actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: Any, *, gradient: bool = False
) -> None:
    """Compares two flat dicts of arrays with the golden files' tolerance."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        golden.assert_close(actual[name], value, dtype, gradient=gradient, err_msg=name)


# ---- other processes ----


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a Python of its own that can import the tests; compiled programs are shared."""
    tests = Path(__file__).parent
    path = [tests, tests / "training", tests.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_COMPILATION_CACHE_DIR": str(program_cache()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | settings | environment, stdout=pipe, stderr=pipe, text=True)


def outputs(*children: subprocess.Popen[str], seconds: float = 300) -> list[str]:
    """What each child prints. None outlives this: all are killed if one takes too long, or fails."""
    try:
        outputs = []
        for child in children:
            out, error = child.communicate(timeout=seconds)
            assert child.returncode == 0, error
            outputs.append(out)
        return outputs
    finally:
        for child in children:
            child.kill()  # jax.distributed would swallow a mere SIGTERM.
            child.communicate()


# ---- small runs ----


def trainer(
    config: Config, devices: Sequence[jax.Device] = (), *, n_classes: int = 3, max_heads: int = 1, backend: str = "pmap"
) -> Trainer:
    """The programs of a run on grey images, on one device unless others are given."""
    networks = Networks(config, channels=1, n_classes=n_classes, max_heads=max_heads)
    return Trainer(networks, devices or jax.local_devices()[:1], backend=backend)


LABELS = (0, 1, 2)

SMALL = Config().with_changes(
    image_size=16,
    noise_dim=8,
    generator_width=3,
    discriminator_width=4,
    epochs=3,
    batch_size=8,
    scale_max=100.0,
    headroom=4,
    consolidation_steps=6,
    consolidation_samples=16,
    checkpoint_epochs=1,
)
"""A run of seconds; what does not change its programs (epochs, replay, ...) may be changed for free."""


def small(variant: str = "dgma", method: str = "dgm", **changes: Any) -> Config:
    """`SMALL` with changes; for a baseline without those that it does not read."""
    config = SMALL.for_method(method, METHODS[method].settings())  # type: ignore[arg-type]
    changes |= {"variant": variant}
    read = {name for name, facts in all_facts(type(config.own)).items() if facts.is_used_by(method)}
    return config.with_changes(**{name: value for name, value in changes.items() if method == "dgm" or name in read})


def residual(variant: str = "dgma", **changes: Any) -> Config:
    """A run of seconds of the residual pair, with all that ImageNet adds: D goes on, aux_G, L1."""
    own = {"network": "resnet", "image_size": 8, "auxiliary_generator": True, "reconstruction_weight": 0.5}
    return small(variant, **own, reinitialise_discriminator=False, **changes)


def beyond(variant: str = "dgma", **changes: Any) -> Config:
    """A run of seconds with all that goes beyond the paper at once."""
    own = {
        **{"generator_average": 0.9, "warm_start": True, "critic_condition": "projection"},
        **{"generator_width": 8},  # So wide that no draw of the gates closes all of them.
        **{"consolidation_flip": True, "consolidation_smoothing": 0.1, "consolidation_width": 6},
    }
    return small(variant, **({"image_size": 8} | own | changes))


@functools.cache
def digits(size: int, labels: Sequence[int] = LABELS, per_class: int = 24, names: Sequence[int] = ()) -> Dataset:
    """Real digits of some classes; `names` are labels to use in place of their own."""
    whole = data.load("digits").resized(size)
    train, test = np.isin(whole.y_train, labels), np.isin(whole.y_test, labels)
    table = np.arange(10)
    table[list(labels)] = names or labels
    y_train, y_test = table[whole.y_train[train]], table[whole.y_test[test]]
    some = data.from_arrays(whole.x_train[train], y_train, whole.x_test[test], y_test, name="digits")
    return some.first_per_class(per_class)


def stream(config: Config, labels: Sequence[int] = LABELS, names: Sequence[int] = (), **options: Any) -> TaskStream:
    """A stream of real digits, 24 training images a class besides those held out."""
    per_class = round(24 / (1 - config.data.held_out))
    dataset = digits(config.data.image_size, tuple(labels), per_class, tuple(names))
    return data.class_incremental(dataset, held_out=config.data.held_out, protocol=config.protocol, **options)


def fit(config: Config, workdir: Path, *callbacks: Callback, resume_anyway: bool = False, **options: Any) -> dict:
    """One run on one device."""
    learner = Learner(config, devices=1, callbacks=callbacks)
    return learner.fit(stream(config, **options), workdir, resume_anyway=resume_anyway)


class Watch(Callback):
    """Loads the memory at the end of every task, as a stranger would, and draws every class that it knows."""

    N = 5

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.drawn: list[dict[int, np.ndarray]] = []  # By task, then label.
        self.memories: list[Memory] = []

    def on_task_end(self, event: TaskEnd) -> None:
        memory = load_memory(self.workdir)
        self.memories.append(memory)
        self.drawn.append(draw_all(memory))


def draw_all(memory: Memory) -> dict[int, np.ndarray]:
    """A few images of every class the memory knows, for fixed keys."""
    known = memory.labels[: memory.n_classes]
    return {label: np.asarray(memory.sample(label, Watch.N, jax.random.key(label))) for label in known}


@functools.cache
def finished(config: Config, **options: Any) -> Watch:
    """A whole run, made once; its folder is not to be written into. For the options see `stream`."""
    watch = Watch(Path(tempfile.mkdtemp(dir=scratch())))
    fit(config, watch.workdir, watch, **options)
    return watch


SIX = (0, 1, 2, 3, 4, 5)


def unequal() -> Watch:
    """A run with tasks of three, two and one classes, whose labels are any numbers, in an order of their own."""
    config = small("dgma", image_size=8, headroom=2)
    names, order = (70, -3, 12, 5, 900, 41), (12, 900, -3, 70, 5, 41)
    return finished(config, labels=SIX, names=names, class_order=order, classes_per_task=(3, 2, 1))


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def newest(workdir: Path) -> checkpoint.Checkpoint:
    """The newest checkpoint, which must be whole."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    restored = checkpoint.restore(workdir / "checkpoints", on_damage=refuse)
    assert restored is not None
    return restored


def assert_equal_trees(a: Any, b: Any) -> None:
    """Bit for bit, NaN and the sign of zero included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), (_, y) in zip(jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        name = jax.tree_util.keystr(path)
        assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        assert x.tobytes() == y.tobytes(), f"{name} differs in {np.sum(x != y)} of {x.size} entries"


def flip_a_byte(workdir: Path) -> Path:
    """Damages the newest checkpoint: one bit of its largest file. Returns its folder."""
    folder = sorted((workdir / "checkpoints").glob("[0-9]*"))[-1]
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return folder
