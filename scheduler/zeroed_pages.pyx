"""Zeroed pages that are reserved at once and become memory where they are touched first."""

from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MAP_NORESERVE


cdef class Pages:
    """A private anonymous mapping of at least `size` bytes. Raises MemoryError."""

    def __cinit__(self, size_t size, str purpose):
        self.size = size or 1
        cdef void *base = mmap(NULL, self.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base == MAP_FAILED:
            raise MemoryError(f"{purpose}: {size} bytes of address space are not to be had")
        self.base = <char *>base

    def __dealloc__(self):
        if self.base:
            munmap(self.base, self.size)
