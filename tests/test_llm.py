"""The Python API on tiny random checkpoints: what a caller may rely on."""

import dataclasses
import signal
import threading
import time

import numpy as np
import pytest
from tiny import write_checkpoint
from until import until

from ellm import LLM, InputError, SamplingParams
from ellm.scheduler import StepError, topology
from ellm.text.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
LONG = dataclasses.replace(GREEDY, max_tokens=900)
TEXTS = ["the end", "another one, a little longer than the first", "x"]


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 331, 150).tolist()


@pytest.fixture(scope="module")
def logits(llm, tokens):
    return llm.logits(tokens)


def test_logits_are_float32_of_every_position(llm, logits, tokens):
    assert logits.shape == (len(tokens), 331) and logits.dtype == np.float32
    assert np.isfinite(logits).all() and len(np.unique(logits[:, 0])) > 100


def test_logits_do_not_depend_on_what_follows(llm, logits, tokens):
    np.testing.assert_array_equal(llm.logits(tokens[:31]), logits[:31])


def test_greedy_tokens_are_the_largest_logits(llm):
    (output,) = llm.generate("the end", GREEDY)
    sequence = output.prompt_token_ids + output.token_ids
    logits = llm.logits(sequence)[len(output.prompt_token_ids) - 1 : -1]
    assert output.token_ids == logits.argmax(axis=1).tolist()
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) + exact.max(
        axis=1, keepdims=True
    )
    np.testing.assert_allclose(output.logprobs, exact[range(len(exact)), output.token_ids], atol=1e-4)


def test_a_batch_gives_what_each_prompt_gives_alone(llm):
    params = [GREEDY, dataclasses.replace(GREEDY, temperature=0.9, seed=5), dataclasses.replace(GREEDY, max_tokens=3)]
    batch = llm.generate(TEXTS, params)
    alone = [llm.generate(text, one)[0] for text, one in zip(TEXTS, params, strict=True)]
    for together, single in zip(batch, alone, strict=True):
        assert (together.token_ids, together.logprobs) == (single.token_ids, single.logprobs)
        assert (together.text, together.finish_reason) == (single.text, "length")


@pytest.mark.parametrize("pin", ["none", str(topology.allowed_cores()[-1])])
def test_logits_do_not_depend_on_where_workers_run(checkpoint, logits, tokens, pin):
    with LLM(checkpoint, pin=pin) as placed:
        np.testing.assert_array_equal(placed.logits(tokens), logits)
        assert str(placed.runtime).endswith("on any core (not pinned, as asked for)") == (pin == "none")


@pytest.mark.parametrize("chunk", [1, 5])
def test_more_sequences_than_rows_in_a_step(checkpoint, llm, chunk):
    expected = [output.token_ids for output in llm.generate(TEXTS * 3, GREEDY)]
    with LLM(checkpoint, chunk=chunk) as other:
        assert [output.token_ids for output in other.generate(TEXTS * 3, GREEDY)] == expected


def test_more_sequences_than_slots(llm):
    outputs = llm.generate([[i + 3] for i in range(70)], GREEDY)
    assert [output.prompt_token_ids for output in outputs] == [[i + 3] for i in range(70)]
    assert outputs[69].token_ids == llm.generate([72], GREEDY)[0].token_ids


def test_prompts_may_be_text_or_token_ids(llm):
    ids = llm.tokenizer.encode("the end")
    by_text, by_ids, by_array = (llm.generate(prompt, GREEDY) for prompt in ("the end", ids, np.array(ids)))
    assert len(by_text) == len(by_ids) == len(by_array) == 1
    assert by_text[0].token_ids == by_ids[0].token_ids == by_array[0].token_ids
    assert by_text[0].prompt_token_ids == ids
    mixed = llm.generate(["the end", ids], GREEDY)
    assert mixed[0].token_ids == mixed[1].token_ids == by_text[0].token_ids
    assert llm.generate([], GREEDY) == []


