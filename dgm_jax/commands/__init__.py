"""What a person types: a file for each command, which turns words into settings and calls the library."""
