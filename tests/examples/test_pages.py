"""The list of examples, links to them, and the lines of them that pages show."""

import re
from pathlib import Path

import pytest

from dgm_jax.commands import parsing
from dgm_jax.commands.experiments import find

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "examples" / "README.md"


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s:#]+)", page.read_text())


def test_the_list_has_every_example_and_its_command():
    files = {path for path in (ROOT / "examples").rglob("*.*") if path.suffix in (".py", ".sh")}
    listed = {}
    for file, command in re.findall(
        r"^\| \[([^]]+)\]\(\1\) \|.*\| `([^`]+)` \|$", LIST.read_text(), flags=re.MULTILINE
    ):
        listed[ROOT / "examples" / file] = command
    assert set(listed) == files - {ROOT / "examples" / "__init__.py"}
    for path, command in listed.items():  # tests/test_docs_commands.py reads its words, too.
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py":
            assert command.startswith(f"python -m examples.{path.stem}")
            assert command in path.read_text()
        else:
            submit, script, experiment, *options = command.split()
            assert (submit, script) == ("sbatch", name)
            assert str(parsing.parse(find(experiment), options).workdir) == "/shared/run"


def test_links_to_and_from_examples_lead_to_files():
    found = 0
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", LIST]:
        for link in links(page):
            if page == LIST or "examples/" in link:
                assert (page.parent / link).is_file(), f"{page}: {link}"
                found += 1
    assert found > 20


@pytest.mark.parametrize("page, examples", [("layers", 1), ("flax", 3)])
def test_what_a_page_shows_of_an_example_is_there(page, examples):
    """In a section that links an example, the first block of Python is lines of it, in their order."""
    sections = re.split(r"^## ", (ROOT / "docs" / f"{page}.md").read_text(), flags=re.MULTILINE)
    found = [(section, re.findall(r"\]\(\.\./examples/(\w+)\.py\)", section)) for section in sections]
    found = [(section, names[0]) for section, names in found if names]
    assert len(found) == examples
    for section, name in found:
        excerpt = section.partition("```python\n")[2].partition("```")[0]
        lines = [line.strip() for line in excerpt.splitlines() if line.strip() and not line.startswith("#")]
        program = [line.strip() for line in (ROOT / "examples" / f"{name}.py").read_text().splitlines()]
        at = 0
        for line in lines:
            assert line in program[at:], f"{name}: {line}"
            at = program.index(line, at) + 1
        assert len(lines) > 5
