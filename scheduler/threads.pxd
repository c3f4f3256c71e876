"""C declarations of threads.h."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "threads.h" nogil:
    ctypedef unsigned long pthread_t
    uint64_t load_relaxed(const uint64_t *)
    uint64_t load_acquire(const uint64_t *)
    uint64_t load_ordered(const uint64_t *)
    void store_relaxed(uint64_t *, uint64_t)
    void store_ordered(uint64_t *, uint64_t)
    void store_published(uint64_t *, uint64_t)
    uint64_t fetch_add(uint64_t *, uint64_t)
    uint64_t fetch_sub(uint64_t *, uint64_t)
    uint64_t fetch_or(uint64_t *, uint64_t)
    bint compare_exchange(uint64_t *, uint64_t *expected, uint64_t)
    uint32_t load_word(const uint32_t *)
    void store_word(uint32_t *, uint32_t)
    uint32_t add_word(uint32_t *, uint32_t)
    uint32_t take_word(uint32_t *)
    void futex_wait(const uint32_t *, uint32_t seen)
    void futex_wake(const uint32_t *, int threads)
    void spin_pause()
    int64_t clock_ns()
    int64_t clock_ticks()
    void prefetch_lines(const char *, int64_t)
    int start_thread(pthread_t *, void *(*)(void *) noexcept nogil, void *, int core, const char *)
    int pthread_join(pthread_t, void **)
