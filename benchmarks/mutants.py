"""Changes one small thing in the source at a time, and runs tests until one fails: does any test notice the change?

The changes ("mutants") are drawn by a seed from all that `_Changes` finds in the packages of `TESTS`. Each is made in a
copy of the repository, never in the files themselves. First run are the tests of the same package, those of the same
name before all, then those of packages that use it. A mutant that no test noticed has survived. A person then reads it,
and either writes a test or says in `mutants_read.jsonl` why the change is equivalent or may survive.

The file `--out` gets a line for each test file (how long it takes without a change) and for each mutant. The same
command goes on where it was stopped; with `--again`, what has survived is tried once more, with the tests of today.

    python -m benchmarks.mutants --out mutants.jsonl
"""

import ast
import difflib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, records
from dgm_jax.errors import exit_status

ROOT = Path(__file__).resolve().parents[1]
READ = Path(__file__).with_name("mutants_read.jsonl")  # What a person found about survivors.
TESTS = {  # For each package, the folders of tests that could notice a change, in this order.
    "nn": ["nn", "models", "training", "methods"],
    "models": ["models", "memory", "training", "methods"],
    "training": ["training", "methods", "runs"],
    "methods": ["methods", "runs", "training"],
    "memory": ["memory", "methods", "runs", "commands"],
    "metrics": ["metrics", "methods", "runs"],
    "data": ["data", "methods", "runs"],
    "system": ["system", "memory", "runs"],
}
_SLOWEST = 150.0  # Seconds of tests, without a change, that a mutant is worth.

