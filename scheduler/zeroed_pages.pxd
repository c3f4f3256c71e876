"""C declarations of zeroed_pages.pyx."""

cdef enum:
    HUGE = 2 << 20  # bytes of a transparent huge page


cdef class Pages:
    cdef char *base
    cdef void *mapped
    cdef size_t mapped_size
    cdef readonly size_t size
