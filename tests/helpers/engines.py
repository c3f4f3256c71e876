"""An engine without a model: an executable that sums tokens up, a vocabulary of letters, kinds of caches."""

import collections
import ctypes
import dataclasses

import numpy as np

from ellm import SamplingParams
from ellm.kernels.contract import SPLIT
from ellm.scheduler.contents import CacheEntry, CacheKind
from ellm.scheduler.probe_program import ProbeGroup, probe_program
from ellm.serving.completion import Completion
from ellm.serving.engine import Engine
from ellm.text.parser import Everything
from ellm.text.reader import Reader

CONTEXT, SEQUENCE_BYTES = 64, 4096
POSITIONS = CacheKind("positions", position_bytes=1024)
STATE = CacheKind("state", sequence_bytes=SEQUENCE_BYTES, cuttable=False, idempotent=False)


def follow(state, token):
    """The sum after one more token."""
    return (state * 31 + token + 1) % 1009


def summed(prompt, tokens):
    """The tokens that follow a prompt."""
    state, found = 0, []
    for token in prompt:
        state = follow(state, token)
    for _ in range(tokens):
        found.append(state % 97)
        state = follow(state, found[-1])
    return found


class Letters:
    """A vocabulary of 100 tokens, each of which is a letter."""

    eos_ids = frozenset({99})

    def reader(self, prompt, stops, chat, include_stop):
        return Reader(self, Everything(), {}, stops, include_stop)

    def push(self, token):
        return chr(ord("a") + token % 26)

    def finish(self):
        return ""


class Sums:
    """Keeps in each range, behind each position, what the tokens up to it sum up to; the next token depends on that.

    What is read is that of the position before, so that positions may be written again, unless `kind` is a state.
    """

    def __init__(self):
        self.kind = POSITIONS
        self.times = collections.Counter()  # (block, or range of a state, position) -> how often it ran
        self.before = self.after = lambda step: None
        self.stop_after, self.error = None, None  # rows
        self.steps = self.followed = self.experts_woken = 0
        self.held = False

    def run(self, step, meanwhile=lambda: None):
        self.held = False
        while step is not None:
            successor = meanwhile()
            self.compute(step)
            self.steps += 1
            step = self._follow(step, successor)

    def hold(self):
        self.held = True

    def _follow(self, step, successor):
        if successor is None or self.held or (step.sampled[:, None] == successor.ends).any():
            return None
        self.followed += 1
        step, drawn = successor.inputs, step.sampled
        step.tokens[:] = drawn
        for how, token in zip(step.sampling, drawn, strict=True):
            ctypes.c_int32.from_address(int(how["history"]) + 4 * int(how["history_len"]) - 4).value = token
        return step

    def compute(self, step):
        self.before(step)
        drawn = 0
        for row, (token, position, slot) in enumerate(zip(step.tokens, step.positions, step.slots, strict=True)):
            if row == self.stop_after:
                raise self.error
            at = int(position)
            place = int(step.blocks[slot, at // SPLIT] if self.kind.cuttable else step.ranges[slot])
            self.times[place, at] += 1
            before = int(step.blocks[slot, max(at - 1, 0) // SPLIT])
            state = self._sum(place, before, int(token), at)
            if drawn < len(step.logit_row) and row == step.logit_row[drawn]:
                step.sampled[drawn], step.logprob[drawn] = state % 97, -1.0
                drawn += 1
        self.after(step)

    def _sum(self, place, before, token, position):
        if not self.kind.cuttable:
            state = ctypes.c_int64.from_address(place)
            state.value = follow(state.value, token)
            return state.value
        last = ctypes.c_int64.from_address(before + (position - 1) % SPLIT * 8).value if position else 0
        ctypes.c_int64.from_address(place + position % SPLIT * 8).value = follow(last, token)
        return follow(last, token)


def completion(prompt, *, salt=b"", context=CONTEXT, **params):
    """A completion of 5 tokens at most."""
    params = SamplingParams(**{"temperature": 0, "max_tokens": 5} | params)
    return Completion(np.array(prompt, np.int32), params, context, Letters(), salt=salt)


def give_program(executable, kind, context=CONTEXT, **fields):
    """Let it run the steps of a program that has one cache of this kind; returns it."""
    executable.kind = kind
    size = kind.sequence_bytes + kind.position_bytes * context
    block = kind.position_bytes * SPLIT
    caches = (CacheEntry("cache.0", 0, kind, 0, size, key_bytes=block),)
    fields = {"range_bytes": size, "caches": caches, "context": context, "vocab": 100, "block_bytes": block} | fields
    program = dataclasses.replace(probe_program([ProbeGroup(1)]), **fields)
    executable.program = program
    return executable


def open_engine(executable, kind, context=CONTEXT, **options):
    """An engine with one cache of this kind."""
    return Engine([give_program(executable, kind, context)], **{"chunk": 4, "slots": 2} | options)


def finish(engine, completions, undisturbed=lambda: False):
    """Run steps until they are done."""
    for _ in range(200):
        if all(one.sequence.done for one in completions):
            engine.release()
            return
        engine.step(undisturbed)
    raise AssertionError("a completion never ends")


def results(completions):
    """Tokens, text and logprobs of each."""
    return [(one.output().token_ids, one.output().text, one.output().logprobs) for one in completions]
