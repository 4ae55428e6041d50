"""Marks of tests."""

from collections.abc import Sequence
from typing import Any

import pytest


def slow_but(values: Sequence[Any], *fast: Any) -> list[Any]:
    """Values for `parametrize`: those in `fast` run always, the others where slow tests run, too."""
    assert all(value in values for value in fast), f"{fast} are not all among {values}"
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]
