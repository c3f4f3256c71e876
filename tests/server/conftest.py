"""A server of the tiny model, for each module one."""

import pytest
from served import serving


@pytest.fixture(scope="module")
def served(llm):
    with serving(llm) as running:
        yield running
