"""A folder without a tokenizer serves token ids, the same as with it; what needs text is refused in one line."""

import pytest
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=8)
PROMPTS = [[5, 6, 7], [8] * 70]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("bare") / "bare", "Qwen3ForCausalLM")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def bare_llm(bare):
    with LLM(bare) as opened:
        yield opened


def test_token_ids_give_the_token_ids_of_the_same_model_with_a_tokenizer(llm, bare_llm):
    for mine, other in zip(bare_llm.generate(PROMPTS, GREEDY), llm.generate(PROMPTS, GREEDY), strict=True):
        assert (mine.token_ids, mine.logprobs) == (other.token_ids, other.logprobs)
        assert (mine.finish_reason, mine.prompt_token_ids) == (other.finish_reason, other.prompt_token_ids)
        assert mine.text == ""


def test_a_stream_has_no_text_and_the_ids(bare_llm):
    (whole,) = bare_llm.generate(PROMPTS[:1], GREEDY)
    with bare_llm.stream(PROMPTS[0], GREEDY) as stream:
        assert "".join(stream) == ""
        assert stream.output.token_ids == whole.token_ids


def test_the_ids_of_generation_config_end_an_answer(bare_llm):
    (whole,) = bare_llm.generate([PROMPTS[0]], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    bare_llm.tokenizer.eos_ids.add(whole.token_ids[3])
    try:
        (output,) = bare_llm.generate([PROMPTS[0]], GREEDY)
    finally:
        bare_llm.tokenizer.eos_ids.discard(whole.token_ids[3])
    first = whole.token_ids.index(whole.token_ids[3])
    assert (output.token_ids, output.finish_reason) == (whole.token_ids[: first + 1], "stop")


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda llm: llm.generate("hi", GREEDY), "prompts are lists of token ids"),
        (lambda llm: llm.stream("hi", GREEDY), "prompts are lists of token ids"),
        (lambda llm: llm.chat([{"role": "user", "content": "hi"}], GREEDY), "prompts are lists of token ids"),
        (lambda llm: llm.tokenizer.decode([5]), "answers are lists of token ids"),
        (lambda llm: llm.generate([[5]], SamplingParams(stop="x")), "there is no text to find stop strings in"),
    ],
)
def test_what_needs_text_is_refused_in_one_line(bare_llm, bare, call, instead):
    with pytest.raises(InputError) as caught:
        call(bare_llm)
    assert str(caught.value) == f"{bare}: has no tokenizer, so {instead}"


@pytest.mark.parametrize("arguments", [("run", "{}", "hi"), ("run", "{}", "hi", "--raw"), ("profile", "{}")])
def test_commands_with_text_say_so_in_one_line(in_process, bare, arguments, monkeypatch):
    """Before they load weights, which takes minutes for a large model."""
    monkeypatch.setattr("ellm.serving.runtime.load_weights", lambda *_: pytest.fail("weights are loaded"))
    code, out, err = in_process(*(argument.format(bare) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1] == f"ellm: {bare}: has no tokenizer, so prompts are lists of token ids"
