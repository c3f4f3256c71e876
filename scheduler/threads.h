/* What the scheduler needs from the compiler and Linux: atomics, futexes, pinned threads.
 *
 * Everything shared between workers goes through these functions or is published by one of them. Fences are avoided:
 * ThreadSanitizer does not understand them.
 */
#ifndef ELLM_THREADS_H
#define ELLM_THREADS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The order in which a log entry is stored: the one store that makes everything written before it visible to whoever
 * reads the log. Relaxing it plants the race that the ThreadSanitizer run must find. */
#ifndef ELLM_PUBLISH_ORDER
#define ELLM_PUBLISH_ORDER __ATOMIC_SEQ_CST
#endif

static inline uint64_t load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t load_ordered(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void store_relaxed(uint64_t *p, uint64_t value) { __atomic_store_n(p, value, __ATOMIC_RELAXED); }
static inline void store_ordered(uint64_t *p, uint64_t value) { __atomic_store_n(p, value, __ATOMIC_SEQ_CST); }
static inline void store_published(uint64_t *p, uint64_t value) { __atomic_store_n(p, value, ELLM_PUBLISH_ORDER); }

/* Each returns the value from before. */
static inline uint64_t fetch_add(uint64_t *p, uint64_t n) { return __atomic_fetch_add(p, n, __ATOMIC_ACQ_REL); }
static inline uint64_t fetch_sub(uint64_t *p, uint64_t n) { return __atomic_fetch_sub(p, n, __ATOMIC_ACQ_REL); }
static inline uint64_t fetch_or(uint64_t *p, uint64_t bits) { return __atomic_fetch_or(p, bits, __ATOMIC_ACQ_REL); }

/* Stores `value` if *p is *expected and returns 1; else copies *p to *expected and returns 0. */
static inline int compare_exchange(uint64_t *p, uint64_t *expected, uint64_t value)
{
    return __atomic_compare_exchange_n(p, expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* Words that threads sleep on are 32 bits wide. */
static inline uint32_t load_word(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void store_word(uint32_t *p, uint32_t value) { __atomic_store_n(p, value, __ATOMIC_SEQ_CST); }
static inline uint32_t add_word(uint32_t *p, uint32_t n) { return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST); }
static inline uint32_t take_word(uint32_t *p) { return __atomic_exchange_n(p, 0, __ATOMIC_SEQ_CST); }

/* Sleeps until woken, unless *p is no longer `seen`. May return early. */
static inline void futex_wait(const uint32_t *p, uint32_t seen)
{
    syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static inline void futex_wake(const uint32_t *p, int threads)
{
    syscall(SYS_futex, p, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
}

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static inline int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* A clock that all cores share, in units that `clock_ns` read beside it tells: reading it is half as dear. */
static inline int64_t clock_ticks(void)
{
#if defined(__x86_64__)
    return (int64_t)__builtin_ia32_rdtsc();
#else
    return clock_ns();
#endif
}

static inline void prefetch_lines(const char *p, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i, 0, 2);
}

/* Pins the thread that will be started with these attributes. Returns 0 or an errno. */
static inline int pin_to(pthread_attr_t *attributes, int core)
{
    size_t bytes = CPU_ALLOC_SIZE(core + 1);
    cpu_set_t *cores = CPU_ALLOC(core + 1);
    if (!cores)
        return ENOMEM;
    CPU_ZERO_S(bytes, cores);
    CPU_SET_S(core, bytes, cores);
    int error = pthread_attr_setaffinity_np(attributes, bytes, cores);
    CPU_FREE(cores);
    return error;
}

/* Starts a thread on one core, with -1 on all that the caller may use, with every signal blocked, so that signals go to the
 * threads of Python. Returns 0 or an errno. */
static inline int start_thread(pthread_t *thread, void *(*body)(void *), void *argument, int core, const char *name)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    int error = core < 0 ? 0 : pin_to(&attributes, core);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!error)
        error = pthread_create(thread, &attributes, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error)
        pthread_setname_np(*thread, name);
    pthread_attr_destroy(&attributes);
    return error;
}

#endif
