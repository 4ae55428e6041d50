"""Finds the small changes of a module's source that can change what it does; `benchmarks.mutants` tries them.

Such a change is, for example, `<` in place of `<=`, a statement left out, or an argument left out. No change is made to
documentation, types, assertions, or the texts of messages.
"""

import ast
import difflib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

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


def changes(module: str) -> list[Mutant]:
    """All small changes of a module, such as "dgm_jax/nn/gates.py", in the order of its text."""
    return _Changes(module).found


class _Changes(ast.NodeVisitor):
    """The changes that were found in a module: `found`."""

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
