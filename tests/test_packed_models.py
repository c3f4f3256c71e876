"""Packed models: the same bits as those that are not, whatever the family, the format, the ISA and the context."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import quantized
import tiny
import tokenizer_folders
import vocabulary_files
from families import FAMILIES
from odd_texts import odd_texts
from tiny_gguf import write_blocks, write_tiny

from ellm import LLM, program_cache
from ellm import pack as packer
from ellm.checkpoint import open_checkpoint, packed_tokenizer
from ellm.checkpoint.packed_file import WEIGHTS_AT, Header, read_header, writing
from ellm.compiled import Options, Source, compile_model
from ellm.dsl import packing
from ellm.kernels import isa
from ellm.kernels.bf12 import HEADER, WIDE
from ellm.kernels.gguf_blocks import BLOCKS
from ellm.scheduler.placement import Placement
from ellm.system.errors import InputError

IDS = [7 * number % 263 for number in range(70)]
PRECISIONS = [  # of the families that come in them
    ("LlamaForCausalLM", "f16"),
    ("Qwen3MoeForCausalLM", "fp8"),
    ("DeepseekV3ForCausalLM", "fp8"),
    ("GptOssForCausalLM", "mxfp4"),
]
SIZES = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Programs are kept elsewhere than those of who runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pack(source, **options):
    """The packed file of a model, beside it."""
    path = source.with_name(source.name + ".packed")
    with open_checkpoint(source) as checkpoint:
        packer.pack(checkpoint, path, **options)
    return path


def logits(path, ids=IDS, **options) -> np.ndarray:
    with LLM(path, threads=1, chunk=options.pop("chunk", 64), **options) as llm:
        return llm.logits(ids)


def same(source, packed, **options) -> None:
    np.testing.assert_array_equal(logits(packed, **options), logits(source, **options))


@pytest.fixture
def batch(monkeypatch):
    """Small ones, so that a tiny model is packed in several."""
    monkeypatch.setattr(packer, "BATCH", 1 << 16)


@pytest.mark.parametrize("architecture", [record.architecture for record in FAMILIES])
def test_every_family(tmp_path, architecture, batch):
    folder = tiny.write_checkpoint(tmp_path / "model", architecture)
    same(folder, pack(folder))


@pytest.mark.parametrize(("architecture", "precision"), PRECISIONS)
def test_every_precision_of_safetensors(tmp_path, architecture, precision, batch):
    folder = tiny.write_checkpoint(tmp_path / "model", architecture, precision=precision)
    same(folder, pack(folder))


@pytest.mark.parametrize(
    ("write", "config", "options"),
    [
        (quantized.awq, quantized.AWQ, {"number": "F16", "group": 64}),
        (quantized.gptq, quantized.GPTQ, {}),
        (quantized.int_quantized, quantized.INT8, {}),
        (quantized.fp8, quantized.FLOAT, {}),
        (quantized.pack_quantized, quantized.compressed(symmetric=False), {"zeros": True}),
    ],
)
def test_weights_of_several_tensors(tmp_path, write, config, options):
    folder, _ = quantized.write_pair(tmp_path, "LlamaForCausalLM", write, config, **options)
    same(folder, pack(folder))


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_type_of_gguf(tmp_path, kind):
    path = write_blocks(tmp_path, "LlamaForCausalLM", lambda stem: kind)
    same(path, pack(path))


def test_one_file_serves_every_isa(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "Qwen3MoeForCausalLM")
    packed = pack(folder)
    for name, obstacle in isa.available().items():
        if obstacle is None:
            same(folder, packed, isa=name)


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_a_dtype_is_that_of_the_file(tmp_path, dtype):
    folder = tiny.write_checkpoint(tmp_path / "model", "Qwen3MoeForCausalLM", precision="fp8")
    packed = pack(folder, dtype=dtype)
    with LLM(packed, threads=1) as llm:
        assert ("fp8" in llm.runtime.program.weight_bytes) == (dtype is None)
    for other in {"bf16", "q8_0"} - {dtype}:
        with open_checkpoint(packed) as checkpoint, pytest.raises(InputError, match=f"dtype {other}: its weights are "):
            assert checkpoint.packed
            checkpoint.packed.check_asked(other, False)


def spread(monkeypatch) -> None:
    """Have exponents of tiny models so far apart that in 12 bits some spill."""
    drawn = tiny.random_tensor

    def far(name, shape, bits):
        spread = 2.0 ** -(np.arange(shape[-1]) % 40) if name.endswith("up_proj.weight") else 1.0
        return (drawn(name, shape, bits) * spread).astype(np.float32)

    monkeypatch.setattr(tiny, "random_tensor", far)


@pytest.fixture(params=[False, True], ids=["near", "far"])
def held(request, tmp_path, monkeypatch):
    """A model whose weights are held in 12 bits, of which some spill, or not."""
    if request.param:
        spread(monkeypatch)
    return tiny.write_checkpoint(tmp_path / "model", "Qwen3MoeForCausalLM", **SIZES)


def test_weights_in_12_bits_on_every_isa(held, request, batch):
    packed = pack(held, dtype="bf12")
    with open_checkpoint(packed) as checkpoint:
        program = compile_model(Source.of(checkpoint), Options(context=64, chunk=64)).program
        assert "bf12" in program.weight_bytes and checkpoint.packed
        assert (checkpoint.packed.header.weights_bytes > program.weights_bytes) is ("far" in request.node.name)
    for name, obstacle in isa.available().items():
        if obstacle is None:
            np.testing.assert_array_equal(logits(packed, isa=name), logits(held, isa=name, dtype="bf16-raw"))


@pytest.mark.parametrize("speculate", ["off", "mtp"])
def test_what_spills_lies_behind_prediction_heads_that_are_asked_for_or_not(tmp_path, monkeypatch, speculate, batch):
    spread(monkeypatch)
    folder = tiny.write_checkpoint(tmp_path / "model", "Glm4MoeForCausalLM", num_nextn_predict_layers=1, **SIZES)
    packed = pack(folder, dtype="bf12")
    with open_checkpoint(packed) as checkpoint:
        whole = compile_model(Source.of(checkpoint), Options(context=64, chunk=64, drafter=True)).program
        assert checkpoint.packed and checkpoint.packed.header.weights_bytes > whole.weights_bytes
    theirs = logits(folder, dtype="bf16-raw", speculate=speculate)
    np.testing.assert_array_equal(logits(packed, speculate=speculate), theirs)


@pytest.mark.parametrize(
    ("field", "value"), [("patches", 16), ("patches", 254), ("place", 2048), ("distance", 0), ("distance", 1 << 40)]
)
def test_blocks_that_lead_out_of_the_file_are_refused(held, field, value):
    packed = pack(held, dtype="bf12")
    with open_checkpoint(packed) as checkpoint:
        program = compile_model(Source.of(checkpoint), Options(context=64, chunk=64)).program
    weight = next(one for one in program.weights if one.format == "bf12")
    header = np.memmap(packed, HEADER, "r+", WEIGHTS_AT + weight.offset + 3 * weight.packed.block_bytes, 1)
    if field != "patches":
        header["patches"] = 1 if field == "place" else WIDE
    header[field] = value
    header.flush()
    with pytest.raises(InputError, match=r"model\.packed: is damaged: \S+: a block is none of bf12$"):
        LLM(packed)


def test_frequencies_are_those_of_the_context_that_is_asked_for(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", rope={"rope_type": "dynamic", "factor": 4.0})
    packed = pack(folder)
    for context in (1024, 2000, 4096):
        same(folder, packed, context=context)
    assert len({logits(packed, context=context).tobytes() for context in (1024, 2000, 4096)}) == 3
    with pytest.raises(InputError, match=r"choose one \(--context\)"):
        LLM(packed)
    for context in (0, 5000):
        with pytest.raises(InputError, match=f"context {context}: this model has 1 to 4096 positions"):
            LLM(packed, context=context)


def test_expanded_prefill_is_packed_or_not(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "DeepseekV2ForCausalLM")
    ids, packed = IDS * 3, pack(folder, expanded_prefill=True)
    for expanded in (False, True):
        same(folder, packed, ids=ids, chunk=256, expanded_prefill=expanded)
    same(folder, packed, chunk=64)
    with pytest.raises(InputError, match=r"packed without expanded prefill: pack it again with --expanded-prefill"):
        LLM(pack(folder), expanded_prefill=True)


def test_the_rest_of_a_checkpoint_is_there(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "DeepseekV3ForCausalLM", num_nextn_predict_layers=0)
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.5, "eos_token_id": 0})
    )
    packed = pack(folder)
    with open_checkpoint(folder) as plain, open_checkpoint(packed) as ours:
        assert (ours.config, ours.generation, ours.notes) == (plain.config, plain.generation, plain.notes)
        assert ours.tensors.keys() == plain.tensors.keys()
        options = {"context": 64, "isa": isa.choose().isa}
        program = compile_model(Source.of(plain), Options(**options)).program
        assert compile_model(Source.of(ours), Options(**options)).program.weights == program.weights
        assert ours.ignored(program) == plain.ignored(program)
        assert ours.tokenizer.eos_ids == plain.tokenizer.eos_ids
    with LLM(packed, threads=1) as llm:
        assert llm.get_default_sampling_params().temperature == 0.5
        messages = [{"role": "user", "content": "the"}]
        with LLM(folder, threads=1) as other:
            assert llm.tokenizer.chat(messages) == other.tokenizer.chat(messages)


def same_tokenizer(source, packed) -> None:
    with open_checkpoint(source) as plain, open_checkpoint(packed) as ours:
        one, two = plain.tokenizer, ours.tokenizer
        for text in odd_texts(60, special=list(one._added.values())):
            assert two.encode(text) == one.encode(text)
            ids = one.encode(text, add_special=False)
            assert two.encode(text, add_special=False) == ids
            for skip in (True, False):
                assert two.decode(ids, skip) == one.decode(ids, skip)
        for name in ("bos_id", "eos_ids", "_special", "_added", "_special_tokens", "vocab_size", "has_chat_template"):
            assert getattr(two, name) == getattr(one, name), name


def with_tokenizer(folder, write):
    """A tiny model with other files of a tokenizer."""
    tiny.write_checkpoint(folder, vocab=512)
    config = json.loads((folder / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    write(folder)
    theirs = json.loads((folder / "config.json").read_text())
    tiny.write_json(folder / "config.json", theirs | config | {"vocab_size": 512, "eos_token_id": None})
    return folder


@pytest.mark.parametrize("form", vocabulary_files.FORMS)
def test_every_file_of_a_vocabulary(tmp_path, form):
    folder = with_tokenizer(tmp_path / "model", lambda folder: vocabulary_files.write(folder, form))
    same_tokenizer(folder, pack(folder))


@pytest.mark.parametrize("seed", range(12))
def test_files_beside_a_vocabulary(tmp_path, seed):
    folder = with_tokenizer(tmp_path / "model", lambda folder: tokenizer_folders.write(folder, seed))
    same_tokenizer(folder, pack(folder))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokenizers_of_gguf(tmp_path, kind):
    path = write_tiny(tmp_path, tokenizer=kind)[2]
    same_tokenizer(path, pack(path))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/tokenizer.json", "/tokenizer.json", "a/../tokenizer.json", "x", "", "a\0"]
)
def test_a_file_that_is_none_of_a_tokenizer_is_not_unpacked(tmp_path, name):
    header = Header({}, 0, [], {"tokenizer/" + name: (0, 0, "")}, "")
    with pytest.raises(InputError, match="is no file of a tokenizer"):
        packed_tokenizer.read(tmp_path / "model", header, {}, {})


def test_what_is_wrong_with_a_tokenizer_names_the_packed_file(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", layers=1)
    path = tmp_path / "packed"
    with writing(path) as writer:
        writer.add_member("tokenizer/tokenizer.json", b"{}")
        writer.finish({})
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(InputError, match=f"^{path}/tokenizer.json: "):
        packed_tokenizer.read(path, read_header(path), config, {})


def test_a_folder_without_a_tokenizer(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    packed = pack(folder)
    with LLM(packed, threads=1) as llm:
        assert llm.tokenizer.eos_ids == {0, 2}
    with pytest.raises(InputError, match=r"model\.packed: has no tokenizer"):
        LLM(packed, needs_text=True)


def test_processes_share_the_weights(tmp_path):
    """But for pages of constants, no page of the mapping is this process's own."""
    packed = pack(tiny.write_checkpoint(tmp_path / "model", hidden_size=512, layers=2))

    def pages(field: str) -> int:
        part = smaps[smaps.index(str(packed)) :]
        return int(re.search(rf"{field}: +(\d+) kB", part)[1]) << 10

    with LLM(packed, threads=1) as llm:
        llm.logits(IDS)
        smaps = Path("/proc/self/smaps").read_text()
        assert pages("Size") == llm.runtime.program.weights_bytes
        assert pages("Rss") >= llm.runtime.program.weights_bytes - (64 << 10)  # what lies between tensors
        assert pages("Private_Dirty") == 0
    assert str(packed) not in Path("/proc/self/maps").read_text()


