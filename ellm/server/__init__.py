"""The HTTP server: everybody's clients on one model, by the Python API alone."""
