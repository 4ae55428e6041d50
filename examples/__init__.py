"""Programs to copy; README.md lists them."""
