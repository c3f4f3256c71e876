/* How workers share out a step, as scheduler/worker.pyx, slices.pxi and events.pxi do it: `python -m tests.spin` checks it.
 *
 * A program runs for STEPS steps: a group of FIRST tasks, most of them at home with the last worker, and then, if GROUPS is 2,
 * one of two tasks, both at home with the first. Words are those of worker.pxd, and each access to one is a step of its own,
 * sequentially consistent (the sanitizer looks after weaker orders: tests/tsan). The last worker is a crew, and those before
 * it are another. All sleep in one berth, so that the relay of wakes has its part. Generations start anew after GENERATIONS
 * of them.
 *
 * Every task must run once a step, after those that it depends on; every event must fire once, after its tasks; every step
 * must end; no word that nothing is left may hide more of a slice than its owner's next task; and who sleeps in a step must
 * have left nothing to an owner who has not come. FAULT plants one of the faults that tests/spin/__main__.py names. */
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
#ifndef SLEEP
#define SLEEP 1 /* 0: workers watch for ever, as on cores of their own */
#endif
#ifndef FIRST
#define FIRST 2
#endif
#ifndef GROUPS
#define GROUPS 2
#endif
#define TASKS(g) ((g) == 0 -> FIRST : 2)
/* The first task at home with a worker */
#define HOME(g, worker) \
    ((g) == 0 -> 2 * (worker) / WORKERS + (worker) / WORKERS * (FIRST - 2) : 2 * ((worker) > 0))
#define CREWS 2
#define CREW_BEGIN(crew) ((crew) == CREWS -> WORKERS : (crew) * (WORKERS - 1))
#define GIVEN(g, crew) (HOME(g, CREW_BEGIN((crew) + 1)) - HOME(g, CREW_BEGIN(crew)))
#define LOG_END 9

typedef Slice { byte generation; byte begin; byte end };
typedef Tally { byte generation; byte counted; byte empty_generation; byte empty_told; byte told };

/* PoolState */
byte round, inside, sleepers, relay, finished;
bool closed = true, stop, asleep[WORKERS], caller_asleep;
bool changed[WORKERS]; /* `signal` is another than the worker saw */
/* ProgramState */
byte generation, tail, log_generation[GROUPS + 1], log_group[GROUPS + 1];
byte count_generation[GROUPS], count[GROUPS];
Tally tallies[GROUPS * (CREWS + 1)];
Slice slices[GROUPS * WORKERS];
/* What is checked */
byte ran[GROUPS * FIRST], done[GROUPS], fired[GROUPS];
bool telling[WORKERS]; /* it has stolen tasks and is yet to tell */

#include "slices.pml"
#include "tallies.pml"
#include "steal.pml"
#include "sleep.pml"
#include "events.pml"

inline run_task(g, task) {
    assert(g == 0 || done[0] == TASKS(0));
    ran[g * FIRST + task]++;
    assert(ran[g * FIRST + task] == 1);
    done[g]++
}

/* What a worker no longer needs would else tell states apart. */
inline forget() {
    begin = 0; end = 0; middle = 0; last = 0; slot = 0; mine = 0; word_generation = 0; word_begin = 0; word_end = 0;
    swapped = false; met = false; crew = 0
}

inline drain(g) {
    do
    :: true ->
        claim(g);
        if
        :: swapped ->
#if FAULT == 4
            count_tasks(g, begin, 1);
            mine = met;
            d_step { run_task(g, begin) };
            if :: mine -> signal_event(g) :: else fi;
            mine = 0;
            recent = g + 1
#else
            d_step { run_task(g, begin); last = begin; mine++ }
#endif
        :: else -> break
        fi
    od;
#if FAULT != 4
    if
    :: mine > 0 ->
        recent = g + 1;
        count_tasks(g, last, mine);
        if :: met -> signal_event(g) :: else fi
    :: else
    fi;
#endif
    atomic { forget() }
}

inline work() {
    do
    :: atomic { log_generation[cursor] == generation -> g = log_group[cursor] };
        if
        :: g == LOG_END -> assert(closed); break
        :: else -> d_step { cursor++; g-- }; drain(g)
        fi
    :: log_generation[cursor] != generation ->
        steal();
        if
        :: outcome == TAKEN
        :: outcome != TAKEN /* it watches on */
#if FAULT == 10
        :: outcome != TAKEN -> park()
#elif SLEEP
        :: outcome == NOTHING -> park()
#endif
        fi;
        outcome = NOTHING
    od;
    atomic { cursor = 0; searched = 0; recent = 0; g = 0 }
}

proctype worker(byte me) {
    byte cursor, searched, recent, entry, g, nearness, crew, place, victim, told, told_of_all, found, most, outcome;
    byte slot, begin, end, middle, mine, last, i, word_generation, word_begin, word_end;
    bool swapped, met, fresh, own = me == WORKERS - 1; /* own crew */
    do
    :: atomic { !closed -> inside++ };
        work();
        atomic {
            inside--;
            if :: closed && inside == 0 -> finished = round; caller_asleep = false :: else fi
        }
    :: closed && stop -> break
#if SLEEP
    :: closed && !stop ->
        changed[me] = false;
        sleepers++;
        if :: closed && !stop -> sleep() :: else fi;
        sleepers--
#endif
    od
}

/* What a step finds. Of words of another generation nothing but that is looked at, and what is told is only compared: all are
 * as if the step before had written them, and the same whatever it has. */
inline age_words(former) {
    i = 0;
    do :: i <= GROUPS -> log_generation[i] = former; i++ :: else -> break od;
    i = 0;
    do :: i < GROUPS -> count_generation[i] = former; i++ :: else -> break od;
    i = 0;
    do :: i < GROUPS * WORKERS -> store_slice(0, i, 0, 0); slices[i].generation = former; i++ :: else -> break od;
    i = 0;
    do
    :: i < GROUPS * (CREWS + 1) ->
        tallies[i].generation = former; tallies[i].empty_generation = former; tallies[i].empty_told = 0; tallies[i].told = 0; i++
    :: else -> break
    od
}

init {
    byte number, slot, i;
    atomic { i = 0; do :: i < WORKERS -> run worker(i); i++ :: else -> break od; i = 0 };
    do
    :: number < STEPS ->
        atomic {
            number++;
#if FAULT != 1
            if :: number % GENERATIONS == 0 -> generation = 0 :: else fi; /* generations start anew: words are wiped */
#endif
            age_words(generation);
            generation = 1 + number % GENERATIONS;
            tail = 0;
            i = 0;
            do :: i < GROUPS * FIRST -> ran[i] = 0; i++ :: else -> break od;
            i = 0;
            do :: i < GROUPS -> done[i] = 0; fired[i] = 0; i++ :: else -> break od;
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
        assert(done[GROUPS - 1] == TASKS(GROUPS - 1) && fired[GROUPS - 1] == 1)
    :: else -> break
    od;
    stop = true;
    wake(WORKERS)
}
