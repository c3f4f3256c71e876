/* Events: those of events.pxi. Each group signals one, which publishes the next group; that of the last ends the step. */

inline publish(g) {
    atomic { slot = tail; tail++ };
    d_step { log_group[slot] = g + 1; log_generation[slot] = generation }
}

inline close_step() {
#if FAULT != 2
    closed = true;
#endif
    atomic { slot = tail; tail++ };
    d_step { log_group[slot] = LOG_END; log_generation[slot] = generation };
#if FAULT == 2
    closed = true;
#endif
    wake(WORKERS)
}

inline signal_event(e) {
    d_step {
        if
        :: count_generation[e] == generation -> count[e]++
        :: else -> count_generation[e] = generation; count[e] = 1
        fi;
        met = count[e] == 1;
        if :: met -> assert(done[e] == TASKS(e)); fired[e]++; assert(fired[e] == 1) :: else fi
    };
    if
    :: met && e == GROUPS - 1 -> close_step()
    :: met && e < GROUPS - 1 -> publish(e + 1); wake(1)
    :: else
    fi
}