def test_the_text_is_that_of_the_tokens(llm):
    (output,) = llm.generate("the end", GREEDY)
    assert output.text == llm.tokenizer.decode(output.token_ids)


def test_the_default_is_sixteen_sampled_tokens(llm):
    (output,) = llm.generate("the end")
    assert len(output.token_ids) <= 16


def test_a_seed_decides_the_draw_and_its_absence_does_not(llm):
    hot = dataclasses.replace(GREEDY, temperature=2.0, seed=1)
    first, again, other = (
        llm.generate("x", params)[0].token_ids for params in (hot, hot, dataclasses.replace(hot, seed=2))
    )
    assert first == again != other
    unseeded = dataclasses.replace(hot, seed=None)
    assert llm.generate("x", unseeded)[0].token_ids != llm.generate("x", unseeded)[0].token_ids


def test_top_k_of_one_and_a_tiny_top_p_are_greedy(llm):
    greedy = llm.generate("the end", GREEDY)[0].token_ids
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        params = dataclasses.replace(GREEDY, temperature=1.5, **narrow)
        assert llm.generate("the end", params)[0].token_ids == greedy


def test_a_repeat_penalty_makes_every_token_a_new_one(llm):
    (output,) = llm.generate([5, 6, 7], dataclasses.replace(GREEDY, repeat_penalty=1e6))
    assert len(set(output.prompt_token_ids + output.token_ids)) == 3 + len(output.token_ids)


def test_end_of_sequence_ends_unless_ignored(llm):
    free = dataclasses.replace(GREEDY, temperature=50.0, max_tokens=1000, ignore_eos=False)
    for seed in range(10):  # almost uniform over 331 tokens: the end comes by chance
        (output,) = llm.generate("x", dataclasses.replace(free, seed=seed))
        if output.finish_reason == "stop":
            break
    assert output.finish_reason == "stop" and output.token_ids[-1] in llm.tokenizer.eos_ids
    assert not set(output.token_ids[:-1]) & llm.tokenizer.eos_ids
    (on,) = llm.generate(
        "x", dataclasses.replace(free, seed=seed, ignore_eos=True, max_tokens=len(output.token_ids) + 5)
    )
    assert on.token_ids[: len(output.token_ids)] == output.token_ids and len(on.token_ids) == len(output.token_ids) + 5


def test_a_stop_string_ends_the_text_before_it(llm):
    (whole,) = llm.generate("the end", dataclasses.replace(GREEDY, max_tokens=40))
    stop = whole.text[10:13]
    (cut,) = llm.generate("the end", dataclasses.replace(GREEDY, max_tokens=40, stop=["never there", stop]))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    pieces = list(llm.stream("the end", dataclasses.replace(GREEDY, max_tokens=40, stop=stop)))
    assert "".join(pieces) == cut.text


def test_a_stream_gives_the_same_text_in_pieces(llm, monkeypatch):
    step = llm.engine.step  # with time after it, or a busy machine wakes the reader once for many
    monkeypatch.setattr(llm.engine, "step", lambda undisturbed: (step(), time.sleep(0.01)))
    stream = llm.stream("the end", GREEDY)
    pieces = list(stream)
    assert len(pieces) > 3 and all(pieces)
    assert "".join(pieces) == stream.output.text == llm.generate("the end", GREEDY)[0].text
    assert stream.output.finish_reason == "length"


def test_closing_a_stream_frees_its_sequence(checkpoint):
    with LLM(checkpoint, cache_bytes=0) as llm:
        engine = llm.engine

        def holds(count):
            return (len(engine.free_slots), engine.room.ranges.held) == (64 - count, count)

        with llm.stream("the end", LONG) as stream:
            next(stream)
            assert holds(1)
        until(lambda: holds(0))
        assert list(stream)[1:] == [] and stream.output.finish_reason is None
        for _ in llm.stream("the end", LONG):
            break
        until(lambda: holds(0))


