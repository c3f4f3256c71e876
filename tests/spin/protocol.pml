/* How workers share out a step, as scheduler/worker.pyx, slices.pxi and events.pxi do it: `python -m tests.spin` checks it.
 *
 * A program of three groups runs for STEPS steps: group 0 releases 1 and 2, which end the step together. Words are those
 * of worker.pxd, and each access to one is a step of its own, sequentially consistent (the sanitizer looks after weaker
 * orders: tests/tsan). Each worker is a crew that counts the tasks it was given, and all sleep in one berth, so that both
 * levels of counting and the relay of wakes have their part. Generations start anew after GENERATIONS of them. Every task must run once a step, after those that
 * it depends on, and every step must end. FAULT plants one of the faults that tests/spin/__main__.py names. */
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef FAULT
#define FAULT 0
#endif
#ifndef GENERATIONS
#define GENERATIONS 3
#endif
#ifndef STEPS
#define STEPS 2
#endif
#ifndef GROUPS
#define GROUPS 2
#endif
#if FAULT == 9
#define ALL (WORKERS - 1)
#else
#define ALL 10
#endif
#define LAST_EVENT 1
#define LOG_END 9
#define TASKS(g) (2 - (g) / 2) /* 2, 2, 1 */
#define EVENT_OF(g) (((g) + 1) / 2) /* 0, 1, 1 */
#define NEEDED(e) (1 + (e) * (GROUPS - 2))

typedef Word { byte generation; byte begin; byte end };

/* PoolState */
byte round, inside, sleepers, relay, finished;
bool closed = true, stop, asleep[WORKERS], caller_asleep;
bool changed[WORKERS]; /* `signal` is another than the worker saw */
/* ProgramState */
byte generation, tail, log_generation[GROUPS + 1], log_group[GROUPS + 1];
byte count_generation[2], count[2];
byte tally_generation[GROUPS * (WORKERS + 1)], tally[GROUPS * (WORKERS + 1)], nothing[GROUPS * (WORKERS + 1)];
Word slices[GROUPS * WORKERS];
/* What is checked */
byte ran[GROUPS * 2], done[GROUPS];

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
        relay = relay + (threads == WORKERS -> ALL : threads - 1)
#else
        relay = relay + (threads == WORKERS -> ALL : threads - 1);
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
        met = count[e] == NEEDED(e)
    };
    if
    :: met && e == LAST_EVENT -> close_step()
    :: met && e != LAST_EVENT -> 
        publish(1);
#if GROUPS > 2
        publish(2);
#endif
        wake(1)
    :: else
    fi
}

/* The tasks left in the slice of a group that its owner has, and the word that says so. */
inline slice_range(g, owner) {
    d_step {
        word_generation = slices[g * WORKERS + owner].generation;
        word_begin = slices[g * WORKERS + owner].begin;
        word_end = slices[g * WORKERS + owner].end;
        if
        :: word_generation == generation -> begin = word_begin; end = word_end
        :: else -> begin = TASKS(g) * owner / WORKERS; end = TASKS(g) * (owner + 1) / WORKERS
        fi
    }
}

inline compare_exchange(g, owner, new_begin, new_end) {
    d_step {
        swapped = (slices[g * WORKERS + owner].generation == word_generation
            && slices[g * WORKERS + owner].begin == word_begin && slices[g * WORKERS + owner].end == word_end);
#if FAULT == 5
        swapped = true;
#endif
        if
        :: swapped ->
            slices[g * WORKERS + owner].generation = generation;
            slices[g * WORKERS + owner].begin = new_begin;
            slices[g * WORKERS + owner].end = new_end
        :: else
        fi
    }
}

/* Takes the first task of one's own slice: `swapped` and `begin`; else the slice is dry and marked as of this step. */
inline claim(g) {
    do
    :: true ->
        slice_range(g, me);
        if
        :: begin == end && word_generation == generation -> swapped = false; break
        :: begin == end && word_generation != generation ->
            compare_exchange(g, me, begin, end);
            if :: swapped -> swapped = false; break :: else fi
        :: begin != end ->
            compare_exchange(g, me, begin + 1, end);
            if :: swapped -> break :: else fi
        fi
    od
}

inline run_task(g, task) {
    d_step {
        assert(g == 0 || done[0] == TASKS(0));
        ran[g * 2 + task]++;
        assert(ran[g * 2 + task] == 1);
        done[g]++
    }
}

/* Counts tasks of a tally; `met`: they were the last of all. */
inline add_tasks(at, more, all) {
    d_step {
#if FAULT == 7
        tally[at] = tally[at] + more;
#else
        if
        :: tally_generation[at] == generation -> tally[at] = tally[at] + more
        :: else -> tally_generation[at] = generation; tally[at] = more
        fi;
#endif
        met = tally[at] == all
    };
    if :: met -> nothing[at] = generation :: else fi
}

#define GIVEN(g, crew) (TASKS(g) * ((crew) + 1) / WORKERS - TASKS(g) * (crew) / WORKERS)

/* Counts tasks of one home slice, the last of which is `last`; `met`: they were the last ones of the group. */
inline count_tasks(g, last, more) {
    victim = ((last + 1) * WORKERS - 1) / TASKS(g);
    add_tasks(g * (WORKERS + 1) + 1 + victim, more, GIVEN(g, victim));
    if
    :: met -> add_tasks(g * (WORKERS + 1), GIVEN(g, victim), TASKS(g))
    :: else
    fi;
    victim = 0
}

