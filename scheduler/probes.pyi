ARGS: tuple[str, ...]
ADDRESSES: dict[str, int]
ENTER: int
LEAVE: int

def visits() -> tuple[int, int]: ...