def test_other_calls_go_on_while_a_stream_is_open(llm):
    expected = llm.generate("the end", GREEDY)[0].text
    stream = llm.stream("the end", GREEDY)
    pieces = [next(stream)]
    assert llm.generate("the end", GREEDY)[0].text == expected
    assert llm.logits([1, 2]).shape == (2, 331)
    assert "".join(pieces + list(stream)) == expected


def test_what_is_cached_changes_no_bit(checkpoint):
    """A prompt goes on where an answer ended, or reads the whole blocks and copies the whole tiles that it shares."""
    ids = np.random.default_rng(3).integers(3, 331, 600).tolist()
    other = [*ids[:120], 9, 8, 7]
    with LLM(checkpoint) as llm, LLM(checkpoint, cache_bytes=0) as plain:
        first = llm.generate([ids], GREEDY)[0]
        whole = [*ids, *first.token_ids]
        held = []
        for prompt in ([*whole, 4, 5], other, other, [*other, 3], [3], whole):
            (output,), (fresh,) = llm.generate([prompt], GREEDY), plain.generate([prompt], GREEDY)
            assert (output.token_ids, output.logprobs) == (fresh.token_ids, fresh.logprobs)
            assert fresh.metrics.cached_tokens == 0
            held.append(output.metrics.cached_tokens)
    assert held == [611, 96, 96, 96, 0, 608]


def test_requests_of_different_salt_share_nothing(llm):
    prompt, seen = [7, 8] * 40, []
    for salt in (b"one", b"two", b"one"):
        with llm.stream(prompt, GREEDY, salt=salt) as stream:
            list(stream)
        seen.append(stream.output.metrics.cached_tokens)
    assert seen == [0, 0, 64]
    with pytest.raises(InputError, match="salt must be bytes, not str"):
        llm.stream(prompt, GREEDY, salt="one")


def test_a_prefix_that_is_being_computed_is_waited_for(checkpoint):
    prompt = [*range(3, 203)]
    with LLM(checkpoint, chunk=64) as llm, LLM(checkpoint, cache_bytes=0) as plain:
        together = llm.generate([prompt, [*prompt, 5, 6], prompt, [*prompt[:100], 9]], GREEDY)
        alone = plain.generate([prompt, [*prompt, 5, 6], prompt, [*prompt[:100], 9]], GREEDY)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.logprobs for one in together] == [one.logprobs for one in alone]
    assert [one.metrics.cached_tokens for one in together] == [0, 192, 192, 96]


def test_a_cache_that_holds_little_evicts(checkpoint):
    random = np.random.default_rng(4)
    prompts = [random.integers(3, 331, 200).tolist() for _ in range(6)]
    with LLM(checkpoint) as measuring:
        size = int(measuring.engine.room.position_bytes * 212 * 2.5)
    with LLM(checkpoint, cache_bytes=size) as llm:
        for prompt in [*prompts, *prompts[4:], prompts[0]]:
            llm.generate([prompt], GREEDY)
            assert llm.engine.room.statistics.held_bytes <= size
        found = llm.engine.room.statistics
    assert (found.queried_tokens, found.hit_tokens) == (9 * 200, 2 * 192) and found.evicted_blocks >= 4


def test_chat_goes_through_the_template(llm):
    messages = [{"role": "user", "content": "Who?"}]
    (output,) = llm.chat(messages, GREEDY)
    assert output.prompt_token_ids == llm.tokenizer.chat(messages)
    assert [one.token_ids for one in llm.chat([messages, messages], GREEDY)] == [output.token_ids] * 2


def test_threads_may_share_an_llm(llm):
    expected = {text: llm.generate(text, GREEDY)[0].token_ids for text in TEXTS}
    logits = llm.logits([1, 2, 3])
    failures = []

    def work(number):
        try:
            for i in range(8):
                text = TEXTS[(number + i) % len(TEXTS)]
                if i % 4 == 3:
                    np.testing.assert_array_equal(llm.logits([1, 2, 3]), logits)
                elif i % 4 == 2:
                    assert "".join(llm.stream(text, GREEDY)) == llm.tokenizer.decode(expected[text])
                else:
                    assert llm.generate(text, GREEDY)[0].token_ids == expected[text]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)


