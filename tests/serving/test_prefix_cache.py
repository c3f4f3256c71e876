"""What is cached of prefixes: found by its tokens, evicted in turn, and never any bits but those of a cold start."""

import collections
import contextlib
import dataclasses

import numpy as np
import pytest
from engines import POSITIONS, STATE, Sums, completion, finish, open_engine, results, summed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import write_checkpoint

from ellm import LLM, SamplingParams
from ellm.scheduler import topology
from ellm.serving import prefix_cache, prefixes
from ellm.serving.eviction import in_turn
from ellm.serving.prefixes import Block, Prefixes
from ellm.serving.ranges import Range

SMALL = 4  # positions of a block
MODULES = ["serving.prefixes", "serving.prefix_cache", "serving.room", "serving.staging", "scheduler.program"]
TOKENS = st.lists(st.integers(0, 2), max_size=14).map(lambda tokens: np.array(tokens, np.int32))


@contextlib.contextmanager
def small_blocks():
    """Blocks of 4 positions and tiles of 2, for executables that take any."""
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(f"ellm.{module}.SPLIT", SMALL)
        patch.setattr("engines.SPLIT", SMALL)
        patch.setattr(prefix_cache, "TILE_K", 2)
        patch.setattr(prefix_cache, "LEAST", 1)
        patch.setattr(prefix_cache, "WORTH_WAITING", 2)
        yield


@settings(max_examples=200, deadline=None)
@given(known=st.lists(TOKENS, max_size=6), wanted=TOKENS)
def test_the_longest_common_prefix_is_found(known, wanted):
    tree, place = Prefixes(), Range(1 << 16)
    with small_blocks():
        for tokens in known:
            parent = tree.root(b"")
            for begin in range(0, len(tokens), SMALL):
                parent = tree.add(parent, tokens[begin : begin + SMALL], place, begin // SMALL)
        path, partial, common = tree.walk(b"", wanted)
    found = [token for block in path for token in np.frombuffer(block.key, ">i4")]
    if partial is not None:
        found += np.frombuffer(partial.key, ">i4")[:common].tolist()
    best = max((prefixes.common_prefix(tokens, wanted) for tokens in known), default=0)
    assert found == wanted[: len(found)].tolist() and len(found) == best
    assert tree.walk(b"other", wanted) == ([], None, 0)
    place.close()


@settings(max_examples=200, deadline=None)
@given(known=st.lists(TOKENS.filter(len), max_size=8), wanted=TOKENS)
def test_the_longest_whole_sequence_is_found(known, wanted):
    tree, place = Prefixes(), Range(1 << 16)
    for tokens in known:
        tree.add(tree.root(b"x"), tokens, place, 0)
    fitting = [tokens for tokens in known if wanted[: len(tokens)].tolist() == tokens.tolist()]
    found = tree.whole(b"x", wanted)
    assert (found.size if found else 0) == max(map(len, fitting), default=0)
    assert tree.whole(b"y", wanted) is None
    place.close()


def test_the_oldest_and_cheapest_goes_first_and_no_block_before_its_children():
    root = Block()
    parent, other = Block(b"a", 0, root, used=9), Block(b"b", 0, root, used=2)
    child, used = Block(b"c", 1, parent, used=3), Block(b"d", 1, parent, used=1)
    parent.children = [child, used]
    blocks = {parent, other, child, used}
    went = []
    for block, whole in in_turn(blocks, {used, parent}, {used}, lambda block, used: used * (1 + block.number)):
        went.append((block, whole))
        blocks.remove(block) if whole else setattr(block, "windows", False)
    assert went == [(parent, False), (other, True), (child, True)]


class Story:
    """Requests, steps, cancellations and shortages in any order, and what they came to."""

    def __init__(self, kind, budget, limit):
        self.engine = open_engine(Sums(), kind, slots=3, chunk=5, cache_bytes=limit)
        self.room, self.budget = self.engine.room, budget
        self.asked = []

    def left(self):
        running = [one.sequence for one in self.engine.running]
        own = sum(one.cached for one in running) * self.room.position_bytes + len(running) * self.room.sequence_bytes
        return self.budget - own - self.room.statistics.held_bytes

    def ask(self, prompt, length, salt):
        one = completion(prompt, max_tokens=length, salt=salt)
        self.asked.append((one, prompt, length))
        self.engine.submit([one])

    def step(self):
        self.room.unchecked = 0.0
        self.engine.step()

    def cancel(self, number):
        if self.asked:
            self.asked[number % len(self.asked)][0].sequence.done = True

    def end(self):
        for _ in range(2000):
            if all(one.sequence.done for one, *_ in self.asked):
                break
            self.step()
        self.engine.release()
        for one, prompt, length in self.asked:
            if one.finish_reason is not None:
                assert one.output().token_ids == summed(prompt, length)
            elif one.sequence.error is None:
                assert one.output().token_ids == summed(prompt, length)[: len(one.output().token_ids)]
        assert not self.engine.running and not self.engine.waiting
        self.room.forget()
        self.room.ranges.settle()
        assert self.room.statistics.held_bytes == 0 == self.room.ranges.held, "no block is kept by nobody"
        self.engine.close(RuntimeError())


PROMPT = st.builds(
    lambda base, end: [base] * end[0] + end[1],
    st.integers(1, 2),
    st.tuples(st.integers(0, 18), st.lists(st.just(3), min_size=1, max_size=6)),
)
ACTS = st.one_of(
    st.tuples(st.just("ask"), PROMPT, st.integers(1, 12), st.sampled_from([b"", b"", b"", b"salt"])),
    st.tuples(st.just("step")),
    st.tuples(st.just("step")),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("again"), st.integers(0, 30)),
)


