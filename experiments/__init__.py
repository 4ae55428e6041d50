"""One short document per experiment: what it shows, the command, what to expect."""
