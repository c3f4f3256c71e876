"""What the operating system gives: memory, files and processes; and errors as lines of text."""
