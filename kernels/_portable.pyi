ADDRESSES: dict[str, int]
SIZES: dict[str, int]
ENTER: int
LEAVE: int

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
