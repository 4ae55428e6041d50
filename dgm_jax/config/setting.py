"""A setting: everything that is known about it stands at its field, and its help is the docstring below the field."""

import ast
import dataclasses
import functools
import inspect
import math
import numbers
import operator
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from dgm_jax.config.choices import Method
from dgm_jax.errors import ConfigError

_BOUNDS = {"greater than": operator.gt, "at least": operator.ge, "below": operator.lt, "at most": operator.le}
_KINDS: dict[type, tuple[type, str]] = {  # The type of a field -> the type of its values, and how messages call it.
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a name"),
    NoneType: (NoneType, "None"),
}


@dataclass(frozen=True)
class Facts:
    """What is known about a setting besides its type and its help."""

    default: Any
    bounds: tuple[tuple[str, float], ...] = ()  # For example (("at least", 0), ("below", 1)).
    changeable: bool = False
    used_by: tuple[Method, ...] | None = None
    because: str = ""

    def is_used_by(self, method: str) -> bool:
        """Whether a method reads the setting."""
        return self.used_by is None or method in self.used_by


def setting(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    changeable: bool = False,
    used_by: tuple[Method, ...] | None = None,
    because: str = "",
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
      because: why only these read it, where a person may wonder; the error says it.
    """
    bounds = {"greater than": above, "at least": at_least, "below": below, "at most": at_most}
    given = tuple((words, bound) for words, bound in bounds.items() if bound is not None)
    facts = Facts(default, given, changeable, used_by, because)
    return dataclasses.field(default=default, metadata=MappingProxyType({"facts": facts}))


class Settings:
    """Base of frozen dataclasses of settings; values that cannot work are refused when an object is made."""

    def __post_init__(self) -> None:
        """Checks each value by its type and its range, then all values together."""
        kind: Any = type(self)
        for name, facts in facts_of(kind).items():
            _check_value(name, getattr(self, name), _hints(kind)[name], facts)
        self.check()

    def check(self) -> None:
        """Refuses values that cannot work together."""


def facts_of(kind: Any) -> dict[str, Facts]:
    """What is known about each setting of a class, by its name; groups of settings are left out."""
    return {
        field.name: field.metadata.get("facts", Facts(field.default))
        for field in dataclasses.fields(kind)
        if not isinstance(field.default, Settings)
    }


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
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices = [choice for part in parts for choice in get_args(part)]  # A Literal has arguments, other types have none.
    kinds = dict.fromkeys([*map(type, choices), *(part for part in parts if not get_args(part))])
    if choices and NoneType in kinds:
        choices.append(None)
    types, words = zip(*(_KINDS.get(kind, (kind, kind.__name__)) for kind in kinds))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{name}={value!r} must be {' or '.join(words)}")
    if choices and value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown; choose one of {', '.join(map(str, choices))}")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{name}={value!r} must be a finite number")
        if not all(_BOUNDS[bound](value, limit) for bound, limit in facts.bounds):
            allowed = " and ".join(f"{bound} {limit}" for bound, limit in facts.bounds)
            raise ConfigError(f"{name}={value!r} must be {allowed}")
