"""Whatever a caller can get wrong is one line, an InputError."""

import pytest
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"),
        ([[]], "empty"),
        ([331], "331"),
        ([-1], "-1"),
        ([[1.5]], "float64"),
        ([[1, 2], [[3]]], "flat list"),
        (None, "not NoneType"),
        (5, "not int"),
        (b"x", "flat list"),
        ({"prompt": "x"}, "not dict"),
        ([{"prompt": "x"}], "not dict"),
        (["x", 1], "not int"),
        ("\ud800", "not valid Unicode"),
        ([1] * 1025, "1025 tokens.*1024"),
    ],
)
def test_a_bad_prompt_is_refused_in_one_line(llm, prompt, words):
    with pytest.raises(InputError, match=words) as caught:
        llm.generate(prompt, GREEDY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 1000}, "threads.*1000"),
        ({"threads": 0}, "threads.*0"),
        ({"pin": "0,0"}, "pin: 0,0: core 0 is named twice"),
        ({"pin": 0}, "pin must be auto, none or a list of cores"),
        ({"context": 1025}, "1025.*1024"),
        ({"context": 0}, "context 0"),
        ({"chunk": 0}, "chunk.*0"),
        ({"chunk": 1 << 40}, "chunk must be from 1 to 65536, not 1099511627776"),
        ({"chunk": 1.5}, "chunk must be a whole number, not 1.5"),
        ({"threads": "2"}, "threads must be a whole number, not '2'"),
        ({"context": True}, "context must be a whole number, not True"),
        ({"isa": "sse9"}, "sse9"),
        ({"target_itl": 10**400}, "target_itl must be a number of seconds above 0, not 10"),
    ],
)
def test_a_bad_option_is_refused(checkpoint, options, words):
    with pytest.raises(InputError, match=words):
        LLM(checkpoint, **options)


@pytest.mark.parametrize("params", [{"temperature": 0}, ["greedy"], [None], 7])
def test_params_of_another_type_are_refused(llm, params):
    with pytest.raises(InputError, match="sampling_params must be"):
        llm.generate("x", params)


@pytest.mark.parametrize(
    "messages",
    [
        *(None, "hello", [], [[]], {"role": "user", "content": "x"}, [1], ["hello"], [[{"role": "user"}, "x"]]),
        *([{"content": "x"}], [{"role": 1, "content": "x"}], [{"role": "user", "content": [{"type": "text"}]}]),
    ],
    ids=repr,
)
def test_messages_that_a_template_would_make_nonsense_of_are_refused(llm, messages):
    with pytest.raises(InputError, match="message"):
        llm.chat(messages, GREEDY)


def test_a_model_without_a_name_is_refused():
    for name in ("", " "):
        with pytest.raises(InputError, match="the model's name is"):
            LLM(name)
    with pytest.raises(InputError, match="File name too long"):
        LLM("a question " * 1000)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer_is_refused_before_weights_are_loaded(tmp_path, file):
    folder = write_checkpoint(tmp_path)
    (folder / file).write_text("{")
    loaded = []
    with pytest.raises(InputError, match=f"{file}: "):
        LLM(folder, progress=lambda done, total: loaded.append(done))
    assert not loaded


def test_params_must_be_as_many_as_prompts(llm):
    with pytest.raises(InputError, match="2 prompts, but 3"):
        llm.generate(["a", "b"], [GREEDY] * 3)


def test_logits_that_are_no_numbers_end_the_answer(tmp_path):
    folder = write_checkpoint(tmp_path / "nan", "LlamaForCausalLM")
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    weights.write_bytes(data[:begin] + b"\xc0\x7f" * ((len(data) - begin) // 2))
    with LLM(folder) as broken:
        with pytest.raises(InputError, match="logits after 3 tokens are NaN: its weights are broken"):
            broken.generate([[5, 6, 7]], GREEDY)
        assert len(broken.engine.free_slots) == 64


def test_a_prompt_too_long_for_a_context_that_is_not_the_longest_is_told_so(tmp_path):
    path = write_checkpoint(tmp_path, rope="longrope", max_position_embeddings=1024)
    with LLM(path) as llm, pytest.raises(InputError, match=r"has 300 tokens, the context has 256 of the model's 1024$"):
        llm.generate([[5] * 300])
