import numpy as np

class Spill:
    address: int
    bytes: int

    def __init__(self, address: int, bytes: int) -> None: ...
    @property
    def used(self) -> int: ...
    def pack(self, tiles: np.ndarray, address: int, format: str) -> None: ...
