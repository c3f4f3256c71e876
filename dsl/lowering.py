"""The state of a lowering: operators and buffers so far, packed weights, and the layout of the KV range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ellm.dsl import packing
from ellm.dsl.arena import ALIGNMENT, Buffer, union
from ellm.dsl.errors import LoweringError
from ellm.dsl.grammar import GRAMMAR, Storage
from ellm.dsl.graph import Graph
from ellm.dsl.node import Node
from ellm.dsl.operator import Argument, CachePart, Operator, Stored, View
from ellm.dsl.packing import PAGE, Packed, Region, Run
from ellm.dsl.tensor import L, R, Scope, Shape, Weight, features
from ellm.dsl.tiling import COLUMNS, DEPTH, depth_tiles, finer, matrix_task_tiles, row_groups, spread, tiles
from ellm.kernels import contract
from ellm.kernels.contract import SPLIT
from ellm.kernels.formats import FORMATS, PLAIN
from ellm.kernels.routes import Routes, in_bf16
from ellm.scheduler.contents import CacheEntry, CacheKind, HiddenRows
from ellm.scheduler.program import Kind


@dataclass
class RangeLayout:
    """One sequence's KV range: states, then blocks of SPLIT positions, then what serves a prompt alone.

    A block has for each layer, and in it for each head, keys and values. Layers with windows come last, so that what no
    row sees any more can be given back in one piece. What layers expand from their latents lies behind the blocks,
    split by split, one layer's over the last one's, as one layer at a time needs it.
    """

    context: int
    int8: bool = False  # what is kept is so, and not bf16
    first_block: int = 0
    block_bytes: int = 0
    bytes: int = 0
    parts: dict[str, CachePart] = field(default_factory=dict)
    fields: dict[str, dict[str, Argument]] = field(default_factory=dict)  # arguments of the kernels that use a cache

    def add(
        self, node: Node, kv_heads: int, head_dim: int, value_dim: int, values_in_keys: bool, *, kept: bool = True
    ) -> dict[str, Argument]:
        """Lay out the cache that a node writes, unless it is there; return its offsets and strides in bytes.

        Unless it is `kept`, every layer writes it anew in each step. Raises LoweringError if it cannot be in int8.
        """
        cache = node.attributes["cache"]
        if cache in self.fields:
            return self.fields[cache]
        if self.int8:
            _check_int8(node, head_dim, value_dim, values_in_keys)
        tile, scale = (PLAIN.tile_bytes // 2, 4) if self.int8 else (PLAIN.tile_bytes, 0)
        key_bytes = SPLIT // COLUMNS * (depth_tiles(head_dim) * tile + COLUMNS * scale)
        value_bytes = 0 if values_in_keys else SPLIT // DEPTH * (tiles(value_dim) * tile + DEPTH * scale)
        head_bytes = key_bytes + value_bytes
        dims = kv_heads * (head_dim + (0 if values_in_keys else value_dim))
        name = "latents" if values_in_keys else "keys and values in int8" if self.int8 else "keys and values"
        kind = CacheKind(name, dims + 2 * kv_heads * scale if self.int8 else 2 * dims, kept=kept)
        layer = node.scope.layer if kept else -1
        part = CachePart(layer, kind, kv_heads * head_bytes, heads=kv_heads, key_bytes=key_bytes)
        self.parts[cache] = part
        self.fields[cache] = {"keys": part, "key_stride": head_bytes}
        self.fields[cache] |= {"values": View(part, key_bytes), "value_stride": head_bytes}
        self.fields[cache] |= {"block_stride": 0 if kept else part.bytes, "int8": int(self.int8)}
        return self.fields[cache]

    def add_state(self, node: Node, kind: CacheKind) -> int:
        """Lay out a cache of one size for any sequence, unless it is there; return its offset."""
        cache = node.attributes["cache"]
        if cache not in self.parts:
            begin = _round_up(self.first_block, ALIGNMENT)
            self.parts[cache] = CachePart(node.scope.layer, kind, kind.sequence_bytes, offset=begin)
            self.first_block = begin + kind.sequence_bytes
        return self.parts[cache].offset

    def place(self) -> None:
        """Decide where keys and values are, when all caches and who reads them are known."""
        self.first_block, self.block_bytes = _round_up(self.first_block, PAGE), 0
        parts = [self.parts[cache] for cache in self.fields]
        for part in sorted((part for part in parts if part.kind.kept), key=lambda part: -(part.window or self.context)):
            part.offset = self.block_bytes
            self.block_bytes += part.bytes
        blocks = self.context // SPLIT
        self.bytes = self.first_block + blocks * self.block_bytes
        for part in parts:
            if not part.kind.kept:
                part.offset = self.bytes
                self.bytes += blocks * part.bytes

    def entries(self) -> tuple[CacheEntry, ...]:
        """What a Program says of the caches."""
        blocks = self.context // SPLIT
        return tuple(
            CacheEntry(
                name,
                part.layer,
                replace(part.kind, window=part.window),
                part.offset,
                part.bytes * (blocks if name in self.fields else 1),
                part.heads,
                part.key_bytes,
            )
            for name, part in self.parts.items()
        )

    def extended(self) -> RangeLayout:
        """A layout that begins with this one."""
        return replace(self, parts=dict(self.parts), fields=dict(self.fields))


def _check_int8(node: Node, head_dim: int, value_dim: int, values_in_keys: bool) -> None:
    if values_in_keys:
        raise LoweringError(f"{node.line}: keys and values in int8 (kv): not of latents, which are kept in bf16 alone")
    if head_dim & (head_dim - 1) or max(head_dim, value_dim) > contract.CACHE_DIMS:
        raise LoweringError(
            f"{node.line}: keys and values in int8 (kv): heads have {head_dim} dims: keys are turned by a Hadamard "
            f"matrix, which takes a power of two, at most {contract.CACHE_DIMS}"
        )


@dataclass(frozen=True)
class Hidden:
    """Where the head's product has its rows from: what was gathered for it, and the norm that it begins with."""

    rows: Stored
    width: int
    norm: Packed | None
    eps: float

    def placed(self) -> HiddenRows:
        """What a Program says of it, when buffers and weights have their places."""
        return HiddenRows(self.rows.buffer.offset, self.width, self.norm.offset if self.norm else -1, self.eps)


