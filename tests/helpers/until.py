"""Waiting for what another thread does."""

import time


def until(condition, seconds=60):
    """Return when it is so; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)
