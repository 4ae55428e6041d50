"""What WCAG 2.1 AA asks of a page, as far as its elements and its style say it without a browser."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = ("meta", "img", "br", "link", "hr", "input", "use", "path", "rect")
Style = list[tuple[str, str, dict[str, str]]]  # Media ("" for all), selector, declarations.
RGB = tuple[float, float, float]


@dataclass
class Element:
    """An element with its attributes, what it contains, and the elements around it."""

    tag: str
    attributes: dict[str, str | None]
    around: "Element | None"
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def get(self, name: str) -> str:
        return self.attributes.get(name) or ""

    def outwards(self) -> Iterator["Element"]:
        element: Element | None = self
        while element is not None:
            yield element
            element = element.around

    def inside(self) -> Iterator["Element"]:
        for child in self.children:
            yield child
            yield from child.inside()

    @property
    def all_text(self) -> str:
        return self.text + "".join(child.text for child in self.inside())


class _Tree(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.now = Element("", {}, None)
        self.feed(text)
        assert self.now is self.root, f"<{self.now.tag}> is not closed"

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes), self.now)
        self.now.children.append(element)
        if tag not in _VOID:
            self.now = element

    def handle_startendtag(self, tag, attributes):
        self.now.children.append(Element(tag, dict(attributes), self.now))

    def handle_endtag(self, tag):
        if tag in _VOID:
            return
        assert self.now.tag == tag, f"</{tag}> closes <{self.now.tag}>"
        self.now = self.now.around

    def handle_data(self, text):
        self.now.text += text


def parse(text: str) -> Element:
    return _Tree(text).root


def faults(text: str) -> list[str]:
    """What is wrong with a page; empty if nothing is found."""
    root = parse(text)
    every = list(root.inside())
    by_tag: dict[str, list[Element]] = {}
    for element in every:
        by_tag.setdefault(element.tag, []).append(element)
    found = []
    if not by_tag["html"][0].get("lang"):
        found.append("no language")
    if not by_tag.get("title") or not by_tag["title"][0].all_text.strip():
        found.append("no title")
    views = [element.get("content") for element in by_tag["meta"] if element.get("name") == "viewport"]
    if views != ["width=device-width, initial-scale=1"]:
        found.append(f"viewport {views}")
    (body,) = by_tag["body"]
    if [child.tag for child in body.children] != ["main"] or body.text.strip() or len(by_tag.get("main", [])) != 1:
        found.append("not all content is in one main landmark")
    levels = [int(element.tag[1]) for element in every if re.fullmatch("h[1-6]", element.tag)]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in zip(levels, levels[1:])):
        found.append(f"headings {levels}")
    found += [f"no alt text: {dict(one.attributes)}" for one in by_tag.get("img", []) if not one.get("alt").strip()]
    outer = [one for one in by_tag.get("svg", []) if all(other.tag != "svg" for other in one.around.outwards())]
    found += ["a chart without a name" for one in outer if one.get("role") != "img" or not one.get("aria-label")]
    found += [f"positive tabindex in <{one.tag}>" for one in every if one.get("tabindex") not in ("", "0")]
    names = [one.get("id") for one in every if one.get("id")]
    found += [f"id {name} is there twice" for name in {name for name in names if names.count(name) > 1}]
    for table in by_tag.get("table", []):
        found += _table_faults(table)
    found += _scrolling_faults(every, style_of(text))
    return found


def _table_faults(table: Element) -> Iterator[str]:
    first = table.children[0]
    if first.tag != "caption" or not first.all_text.strip():
        yield f"a table without a caption: {table.all_text[:60]}"
    for head in (element for element in table.inside() if element.tag == "th"):
        if head.get("scope") not in ("col", "row", "colgroup", "rowgroup"):
            yield f"a header without a scope: {head.all_text}"
        if not head.all_text.strip():
            yield f"an empty header in {first.all_text[:60]}"
    if not any(element.tag == "th" for element in table.inside()):
        yield f"a table without headers: {first.all_text[:60]}"


def _scrolling_faults(every: list[Element], style: Style) -> Iterator[str]:
    """Wide content scrolls within itself, in an element that the keyboard reaches and that says what it is."""
    scrolls = [
        selector
        for media, selector, declared in style
        if media != "print" and {"auto", "scroll"} & {declared.get("overflow"), declared.get("overflow-x")}
    ]
    if scrolls != [".wide"]:
        yield f"what scrolls is {scrolls}; this checker knows only .wide"
    for element in every:
        is_wide = "wide" in element.get("class").split()
        if is_wide and not (element.get("tabindex") == "0" and element.get("role") and element.get("aria-label")):
            yield f"a scrolling element that the keyboard does not reach or that has no label: {element.attributes}"
        around = [one.get("class").split() for one in element.outwards()]
        if element.tag in ("table", "pre", "svg") and not any("wide" in classes for classes in around):
            yield f"<{element.tag}> does not scroll within itself"


def style_of(text: str) -> Style:
    """The rules of the page's style, in order."""
    css = re.sub(r"/\*.*?\*/", "", "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL)), flags=re.DOTALL)
    rules: Style = []
    media = ""
    for head, body, end in re.findall(r"([^{}]*)\{(?:([^{}]*)(\}))?|\}", css):
        if head.strip().startswith("@media"):
            media = head.strip().removeprefix("@media").strip()
            if end:
                raise AssertionError("an empty @media")
        elif head:
            declared = dict(re.findall(r"([\w-]+)\s*:\s*([^;]+?)\s*(?:;|$)", body))
            rules += [(media, one.strip(), declared) for one in head.split(",")]
        else:
            media = ""
    return rules


def colours(style: Style) -> dict[str, dict[str, RGB]]:
    """By scheme, the colours of the page's variables."""
    found = {}
    for scheme, media in {"light": "", "dark": "(prefers-color-scheme: dark)", "print": "print"}.items():
        declared = {
            k: v for m, selector, rule in style if selector == ":root" and m in ("", media) for k, v in rule.items()
        }
        found[scheme] = {name: rgb(value) for name, value in declared.items() if value.startswith("#")}
    return found


def mixes(style: Style) -> dict[str, tuple[str, float]]:
    """By selector, the variable that colours a cell of value 1, and its share."""
    pattern = r"color-mix\(in srgb, var\((--\w+)\) calc\(var\(--v\) \* (\d+)%\), transparent\)"
    found = {}
    for _, selector, declared in style:
        if match := re.fullmatch(pattern, declared.get("background", "")):
            found[selector] = (match[1], int(match[2]) / 100)
    return found


def rgb(text: str) -> RGB:
    digits = text.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    red, green, blue = (int(digits[i : i + 2], 16) for i in (0, 2, 4))
    return red, green, blue


def mixed(colour: RGB, share: float, paper: RGB) -> RGB:
    red, green, blue = (share * a + (1 - share) * b for a, b in zip(colour, paper, strict=True))
    return red, green, blue


def contrast(one: RGB, other: RGB) -> float:
    """The contrast ratio of WCAG 2.1, 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: RGB) -> float:
    red, green, blue = (c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
