/* How a step follows another one without its caller (scheduler/steps.pxi): who leaves a step last begins the next one
 * if the caller has asked for it, who hears of the end later. What happens within a step is protocol.pml's: here one
 * task closes it.
 *
 * Accesses happen one after the other, as those of the words of PoolState do: each is sequentially consistent, or
 * stored before one that is and read behind it.
 */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef ROUNDS
#define ROUNDS 4 /* steps in all */
#endif
#ifndef FAULT
#define FAULT 0
#endif

#define NOBODY 0
#define ASKED 1
#define TOO_LATE 2

/* PoolState.state is one word of these three. */
byte round
bool closed = true
byte inside

byte begun, finished, successor = NOBODY
bool asleep       /* the caller, in futex_wait on `finished` */
byte plan         /* the number of the step that is planned */
bool ends         /* a row of the step that runs draws a token that ends its sequence */
bool held         /* somebody took back what was asked */
bool task         /* of the step that runs: not begun yet */
byte ran[ROUNDS + 2]
bool over

inline begin(before) {
    assert(closed && inside == 0 && plan == before + 1);
    task = true;
    ends = false;
    successor = NOBODY;
#if FAULT == 1
    finished = before;
    begun = before + 1;
#elif FAULT == 2
    begun = before + 1;
#else
    begun = before + 1;
    finished = before;
#endif
    atomic { round = before + 1; closed = false }
#if FAULT == 2
    finished = before;
#endif
}

proctype worker() {
    byte number, asked;
    bool last;
end:
    do
    :: over -> break
    :: atomic { !closed -> inside++ }
        if
        :: atomic { task -> task = false }
            ran[round]++;
            if
            :: ends = true
            :: skip
            fi
            closed = true
        :: !task
        fi
        closed;
        atomic { number = round; inside--; last = inside == 0 }
        if
        :: last ->
#if FAULT == 3
            asked = successor;
#else
            atomic { asked = successor; successor = TOO_LATE }
#endif
            if
            :: asked == ASKED && !ends -> begin(number)
            :: else -> finished = number
            fi
            asleep = false /* futex_wake */
        :: else
        fi
        number = 0; asked = 0; last = false
    od
}

inline await(number) {
    do
    :: seen = finished;
        if
        :: seen >= number -> break
        :: else
        fi
        atomic {
            if
            :: finished == seen -> asleep = true
            :: else
            fi
        }
        !asleep
    od
    seen = 0
}

proctype caller() {
    byte mine, seen, last;
    bool planned, asked, follows;
    do
    :: begun == ROUNDS -> break
    :: else ->
        assert(closed && inside == 0);
        last = begun;
        plan = last + 1;
        begin(last);
        mine = last + 1;
        follows = true;
        do
        :: !follows -> break
        :: follows ->
            planned = false; asked = false; held = false;
            if
            :: mine < ROUNDS ->
                plan = mine + 1;
                planned = true;
                atomic {
                    if
                    :: successor == NOBODY -> successor = ASKED; asked = true
                    :: else
                    fi
                }
            :: skip
            fi;
#if FAULT == 4
            if
            :: planned && !asked
            :: else -> await(mine)
            fi;
#else
            await(mine);
#endif
            if
            :: planned && !asked ->
                follows = !ends;
                if
                :: follows -> begin(mine)
                :: else
                fi
            :: else -> follows = begun != mine
            fi;
            /* What was asked for and not taken back has begun, unless the step before has ended a sequence. */
            assert(!asked || held || follows || ends);
            /* Who is told that nothing follows owns the pool: all workers have left. */
            assert(follows || (closed && inside == 0));
            assert(mine == ROUNDS || ran[mine] == 1);
            mine = begun
        od
    od;
    await(begun);
    over = true;
    mine = 1;
    do
    :: mine <= ROUNDS -> assert(ran[mine] == 1); mine++
    :: else -> break
    od
}

/* Takes back what is asked for, as who queues something does. */
proctype holder() {
end:
    do
    :: over -> break
    :: successor == ASKED ->
        atomic {
            if
            :: successor == ASKED -> successor = NOBODY; held = true
            :: else
            fi
        }
    od
}

init {
    byte number;
    atomic {
        run caller();
        run holder();
        do
        :: number < WORKERS -> run worker(); number++
        :: else -> break
        od
    }
}
