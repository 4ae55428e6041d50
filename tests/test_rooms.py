"""The house: imports, those inside functions too, point down the list of rooms in CONTRIBUTING.md, and in no circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOUSE = (ROOT / "CONTRIBUTING.md").read_text().split("dgm_jax/\n")[1].split("```")[0]
ROOMS = re.findall(r"^  (\w+)(?:/|\.py)", HOUSE, flags=re.MULTILINE)
DOORS = ("__init__", "__main__")  # Public names, and what hands over to commands/.
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in (ROOT / "dgm_jax").rglob("*.py")
}


def imported(module: str) -> set[str]:
    """The modules of this package that a module imports: for a name in a package's `__init__`, the package."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & set(MODULES) or {node.module}
            names |= {node.module} if inner - set(MODULES) else set()
    return {name for name in names if name in MODULES} - {module, "dgm_jax"}


def room(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in MODULES} <= {*ROOMS, *DOORS}


def test_imports_point_down() -> None:
    inner = [module for module in MODULES if room(module) not in DOORS]
    arrows = [(module, name) for module in inner for name in imported(module)]
    up = [(module, name) for module, name in arrows if ROOMS.index(room(name)) < ROOMS.index(room(module))]
    assert len(arrows) > 100 and not up


def test_imports_make_no_circle() -> None:
    list(TopologicalSorter({module: imported(module) for module in MODULES}).static_order())


def test_few_modules_are_loose() -> None:
    assert len(list((ROOT / "dgm_jax").glob("*.py"))) <= 8
