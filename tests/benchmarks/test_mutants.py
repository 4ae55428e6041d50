"""Which small changes of the source are tried: those that can change what it does, each at most a line or two."""

import ast
from collections import Counter

import pytest

from benchmarks import changes, mutants

TEXT = '''"""A text, 1 < 2."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

Pair = tuple[int, int] | None
_LIMIT = 3


def f(x: int, *, flag: bool = True) -> "int | None":
    """Another text, 1 < 2."""
    if x < _LIMIT and not flag:
        raise ValueError(f"{x + 1} is too small: " + "1")
    values = [x]
    values = values[x:]
    assert x > 7
    warn("no", 5)
    place(values, kind=2)
    return max(jnp.abs(x), 0)
'''


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "ROOT", tmp_path)
    (tmp_path / "dgm_jax" / "nn").mkdir(parents=True)
    (tmp_path / "dgm_jax" / "nn" / "a.py").write_text(TEXT)
    return changes.changes("dgm_jax/nn/a.py")


def test_what_is_changed(found):
    def changed(mutant):
        return "; ".join(line[1:].strip() for line in mutant.record()["change"].splitlines() if line.startswith("+"))

    assert [(mutant.kind, changed(mutant)) for mutant in found] == [
        ("constant", "_LIMIT = 4"),
        ("constant", 'def f(x: int, *, flag: bool = False) -> "int | None":'),
        ("condition negated", "if (not (x < _LIMIT and not flag)):"),
        ("and, or", "if x < _LIMIT or not flag:"),
        ("comparison", "if x <= _LIMIT and not flag:"),
        ("sign or not removed", "if x < _LIMIT and (flag):"),
        ("statement removed", "pass"),
        ("statement removed", "pass"),
        ("slice", "values = values[(x) + 1:]"),
        ("argument removed", "place(values, )"),
        ("constant", "place(values, kind=3)"),
        ("statement removed", "pass"),
        ("return changed", "return None"),
        ("other function", "return min(jnp.abs(x), 0)"),
        ("call removed", "return max(x, 0)"),
        ("constant", "return max(jnp.abs(x), 1)"),
    ]
    assert [mutant.line for mutant in found] == [9, 12, 14, 14, 14, 14, 15, 17, 17, 20, 20, 20, 21, 21, 21, 21]
    for mutant in found:
        assert ast.unparse(ast.parse(mutant.source())) != ast.unparse(ast.parse(TEXT))


def test_the_draw_depends_on_the_seed_alone_and_grows():
    drawn = mutants.drawn(160, 0)
    assert drawn == mutants.drawn(160, 0) and drawn[:100] == mutants.drawn(100, 0) and drawn != mutants.drawn(160, 1)
    assert len(set(drawn)) == 160 and set(Counter(mutant.package for mutant in drawn).values()) == {20}
    assert {mutant.module for mutant in drawn if mutant.package == "data"} == {"dgm_jax/data/stream.py"}
    for mutant in drawn:
        ast.parse(mutant.source())


def test_the_tests_that_name_a_module():
    assert mutants.naming("dgm_jax/nn/gates.py") == ["tests/nn/test_gates.py"]
    assert "tests/training/test_step.py" in mutants.naming("dgm_jax/models/normalisation.py")
    assert mutants.naming("dgm_jax/nn/wiring.py") == mutants.test_files("nn")
    of_generator = mutants.naming("dgm_jax/models/generator.py")  # The models' own tests do not name it.
    assert {*mutants.test_files("models"), "tests/training/test_epoch.py"} <= set(of_generator)


def test_what_survived_is_named_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "READ", tmp_path / "read.jsonl")
    one = {"module": "dgm_jax/nn/a.py", "line": 3, "kind": "slice"}
    results = [
        one | {"change": str(i), "result": what} for i, what in enumerate(["killed", "timed out", *["survived"] * 2])
    ]
    mutants.records.append(mutants.READ, one | {"change": "2", "verdict": "equivalent", "reason": "the same"})
    (row,) = mutants.by_module(results)
    assert row == {
        "module": "dgm_jax/nn/a.py",
        "mutants": 4,
        "killed": 2,
        "timed_out": 1,
        "equivalent": [{"line": 3, "change": "2", "reason": "the same"}],
        "survived": [{"line": 3, "change": "3", "reason": "not read yet"}],
    }
