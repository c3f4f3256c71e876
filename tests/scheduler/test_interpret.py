"""The reference order notices programs that the native scheduler would hang on or run wrongly."""

import numpy as np
import pytest

from ellm.scheduler import StepTables
from ellm.scheduler.interpret import walk
from ellm.scheduler.probe_program import ProbeGroup, one_row, probe_program
from ellm.scheduler.program import Lists


def order(program):
    return list(walk(program, StepTables(program, 1).fill(one_row()).counts))


def diamond():
    return probe_program([ProbeGroup(2), ProbeGroup(3, [0]), ProbeGroup(0, [0]), ProbeGroup(4, [1, 2])])


def test_diamond():
    assert order(diamond()) == [(0, 2), (1, 3), (3, 4)]


@pytest.mark.parametrize(
    ("event", "needed", "message"),
    [
        (1, 3, "does not end"),
        (1, 1, r"gets more than its 1 signals"),
        (2, 2, "does not end"),
    ],
)
def test_wrong_needs(event, needed, message):
    program = diamond()
    program.events["needed"][event] = needed
    with pytest.raises(AssertionError, match=message):
        order(program)


def test_end_before_the_last_group():
    program = diamond()
    program.end = 0
    with pytest.raises(AssertionError, match="after the end"):
        order(program)


def test_published_twice():
    program = diamond()
    program.publishes = Lists.of([[1, 2], [3, 1], []])
    with pytest.raises(AssertionError, match="published twice"):
        order(program)


def test_never_published():
    program = diamond()
    program.roots = np.array([0], np.int32)
    program.groups = np.append(program.groups, program.groups[:1])
    program.signals = Lists.of([*(program.signals[i].tolist() for i in range(4)), []])
    with pytest.raises(AssertionError, match=r"\[4\] are never published"):
        order(program)
