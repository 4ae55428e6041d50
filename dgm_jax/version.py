"""The version of this package; no other file repeats it."""

__version__ = "0.2.0"
