"""All settings of a run: what every method has, the groups, and the method's own."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dgm_jax.config.choices import FROZEN, TRAINS, Method, Network
from dgm_jax.config.groups import Consolidation, Data, Features, Gan, Gates, MethodSettings, Networks, Replay
from dgm_jax.config.setting import Facts, Settings, facts_of, setting
from dgm_jax.errors import ConfigError

# Settings that mean nothing for vectors, and the value that they then must have.
_OF_IMAGES: dict[str, Any] = {
    "consolidation_shift": 0,
    "consolidation_flip": False,
    "consolidation_means": False,
    "filters": Features().filters,
    "mirror": False,
    "memory_format": "raw",
}


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of a run. A setting's name is unique over all groups."""

    method: Method = setting("dgm")
    """dgm, or a baseline on the same stream and networks (docs/baselines.md says what each is)."""
    seed: int = setting(0, at_least=0, below=2**32)
    """Seed of everything random."""
    protocol: Literal["strict", "paper"] = setting("strict")
    """strict: the last epoch counts. paper: the epoch that is best on held-out REAL images of all classes so far."""
    checkpoint_seconds: float = setting(60.0, at_least=0, changeable=True)
    """Within a task, save a checkpoint at the first end of an epoch N seconds after the last one; 0: at every end."""
    evaluate_every: int = setting(1, above=0)
    """Measure accuracy on the test images of all classes so far after every N-th task and after the last one."""
    data: Data = Data()
    networks: Networks = Networks()
    gan: Gan = Gan()
    gates: Gates = Gates()
    replay: Replay = Replay()
    consolidation: Consolidation = Consolidation()
    features: Features = Features()
    method_settings: MethodSettings = MethodSettings()

    @property
    def classifier_network(self) -> Network:
        """The network of the consolidated classifier, and of the baselines' classifiers."""
        return self.consolidation.consolidation_network or self.networks.network

    @property
    def classifier_width(self) -> int:
        """The width of its first layer."""
        return self.consolidation.consolidation_width or self.networks.discriminator_width

    def check(self) -> None:
        """Refuses groups that cannot work together."""
        for name, kind in GROUPS.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be settings of class {kind.__name__}")
        self._check_networks()
        if self.consolidation.consolidation_shift >= self.data.image_size / 2:
            raise ConfigError(
                f"consolidation_shift={self.consolidation.consolidation_shift} must be below half of "
                f"image_size={self.data.image_size}"
            )
        chosen = {self.networks.network, self.classifier_network}
        if self.gan.batch_size == 1 and chosen != {"dcgan"}:
            network, of = ("dense", "vector") if "mlp" in chosen else ("residual", "image")
            raise ConfigError(
                f"batch_size=1: the {network} network normalises over the {of}s of a mini-batch, and one {of} has no "
                "spread; use at least 2"
            )
        if self.method in FROZEN and not self.features.combined and self.features != Features():
            raise ConfigError(
                f"filters={self.features.filters} and mirror={self.features.mirror} have no effect for method "
                f"{self.method!r} without combined=True; add it, or leave them out"
            )
        if self.protocol == "paper" and self.data.held_out == 0:
            raise ConfigError("protocol='paper' chooses epochs on held-out images; set held_out, e.g. 0.15")

    def _check_networks(self) -> None:
        """Refuses networks of images for vectors, networks of vectors for images, and what only images have."""
        chosen = {self.networks.network, self.classifier_network}
        if not self.data.are_vectors:
            if "mlp" in chosen:
                raise ConfigError(
                    f"network='mlp' is for vectors, but image_size={self.data.image_size}; use network='dcgan' or "
                    "'resnet' for images, or image_size=1 for vectors (--preset vectors has both)"
                )
            return
        if self.method in TRAINS and chosen != {"mlp"}:
            raise ConfigError(
                f"image_size=1 is for vectors, which need network='mlp', not {', '.join(sorted(chosen - {'mlp'}))!r} "
                "(--preset vectors has both)"
            )
        values = self.flat()
        given = [f"{name}={values[name]!r}" for name in _OF_IMAGES if values.get(name) not in (None, _OF_IMAGES[name])]
        if given:
            raise ConfigError(
                f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for images; vectors have no pixels"
            )

    # ---- By name, without the groups ----

    def flat(self) -> dict[str, Any]:
        """The value of each setting by its name."""
        return flattened(dataclasses.asdict(self))

    def with_changes(self, **changes: Any) -> "Config":
        """The same settings with some changed.

        If `combined` is turned off, settings that only it reads go back to their defaults.

        Args:
          **changes: settings by their names, whatever their groups; or whole groups.

        Raises:
          ConfigError: if there is no such setting, or a value cannot work.
        """
        if self.features.combined and changes.get("combined") is False and changes.get("method", self.method) in FROZEN:
            before, defaults = (dataclasses.asdict(of) for of in (self.features, Features()))
            changes |= {name: defaults[name] for name in before if changes.get(name, before[name]) == before[name]}
        places = places_of(type(changes.get("method_settings", self.method_settings)))
        direct: dict[str, Any] = {}
        by_group: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            if name in GROUPS and (name not in places or isinstance(value, Settings)):
                direct[name] = value  # A whole group; `replay` is both a group and a setting in it.
            elif name not in places:
                close = difflib.get_close_matches(name, places, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(f"there is no setting {name!r} for method {self.method!r}{hint}")
            else:
                by_group.setdefault(places[name], {})[name] = value
        direct |= by_group.pop("", {})
        for group, values in by_group.items():
            direct[group] = dataclasses.replace(direct.get(group, getattr(self, group)), **values)
        return dataclasses.replace(self, **direct)

    def for_method(self, method: Method, method_settings: MethodSettings | None = None) -> "Config":
        """The same settings for another method; those that it does not read are reset to their defaults.

        Args:
          method: the method.
          method_settings: the method's own settings; None: those of before if the method stays, else none yet.
        """
        if method_settings is None:
            method_settings = self.method_settings if method == self.method else MethodSettings()
        return self.with_changes(**unread_defaults(method), method=method, method_settings=method_settings)

    def check_method_reads_all(self) -> None:
        """Refuses settings that the method would pass over in silence."""
        values = self.flat()
        unread = {
            f"{name}={values[name]!r}": facts
            for name, facts in all_facts().items()
            if not facts.is_used_by(self.method) and values[name] != facts.default
        }
        if unread:
            raise ConfigError(no_effect(unread, self.method))


GROUPS: dict[str, type[Settings]] = {
    field.name: type(field.default) for field in dataclasses.fields(Config) if isinstance(field.default, Settings)
}


def kinds_of(method_settings: type[MethodSettings]) -> dict[str, type[Settings]]:
    """The class of each group, with a method's own settings; "" is the settings outside of groups."""
    return {"": Config, **GROUPS, "method_settings": method_settings}


def all_facts(method_settings: type[MethodSettings] = MethodSettings) -> dict[str, Facts]:
    """What is known of each setting, by its name; with a method's own settings."""
    return {name: facts for kind in kinds_of(method_settings).values() for name, facts in facts_of(kind).items()}


def places_of(method_settings: type[MethodSettings] = MethodSettings) -> dict[str, str]:
    """The group of each setting; "" for a setting outside of groups."""
    return {name: group for group, kind in kinds_of(method_settings).items() for name in facts_of(kind)}


def flattened(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns grouped settings, as `dataclasses.asdict` gives them, as one flat dict from name to value."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


def no_effect(unread: Mapping[str, Facts], method: str) -> str:
    """The message for settings that a method does not read.

    Args:
      unread: what is known about each setting; the setting as the user gave it.
      method: the method.
    """
    said = []
    for used_by, because in dict.fromkeys((facts.used_by or (), facts.because) for facts in unread.values()):
        words = [word for word, facts in unread.items() if (facts.used_by or (), facts.because) == (used_by, because)]
        have, reason = "has" if len(words) == 1 else "have", f": {because}" if because else ""
        only = f"(only for {', '.join(used_by)}{reason})"
        said.append(f"{' and '.join(words)} {have} no effect for method {method!r} {only}")
    return f"{'; '.join(said)}; remove {'it' if len(unread) == 1 else 'them'}"


def unread_defaults(method: str) -> dict[str, Any]:
    """The default of each setting that a method does not read."""
    return {name: facts.default for name, facts in all_facts().items() if not facts.is_used_by(method)}
