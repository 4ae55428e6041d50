"""What keeps a run, the same for every method: its loop, its record, its folder."""
