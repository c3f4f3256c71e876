"""Which tokens have keys and values somewhere: trees of blocks, compared by their tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from ellm.kernels.contract import SPLIT
from ellm.serving.ranges import Range

TOKEN_BYTES = 4
_KEY = attrgetter("key")


@dataclass(eq=False, slots=True)
class Block:
    """SPLIT tokens behind those of its parents, or fewer, the last of a sequence, and where their keys and values lie.

    Where caches cannot be cut it holds all tokens of a sequence. The root of a tree holds none.
    """

    key: bytes = b""  # the tokens; in this form texts of tokens are in the order of these
    number: int = -1  # of the block in its range: those before it in the sequence
    parent: Block | None = None
    range: Range | None = None
    children: list[Block] = field(default_factory=list)  # in the order of their keys
    used: int = 0  # when somebody last began with it
    window_used: int = 0  # when somebody last could see it through a window
    windows: bool = True  # the caches of layers with windows are there

    @property
    def size(self) -> int:
        """How many tokens it holds."""
        return len(self.key) // TOKEN_BYTES

    @property
    def end(self) -> int:
        """Tokens up to its last one."""
        return max(self.number, 0) * SPLIT + self.size

    def path(self) -> list[Block]:
        """The blocks of its sequence up to this one, without the root."""
        found, block = [], self
        while block.parent is not None:
            found.append(block)
            block = block.parent
        return found[::-1]


class Prefixes:
    """A tree of blocks for each salt: requests of different salts never find each other's."""

    def __init__(self) -> None:
        self.blocks: set[Block] = set()  # all but the roots
        self._roots: dict[bytes, Block] = {}

    def root(self, salt: bytes) -> Block:
        """Where the tree of a salt begins."""
        return self._roots.setdefault(salt, Block())

    def walk(self, salt: bytes, tokens: np.ndarray) -> tuple[list[Block], Block | None, int]:
        """The whole blocks that int32 tokens begin with; the one that begins with most of the rest, and how many."""
        text, block = as_key(tokens), self._roots.get(salt)
        path: list[Block] = []
        while block is not None:
            rest = text[len(path) * SPLIT * TOKEN_BYTES :][: SPLIT * TOKEN_BYTES]
            nearest, common = likest(block, rest)
            if common < SPLIT:
                return path, nearest, common
            assert nearest is not None
            path.append(nearest)
            block = nearest
        return path, None, 0

    def whole(self, salt: bytes, tokens: np.ndarray) -> Block | None:
        """The longest child of the root all of which int32 tokens begin with."""
        text, root = as_key(tokens), self._roots.get(salt)
        while root is not None and (at := bisect_right(root.children, text, key=_KEY)):
            before = root.children[at - 1]
            if text.startswith(before.key):
                return before
            text = text[: _common(text, before.key) * TOKEN_BYTES]
        return None

    def add(self, parent: Block, tokens: np.ndarray, place: Range, number: int) -> Block:
        """The child of `parent` that holds these int32 tokens, made if it is not there: block `number` of a range."""
        key = as_key(tokens)
        at = bisect_left(parent.children, key, key=_KEY)
        if at < len(parent.children) and parent.children[at].key == key:
            block = parent.children[at]
        else:
            block = Block(key, number, parent, place)
            insort(parent.children, block, key=_KEY)
        assert block.range is not None
        self.blocks.add(block)
        block.range.blocks.add(block)
        return block

    def remove(self, block: Block) -> None:
        """Forget a block that has no children. Nothing changes if that is done already."""
        assert block.parent is not None and block.range is not None
        if block in block.parent.children:
            block.parent.children.remove(block)
        self.blocks.discard(block)
        block.range.blocks.discard(block)
        root = block.parent
        if root.parent is None and not root.children:
            self._roots = {salt: one for salt, one in self._roots.items() if one is not root}


def likest(parent: Block, key: bytes) -> tuple[Block | None, int]:
    """The child that shares most of its first tokens with a text of some, and how many; None if none does."""
    at, best, most = bisect_left(parent.children, key, key=_KEY), None, 0
    for child in parent.children[max(at - 1, 0) : at + 1]:  # in order, the most alike are neighbours
        if (common := _common(child.key, key)) > most:
            best, most = child, common
    return best, most


def common_prefix(one: np.ndarray, other: np.ndarray) -> int:
    """How many of their first tokens are the same."""
    most = min(len(one), len(other))
    differ = one[:most] != other[:most]
    first = int(differ.argmax()) if most else 0
    return first if most and differ[first] else most


def as_key(tokens: np.ndarray) -> bytes:
    """Tokens as bytes that sort as they do."""
    return tokens.astype(">i4").tobytes()


def _common(one: bytes, other: bytes) -> int:
    most = min(len(one), len(other)) // TOKEN_BYTES
    return common_prefix(np.frombuffer(one, np.int32, most), np.frombuffer(other, np.int32, most))
