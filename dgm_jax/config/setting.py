"""A setting: everything that is known about it stands at its field, and its help is the docstring below the field."""

import ast
import dataclasses
import functools
import inspect
import math
import numbers
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dgm_jax.config.choices import Method
from dgm_jax.errors import ConfigError


@dataclass(frozen=True)
class Facts:
    """What is known about a setting besides its type, its default and its help."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    changeable: bool = False
    used_by: tuple[Method, ...] | None = None

    def is_used_by(self, method: str) -> bool:
        """Whether a method reads the setting."""
        return self.used_by is None or method in self.used_by

    def check(self, name: str, value: Any) -> None:
        """Refuses a number outside the range."""
        too_low = (self.above is not None and value <= self.above) or (
            self.at_least is not None and value < self.at_least
        )
        too_high = (self.below is not None and value >= self.below) or (
            self.at_most is not None and value > self.at_most
        )
        if too_low or too_high:
            raise ConfigError(f"{name}={value!r} must be {self.range_in_words}")

    @property
    def range_in_words(self) -> str:
        """For example "at least 0 and below 1"."""
        bounds = {
            "greater than": self.above,
            "at least": self.at_least,
            "below": self.below,
            "at most": self.at_most,
        }
        return " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)


def setting(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    changeable: bool = False,
    used_by: tuple[Method, ...] | None = None,
) -> Any:
    """Declares a field of a class of settings.

    Args:
      default: the value if nothing else is given.
      above: the value must be greater than this.
      at_least: the value must not be smaller than this.
      below: the value must be smaller than this.
      at_most: the value must not be greater than this.
      changeable: whether a run can continue with another value (--resume-anyway); only if no array's shape and no past
        result depends on it.
      used_by: the methods that read the setting; None: all. Other methods refuse another value than the default.
    """
    facts = Facts(above, at_least, below, at_most, changeable, used_by)
    return dataclasses.field(default=default, metadata=MappingProxyType({"facts": facts}))


class Settings:
    """Base of frozen dataclasses of settings; values that cannot work are refused when an object is made."""

    def __post_init__(self) -> None:
        """Checks each value by its type and its range, then all values together."""
        kind: Any = type(self)
        for field in own_fields(kind):
            _check_value(field.name, getattr(self, field.name), _hints(kind)[field.name], facts_of(field))
        self.check()

    def check(self) -> None:
        """Refuses values that cannot work together."""


def own_fields(kind: type) -> list[dataclasses.Field]:
    """The fields of a class of settings that are settings themselves, not groups of them."""
    fields = dataclasses.fields(kind)
    return [field for field in fields if not is_group(_hints(kind)[field.name])]


def groups_of(kind: type) -> list[dataclasses.Field]:
    """The fields of a class of settings that are groups of settings."""
    return [field for field in dataclasses.fields(kind) if is_group(_hints(kind)[field.name])]


def is_group(hint: Any) -> bool:
    """Whether a field of this type is a group of settings."""
    return isinstance(hint, type) and issubclass(hint, Settings)


def facts_of(field: dataclasses.Field) -> Facts:
    """What is known about a setting."""
    facts = field.metadata.get("facts", Facts())
    assert isinstance(facts, Facts)
    return facts


def help_of(kind: type) -> Mapping[str, str]:
    """The help of each field of a dataclass: the docstring below it, or below that of a base class."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:]):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                found[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _check_value(name: str, value: Any, hint: Any, facts: Facts) -> None:
    kinds, choices = _kinds_of(hint), _choices_of(hint)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{name}={value!r} must be {_in_words(kinds)}")
    if choices and value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown; choose one of {', '.join(map(str, choices))}")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{name}={value!r} must be a finite number")
        facts.check(name, value)


def _kinds_of(hint: Any) -> tuple[type, ...]:
    """The types that a setting may have; a whole number will do for any number."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return tuple({type(value) for value in parts})
    if parts:  # A union.
        return tuple(dict.fromkeys(kind for part in parts for kind in _kinds_of(part)))
    return {int: (numbers.Integral,), float: (numbers.Real,)}.get(hint, (hint,))


def _in_words(kinds: Sequence[type]) -> str:
    names = {numbers.Integral: "a whole number", numbers.Real: "a number", bool: "true or false", str: "a name"}
    return " or ".join(names.get(kind, "None") for kind in kinds)


def _choices_of(hint: Any) -> tuple[Any, ...]:
    """The values that a setting is one of; none where it may have any."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return parts
    chosen = tuple(value for part in parts for value in _choices_of(part))
    return (*chosen, None) if chosen and NoneType in parts else chosen
