"""What we ask of the machine: files, locks, checkpoints, processes, signals, compiled programs."""
