"""How an operator's columns are cut into tasks: depends on the operator alone, so results never depend on a step."""

from ellm.kernels.contract import TILE_K, TILE_N
from ellm.kernels.formats import PLAIN

COMBINE_COLUMNS = 1024  # of one task that sums experts
COLUMNS, DEPTH = TILE_N, TILE_K
ROWS = TILE_N  # AMX reads and writes whole tiles, which are square in words
_TASK_BYTES = 512 << 10
_MANY_TILES = 64  # operators with fewer column tiles are cut finer, so that every core gets some


def tiles(width: int) -> int:
    """Column tiles that cover `width` columns."""
    return -(-width // COLUMNS)


def depth_tiles(k: int) -> int:
    """Tiles that cover a contracted length of `k`."""
    return -(-k // DEPTH)


def padded(width: int) -> int:
    """`width` rounded up to a tile's depth."""
    return DEPTH * depth_tiles(width)


def spread(width: int) -> int:
    """Row stride of a bf16 activation of `width`: an odd number of cache lines, which spreads a tile over L1."""
    return DEPTH * (depth_tiles(width) | 1)


def task_tiles(n_tiles: int, k_tiles: int) -> int:
    """Column tiles of one task: 8 if there are many and they take no more than 512 KiB of weights, else 4.

    Each is a stream; four to eight streams read side by side make the best of a core's memory bandwidth.
    """
    fits = 8 * k_tiles * PLAIN.tile_bytes <= _TASK_BYTES and n_tiles >= _MANY_TILES
    return min(8 if fits else 4, n_tiles)


def matrix_task_tiles(n_tiles: int, column_bytes: int) -> int:
    """Column tiles of one task of a bank of matrices, one a head: all of a matrix if it is small."""
    return n_tiles if n_tiles * column_bytes <= _TASK_BYTES // 2 else min(4, n_tiles)


def task_heads(heads: int, head_tiles: int, k_tiles: int) -> int:
    """Whole heads of one task: as many as fit in the tiles of `task_tiles`, one at least."""
    return max(1, task_tiles(heads * head_tiles, k_tiles) // head_tiles)