@pytest.mark.parametrize("kind", [POSITIONS, STATE, dataclasses.replace(POSITIONS, idempotent=False)], ids=str)
def test_any_schedule_gives_the_tokens_of_a_cold_start(monkeypatch, kind):
    counts = collections.Counter()
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)

    two = [("ask", [1] * 9, 12, b""), ("ask", [2] * 9, 12, b"")]
    behind = [*[1] * 9, *summed([1] * 9, 1), 5]  # where both of those before it wrote, if they wrote to one range
    forked = [two[0], *[("step",)] * 4, ("ask", [1] * 9 + [3, 3], 4, b""), *[("step",)] * 10, ("ask", behind, 4, b"")]

    @example(acts=[*two, *[("step",)] * 30, ("again", 0)], budget=1000, limit=1 << 40)
    @example(acts=[*two, *[("step",)] * 30, ("again", 0), ("again", 0)], budget=1000, limit=1 << 40)
    @example(acts=forked, budget=1000, limit=1 << 40)
    @example(acts=two, budget=24, limit=1 << 40)
    @example(acts=two, budget=6, limit=1 << 40)
    @example(acts=[("ask", [3], 1, b"")] * 2, budget=5, limit=1 << 40)  # there is room for one state
    @settings(max_examples=200, deadline=None)
    @given(acts=st.lists(ACTS, max_size=40), budget=st.integers(5, 120), limit=st.sampled_from([0, 40 << 10, 1 << 40]))
    def tell(acts, budget, limit):
        story = Story(kind, budget * 1024, limit)
        monkeypatch.setattr("ellm.system.memory.available", story.left)
        for name, *arguments in acts:
            if name == "again" and story.asked:
                one, prompt, _ = story.asked[arguments[0] % len(story.asked)]
                more = [*prompt, *results([one])[0][0], 1] if one.finish_reason else prompt
                story.ask(more[:50], 4, one.sequence.salt)
            elif name != "again":
                getattr(story, name)(*arguments)
        story.end()
        found = story.room.statistics
        counts.update(hits=found.hit_tokens, evicted=found.evicted_blocks, preempted=story.engine.preemptions)
        assert limit or not found.hit_tokens

    with small_blocks():
        tell()
    assert min(counts["hits"], counts["evicted"], counts["preempted"]) > 0, counts


def test_a_preempted_sequence_goes_on_from_what_is_left_of_it():
    """The newer of two gives way; nothing of it was evicted meanwhile, so nothing is computed again."""
    executable = Sums()
    with small_blocks():
        engine = open_engine(executable, POSITIONS, chunk=32)
        older, newer = completion([1] * 10, max_tokens=20), completion([2] * 21, max_tokens=20)
        engine.submit([older, newer])
        for _ in range(6):
            engine.step()
        engine._make_room()
        assert engine.preemptions == 1 and newer.sequence.range is None
        finish(engine, [older, newer])
    assert [one.output().token_ids for one in (older, newer)] == [summed([1] * 10, 20), summed([2] * 21, 20)]
    assert set(executable.times.values()) == {1} and newer.output().metrics.cached_tokens == 0