def test_a_program_is_compiled_once(tmp_path, monkeypatch):
    packed = pack(tiny.write_checkpoint(tmp_path / "model"))
    compiled = []
    compile = packer.compile_model.__globals__["_compile"]
    monkeypatch.setitem(
        packer.compile_model.__globals__, "_compile", lambda *key: (compiled.append(key[1:4]), compile(*key))[1]
    )
    first = logits(packed)
    for _ in range(2):
        np.testing.assert_array_equal(logits(packed), first)
    assert len(compiled) == 1
    logits(packed, context=512)
    logits(packed, chunk=128)
    assert len(compiled) == 3
    for path in program_cache.cache_folder().glob("programs/*"):
        path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(logits(packed), first)
    assert len(compiled) == 4


def test_of_kept_programs_those_used_last_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(program_cache, "MOST", 2)
    folder = tiny.write_checkpoint(tmp_path / "model", layers=1)
    with open_checkpoint(folder) as checkpoint:
        program = compile_model(Source.of(checkpoint), Options(context=64, chunk=64)).program
    for time, key in enumerate("abc"):
        program_cache.store([program], key)
        for path in program_cache.cache_folder().glob("programs/*"):
            if path.stat().st_mtime > 1000:
                os.utime(path, (time, time))
    assert [program_cache.load(1, key) is not None for key in "abc"] == [False, True, True]


