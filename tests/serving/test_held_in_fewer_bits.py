"""Models whose bf16 weights are held in 12 bits: the bits of all logits are those of 16, and less memory is taken."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tiny
from packed_logits import packed_logits

import ellm.models
from ellm.compiled import Options, Source, compile_model
from ellm.kernels import isa
from ellm.kernels.formats import RAW
from ellm.llm import LLM
from ellm.system.errors import InputError

SIZES = {"hidden_size": 352, "intermediate_size": 416}  # whole blocks of k and parts of one
MODELS = {
    "LlamaForCausalLM": {"tie_word_embeddings": True},
    "Qwen3ForCausalLM": {},
    "Qwen3MoeForCausalLM": {"moe_intermediate_size": 160},
    "DeepseekV3ForCausalLM": {},
    "GptOssForCausalLM": {},
}


@pytest.fixture(params=[False, True], ids=["near", "far"])
def exponents(request, monkeypatch):
    """Whether the exponents of some matrices lie so far apart that their blocks are wide."""
    drawn = tiny.random_tensor

    def far(name, shape, bits):
        values = drawn(name, shape, bits)
        spread = 2.0 ** -(np.arange(shape[-1]) % 40) if name.endswith(("up_proj.weight", "o_proj.weight")) else 1.0
        return (values * spread).astype(np.float32)

    if request.param:
        monkeypatch.setattr(tiny, "random_tensor", far)


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_have_the_bits_of_raw_ones(tmp_path, architecture, exponents):
    folder = tiny.write_checkpoint(tmp_path, architecture, **SIZES, **MODELS[architecture])
    held, formats = packed_logits(folder, "bf12")
    raw, raw_formats = packed_logits(folder, RAW)
    assert "bf12" in formats and "bf12" not in raw_formats
    assert np.isfinite(raw).all() and raw.std() > 0
    np.testing.assert_array_equal(held.view(np.uint32), raw.view(np.uint32))


def test_any_number_of_threads_and_chunk(tmp_path, exponents):
    folder = tiny.write_checkpoint(tmp_path, "Qwen3MoeForCausalLM", **SIZES)
    tokens = [(7 * i + 1) % 331 for i in range(90)]
    found = []
    for options in ({"threads": 1, "dtype": RAW}, {"threads": 1}, {"threads": 2, "chunk": 7, "pin": "none"}):
        with LLM(folder, **({"dtype": "bf12"} | options)) as llm:
            found.append(llm.logits(tokens))
            assert llm.runtime.spill.used <= llm.runtime.spill.bytes == llm.runtime.program.spill_bytes
    for one in found[1:]:
        np.testing.assert_array_equal(one.view(np.uint32), found[0].view(np.uint32))


def formats_of(config: dict, **options) -> dict[str, int]:
    return compile_model(Source(config), Options(context=64, **options)).program.weight_bytes


def test_it_is_the_default_where_it_pays():
    config = tiny.make_config("LlamaForCausalLM", hidden_size=512, intermediate_size=512, head_dim=128)
    for name in isa.ISAS:
        assert ("bf12" in formats_of(config, isa=name)) is (name in ("amx", "avx512"))
        assert "bf12" not in formats_of(config, isa=name, dtype=RAW)
    held, raw = (formats_of(config, isa="avx512", dtype=dtype) for dtype in ("bf16", RAW))
    assert held["bf12"] + held.get("bf16", 0) < 0.8 * raw["bf16"]


def test_what_padding_makes_no_smaller_stays_raw():
    config = tiny.make_config("LlamaForCausalLM", hidden_size=96, intermediate_size=128)
    program = compile_model(Source(config), Options(context=64, isa="avx512")).program
    formats = {entry.k_tiles: entry.format for entry in program.weights if entry.layout == "tiles"}
    assert formats == {3: "bf16", 4: "bf12"}


def test_an_unknown_dtype_is_one_line():
    source = Source(tiny.make_config())
    assert isinstance(source.model, ellm.models.Model)
    with pytest.raises(InputError, match=r"^dtype 'bf13' is unknown: choose one of q8, q4, bf16, .*bf12, .*bf16-raw$"):
        compile_model(source, Options(dtype="bf13"))


def test_inspect_says_in_how_many_bits(tmp_path, exponents, request):
    folder = tiny.write_checkpoint(tmp_path, "LlamaForCausalLM", hidden_size=512, intermediate_size=512, vocab=352)
    command = [sys.executable, "-m", "ellm.cli.main", "inspect", str(folder), "--isa", "avx512"]
    if isa.available()["avx512"]:
        pytest.skip(f"avx512: {isa.available()['avx512']}")
    looked = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    held = re.search(r"^bf12 +holds bf16 in 1[23]\.\d\d bits a weight; \d+ exceptions and (\d+) spilled", looked, re.M)
    assert held and (int(held[1]) > 0) is ("far" in request.node.name)
    planned = subprocess.run([*command, "--no-weights"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^bf12 +holds bf16 in 1[23]\.\d\d bits a weight$", planned, re.M)