_OPERATORS: dict[type, str] = {
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not"},
    **{ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"},
    **{ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.And: "or", ast.Or: "and"},
}
_OTHER_NAMES = {
    **{"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"},
    **{"any": "all", "all": "any", "zeros": "ones", "ones": "zeros"},
}
_TRANSPARENT = {"jnp", "np", "lax", "jax", "nn", "math", "optax", "sorted", "abs"}  # These f(x, ...) become x.
_CONVERSIONS = {"asarray", "array", "float32", "int32", "int64", "device_put", "device_get", "ascontiguousarray"}
_NO_EFFECT = {"warn", "debug", "info", "isinstance", "TypeVar", "cast", "zip", "block_until_ready"}  # Or on types only.


@dataclass(frozen=True)
class Mutant:
    """A change of a module: the text from `start` to `stop`, in bytes, becomes `new`."""

    module: str
    line: int
    kind: str
    start: int
    stop: int
    new: str

    @property
    def package(self) -> str:
        """The package, such as "nn"."""
        return self.module.split("/")[1]

    def source(self) -> str:
        """The changed module."""
        text = (ROOT / self.module).read_bytes()
        return (text[: self.start] + self.new.encode() + text[self.stop :]).decode()

    def record(self) -> dict[str, Any]:
        """What tells it from all others: module, line, and the changed lines before and after."""
        before = (ROOT / self.module).read_text("utf-8").splitlines()
        lines = list(difflib.unified_diff(before, self.source().splitlines(), n=0, lineterm=""))[3:]
        return {"module": self.module, "line": self.line, "kind": self.kind, "change": "\n".join(lines)}


class _Changes(ast.NodeVisitor):
    """Finds the small changes of a module that can change what it does; messages and types are left alone."""

    def __init__(self, module: str) -> None:
        text = (ROOT / module).read_bytes()
        self.module, self.found = module, list[Mutant]()
        self._text, self._known = text, list[set[str]]()  # The names that the functions around have assigned so far.
        self._starts = list(itertools.accumulate(map(len, text.splitlines(keepends=True)), initial=0))
        self.visit(ast.parse(text))

    def _place(self, node: Any) -> tuple[int, int]:
        start, stop = self._starts[node.lineno - 1], self._starts[node.end_lineno - 1]
        return start + node.col_offset, stop + node.end_col_offset

    def _add(self, kind: str, node: Any, new: str) -> None:
        self.found.append(Mutant(self.module, node.lineno, kind, *self._place(node), new))

    def _between(self, kind: str, left: Any, right: Any, operator: ast.AST) -> None:
        """Replaces the operator between two nodes; brackets may stand beside it."""
        start, stop = self._place(left)[1], self._place(right)[0]
        (old,) = re.findall(rb"[^\s()#]+(?: in| not)?", re.sub(rb"#.*", b"", self._text[start:stop]))
        at = start + self._text[start:stop].index(old)
        self.found.append(Mutant(self.module, left.end_lineno, kind, at, at + len(old), _OPERATORS[type(operator)]))

    def _text_of(self, node: Any) -> str:
        start, stop = self._place(node)
        return self._text[start:stop].decode()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in node.body:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name == "__repr__":
            return
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self._known.append({argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)})
        for child in node.body:
            self.visit(child)
        self._known.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        simple = all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
        if self._known and (not simple or names <= self._known[-1]):  # Otherwise the name would be missing.
            self._add("statement removed", node, "pass")
        if self._known:
            self._known[-1] |= names
        elif all(name.lstrip("_")[0].isupper() and not name.isupper() for name in names):
            return  # The name of a type.
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add("statement removed", node, "pass")
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            before = len(self.found)
            self.visit(node.value)
            if len(self.found) > before or self._matters(node.value):
                self._add("statement removed", node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add("statement removed", node, "pass")

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_If(self, node: ast.If) -> None:
        if self._text_of(node.test) != "TYPE_CHECKING":
            self._condition(node.test)
            self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._condition(test)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp):  # These have changes of their own.
            self._add("condition negated", test, f"(not ({self._text_of(test)}))")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and not isinstance(node.value, ast.Constant):
            self._add("return changed", node.value, "None")
            self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right, operator in zip([node.left, *node.comparators], node.comparators, node.ops):
            self._between("comparison", left, right, operator)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _OPERATORS and not isinstance(node.left, ast.Constant | ast.JoinedStr | ast.List):
            self._between("arithmetic", node.left, node.right, node.op)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in itertools.pairwise(node.values):
            self._between("and, or", left, right, node.op)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._add("sign or not removed", node, f"({self._text_of(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add("constant", node, str(not node.value))
        elif isinstance(node.value, int | float):
            self._add("constant", node, str(1 - node.value if node.value in (0, 1) else node.value + 1))

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if bound and not isinstance(bound, ast.Constant):
                self._add("slice", bound, f"({self._text_of(bound)}) + 1")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if not self._matters(node):
            return
        name = node.func.attr if isinstance(node.func, ast.Attribute) else self._text_of(node.func)
        if name in _OTHER_NAMES:
            start, stop = self._place(node.func)
            place = (stop - len(name), stop)
            self.found.append(Mutant(self.module, node.lineno, "other function", *place, _OTHER_NAMES[name]))
        elif node.args and name not in _CONVERSIONS and self._text_of(node.func).partition(".")[0] in _TRANSPARENT:
            self._add("call removed", node, self._text_of(node.args[0]))
        for keyword in node.keywords:
            if keyword.arg:
                start, stop = self._place(keyword)
                stop += len(re.match(rb"\s*,?\s*", self._text[stop:])[0])  # type: ignore[index]  # It matches nothing.
                self.found.append(Mutant(self.module, keyword.lineno, "argument removed", start, stop, ""))
        self.generic_visit(node)

    def _matters(self, node: ast.Call) -> bool:
        return self._text_of(node.func).rpartition(".")[2] not in _NO_EFFECT


def drawn(n: int, seed: int) -> list[Mutant]:
    """Draws `n` mutants, equally many of each package; with a larger `n` come the same ones and more."""
    chance = random.Random(seed)
    return [mutant for turn in zip(*(_shuffled(package, chance) for package in TESTS)) for mutant in turn][:n]


def _shuffled(package: str, chance: random.Random) -> list[Mutant]:
    """All changes of a package in random order; each kind is as likely as any other to be next.

    Otherwise most would be of the common kinds, which any test notices.
    """
    modules = (
        [ROOT / "dgm_jax/data/stream.py"] if package == "data" else sorted((ROOT / "dgm_jax" / package).glob("*.py"))
    )
    of_kind: dict[str, list[Mutant]] = {}
    for mutant in (mutant for path in modules for mutant in _Changes(path.relative_to(ROOT).as_posix()).found):
        of_kind.setdefault(mutant.kind, []).append(mutant)
    for each in of_kind.values():
        chance.shuffle(each)
    result = []
    while of_kind:
        kind = chance.choice(sorted(of_kind))
        result.append(of_kind[kind].pop())
        if not of_kind[kind]:
            del of_kind[kind]
    return result


@dataclass
class Copy:
    """A copy of the repository, in which tests run; `shared` lies beside it as beside the repository."""

    folder: Path
    out: Path  # The file of the results.
    seconds: dict[str, float]  # Of each test file, without a change.

    @classmethod
    def into(cls, folder: Path, out: Path, seconds: dict[str, float]) -> "Copy":
        """Makes the copy."""
        left_out = shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, folder / "repository", ignore=left_out)
        (folder / "shared").symlink_to(ROOT.parent / "shared")
        return cls(folder, out, seconds)

    def run(self, files: Sequence[str], limit: float) -> tuple[str, str]:
        """Runs test files up to the first failure: "killed" and the test, or "survived", or "timed out"."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        command += [f"--basetemp={self.folder / 'tests'}", *files]
        child = subprocess.Popen(
            command,
            cwd=self.folder / "repository",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            text, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return "timed out", files[0]
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if child.returncode == 0:
            return "survived", ""
        assert "file or directory not found" not in text, text
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
        return "killed", failed[0] if failed else text.strip().rpartition("\n")[2][:200]

    def try_one(self, mutant: Mutant, *, others: bool) -> tuple[str, str]:
        """Makes a change, runs the tests that name the module, or the `others`, and takes the change back."""
        path, left, chosen = self.folder / "repository" / mutant.module, _SLOWEST, []
        named = naming(mutant.module)
        if others:
            files = [file for folder in TESTS[mutant.package] for file in test_files(folder) if file not in named]
        else:
            files = sorted(named, key=lambda file: (Path(mutant.module).stem not in file, self.measured(file)))
        for file in files:
            if self.measured(file) < left:
                left -= self.measured(file)
                chosen.append(file)
        before, changed = path.read_bytes(), mutant.source()
        compile(changed, mutant.module, "exec")  # Otherwise any test would notice it.
        try:
            path.write_text(changed, "utf-8")
            return self.run(chosen, 120 + 6 * (_SLOWEST - left)) if chosen else ("survived", "")
        finally:
            path.write_bytes(before)
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
                compiled.unlink()  # Two changes of one size within a second would have the same one.

    def measured(self, file: str) -> float:
        """How many seconds a test file takes without a change."""
        if file not in self.seconds:
            begun = time.perf_counter()
            result, by = self.run([file], 3600)
            assert result == "survived", f"without any change, {by} fails: {result}"
            self.seconds[file] = round(time.perf_counter() - begun, 2)
            records.append(self.out, {"tests": file, "seconds": self.seconds[file]})
        return self.seconds[file]


def test_files(folder: str) -> list[str]:
    """The test files of a folder of `tests`."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / folder).glob("test_*.py"))


