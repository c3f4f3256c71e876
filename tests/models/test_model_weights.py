"""The weights and rotary frequencies that models ask for are those of transformers."""

import json

import make_golden
import numpy as np
import pytest
from model_configs import CONFIGS, HEAD_DIMS, LONGER, ROPES, rope_config

from ellm.dsl import compile
from ellm.models import from_config

GOLDEN = json.loads(make_golden.GOLDEN.read_text())


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_weights_are_those_of_the_checkpoint(name, fuse):
    program = compile(from_config(CONFIGS[name]).graph(), context=64, fuse=fuse)
    asked = {}
    for entry in program.weights:
        for source in entry.sources:
            for expert in range(entry.experts if "{expert}" in source.name else 1):
                asked[source.name.format(expert=expert)] = list(source.shape)
    assert asked == GOLDEN["weights"][name]


@pytest.mark.parametrize("form", ["old", "new"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize(
    "name, context", [*((name, None) for name in ROPES), *((name, one) for name in LONGER for one in LONGER[name])]
)
def test_frequencies_are_those_of_transformers(name, context, head_dim, form):
    rotary = from_config(rope_config(name, head_dim, form)).config.rotary[0]
    rope = rotary.at(context or rotary.trained)
    wanted = GOLDEN["ropes"][f"{name}-{head_dim}" + (f"-{context}" if context else "")]
    found, exact = (np.array(values, np.float32) for values in (rope.inv_freq, wanted["inv_freq"]))
    np.testing.assert_array_max_ulp(found, exact, maxulp=1)
    assert rope.factor == pytest.approx(wanted["factor"], rel=1e-12)


@pytest.mark.oracle
def test_golden_weights_and_frequencies_are_what_transformers_has():
    live = make_golden.golden()
    assert live["weights"] == GOLDEN["weights"]
    assert live["ropes"] == GOLDEN["ropes"]
