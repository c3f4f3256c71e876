# Numbers to codes, by encode.h: no kernel, but it has the vectors of the ISA. Included by table.pxi.

from libc.stdint cimport uint8_t

cdef extern from "encode.h" nogil:
    int ELLM_GROUP "ENCODE_GROUP", ELLM_LEVELS "ENCODE_LEVELS"
    ctypedef struct ellm_levels:
        int32_t count
        float first
        float last
        float *level
        float *between
        int64_t tries
        const float *tried
    void encode_all "encode"(const ellm_levels *levels, const float *x, int64_t count, uint8_t *codes, float *scales)


def encode(const float[::1] worth, const float[::1] tried, const float[:, ::1] groups, uint8_t[:, ::1] codes,
           float[::1] scales):
    """Fill codes [groups, k] and scales [groups] of groups [groups, k], without the GIL. `ellm.kernels.encode` calls it.

    `worth` is that of each code, ascending: 16 of them, or numbers that count up.
    """
    cdef ellm_levels levels
    cdef int64_t count = groups.shape[0], i
    if not groups.shape[1] == codes.shape[1] == ELLM_GROUP or not codes.shape[0] == scales.shape[0] == count:
        raise ValueError(f"{count} groups of {groups.shape[1]} do not fit {codes.shape[0]} of codes, {scales.shape[0]} scales")
    levels.count = worth.shape[0] if worth.shape[0] <= ELLM_LEVELS else 0
    levels.first, levels.last = worth[0], worth[worth.shape[0] - 1]
    for i in range(levels.count):
        levels.level[i] = worth[i]
        levels.between[i] = (worth[i] + worth[min(i + 1, levels.count - 1)]) / 2
    levels.tries, levels.tried = tried.shape[0], &tried[0]
    if count:
        with nogil:
            encode_all(&levels, &groups[0, 0], count, &codes[0, 0], &scales[0])