def naming(module: str) -> list[str]:
    """The test files that name a module: by what they are called, or by what they import."""
    package, stem = Path(module).parent.name, Path(module).stem
    imported = re.compile(rf"dgm_jax\.{package}\.{stem}\b|from dgm_jax\.{package} import .*\b{stem}\b")
    folders = dict.fromkeys([package, *itertools.chain(*TESTS.values())])
    files = [file for folder in folders for file in test_files(folder)]
    named = [f for f in files if stem in f.removesuffix(".py").split("_") or imported.search((ROOT / f).read_text())]
    return named or test_files(package)


def _key(record: dict[str, Any]) -> tuple[str, str]:
    return record["module"], record["change"]


def by_module(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts for each module; what survived is named, with the reason that a person wrote down."""
    judged = {_key(each): each for each in records.read(READ)}
    rows: list[dict[str, Any]] = []
    for module in sorted({each["module"] for each in results}):
        counts: Counter[str] = Counter()
        named: dict[str, list[dict[str, Any]]] = {"equivalent": [], "survived": []}
        for each in (each for each in results if each["module"] == module):
            read = judged.get(_key(each), {"verdict": "survived", "reason": "not read yet"})
            verdict = read["verdict"] if each["result"] == "survived" else "killed"
            counts[verdict] += 1
            if verdict in named:
                place = {"line": each["line"], "change": each["change"]}
                named[verdict].append(place | {"reason": read["reason"]})
        rows.append({"module": module, "mutants": counts.total(), "killed": counts["killed"], **named})
    return rows


def main(
    out: Path,
    n: int = 160,
    seed: int = 0,
    only: str | None = None,
    again: bool = False,
    others: bool = False,
    keep: Path | None = None,
) -> int:
    """Tries mutants, then prints how many were noticed in each module.

    Args:
      out: file of JSON Lines; a line for each mutant is added, and those that it has are not tried again.
      n: number of mutants.
      seed: chooses them.
      only: only those of this package.
      again: tries those once more that have survived.
      others: runs the tests of further packages, too, for those that have survived the tests that name the module.
      keep: file of JSON Lines to which the figures of each module are added.
    """
    known = records.read(out)
    seconds = {each["tests"]: each["seconds"] for each in known if "tests" in each}
    results = {_key(each): each for each in known if "module" in each}
    if again:
        results = {key: each for key, each in results.items() if each["result"] != "survived"}
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy.into(Path(folder), out, seconds)
        mutants = [mutant for mutant in drawn(n, seed) if only in (None, mutant.package)]
        for further in (False, True)[: 1 + others]:
            for number, mutant in enumerate(mutants, start=1):
                record = mutant.record()
                before = results.get(_key(record))
                if before and (before["result"] != "survived" or before["others"] >= further):
                    continue
                begun = time.perf_counter()
                record["result"], record["by"] = copy.try_one(mutant, others=further)
                record |= {"others": further, "seconds": round(time.perf_counter() - begun, 1)}
                results[_key(record)] = record
                records.append(out, record)
                print(f"{number} of {len(mutants)}: {record}", flush=True)
    rows = by_module([results[_key(mutant.record())] for mutant in mutants])
    for row in rows:
        print(row)
        machine.keep(keep, **row, seed=seed)
    killed, equivalent = sum(row["killed"] for row in rows), sum(len(row["equivalent"]) for row in rows)
    print(f"{killed} of {len(mutants)} noticed, {equivalent} equivalent, {len(mutants) - killed - equivalent} survived")
    return int(killed < 0.95 * (len(mutants) - equivalent))


if __name__ == "__main__":
    import tyro

    sys.exit(exit_status(lambda: tyro.cli(main, prog="python -m benchmarks.mutants", description=__doc__)))
