"""Measurements of speed and robustness; each module is a command."""