def test_without_a_place_for_programs_they_are_compiled(tmp_path, monkeypatch):
    folder = tiny.write_checkpoint(tmp_path / "model", layers=1)
    packed = pack(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    same(folder, packed)


def test_another_order_of_weights_is_refused(tmp_path, monkeypatch):
    packed = pack(tiny.write_checkpoint(tmp_path / "model", layers=1))
    monkeypatch.setitem(packing._ALIGNMENTS, "tiles", 1 << 16)
    with pytest.raises(InputError, match=r"lays its weights out otherwise: pack it again$"):
        LLM(packed, context=512)


def test_a_file_that_is_cut_while_it_is_opened_is_one_line(tmp_path):
    packed = pack(tiny.write_checkpoint(tmp_path / "model"))
    with open_checkpoint(packed) as checkpoint:
        program = compile_model(Source.of(checkpoint), Options(context=64, chunk=64)).program
        os.truncate(packed, WEIGHTS_AT + 4096)
        assert checkpoint.packed
        with pytest.raises(InputError, match=r"model\.packed: is damaged: it has \d+ bytes"):
            checkpoint.packed.map(program, Placement([0], pinned=False)).close()


def test_a_checkpoint_that_will_not_do_leaves_no_file(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model")
    weights = folder / "model.safetensors"
    with open_checkpoint(folder) as checkpoint:
        os.truncate(weights, weights.stat().st_size - 100)
        with pytest.raises(InputError, match="the file ends at byte"):
            packer.pack(checkpoint, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_packed_file_is_not_packed_again(tmp_path):
    packed = pack(tiny.write_checkpoint(tmp_path / "model", layers=1))
    with pytest.raises(InputError, match=r"model\.packed: is packed already"):
        pack(packed)
