"""What tests share; one topic a file."""
