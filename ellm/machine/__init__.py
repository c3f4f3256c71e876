"""The machine: what it is, what it reaches at most, and descriptions of others."""
