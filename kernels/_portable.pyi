import numpy as np

ADDRESSES: dict[str, int]
SIZES: dict[str, int]
ENTER: int
LEAVE: int
FETCHES: str

def run(
    kernel: str,
    args: int,
    step: int,
    arena: int,
    scratch: int,
    *,
    section_bytes: int,
    row_block: int,
    block: int,
    rows: int,
    index: int,
    count: int = 1,
) -> int: ...
def encode(worth: np.ndarray, tried: np.ndarray, groups: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None: ...
def fetch_into_l1(near: bool) -> None: ...
