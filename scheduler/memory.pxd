"""C declarations of memory.pyx."""

cdef class Pages:
    cdef char *base
    cdef readonly size_t size
