"""Programs whose products are of whole numbers: any cut into steps, fused or not, gives the same bits."""

import numpy as np
import pytest
from small_models import EXPERTS, graph, packed_region, random_weights
from test_compiled_execution import answer, native

from ellm.dsl import compile
from ellm.dsl.policy import packed_as
from ellm.kernels.formats import FORMATS
from ellm.kernels.routes import routes
from ellm.scheduler import interpret

MODELS = {name: graph(name) for name in ("LlamaForCausalLM", "Qwen3ForCausalLM", *EXPERTS)}


def compiled(name, format, activations, fuse=True):
    options = {"packing": packed_as(FORMATS[format]), "routes": routes("avx2", activations)}
    return compile(MODELS[name], context=1024, chunk=80, row_block=16, fuse=fuse, **options)


@pytest.mark.parametrize("activations", ["int16", "int8"])
@pytest.mark.parametrize("format", ["q8_0", "q4_1"])
@pytest.mark.parametrize("name", MODELS)
def test_fused_and_unfused_programs_and_any_steps_give_the_same_logits(name, format, activations):
    fused, unfused = (compiled(name, format, activations, fuse) for fuse in (True, False))
    weights = random_weights(fused)
    region = packed_region(fused, weights)
    first = native(fused, region, 75)
    assert np.isfinite(first).all() and first.std() > 0.1
    np.testing.assert_array_equal(native(unfused, packed_region(unfused, weights), 75), first)
    np.testing.assert_array_equal(native(fused, region, 7), first)
    np.testing.assert_array_equal(native(fused, region, 1), first)


@pytest.mark.parametrize("activations", ["int16", "bf16"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3MoeForCausalLM"])
def test_numpy_kernels_agree_with_native_ones(name, activations):
    program = compiled(name, "q8_0", activations)
    region = packed_region(program, random_weights(program))
    wanted = native(program, region, 75)
    ours = answer(program, 75, lambda step: interpret.run(program, region.ctypes.data, step))
    np.testing.assert_allclose(ours, wanted, atol=0.05)
