"""Zeroed pages that are reserved at once and become memory where they are touched first."""

from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MAP_NORESERVE
        MADV_HUGEPAGE


cdef class Pages:
    """A private anonymous mapping of at least `size` bytes. Raises MemoryError.

    `huge`: it begins where a huge page may, and is of huge pages as far as the system has them.
    """

    def __cinit__(self, size_t size, str purpose, *, bint huge=False):
        self.size = size or 1
        self.mapped_size = self.size + (HUGE if huge else 0)
        self.mapped = mmap(NULL, self.mapped_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if self.mapped == MAP_FAILED:
            self.mapped = NULL
            raise MemoryError(f"{purpose}: {size} bytes of address space are not to be had")
        self.base = <char *>self.mapped
        if huge:
            self.base += -<size_t>self.base % HUGE
            madvise(self.base, self.size, MADV_HUGEPAGE)

    def __dealloc__(self):
        if self.mapped:
            munmap(self.mapped, self.mapped_size)
