/* Slices: those of slices.pxi. */
#define NOTHING 0
#define LEFT 1
#define TAKEN 2
#define SLICE(g, owner) slices[(g) * WORKERS + (owner)]
#define TOUCHED(g, owner) (SLICE(g, owner).generation == generation)
#define UNTOUCHED(g, owner) (!TOUCHED(g, owner) && HOME(g, owner) < HOME(g, (owner) + 1)) /* and there are tasks in it */
#define LEFT_IN(g, owner) \
    (TOUCHED(g, owner) -> SLICE(g, owner).end - SLICE(g, owner).begin : HOME(g, (owner) + 1) - HOME(g, owner))

/* The tasks left in the slice of a group that its owner has, and the word that says so. */
inline slice_range(g, owner) {
    word_generation = SLICE(g, owner).generation;
    word_begin = SLICE(g, owner).begin;
    word_end = SLICE(g, owner).end;
    if
    :: word_generation == generation -> begin = word_begin; end = word_end
    :: else -> begin = HOME(g, owner); end = HOME(g, owner + 1)
    fi
}

inline store_slice(g, owner, new_begin, new_end) {
    SLICE(g, owner).generation = generation;
    SLICE(g, owner).begin = new_begin;
    SLICE(g, owner).end = new_end
}

inline compare_exchange(g, owner, new_begin, new_end) {
    swapped = (SLICE(g, owner).generation == word_generation && SLICE(g, owner).begin == word_begin
        && SLICE(g, owner).end == word_end);
#if FAULT == 5
    swapped = true;
#endif
    if :: swapped -> store_slice(g, owner, new_begin, new_end) :: else fi
}

/* Takes the first task of one's own slice: `swapped` and `begin`; else the slice is dry and marked as of this step. */
inline claim(g) {
    do
    :: d_step { slice_range(g, me); swapped = false };
        if
        :: begin == end && word_generation == generation -> break
        :: else ->
            d_step { compare_exchange(g, me, begin + (begin != end), end) };
            if
            :: swapped -> swapped = (begin != end); break
            :: else
            fi
        fi
    od
}

/* Half of what a victim has left becomes one's own, which is dry: `found`. Of a fresh group, a slice whose owner has not
 * come yet is left to it. */
inline take_half(g, victim, fresh) {
    do
    :: atomic {
            slice_range(g, victim);
            swapped = false;
            middle = begin + (end - begin) / 2;
            if
            :: begin != end && fresh && word_generation != generation -> found = LEFT; begin = end
            :: else
            fi
        };
        if
        :: begin == end -> break
        :: else ->
            d_step { compare_exchange(g, victim, begin, middle); if :: swapped -> found = TAKEN :: else fi };
            if
            :: swapped ->
#if FAULT == 16
                tell(1 + own, end - middle);
                tell(0, end - middle);
#endif
                d_step { store_slice(g, me, middle, end); telling[me] = true };
                break
            :: else
            fi
        fi
    od
}
