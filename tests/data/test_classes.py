"""Choices of classes on the command line."""

import re

import pytest

from dgm_jax import data

_THERE = ("ant", "bee", "cat", "cow", "dog", "eel")


def _fails(text, message, available=_THERE):
    with pytest.raises(data.DataError) as error:
        data.parse_classes(text, available)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("dog", ("dog",)), ("dog, ant,cat", ("dog", "ant", "cat")), ("first:2", ("ant", "bee")), ("first:6", _THERE)],
)
def test_names_and_the_first_ones(text, chosen):
    assert data.parse_classes(text, _THERE) == chosen


def test_a_file_of_names(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("# mine\ndog  # the best\n\n ant\n")
    assert data.parse_classes(f"@{file}", _THERE) == ("dog", "ant")
    file.write_text("# none\n")
    _fails(f"@{file}", f"classes {file} names no class; expected at least one of ant, bee, cat, cow, dog, ... (6).")
    file.write_text("ant\nant\n")
    _fails(f"@{file}", f"classes {file} names ant more than once; name each class once.")


def test_a_file_that_cannot_be_read(tmp_path):
    for content in (None, b"\xff\xfe"):
        if content:
            (tmp_path / "mine").write_bytes(content)
        with pytest.raises(data.DataError, match=re.escape(f"classes @{tmp_path}/mine: the file cannot be read (")):
            data.parse_classes(f"@{tmp_path}/mine", _THERE)


def test_choices_that_cannot_be():
    for number in ("0", "7", "x", "", "-1"):
        text = f"first:{number}"
        _fails(text, f"classes {text!r}: there are 6 classes; expected first:N with N from 1 to 6.")
    for text in ("", "ant,,bee"):
        _fails(text, f"classes {text!r}: expected names separated by commas, first:N (e.g. first:50), or @FILE.")
    _fails("ant,ant", "classes 'ant,ant' names ant more than once; name each class once.")
    there = "the 6 available classes (ant, bee, cat, cow, dog, ... (6))"
    _fails("ant,rat", f"classes 'ant,rat': rat is not among {there}; rat is close to cat, ant.")
    _fails("x,y", f"classes 'x,y': x, y are not among {there}.")
