"""What the tables of a page say."""

from html.parser import HTMLParser


class Tables(HTMLParser):
    """Table rows as texts, by the id of their section; and the links that would need a network."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.section, self.cell, self.outside = "", False, []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], f"elements that are not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.section = named["id"] if tag == "section" else self.section
        self.outside += [v for k, v in attributes if k in ("src", "href") and v and not v.startswith(("data:", "#"))]
        assert tag != "script"
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
            self.cell = True
        if tag not in ("meta", "img", "br", "link") and "svg" not in self.open + [tag] or tag == "svg":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = False
        if "svg" in self.open and tag != "svg":
            return
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.cell:
            self.rows[self.section][-1][-1] += text
