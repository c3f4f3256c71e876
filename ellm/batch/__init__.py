"""Many requests out of a file into a file, in such a way that a run may be killed at any moment and gone on with."""
