"""Which file a name means where there are several: quantisations, parts, safetensors beside GGUF files."""

import pytest
import tiny
import tiny_gguf
from gguf import GGMLQuantizationType as Type

from ellm.checkpoint import gguf_choice, open_checkpoint
from ellm.checkpoint.names import find
from ellm.system.errors import InputError

CONFIG = tiny.make_config("Qwen3ForCausalLM", vocab=268, layers=1, hidden_size=64, head_dim=16, intermediate_size=64)


def write(path, dtype=Type.F32, **settings):
    path.parent.mkdir(exist_ok=True)
    return tiny_gguf.write_gguf(path, CONFIG, tiny_gguf.random_floats(CONFIG), dtype, **settings)


def test_a_file_without_suffix(tmp_path):
    """As ollama stores them."""
    path = write(tmp_path / "model.gguf", Type.F16).rename(tmp_path / f"sha256-{'ab12' * 16}")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config_file == str(path)
        assert {checkpoint.precision(name) for name in checkpoint.tensors} == {"bf16"}
        assert checkpoint.tokenizer.vocab_size == 268


def test_the_only_file_of_a_folder(tmp_path):
    path = write(tmp_path / "tiny-Q8_0.gguf", Type.Q8_0)
    (tmp_path / "mmproj-tiny-f16.gguf").write_bytes(b"GGUF")
    (tmp_path / "tiny.imatrix.gguf").write_bytes(b"GGUF")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.source == str(path) and checkpoint.notes == []
    (tmp_path / "config.json").write_text("{}")  # as some repositories of GGUF files have it
    assert find(str(tmp_path)).path == path


def test_one_of_several(tmp_path):
    files = {kind: write(tmp_path / f"tiny-{kind}.gguf") for kind in ("Q8_0", "BF16", "Q4_K_M", "Q4_K_S")}
    found = find(str(tmp_path))
    assert found.path == files["Q4_K_M"]
    assert found.notes == [
        f"{tmp_path}: took tiny-Q4_K_M.gguf; others are named as in NAME:Q4_K_M: "
        "tiny-BF16.gguf, tiny-Q4_K_S.gguf, tiny-Q8_0.gguf"
    ]
    for kind, path in files.items():
        named = find(f"{tmp_path}:{kind.lower()}")
        assert named.path == path and named.notes == []
    files["Q4_K_M"].unlink()
    assert find(str(tmp_path)).path == files["BF16"]
    with pytest.raises(InputError, match=r"has no GGUF file of 'Q4_K', it has tiny-BF16.gguf, tiny-Q4_K_S.gguf, tiny"):
        find(f"{tmp_path}:Q4_K")


def test_parts_in_a_folder_of_their_own(tmp_path):
    first = write(tmp_path / "UD-Q4_K_XL" / "tiny.gguf", most_tensors=4)
    write(tmp_path / "Q8_0" / "tiny.gguf", most_tensors=4)
    assert find(f"{tmp_path}:UD-Q4_K_XL").path == first
    with open_checkpoint(f"{tmp_path}:UD-Q4_K_XL") as checkpoint:
        assert len(checkpoint.tensors) == 14
    first.unlink()
    with pytest.raises(InputError, match=r"has no GGUF model, only tiny-00002-of-00004.gguf, tiny-00003"):
        find(f"{tmp_path / 'UD-Q4_K_XL'}")


def test_safetensors_go_first(tmp_path):
    tiny.write_checkpoint(tmp_path, "Qwen3ForCausalLM")
    path = write(tmp_path / "tiny-Q8_0.gguf")
    found = find(str(tmp_path))
    assert found.path == tmp_path
    assert found.notes == [f"{tmp_path}: took its safetensors; it has tiny-Q8_0.gguf too, to be named by its path"]
    assert find(f"{tmp_path}:Q8_0").path == path


@pytest.mark.parametrize(
    "name, quantisation, means",
    [
        ("a-Q4_K_M.gguf", "q4_k_m", True),
        ("a.Q4_K_M.gguf", "Q4_K_M", True),
        ("a_q4_k_m.gguf", "Q4_K_M", True),
        ("UD-Q4_K_XL/a-00001-of-00002.gguf", "Q4_K_XL", True),
        ("a-Q4_K_M.gguf", "Q4_K", False),
        ("a-BF16.gguf", "F16", False),
        ("a-IQ4_XS.gguf", "Q4_XS", False),
        ("a-Q4_K_M.gguf", ".*", False),
    ],
)
def test_a_quantisation_is_whole_words_of_a_name(name, quantisation, means):
    if means:
        assert gguf_choice.choose([name], quantisation, "x") == (name, [])
    else:
        with pytest.raises(InputError, match="x: has no GGUF file of"):
            gguf_choice.choose([name], quantisation, "x")