MODELS = {
    "qwen3": ({"architecture": "Qwen3ForCausalLM"}, {}),
    "int8": ({"architecture": "Qwen3ForCausalLM", "head_dim": 32}, {"kv": "int8"}),
    "mla": ({"architecture": "DeepseekV3ForCausalLM"}, {}),
    "windows": ({"architecture": "GptOssForCausalLM", "sliding_window": 64}, {}),
}
THREADS = [1, 2] if len(topology.choose_cores(None)) > 1 else [1]
SHARED = np.random.default_rng(0).integers(3, 250, (2, 1500)).tolist()
REQUEST = st.tuples(
    st.integers(0, 1),  # whose beginning
    st.sampled_from([40, 300, 512, 513, 700, 1024, 1100, 1400]),  # shared tokens
    st.integers(0, 2),  # what follows
    st.integers(1, 6),  # tokens
)


@pytest.fixture(scope="module", params=[(name, n) for name in MODELS for n in THREADS], ids=lambda p: f"{p[0]}-{p[1]}")
def pair(request, tmp_path_factory):
    """The same model, with and without a cache of prefixes."""
    name, threads = request.param
    config, options = MODELS[name]
    folder = write_checkpoint(tmp_path_factory.mktemp(name) / name, **config, max_position_embeddings=2048)
    options = options | {"context": 2048, "chunk": 256, "threads": threads}
    with LLM(folder, **options) as llm, LLM(folder, cache_bytes=0, **options) as plain:
        yield llm, plain


def test_cold_warm_forked_and_preempted_bits_are_the_same(pair, monkeypatch):
    llm, plain = pair
    engine, room = llm.engine, llm.engine.room
    alone, counts = {}, collections.Counter()
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)

    def params(length):
        return SamplingParams(temperature=0.8, seed=length, max_tokens=length, ignore_eos=True)

    def cold(prompt, length):
        key = (tuple(prompt), length)
        if key not in alone:
            (output,) = plain.generate([prompt], params(length))
            alone[key] = output.token_ids, output.logprobs
        return alone[key]

    @example(batches=[[(0, 1100, 0, 6), (1, 1100, 1, 6)], [(0, 1400, 1, 2), (1, 700, 0, 3)]], positions=1600)
    @example(batches=[[(0, 512, 0, 6), (1, 512, 0, 6)]], positions=1030)
    @settings(max_examples=5, deadline=None)
    @given(
        batches=st.lists(st.lists(REQUEST, min_size=1, max_size=4), min_size=1, max_size=4),
        positions=st.integers(1600, 4000),
    )
    def tell(batches, positions):
        room.forget()
        before = room.statistics, engine.preemptions
        prompts = []
        for batch in batches:
            new = [
                ([*SHARED[of][:shared], *range(3, 3 + 7 * follows)], length) for of, shared, follows, length in batch
            ]
            new += [([*prompt, *cold(prompt, length)[0], 9], length) for prompt, length in prompts[-1:]]
            prompts += new
            expected = [cold(*one) for one in new]

            def left():
                own = 0
                for one in (running.sequence for running in engine.running):
                    shared = (one.tip.end if one.tip else 0) + (one.tail.size if one.tail else 0)
                    own += one.cached - shared
                return (positions - own) * room.position_bytes - room.statistics.held_bytes

            with monkeypatch.context() as patch:
                patch.setattr("ellm.system.memory.available", left)
                room.unchecked = 0.0
                many, lengths = zip(*new, strict=True)
                outputs = llm.generate(many, [params(length) for length in lengths])
            assert [(one.token_ids, one.logprobs) for one in outputs] == expected
        found = room.statistics
        counts.update(hits=found.hit_tokens - before[0].hit_tokens, preempted=engine.preemptions - before[1])
        counts.update(evicted=found.evicted_blocks - before[0].evicted_blocks)

    tell()
    assert min(counts["hits"], counts["evicted"], counts["preempted"]) > 0, counts
