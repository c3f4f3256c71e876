"""C declarations of zeroed_pages.pyx."""

cdef class Pages:
    cdef char *base
    cdef readonly size_t size