def test_several_llms_in_one_process(tmp_path, llm):
    expected = llm.generate("the end", GREEDY)[0].token_ids
    other_checkpoint = write_checkpoint(tmp_path / "other", "LlamaForCausalLM", seed=3)
    with LLM(other_checkpoint, context=64) as other:
        assert other.generate("the end", GREEDY)[0].token_ids != expected
        assert llm.generate("the end", GREEDY)[0].token_ids == expected


def test_any_iterable_of_prompts_will_do(llm):
    expected = [output.token_ids for output in llm.generate(TEXTS, GREEDY)]
    assert [output.token_ids for output in llm.generate((text for text in TEXTS), GREEDY)] == expected
    assert [output.token_ids for output in llm.generate(np.array(TEXTS), GREEDY)] == expected
    assert len(llm.generate(range(3, 9), GREEDY)) == 1


def test_a_full_context_ends_the_answer(checkpoint):
    unlimited = dataclasses.replace(GREEDY, max_tokens=None)
    with LLM(checkpoint, context=20) as short:
        (output,) = short.generate([5] * 17, unlimited)
        assert (len(output.token_ids), output.finish_reason) == (3, "length")
        (output,) = short.generate([5] * 20, unlimited)
        assert (len(output.token_ids), output.finish_reason) == (1, "length")
        with pytest.raises(InputError, match=r"21 tokens.*20"):
            short.generate([5] * 21, unlimited)


def test_an_interrupt_leaves_nothing_behind(llm):
    expected = llm.generate("the end", GREEDY)[0].token_ids
    for delay in (0.001, 0.003, 0.005, 0.01, 0.02):
        timer = threading.Timer(delay, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            while True:
                llm.generate(["x", "the end"], LONG)
        timer.join()
        assert llm.generate("the end", GREEDY)[0].token_ids == expected
        assert len(llm.engine.free_slots) == 64


def test_a_failed_step_fails_its_requests_and_no_others(llm, monkeypatch):
    expected = llm.generate("the end", GREEDY)[0].token_ids

    class Broken:
        program = llm.runtime.program

        def run(self, step, meanwhile):
            raise StepError(1, "layers.0.qkv")

        def hold(self):
            pass

    with monkeypatch.context() as patch, pytest.raises(StepError, match=r"layers\.0\.qkv"):
        patch.setattr(llm.engine, "executables", [Broken()])
        llm.generate(["a", "b"], GREEDY)
    assert llm.generate("the end", GREEDY)[0].token_ids == expected
    assert len(llm.engine.free_slots) == 64


def test_a_closed_llm_says_so(checkpoint):
    opened = LLM(checkpoint)
    stream = opened.stream("the end", LONG)
    next(stream)
    opened.close()
    opened.close()
    with pytest.raises(InputError, match="closed"):
        opened.generate("the end", GREEDY)
    with pytest.raises(InputError, match="closed"):
        opened.logits([1])
    with pytest.raises(InputError, match="closed"):
        list(stream)


def test_a_chat_passes_variables_and_tools_to_its_template(llm, monkeypatch):
    template = "{{ tools | length }}{% if enable_thinking %} think{% endif %}{{ messages[0].content }}"
    tokenizer = Tokenizer(llm.tokenizer.backend, source="x", special_tokens={}, chat_templates={"default": template})
    monkeypatch.setattr(llm, "tokenizer", tokenizer)
    messages = [{"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}]}]
    tool = {"type": "function", "function": {"name": "look"}}
    options = {"tools": [tool, tool], "chat_template_kwargs": {"enable_thinking": True}}
    text, special = (llm.chat(messages, GREEDY, parse_special=parse, **options)[0] for parse in (False, True))
    assert special.prompt_token_ids == [*tokenizer.encode("2 think", add_special=False), 2]
    assert tokenizer.decode(text.prompt_token_ids) == "2 think<|im_end|>"
