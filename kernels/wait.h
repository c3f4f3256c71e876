/* Waiting for what another thread writes while a step runs. */
#ifndef ELLM_WAIT_H
#define ELLM_WAIT_H
#include <sched.h>
#include <stdint.h>

/* Until a flag is not 0: then what was written before it was set (`raise_flag` of tables.pyx) is there. */
static inline void wait_for(const int32_t *flag) {
    while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) == 0)
        sched_yield();
}

static inline void raise_flag(int32_t *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELEASE); }

#endif
