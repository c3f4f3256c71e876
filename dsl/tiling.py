"""How an operator's columns are cut into tasks: for so many workers, so never by a step.

No result depends on it, as each column tile is summed on its own.
"""

from ellm.kernels.contract import TILE_K, TILE_N
from ellm.kernels.formats import PLAIN

ROW_COLUMNS = 256  # of one task that works row by row
COLUMNS, DEPTH = TILE_N, TILE_K
ROWS = TILE_N  # AMX reads and writes whole tiles, which are square in words
_TASK_BYTES = 512 << 10
_ROUNDS = 4  # of tasks, after which a round that is not whole costs little
_MANY_TILES = 64  # operators with fewer column tiles are cut finer, so that every core gets some


def tiles(width: int) -> int:
    """Column tiles that cover `width` columns."""
    return -(-width // COLUMNS)


def depth_tiles(k: int) -> int:
    """Tiles that cover a contracted length of `k`."""
    return -(-k // DEPTH)


def row_groups(count: int, width: int) -> int:
    """Groups of `width` columns of one task that works row by row."""
    return min(count, max(1, ROW_COLUMNS // width))


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


def finer(task: int, n_tiles: int, workers: int, unit: int = 1, together: int = 1) -> int:
    """Column tiles of a task: `task`, or fewer, a multiple of `unit`, with which so many workers would be done first.

    Workers take tasks in rounds. In a last one that is not whole, half of them still read at the memory's full speed;
    fewer do not. Of `together` such operators, which run at once and are at home with the same workers, there are two
    rounds at least, as others must come and take some.
    """

    def lost(size: int) -> float:
        """Column tiles that could be read in the last round besides."""
        left = -(-n_tiles // size) % workers
        return max(0.0, workers / 2 - left) * size if left else 0.0

    if together * -(-n_tiles // task) >= _ROUNDS * workers:
        return task
    sizes = range(min(task, unit), task + 1, unit)
    if together == 1:
        return min(sizes, key=lambda size: (lost(size), -size))
    return max((size for size in sizes if together * -(-n_tiles // size) >= 2 * workers), default=sizes[0])


def matrix_task_tiles(n_tiles: int, column_bytes: int) -> int:
    """Column tiles of one task of a bank of matrices, one a head: all of a matrix if it is small."""
    return n_tiles if n_tiles * column_bytes <= _TASK_BYTES // 2 else min(4, n_tiles)


def task_heads(heads: int, head_tiles: int, k_tiles: int, workers: int) -> int:
    """Whole heads of one task: as many as fit in the tiles of `task_tiles`, or fewer for many workers; one at least."""
    return finer(max(1, task_tiles(heads * head_tiles, k_tiles) // head_tiles), heads, workers)
