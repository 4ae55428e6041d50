"""The tour, examples/tour.ipynb, runs as it stands and shows good digits; docs/tour.md is made of it.

`python tests/test_tour.py` writes the page anew.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tour.md"
FLOOR = 90.0  # Percent.


def tour() -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)


def page(notebook: nbformat.NotebookNode) -> str:
    """The notebook's words and code, with links as they are in docs/."""
    words = {"markdown": "{}", "code": "```python\n{}\n```"}
    cells = [words[cell.cell_type].format(cell.source) for cell in notebook.cells]
    return "\n\n".join(cells).replace("](../docs/", "](") + "\n"


def test_the_page_is_the_notebook() -> None:
    assert PAGE.read_text("utf-8") == page(tour()), "docs/tour.md is old; write it anew: python tests/test_tour.py"


def test_the_notebook_is_valid_and_its_outputs_are_cleared() -> None:
    notebook = tour()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch) -> None:
    """In a kernel of this interpreter, outside the repository; it finds and leaves nothing of the user's."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = tour()
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import sys\nprint(sys.executable, sys.path)"))
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed, pictures = [], 0
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        printed.append("".join(output.text for output in outputs if output.output_type == "stream"))
        pictures += sum("image/png" in output.get("data", {}) for output in outputs)
    assert printed[0].startswith(sys.executable) and str(ROOT) in printed[0]
    shown = "".join(printed[1:])
    recognised = [float(share) for share in re.findall(r"([\d.]+)% recognised", shown)]
    assert len(recognised) == 6 and min(recognised) >= FLOOR, shown  # After each of five tasks, and after forgetting.
    assert shown.count("the same: True") == 3 and "the same: False" not in shown
    assert shown.count("classes 0, 1, 2, 3:") == 1 and "stopped" in shown and "left: 0, 2, 3, 4" in shown
    assert float(re.search(r"(\d+)% are taken for a 3", shown)[1]) >= FLOOR
    assert pictures == 3


if __name__ == "__main__":
    PAGE.write_text(page(tour()), "utf-8")
