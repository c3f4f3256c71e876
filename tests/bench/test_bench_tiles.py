"""bench/tiles.py: bytes that can be counted by hand, and stars where the kernels are."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
tiles = runpy.run_path(str(ROOT / "bench" / "tiles.py"))
Cache, Case, Replay, Variant = (tiles[name] for name in ("Cache", "Case", "Replay", "Variant"))


def test_cache_forgets_what_was_used_longest_ago_in_a_set():
    cache = Cache(1, 2)  # 16 lines: 8 sets of 2
    assert [cache.has(line) for line in (0, 8, 0, 16, 0, 8)] == [False, False, True, False, True, False]
    assert cache.has(3, keep=False) is cache.has(3, keep=False) is False
    assert cache.misses == 6


@pytest.mark.parametrize("weights, lines", [("bf16", 128), ("bf12", 8 * (1 + 12))])
def test_a_product_that_fits(weights, lines):
    """Sixteen lines of A, which are in L2, those of the weights and 128 of C; of 12 bits, also 4 expanded tiles."""
    near, far = Replay(Case(weights, 1, 1), Variant(1, 4, "columns", 4), 48, 2048).bytes_a_product()
    expanded = 0 if weights == "bf16" else 4 * 16
    again = 1 if weights == "bf16" else 2  # loaded past L1, by either four columns
    assert near == (16 * again + lines + 128 + expanded) * 64 / 8
    assert far == (lines + 128 + expanded) * 64 / 8


def test_stars_are_where_the_kernels_are():
    text = " ".join(" ".join((ROOT / "kernels" / name).read_text() for name in ("tile_amx.h", "expand_amx.h")).split())
    for line in ("TILE_A_L1 (16 << 10)", "TILE_A_L2 (1 << 20)", "AMX_PART 16", "AMX_SHALLOW 8", "AMX_MANY 256"):
        assert f"#define {line} " in text
    assert "return rows <= 64 ? 32 : rows < 256 ? 8 : 16;" in text
    assert (tiles["A_L1"], tiles["A_L2"]) == (16 << 10, 1 << 20)
    found = [tiles["chosen"](Case(weights, rows, 64)).depth for weights in ("bf16", "bf12") for rows in (1, 4, 8, 16)]
    assert found == [64, 32, 8, 16, 4, 8, 8, 16]
