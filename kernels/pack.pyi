import numpy as np
from numpy.typing import ArrayLike

def pack_rows(
    rows: np.ndarray,
    first_row: int,
    runs: np.ndarray,
    address: int,
    format: str,
    k_tiles: int,
    first_tile: int = 0,
) -> None: ...
def pack_file_rows(
    file: int,
    offset: int,
    stride: int,
    size: int,
    first_row: int,
    end_row: int,
    runs: np.ndarray,
    address: int,
    format: str,
    k_tiles: int,
    nan: int = -1,
) -> tuple[int, bool]: ...
def pack_codes(
    codes: np.ndarray, first_row: int, runs: np.ndarray, address: int, format: str, k_tiles: int, first_tile: int = 0
) -> None: ...
def pack_scales(
    scales: np.ndarray,
    rows_per_scale: int,
    first_row: int,
    end_row: int,
    offset: int,
    runs: np.ndarray,
    address: int,
    format: str,
    k_tiles: int,
    first_scale: int = 0,
    part: str = "scale",
) -> None: ...
def has_nan(codes: np.ndarray, nan: int) -> bool: ...
def read_strided(file: int, offset: int, stride: int, out: np.ndarray) -> int: ...
def populate(address: int, size: int) -> None: ...
def to_bf16(x: ArrayLike) -> np.ndarray: ...
