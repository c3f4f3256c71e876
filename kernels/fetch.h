/* Fetching of lines before they are read. */
#ifndef ELLM_FETCH_H
#define ELLM_FETCH_H
#include <stdint.h>

#if defined(__AVX512BF16__) && !defined(__AMX_TILE__)
#include <cpuid.h>

/* Whether to fetch into L1, as pays on AMD's CPUs from Zen 5 on: the L1 of others waits for few lines at a time, and
 * fetches would take these from the loads beside them. Few rows read in order of memory then. */
static int fetch_near;

__attribute__((constructor)) static void fetch_choose(void) {
    unsigned a, b, c, d;
    if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && __get_cpuid(1, &a, &b, &c, &d))
        fetch_near = (a >> 8 & 15) + (a >> 20 & 255) >= 26; /* the family */
}

static inline void fetch_set(int near) { fetch_near = near; }
#else
#define fetch_near 0 /* AMX loads its tiles from L2, and AVX2 is no faster then */

static inline void fetch_set(int near) { (void)near; }
#endif

#define FETCH_NEAR 4096 /* bytes of a column tile that fetching into L1 runs ahead */
#define FETCH_FAR 6144  /* bytes that fetching runs ahead of what is read in order of memory */

/* How many parts of a column tile, of so many bytes, fetching runs ahead. */
static inline int fetch_parts(int64_t bytes) { return fetch_near ? (int)((FETCH_NEAR + bytes - 1) / bytes) : 2; }

static inline void fetch_line(const void *line) {
    if (fetch_near)
        __builtin_prefetch(line, 0, 3);
    else
        __builtin_prefetch(line, 0, 2);
}

/* For what is read once, and in order of memory: past L2 and L3, which keep what others read. */
static inline void fetch_far(const void *line) { __builtin_prefetch(line, 0, 0); }

#endif
