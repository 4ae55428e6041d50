"""Our trees of parameters from the names in the golden files, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dgm_jax.models import dcgan
from dgm_jax.models.generator import Generator
from dgm_jax.types import DiscriminatorParams, GeneratorParams, Linear, Norm, Statistics
from support import golden


def chain(layers: Sequence[Any]) -> Generator:
    """The DCGAN generator of so many layers."""
    return dcgan.generator(4 * 2 ** len(layers))


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
