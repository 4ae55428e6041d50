"""What a person sees of a run: the console, the page, tables and charts. Nothing here changes a run."""
