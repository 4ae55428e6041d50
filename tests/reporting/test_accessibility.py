"""Pages of real runs can be read by everyone: by keyboard, screen reader, on a phone, in the dark and on paper."""

import json

import pytest
from support import accessibility, small_runs
from support.accessibility import contrast, mixed

from dgm_jax.reporting import charts
from dgm_jax.reporting import page as report
from dgm_jax.runs.reading import read

_WIDE = '<div class="wide" tabindex="0" role="group" aria-label="'
NAMES = ["<b>", "$a$_", '_under & "quoted"']


@pytest.fixture(scope="module")
def run():
    return small_runs.finished(small_runs.small("dgma")).workdir


@pytest.fixture(scope="module")
def page(run) -> str:
    return (run / "report.html").read_text()


@pytest.fixture(scope="module")
def style(page) -> accessibility.Style:
    return accessibility.style_of(page)


@pytest.fixture(scope="module")
def renamed(run, tmp_path_factory):
    """The same run, with classes that are called after folders of any name, in a folder of such a name."""
    folder = small_runs.copied(run, tmp_path_factory.mktemp("runs") / "<b>$1$")
    for name in ("config.json", "summary.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"class_names": NAMES}))
    return folder


def test_a_run_has_no_fault(page):
    assert accessibility.faults(page) == []


def test_a_comparison_has_no_fault(run, renamed):
    assert accessibility.faults(report.comparison([run, renamed])) == []


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ('<html lang="en">', "<html>", "no language"),
        (", initial-scale=1", ", user-scalable=no", "viewport"),
        ("<h2>Accuracy</h2>", "<h4>Accuracy</h4>", "headings"),
        ("<main>", "<main>text</main><main>", "main landmark"),
        (' tabindex="0" role', " role", "keyboard"),
        (' alt="0, generated after task 0"', "", "no alt text"),
        ('<th scope="col">reading', "<th>reading", "without a scope"),
        ("<caption>Accuracy after each task, %</caption>", "", "without a caption"),
        (_WIDE, '<div aria-label="', "does not scroll within itself"),
        (".wide { overflow-x: auto;", "pre { overflow-x: auto; } .wide { overflow-x: auto;", "what scrolls"),
    ],
)
def test_the_checker_finds_faults(right, wrong, fault, page):
    assert right in page
    assert any(fault in found for found in accessibility.faults(page.replace(right, wrong, 1)))


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_is_legible_on_every_ground(scheme, style):
    """At least 4.5:1 (WCAG 1.4.3), also on coloured cells, for every value from 0 to 100 %."""
    colours, mixes = accessibility.colours(style)[scheme], accessibility.mixes(style)
    assert set(mixes) == {"table.heat td", "table.heat.misses td.off"}
    for variable, share in mixes.values():
        grounds = [mixed(colours[variable], share * value / 100, colours["--paper"]) for value in range(101)]
        assert min(contrast(colours["--ink"], ground) for ground in grounds) >= 4.5, variable
    for ground in ("--paper", "--card"):
        assert min(contrast(colours[text], colours[ground]) for text in ("--ink", "--quiet")) >= 4.5
    lines = [*map(accessibility.rgb, charts.COLOURS), colours["--bad"], colours["--heat"]]  # And the ring of focus.
    assert min(contrast(line, colours["--paper"]) for line in lines) >= 3  # WCAG 1.4.11.


def test_the_checker_computes_contrast_as_wcag_does():
    white, black = accessibility.rgb("#fff"), accessibility.rgb("#000000")
    assert contrast(white, black) == pytest.approx(21) and contrast(white, white) == 1
    assert contrast(accessibility.rgb("#777"), white) == pytest.approx(4.48, abs=0.005)


def test_paper_is_white_and_nothing_is_cut_off(style):
    printed = {selector: declared for media, selector, declared in style if media == "print"}
    assert printed[":root"]["--paper"] == "#fff" and printed[":root"]["color-scheme"] == "light"
    last = {selector: declared for _, selector, declared in style}  # What counts on paper: later rules win.
    assert last[".wide"]["overflow"] == "visible" and last["svg"]["min-width"] == "0"
    assert last["td"]["white-space"] == last["th"]["white-space"] == "normal"
    assert last["pre"]["white-space"] == "pre-wrap" and last["main"]["max-width"] == "none"
    assert last["details::details-content"]["content-visibility"] == "visible"


def test_names_are_text_everywhere(renamed):
    text = report.page(read(renamed))
    assert accessibility.faults(text) == [] and "<b></b>" not in text
    tree = accessibility.parse(text)
    heads = [one.all_text for one in tree.inside() if one.tag == "th"]
    assert all(heads.count(name) >= 4 for name in NAMES), "of accuracies, forgetting, images and confusion"
    drawn = [one.get("alt") for one in tree.inside() if one.tag == "img"]
    assert f"{NAMES[0]}, generated after task 2" in drawn
    chart = charts.lines("<i>", {name: ([0, 1], [10.0, 100.0]) for name in NAMES}, x="x", y="y", high=100)
    shown = [one.all_text.strip().removeprefix("\u200b") for one in accessibility.parse(str(chart)).inside()]
    assert all(name in shown for name in NAMES), "also in legends, where Matplotlib reads $ and _ in its own way"


@pytest.mark.parametrize("values", [[100.0, 99.9, 100.0], [100.0, 40.0], [100.0]])
def test_curves_keep_clear_of_the_frame(values):
    chart = charts.lines("a", {"a": (range(len(values)), values)}, x="x", y="y", high=100)
    tree = accessibility.parse(str(chart))
    (clip,) = (one.children[0] for one in tree.inside() if one.tag == "clippath")
    top = float(clip.get("y"))
    marks = [float(one.get("y")) for one in tree.inside() if one.tag == "use" and one.around.get("clip-path")]
    assert len(marks) == len(values) and min(marks) - top > 3.5 / 2 + 1, "half a mark, and a little"
    ticks = [one.all_text.strip() for one in tree.inside() if one.tag == "text" and one.all_text.strip() not in "xy"]
    assert ticks[: len(values)] == [str(task) for task in range(len(values))], "tasks are whole numbers"
    assert max(map(float, ticks)) == 100
