"""Experiments by which settings were chosen; each module is a command. `NOTEBOOK.md` holds what they found."""
