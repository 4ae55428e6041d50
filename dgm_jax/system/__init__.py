"""What the library needs from the machine: files, locks, checkpoints, processes, signals, compiled programs."""
