"""Turns the equations of the pages into MathML while the site is built.

Browsers show MathML by themselves, so a page needs no script for its equations, and asks no other server for one.
"""

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    r"""Replaces `\(...\)` and `\[...\]`, as pymdownx.arithmatex writes them."""

    def as_mathml(found: re.Match[str]) -> str:
        tag, bracket, latex = found.groups()
        equation = convert(html.unescape(latex).strip(), display="block" if bracket == "[" else "inline")
        return f"<{tag}>{equation}</{tag}>"

    shown = EQUATION.sub(as_mathml, content)
    if "arithmatex" in shown:
        raise PluginError("an equation was not found by docs/mathml.py: the page would show its LaTeX")
    return shown
