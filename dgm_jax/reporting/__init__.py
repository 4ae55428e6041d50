"""Shows runs to people: console, page, tables and charts. Nothing here changes a run."""
