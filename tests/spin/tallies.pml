/* Tallies: of a group and of what was given to each crew, how many tasks have run, and whether any are left to steal. */
#define OF_GROUP(g) ((g) * (CREWS + 1))
#define OF_CREW(g, crew) ((g) * (CREWS + 1) + 1 + (crew))
#define SAYS_EMPTY(at, what_was_told) \
    (tallies[at].empty_generation == generation && tallies[at].empty_told == what_was_told)
#define HIDDEN(g, owner) (!telling[owner] && LEFT_IN(g, owner) > 1)
#if WORKERS == 2
#define HIDDEN_IN_FIRST(g) HIDDEN(g, 0)
#else
#define HIDDEN_IN_FIRST(g) (HIDDEN(g, 0) || HIDDEN(g, 1))
#endif
#define WORD_HIDES(at, hidden) (SAYS_EMPTY(at, tallies[at].told) && hidden)

/* Whenever words have changed: none hides more than one task of a slice. */
inline check_words(g) {
    assert(!WORD_HIDES(OF_CREW(g, 0), HIDDEN_IN_FIRST(g)));
    assert(!WORD_HIDES(OF_CREW(g, 1), HIDDEN(g, WORKERS - 1)));
    assert(!WORD_HIDES(OF_GROUP(g), (HIDDEN_IN_FIRST(g) || HIDDEN(g, WORKERS - 1))))
}

/* Leaves word that nothing is left, unless tasks have been told of since `what_was_told`. */
inline say_empty(g, at, what_was_told) {
    tallies[at].empty_generation = generation;
#if FAULT == 12
    tallies[at].empty_told = tallies[at].told;
#else
    tallies[at].empty_told = what_was_told;
#endif
    check_words(g)
}

/* Tells thieves of stolen tasks: not of the next one of who has them. */
inline tell(at, tasks) {
    if :: tasks > 1 -> tallies[at].told++ :: else fi
}

inline tell_of_tasks(g) {
    d_step { slice_range(g, me) };
#if FAULT == 17
    tell(OF_GROUP(g), end - begin);
    tell(OF_CREW(g, own), end - begin);
#elif FAULT != 11 && FAULT != 16
    tell(OF_CREW(g, own), end - begin);
    tell(OF_GROUP(g), end - begin);
#endif
    d_step { telling[me] = false; check_words(g) }
}

/* Counts tasks of a tally; `met`: they were the last of all. */
inline add_tasks(at, more, all) {
#if FAULT == 7
    tallies[at].counted = tallies[at].counted + more;
#else
    if
    :: tallies[at].generation == generation -> tallies[at].counted = tallies[at].counted + more
    :: else -> tallies[at].generation = generation; tallies[at].counted = more
    fi;
#endif
    met = (tallies[at].counted == all)
}

/* Counts tasks of one home slice, the last of which is `last`; `met`: they were the last ones of the group. */
inline count_tasks(g, last, more) {
    d_step {
        crew = (last >= HOME(g, WORKERS - 1));
        add_tasks(OF_CREW(g, crew), more, GIVEN(g, crew));
#if FAULT == 14
        met = true
#endif
    };
    if
    :: met ->
#if FAULT == 13
        d_step { say_empty(g, OF_CREW(g, crew), tallies[OF_CREW(g, crew)].told) };
#endif
        d_step { add_tasks(OF_GROUP(g), GIVEN(g, crew), TASKS(g)) };
        if
        :: met -> d_step { say_empty(g, OF_GROUP(g), tallies[OF_GROUP(g)].told) } /* all were told of before they ran */
        :: else
        fi
    :: else
    fi
}