class Lowering:
    """Operators in an order in which producers come first, and what they share.

    `first` is another lowering of the same model, whose packed weights and caches this one uses; else `packings` are
    those of its weights (`Region`). If it `drafts` for `first`, what it keeps of a sequence lies in the same blocks,
    and its own weights behind all others. `routes` says what activations become where they meet a format; `int8` that
    keys and values are kept so, and not in bf16. Operators are cut into tasks enough for `workers`.
    """

    def __init__(
        self,
        graph: Graph,
        context: int,
        row_block: int,
        blocks: int,
        first: Lowering | None = None,
        packings: Mapping[str, str] | None = None,
        routes: Routes = in_bf16,
        int8: bool = False,
        workers: int = 1,
        drafts: bool = False,
    ):
        self.graph, self.row_block, self.blocks, self.routes = graph, row_block, blocks, routes
        self.workers = workers
        self.operators: list[Operator] = []
        self.buffers: list[Buffer] = []  # of a row block's section
        self.shared: list[Buffer] = []  # of all row blocks
        self.region: Region = first.region if first else Region(packings or {})
        self.ranges: RangeLayout = RangeLayout(context, int8)
        if first:
            self.region = first.region.behind() if drafts else first.region
            self.ranges = first.ranges if drafts else first.ranges.extended()
        self.windows: list[int] = []
        self.last_merge: int | None = None
        self.stored: dict[int, Stored] = {}
        self.routed: dict[int, dict[str, Buffer]] = {}  # node -> shared buffers, by their names in task.h
        self.producers: dict[int, tuple[int, ...]] = {}  # node -> numbers of the operators that make its value
        self.before: list[int] = []  # for each operator a bit mask of those it waits for, directly or not
        self.names: set[tuple[Scope, str]] = set()
        self.hidden: Hidden | None = None
        self.input_width = 0  # of what the caller gives of each row

    def emit(
        self,
        name: str,
        kernel: str,
        key: int,
        args: dict[str, Argument],
        kind: int | None = None,
        reads: Sequence[int] | None = None,
        cache: int | None = None,
        experts: int = 0,
        behind: int | None = None,
    ) -> None:
        """Append the operator that makes the value of node `key`.

        It waits for the producers of `reads`, by default the node's inputs, and of `cache`, for the last operators of
        the same node, if there are any, and for operator `behind`.
        """
        node = self.graph.node(key)
        reads = node.inputs if reads is None else reads
        waits = [*reads, key] if cache is None else [*reads, key, cache]
        after = sorted({one for source in waits for one in self.producers.get(source, ())})
        if behind is not None and not union(self.before, after) >> behind & 1:
            after = sorted([*after, behind])
        if kind is None:
            kind = Kind.LOGITS if node.shape[0] == L else Kind.ROWS
        number = len(self.operators)
        cache_after = None if cache is None else self.producers[cache][0]
        part = self._unique(node.scope, name)
        self.operators.append(Operator(part, kernel, node, args, int(kind), after, cache_after, experts))
        for source in reads:
            if source in self.stored:
                self.stored[source].buffer.readers.append(number)
        if key in self.stored:
            self.stored[key].buffer.writers.append(number)
        self.producers[key] = (number,)
        self.before.append(union(self.before, after))

    def share(self, key: int, read: dict[str, Buffer], **made: int) -> dict[str, Buffer]:
        """Make shared buffers of these bytes, which the last operator, of node `key`, writes while it reads others.

        Returns all of them by name.
        """
        number = len(self.operators) - 1
        owner = self.operators[number].name
        written = {name: Buffer(f"{owner}.{name}", size, [number]) for name, size in made.items()}
        for buffer in read.values():
            buffer.readers.append(number)
        self.shared += written.values()
        self.routed[key] = read | written
        self.operators[number].args.update(self.routed[key])
        return self.routed[key]

    def store(self, key: int, name: str, stride: int = 0) -> Stored:
        """Make the buffer of a node's value, as its form says.

        Its rows are `stride` elements apart, by default what those of its shape need.
        """
        node = self.graph.node(key)
        stores = GRAMMAR[node.op].stores
        either = stores is Storage.EITHER and not ("weight" in node.weights and len(node.inputs) == 2)
        wide = any(self.reads_f32(reader, key) for reader in self.graph.consumers(key))
        bf16 = stores is Storage.BF16 or (either and not wide)
        return self.keep(key, name, math.prod(features(node.shape)), bf16, stride)

    def keep(self, key: int, name: str, width: int, bf16: bool, stride: int = 0) -> Stored:
        """Make the buffer of a node's value, rows of `width` elements, `stride` apart if that is not left to us."""
        node = self.graph.node(key)
        stride = stride or (spread(width) if bf16 else width)
        buffer = Buffer(node.scope.name(name), self.row_block * stride * (2 if bf16 else 4))
        self.buffers.append(buffer)
        self.stored[key] = Stored(buffer, bf16, stride)
        return self.stored[key]

    def place(self, key: int, name: str) -> Stored:
        """Make the place of a node's value, for a kernel that writes groups of columns wherever they lie.

        It is that in a concat, if nothing else reads the value, and a buffer else.
        """
        readers = self.graph.consumers(key)
        joined = self.graph.node(readers[0])
        if len(readers) > 1 or joined.op != "concat" or joined.inputs.count(key) > 1:
            return self.store(key, name)
        self.stored[key] = self.part(readers[0], joined.inputs.index(key))
        return self.stored[key]

    def part(self, key: int, number: int) -> Stored:
        """Where input `number` of a concat lies in its value."""
        widths = [features(node.shape)[-1] for node in self.graph.inputs(key)]
        whole = self.stored.get(key) or self.store(key, "concat")
        return Stored(whole.buffer, whole.bf16, whole.stride, sum(widths[:number]), sum(widths))

    def dense(self, key: int) -> Stored:
        """Where the value of a node lies as whole rows: a slice is copied if it has not been."""
        stored, node = self.stored[key], self.graph.node(key)
        if stored.group_stride:
            out = self.keep(key, "slice", math.prod(features(node.shape)), False)
            self.copy("slice", key, node.inputs[0], stored, out, node.shape)
        return self.stored[key]

    def copy(self, name: str, key: int, source: int, x: Stored, out: Stored, shape: Shape) -> None:
        """Append the operator of node `key` that copies what has this shape from x, a place in `source`, to `out`."""
        *groups, width = features(shape)
        count = math.prod(groups)
        args = x.read(shape) | out.written(shape)
        args |= {"groups": count, "width": width, "task_groups": row_groups(count, width)}
        self.emit(name, "copy", key, args, reads=(source,))

    def store_sum(self, key: int, name: str) -> Stored:
        """Make the buffer of a node that adds to a residual, its last input: the residual's own, if that is safe.

        It is if every other reader of the residual is done before the node's operator starts, and if the residual is
        not another operand as well, which other tasks of the operator still read.
        """
        node = self.graph.node(key)
        *operands, residual = node.inputs
        waits = union(self.before, [one for source in node.inputs for one in self.producers[source]])
        others = [reader for reader in self.graph.consumers(residual) if reader != key]
        read = [one for reader in others for one in self.producers.get(reader, ())]
        done = all(reader in self.producers for reader in others) and all(waits >> one & 1 for one in read)
        views = (GRAMMAR[self.graph.node(reader).op].stores is Storage.VIEW for reader in others)
        done = done and not any(views)  # it is read whenever the view is
        if not done or residual in operands:
            return self.store(key, name)
        self.stored[key] = self.dense(residual)
        return self.stored[key]

    def vector(self, weight: Weight | None) -> Packed | None:
        """Pack a vector: the weight of a norm, the bias of a route, the sinks of an attend."""
        return self.region.vector([weight], packing.whole(weight.size), weight.size) if weight else None

    def heads(self, weight: Weight) -> Packed:
        """Pack a weight [heads, n, k], a matrix for each head."""
        _, n, k = weight.shape
        column_bytes = FORMATS[weight.packed].column_bytes(depth_tiles(k))
        return self.region.heads(weight, tiles(n), matrix_task_tiles(tiles(n), column_bytes))

    def operand(self, node: Node) -> dict[str, Argument]:
        """Return the arguments for the A operand of a matrix product."""
        x = self.dense(node.inputs[0])
        k = self.depth(node)
        args: dict[str, Argument] = {"x": x.buffer, "x_bf16": int(x.bf16), "x_stride": x.stride}
        args |= {"norm": self.vector(node.weights.get("norm")), "eps": node.attributes.get("eps")}
        return args | {"k": k, "k_tiles": depth_tiles(k)}

    def depth(self, node: Node) -> int:
        """Return the contracted length of a matrix product."""
        return math.prod(features(self.graph.node(node.inputs[0]).shape))

    def matrix(
        self,
        node: Node,
        roles: Sequence[str],
        runs: tuple[Run, ...],
        n_tiles: int,
        task_tiles: int,
    ) -> dict[str, Argument]:
        """Return the arguments for the packed weight of a matrix product, joined from `roles`, and its bias.

        A task has `task_tiles` column tiles, or fewer if there were too few tasks; of heads, what the caller says.
        """
        biases = [node.weights.get("bias" if role == "weight" else role + "_bias") for role in roles]
        bias = self.region.vector(biases, runs, COLUMNS * n_tiles) if any(biases) else None
        sources = [node.weights[role] for role in roles]
        if len(roles) <= 2:  # gate and up are interleaved
            task_tiles = finer(task_tiles, n_tiles, self.workers, len(roles), self._together(node))
        weight = self.region.tiles(sources, runs, self.depth(node), n_tiles, task_tiles)
        args: dict[str, Argument] = {"weight": weight, "n_tiles": n_tiles, "bias": bias, "task_tiles": task_tiles}
        return args | self.route(weight)

    def _together(self, node: Node) -> int:
        """How many operators like a node's run at once: of experts, those that one row goes to."""
        source = node
        while source.shape[0] == R:
            source = self.graph.node(source.inputs[0])
        return features(source.shape)[0] if source is not node else 1

    def route(self, weight: Packed) -> dict[str, Argument]:
        """Return the arguments for how activations meet a packed weight."""
        return {"format": weight.format.number, "activations": self.routes(weight.format)}

    def reads_f32(self, reader: int, source: int) -> bool:
        """Whether a node needs what node `source` gives it in f32: it or who has that from it rounds otherwise."""
        node = self.graph.node(reader)
        form = GRAMMAR[node.op]
        if not form.rounds(node, source) or (form.turns and self.ranges.int8):
            return True
        if form.passes:
            return any(self.reads_f32(behind, reader) for behind in self.graph.consumers(reader))
        matrices = (weight for role, weight in node.weights.items() if len(weight.shape) > 1 and "bias" not in role)
        return any(self.routes(FORMATS[weight.packed]) for weight in matrices)

    def _unique(self, scope: Scope, name: str) -> str:
        part, number = name, 2
        while (scope, part) in self.names:
            part, number = f"{name}_{number}", number + 1
        self.names.add((scope, part))
        return part


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
