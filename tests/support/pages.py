"""The pages that people read, their blocks of code, and the commands that they show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "results" / "README.md",
    ROOT / "studies" / "NOTEBOOK.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "examples").glob("*.py")),  # Their first lines have commands.
]
_PAST = ROOT / "docs" / "results" / "quick" / "table.md"  # It names the commands of an earlier version.
_PROGRAMS = r"python -m (?:dgm_jax|experiments|examples|studies|benchmarks|pip)\b|dgm-jax|jupyter|sbatch|curl|mkdocs"


def blocks(page: Path, language: str) -> list[str]:
    """The texts of all blocks of a language; "": of blocks without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for of, text in found if of == language]


def commands() -> list[tuple[str, list[str]]]:
    """Each command, as (the first page that has it, words); `cd x && y` is two, and comments are left out.

    Those in a sentence count if they have arguments, or name an example; with `NAME` they are no commands.
    """
    found: dict[tuple[str, ...], str] = {}
    for page in [page for page in PAGES if page != _PAST]:
        variables = dict(re.findall(r"^ *([A-Z][A-Z0-9]*)=(\S+)$", page.read_text(), flags=re.MULTILINE))
        without = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        indented = re.findall(rf"^    ((?:{_PROGRAMS})(?:.*\\\n)*.*)$", without, flags=re.MULTILINE)
        inline = re.findall(rf"`((?:{_PROGRAMS})[^`]*)`", without)
        inline = [
            " ".join(text.split())
            for text in inline
            if re.search(r" --\w[\w-]* \S|\bexamples[./]|pip install \S|dgm_jax \w+ \S", text)
        ]
        for text in [*blocks(page, "bash"), *indented, *inline]:
            for line in re.sub(r"\\\n", " ", text).splitlines():
                words = [_filled_in(word, variables) for word in shlex.split(line, comments=True)]
                for command in _parts(words):
                    if not any(re.fullmatch(r".*[. ](NAME|DATA)", word) for word in command):
                        found.setdefault(tuple(command), str(page.relative_to(ROOT)))
    return [(page, list(words)) for words, page in found.items()]


def _parts(words: list[str]) -> list[list[str]]:
    """The commands between `&&`; setting a variable of the shell is none."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part and not (len(part) == 1 and re.match(r"[A-Z][A-Z0-9]*=", part[0]))]


def _filled_in(word: str, variables: dict[str, str]) -> str:
    """A word with the values of the page's shell variables."""
    return re.sub(r"\$([A-Z][A-Z0-9]*)", lambda name: variables.get(name[1], name[0]), word)
