"""How long sequences may be and are unless told otherwise, and which frequencies they then have."""

import pytest
from model_configs import CONFIGS

from ellm.compiled import Options, Source, compile_model
from ellm.models import from_config
from ellm.system.errors import InputError

LLAMA = CONFIGS["llama"]  # of 4096 positions
YARN = {"rope_type": "yarn", "factor": 4.0}
LONGROPE = {"type": "su", "short_factor": [1.0] * 9, "long_factor": [4.0] * 9}
DYNAMIC = {"type": "dynamic", "factor": 2.0}


def config(rope, **overrides):
    return {**LLAMA, "rope_scaling": rope, **overrides}


def model(rope, **overrides):
    return from_config(config(rope, **overrides))


@pytest.mark.parametrize(
    "rope, usual, longest",
    [
        (None, 4096, 4096),
        ({"type": "default"}, 4096, 4096),
        ({**YARN, "original_max_position_embeddings": 4096}, 16384, 16384),  # as Qwen tells people to extend a model
        ({**YARN, "original_max_position_embeddings": 1024}, 4096, 4096),  # as most are published
        ({**YARN, "original_max_position_embeddings": 512}, 4096, 4096),
        (YARN, 16384, 16384),
        ({"type": "yarn", "original_max_position_embeddings": 1024}, 4096, 4096),
        ({"type": "linear", "factor": 2.5}, 10240, 10240),
        ({"type": "linear", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096, 4096),
        ({"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, 4096, 4096),
        ({**LONGROPE, "original_max_position_embeddings": 256}, 256, 4096),
        (LONGROPE, 4096, 4096),
    ],
)
def test_a_rope_that_extends_makes_the_context_longer(rope, usual, longest):
    found = model(rope)
    assert (found.context, found.longest) == (usual, longest)
    assert compile_model(Source(config(rope))).program.context >= usual
    with pytest.raises(InputError, match=f"context {longest + 1}: this model has 1 to {longest} positions"):
        compile_model(Source(config(rope)), Options(context=longest + 1))


def test_dynamic_rope_needs_to_be_told_the_context():
    source = Source(config(DYNAMIC))
    words = "config.json: rope_type 'dynamic' has other frequencies for each context from 4096 to 8192: choose one"
    with pytest.raises(InputError, match=words):
        compile_model(source)
    compile_model(source, Options(context=8192))


@pytest.mark.parametrize("rope", [DYNAMIC, {**LONGROPE, "original_max_position_embeddings": 4096, "factor": 2.0}])
def test_within_the_positions_of_training_frequencies_are_those_of_training(rope):
    rotary = model(rope, max_position_embeddings=4096 if rope is DYNAMIC else 8192).config.rotary[0]
    plain = model(None).config.rope(0).inv_freq
    assert rotary.at(1).inv_freq == rotary.at(4096).inv_freq == plain != rotary.at(4097).inv_freq


def test_the_field_of_phi_stands_beside_the_rope():
    rope = {**LONGROPE, "original_max_position_embeddings": 512}
    assert model(rope, original_max_position_embeddings=256).context == 256
    assert model(YARN, original_max_position_embeddings=2048).context == 8192


def test_a_graph_has_the_frequencies_of_its_context():
    found = model(DYNAMIC)
    for context in (4096, 8192):
        ropes = {node.attributes["rope"] for _, node in found.graph(context).items() if "rope" in node.attributes}
        assert ropes == {found.config.rotary[0].at(context)}


def test_ropes_by_type_of_layer():
    slow, fast = {"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e4}
    nested = {"full_attention": slow, "sliding_attention": fast}
    types = ["sliding_attention", "full_attention"]
    found = from_config(
        {**CONFIGS["mistral"], "layer_types": types, "rope_parameters": nested, "rope_theta": 5.0}
    ).config
    flat = [from_config({**CONFIGS["mistral"], "rope_parameters": rope}).config for rope in (fast, slow)]
    assert found.rope(0) == flat[0].rope(0) != flat[1].rope(0) == found.rope(1)


def test_the_longest_rope_of_a_layer_decides_the_context():
    nested = {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}
    types = ["sliding_attention", "full_attention"]
    found = from_config({**CONFIGS["mistral"], "layer_types": types, "rope_parameters": nested})
    assert found.context == 16384


def test_rotary_dim_rotates_the_first_dims_of_a_head():
    smaller = from_config({**LLAMA, "head_dim": 8}).config.rope(0)
    assert from_config({**LLAMA, "rotary_dim": 8}).config.rope(0) == smaller
    assert from_config({**CONFIGS["glm4_moe"], "rotary_dim": 8}).config.rope(0) == smaller
