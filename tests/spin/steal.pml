/* Stealing: the search for tasks, and the words that spare others one. */
#define CREW_SIZE(crew) (CREW_BEGIN((crew) + 1) - CREW_BEGIN(crew))

/* Looks at the slices of a crew: `found`. */
inline steal_of_crew(g, crew, fresh) {
    do
    :: place < CREW_SIZE(crew) && found != TAKEN ->
        d_step { place++; victim = CREW_BEGIN(crew) + (me + place) % CREW_SIZE(crew) };
        if :: victim != me -> take_half(g, victim, fresh) :: else fi
    :: else -> break
    od;
    atomic { place = 0; victim = 0; swapped = false }
}

/* Looks at the slices of a group, the own crew's first: `most`. */
inline steal_of(g, fresh) {
    told_of_all = tallies[OF_GROUP(g)].told;
    if
    :: SAYS_EMPTY(OF_GROUP(g), told_of_all)
    :: else ->
        do
        :: nearness < CREWS && most != TAKEN ->
            d_step {
                crew = (own + nearness) % CREWS;
                nearness++;
                told = tallies[OF_CREW(g, crew)].told
            };
            if
            :: SAYS_EMPTY(OF_CREW(g, crew), told)
            :: else ->
                steal_of_crew(g, crew, fresh);
                if
                :: found == TAKEN -> tell_of_tasks(g)
#if FAULT == 15
                :: found != TAKEN -> d_step { say_empty(g, OF_CREW(g, crew), told) }
#else
                :: found == LEFT
                :: found == NOTHING -> d_step { say_empty(g, OF_CREW(g, crew), told) }
#endif
                fi;
                d_step { most = (found > most -> found : most); found = NOTHING }
            fi
        :: else -> break
        od;
        if :: most == NOTHING -> d_step { say_empty(g, OF_GROUP(g), told_of_all) } :: else fi
    fi;
    atomic { nearness = 0; told = 0; told_of_all = 0; forget() }
}

/* Looks through the groups read so far, the one run last first: `outcome`. Who sees that the log goes on looks no further.
 * Groups that have run are not passed over, as they say that they are empty. */
inline steal() {
    do
    :: entry > cursor || outcome == TAKEN -> break
    :: entry == 0 && recent == 0 -> entry++
    :: entry > 0 && entry <= cursor && outcome != TAKEN && log_generation[cursor] == generation -> outcome = TAKEN
    :: else ->
        d_step { g = (entry == 0 -> recent : log_group[entry - 1]) - 1; fresh = (entry > searched) };
        steal_of(g, fresh);
        if :: most == TAKEN -> drain(g) :: else fi;
        d_step { outcome = (most > outcome -> most : outcome); most = NOTHING; entry++ }
    od;
    atomic {
        if :: outcome != TAKEN -> searched = cursor :: else fi;
        entry = 0; g = 0; fresh = false
    }
}
