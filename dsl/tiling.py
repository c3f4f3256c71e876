"""How an operator's columns are cut into tasks: depends on the operator alone, so results never depend on a step."""

TILE_BYTES = 1024
COLUMNS = 16
DEPTH = 32
_TASK_BYTES = 192 << 10
_MOST_TILES = 8  # 128 columns: as many streams as pay for reading side by side


def tiles(width: int) -> int:
    """Column tiles that cover `width` columns."""
    return -(-width // COLUMNS)


def depth_tiles(k: int) -> int:
    """Tiles that cover a contracted length of `k`."""
    return -(-k // DEPTH)


def padded(width: int) -> int:
    """Row stride of a bf16 activation: `width` rounded up to a tile's depth."""
    return DEPTH * depth_tiles(width)


def task_tiles(n_tiles: int, k_tiles: int) -> int:
    """Column tiles of one task: 2, 4, 6 or 8, about 192 to 400 KiB of weights unless columns are very long or short."""
    pairs = round(_TASK_BYTES / (k_tiles * TILE_BYTES))
    return min(max(2, 2 * pairs), _MOST_TILES, n_tiles)


def task_heads(heads: int, head_tiles: int, k_tiles: int) -> int:
    """Whole heads of one task: as many as fit in the tiles of `task_tiles`, one at least."""
    return max(1, task_tiles(heads * head_tiles, k_tiles) // head_tiles)
