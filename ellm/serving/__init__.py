"""Requests to steps: the API, a model that is ready to run, and the engine with its parts."""
