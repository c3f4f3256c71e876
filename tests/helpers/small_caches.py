"""A machine whose last level caches are small: probes fill memory by their size, for seconds on a server."""

import sys

SIZE = 32 << 20
PATCH = f"from ellm.machine import limits; limits.last_level_cache = lambda cores: {SIZE}; "
"""For a Python that is started; conftest.py does the same for the tests' own."""
ELLM = [sys.executable, "-c", PATCH + "from ellm.cli.main import main; main()"]
