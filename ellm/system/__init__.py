"""What the operating system gives: memory and files; and errors as lines of text."""
