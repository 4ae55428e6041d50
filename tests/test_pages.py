"""Pages are easy to read and to change: short lines and paragraphs, and names of functions that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST_LINE = 120
LONGEST_PARAGRAPH = 6 * LONGEST_LINE

ITEM = re.compile(r" *([-*]|\d+\.) ")
APART = re.compile(r"\||#|!\[|:::|    ")  # Tables, headings, pictures, what the API page is made of, indented code.


def paragraphs(text: str) -> list[list[str]]:
    """The paragraphs and list items of a page, each as its lines."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found: list[list[str]] = []
    continues = False
    for line in without_code.splitlines():
        if not line.strip() or APART.match(line):
            continues = False
        elif continues and not ITEM.match(line):
            found[-1].append(line)
        else:
            found.append([line])
            continues = True
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_and_paragraphs_are_short(page: Path) -> None:
    prose = paragraphs(page.read_text())
    assert not [line for lines in prose for line in lines if len(line) > LONGEST_LINE]
    assert not [lines[0] for lines in prose if len(" ".join(map(str.strip, lines))) > LONGEST_PARAGRAPH]


def test_paragraphs_are_found() -> None:
    prose, code = "# Page\n\nOne\ntwo.\n- item\n  of two lines\n", "```bash\npython\n```\n\n    python\n"
    text = f"{prose}\n{code}\n| a |\n|---|\n\nThree.\n"
    assert paragraphs(text) == [["One", "two."], ["- item", "  of two lines"], ["Three."]]


def sections(page: Path) -> set[str]:
    """What a link to a section of a page may name, as GitHub and MkDocs make it of a heading."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_sections(page: Path) -> None:
    """MkDocs checks those inside docs/, where it is installed."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, section = link.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), link
        assert not section or section in sections(file), link


def test_the_first_page_is_short() -> None:
    page = (ROOT / "README.md").read_text().splitlines()
    assert len(page) <= 130 and sum(line.startswith("| ") for line in page) <= 1 + 10  # With the header of its table.
    assert sum(line.startswith("![") for line in page) == 1


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "imagenet50", "fashion"])
def test_results_of_a_data_set_begin_with_a_figure(name: str) -> None:
    page = (ROOT / "docs" / "results" / f"{name}.md").read_text().splitlines()
    assert page[0].startswith("# ") and page[2].startswith("![")


def functions_named_in_method() -> set[str]:
    named = re.findall(r"`([a-z_]+(?:\.\w+)+)(?:\([^`]*\))?`", (ROOT / "docs" / "method.md").read_text())
    return {name for name in named if (ROOT / "dgm_jax" / name.partition(".")[0]).is_dir()}


def test_method_names_functions() -> None:
    assert len(functions_named_in_method()) > 40


@pytest.mark.parametrize("name", sorted(functions_named_in_method()))
def test_a_function_that_the_page_on_the_method_names_exists(name: str) -> None:
    found = importlib.import_module("dgm_jax")
    for part in name.split("."):
        try:
            found = importlib.import_module(f"{found.__name__}.{part}")
        except (ImportError, AttributeError):
            found = getattr(found, part)
