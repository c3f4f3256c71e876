from ellm.scheduler.zeroed_pages cimport Pages
from ellm.scheduler.worker cimport Ring


cdef class Rings:
    cdef readonly int workers
    cdef Pages pages
    cdef Ring *rings
    cdef Ring *of(self, int worker) noexcept nogil
