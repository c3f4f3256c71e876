/* Sleep and wakes: those of worker.pyx, in one berth. */
#define ALL 10
#if FAULT == 9
#define OTHERS(threads) (threads - 1)
#else
#define OTHERS(threads) (threads == WORKERS -> ALL : threads - 1)
#endif

inline futex_wake() {
    atomic {
        if
        :: asleep[0] -> asleep[0] = false
        :: asleep[1] -> asleep[1] = false
#if WORKERS > 2
        :: asleep[2] -> asleep[2] = false
#endif
        :: else
        fi
    }
}

/* One is woken, who wakes the others: all that sleep then if all are meant, as who was woken may sleep again. */
inline wake(threads) {
    if
    :: sleepers > 0 ->
        d_step { i = 0; do :: i < WORKERS -> changed[i] = true; i++ :: else -> break od; i = 0 };
#if FAULT == 8
        futex_wake();
        relay = relay + OTHERS(threads)
#else
        relay = relay + OTHERS(threads);
        futex_wake()
#endif
    :: else
    fi
}

inline sleep() {
    atomic { if :: !changed[me] -> asleep[me] = true :: else fi };
    !asleep[me];
#if FAULT != 6
    d_step { mine = relay; relay = 0 };
    do
    :: mine >= ALL ->
        d_step { i = 0; do :: i < WORKERS -> asleep[i] = false; i++ :: else -> break od; i = 0; mine = 0 }
    :: mine > 0 && mine < ALL -> futex_wake(); mine--
    :: else -> break
    od
#endif
}

/* Who falls asleep within a step has left no slice to its owner of which that one has not taken yet. */
inline check_left() {
    d_step {
        i = 0;
        do
        :: i < cursor * WORKERS ->
            assert(i % WORKERS == me || !UNTOUCHED(log_group[i / WORKERS] - 1, i % WORKERS));
            i++
        :: else -> break
        od;
        i = 0
    }
}

inline park() {
#if FAULT == 3
    if
    :: log_generation[cursor] == generation
    :: else ->
        changed[me] = false;
        sleepers++;
        check_left();
        sleep();
        sleepers--
    fi;
#else
    changed[me] = false;
    sleepers++;
    if
    :: log_generation[cursor] == generation
    :: else -> check_left(); sleep()
    fi;
    sleepers--
#endif
}