/* What a worker no longer needs would else tell states apart. */
inline forget() {
    atomic {
        begin = 0; end = 0; middle = 0; last = 0; slot = 0; mine = 0; word_generation = 0; word_begin = 0; word_end = 0;
        swapped = false; met = false; left = false; any_left = false
    }
}

inline drain(g) {
    mine = 0;
    do
    :: true ->
        claim(g);
        if
        :: swapped ->
#if FAULT == 4
            count_tasks(g, begin, 1);
            mine = met;
            run_task(g, begin);
            if :: mine -> signal_event(EVENT_OF(g)) :: else fi;
            mine = 0
#else
            run_task(g, begin);
            last = begin;
            mine++
#endif
        :: else -> break
        fi
    od;
#if FAULT != 4
    if
    :: mine > 0 ->
        count_tasks(g, last, mine);
        mine = 0;
        if :: met -> signal_event(EVENT_OF(g)) :: else fi
    :: else
    fi;
#endif
    forget()
}

/* Half of what another has left becomes one's own, which is dry; `stolen`. One that is untouched may be left: `left`. */
inline take_half(g, victim) {
    do
    :: true ->
        slice_range(g, victim);
        if
        :: begin == end -> break
        :: begin != end && word_generation != generation -> left = true; break
        :: begin != end ->
            middle = begin + (end - begin) / 2;
            compare_exchange(g, victim, begin, middle);
            if
            :: swapped ->
                d_step {
                    slices[g * WORKERS + me].generation = generation;
                    slices[g * WORKERS + me].begin = middle;
                    slices[g * WORKERS + me].end = end
                };
                stolen = true;
                break
            :: else
            fi
        fi
    od
}

inline steal() {
    atomic { stolen = false; entry = 0 };
    do
    :: entry < cursor && !stolen ->
        g = log_group[entry] - 1;
        if
        :: nothing[g * (WORKERS + 1)] == generation -> entry++
        :: else ->
            victim = 0;
            any_left = false;
            do
            :: victim < WORKERS && !stolen ->
                left = false;
                if
                :: nothing[g * (WORKERS + 1) + 1 + victim] == generation
                :: else ->
                    if :: victim != me -> take_half(g, victim) :: else fi;
                    if
                    :: !stolen && !left -> nothing[g * (WORKERS + 1) + 1 + victim] = generation
                    :: else -> any_left = any_left || left
                    fi
                fi;
                victim++
            :: else -> break
            od;
            if
            :: stolen -> drain(g)
            :: !stolen && any_left -> entry++
            :: !stolen && !any_left -> nothing[g * (WORKERS + 1)] = generation; entry++
            fi
        fi
    :: else -> break
    od;
    atomic { entry = 0; g = 0; victim = 0 };
    forget()
}

inline park() {
#if FAULT == 3
    if
    :: log_generation[cursor] == generation
    :: else ->
        changed[me] = false;
        sleepers++;
        sleep();
        sleepers--
    fi;
#else
    changed[me] = false;
    sleepers++;
    if
    :: log_generation[cursor] == generation
    :: else -> sleep()
    fi;
    sleepers--
#endif
}

inline work() {
    cursor = 0;
    do
    :: log_generation[cursor] == generation ->
        g = log_group[cursor];
        if
        :: g == LOG_END -> assert(closed); break
        :: else -> cursor++; g = g - 1; drain(g)
        fi
    :: else ->
        steal();
        if
        :: stolen
        :: !stolen /* it watches on */
        :: !stolen -> park()
        fi
    od;
    atomic { cursor = 0; g = 0; stolen = false }
}

proctype worker(byte me) {
    byte cursor, entry, g, victim, slot, begin, end, middle, word_generation, word_begin, word_end, mine, last, i;
    bool swapped, met, stolen, left, any_left;
    do
    :: atomic { !closed -> inside++ };
        work();
        atomic {
            inside--;
            if :: closed && inside == 0 -> finished = round; caller_asleep = false :: else fi
        }
    :: closed && stop -> break
    :: closed && !stop ->
        changed[me] = false;
        sleepers++;
        if :: closed && !stop -> sleep() :: else fi;
        sleepers--
    od
}

init {
    byte number, slot, i;
    atomic { i = 0; do :: i < WORKERS -> run worker(i); i++ :: else -> break od; i = 0 };
    do
    :: number < STEPS ->
        atomic {
            number++;
            generation = 1 + number % GENERATIONS;
#if FAULT != 1
            if
            :: number % GENERATIONS == 0 ->
                i = 0;
                do :: i <= GROUPS -> log_generation[i] = 0; i++ :: else -> break od;
                i = 0;
                do :: i < GROUPS * WORKERS -> slices[i].generation = 0; i++ :: else -> break od;
                count_generation[0] = 0;
                count_generation[1] = 0;
                i = 0;
                do
                :: i < GROUPS * (WORKERS + 1) -> tally_generation[i] = 0; nothing[i] = 0; i++
                :: else -> break
                od
            :: else
            fi;
#endif
            tail = 0;
            i = 0;
            do :: i < GROUPS -> done[i] = 0; ran[2 * i] = 0; ran[2 * i + 1] = 0; i++ :: else -> break od;
            i = 0
        };
        publish(0);
        d_step { assert(closed && inside == 0); round++; closed = false };
        wake(WORKERS);
        do
        :: finished == round -> break
        :: atomic { finished != round -> caller_asleep = true };
            !caller_asleep
        od;
        assert(done[0] == TASKS(0) && done[1] == TASKS(1));
#if GROUPS > 2
        assert(done[2] == TASKS(2))
#endif
    :: else -> break
    od;
    stop = true;
    wake(WORKERS)
}
