"""Packing of bf16 tiles into the 12 bits of bf12.py, and the memory for what does not fit them."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uintptr_t
from libc.string cimport memcpy

from ellm.kernels.formats import FORMATS

cdef extern from "pack_bf12.h" nogil:
    enum:
        BF12_BLOCK
        BF12_DISTANCE
        BF12_PATCHES
        BF12_WIDE
    ctypedef struct bf12_header:
        uint8_t patches
        uint16_t place[BF12_PATCHES]
    bint bf12_pack(const uint16_t *elements, char *block)
    void bf12_pack_wide(const uint16_t *elements, char *block, char *spill)

cdef extern from * nogil:
    int64_t __atomic_fetch_add(int64_t *value, int64_t added, int order)
    enum:
        __ATOMIC_RELAXED


cdef class Spill:
    """Zeroed memory behind weights, of which wide blocks get parts one after the other, in whichever order they come.

    Thread-safe. `used`: bytes that blocks have got.
    """

    cdef int64_t _used
    cdef readonly uintptr_t address
    cdef readonly int64_t bytes

    def __init__(self, uintptr_t address, int64_t bytes):
        self.address = address
        self.bytes = bytes

    @property
    def used(self) -> int:
        return self._used

    def pack(self, const uint16_t[::1] tiles, uintptr_t address, str format):
        """Write whole blocks of bf16 tiles, one after the other, to the packed blocks at `address`.

        Raises ValueError if they are not whole blocks, MemoryError if the spill is full.
        """
        cdef int64_t count = tiles.shape[0] // BF12_BLOCK, i, place
        cdef int64_t size = FORMATS[format].block_bytes, part = FORMATS[format].spill_bytes
        cdef const uint16_t *elements
        cdef bint full = False
        if tiles.shape[0] % BF12_BLOCK:
            raise ValueError(f"{tiles.shape[0]} elements are not whole blocks of {BF12_BLOCK}")
        if count == 0:
            return
        elements = &tiles[0]
        with nogil:
            for i in range(count):
                if not bf12_pack(elements + BF12_BLOCK * i, <char *> address + i * size):
                    place = __atomic_fetch_add(&self._used, part, __ATOMIC_RELAXED)
                    if place + part > self.bytes:
                        full = True
                        break
                    bf12_pack_wide(
                        elements + BF12_BLOCK * i, <char *> address + i * size, <char *> self.address + place
                    )
        if full:
            raise MemoryError(f"the spill of {self.bytes} bytes is full")


def are_sound(uintptr_t address, int64_t size, uintptr_t end, str format) -> bool:
    """Whether expanding packed blocks, `size` bytes at `address`, stays within them and what spills before `end`.

    That is so of all that `pack` has written; others may hold anything.
    """
    cdef int64_t block = FORMATS[format].block_bytes, part = FORMATS[format].spill_bytes
    cdef int64_t count = size // block, number, distance
    cdef const char *at
    cdef const bf12_header *header
    cdef bint sound = True
    cdef int i
    with nogil:
        for number in range(count):
            at = <const char *> address + number * block
            header = <const bf12_header *> at
            if header.patches == BF12_WIDE:
                memcpy(&distance, at + BF12_DISTANCE, sizeof(distance))
                sound = block <= distance <= <int64_t> (end - <uintptr_t> at) - part
            elif header.patches > BF12_PATCHES:
                sound = False
            else:
                for i in range(header.patches):
                    sound = sound and header.place[i] < BF12_BLOCK
            if not sound:
                break
    return sound
