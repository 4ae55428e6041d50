"""For mkdocs: shows the programs of examples/ as pages of the site, and leads links there.

The pages link the files themselves, for readers of the repository.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def on_files(files, config):
    """Adds a page for each program, and the list of them."""
    for path in sorted(_EXAMPLES.rglob("*.*")):
        name = f"examples/{path.relative_to(_EXAMPLES).as_posix()}"
        if path.suffix == ".md":
            files.append(File.generated(config, name, content=path.read_text("utf-8")))
        elif path.suffix in (".py", ".sh") and path.name != "__init__.py":
            language = {".py": "python", ".sh": "bash"}[path.suffix]
            text = f"# {name}\n\n```{language}\n{path.read_text('utf-8')}```\n"
            files.append(File.generated(config, f"{name}.md", content=text))
    return files


def on_page_markdown(markdown, page, **_):
    """Turns links from and to files of examples/ into links between pages."""
    on_site = posixpath.dirname(page.file.src_uri)
    in_repository = on_site if on_site.startswith("examples") else posixpath.join("docs", on_site)

    def link(found):
        target, anchor = found[1], found[2] or ""
        place = posixpath.normpath(posixpath.join(in_repository, target))
        if place.startswith("examples/"):
            place += "" if place.endswith(".md") else ".md"
        elif place.startswith("docs/") and in_repository.startswith("examples"):
            place = place.removeprefix("docs/")
        else:
            return found[0]
        return f"]({posixpath.relpath(place, on_site or '.')}{anchor})"

    return re.sub(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)", link, markdown)
