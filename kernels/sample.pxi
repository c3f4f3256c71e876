# sample: the next token of one logit row.
#
#   w = logits, of which in this order
#     mask    those of tokens whose bit is 0 become -inf
#     bias    some get a number added
#     those of tokens in `history` are divided (if > 0) or multiplied by repeat_penalty (Keskar et al., 2019)
#     those of tokens in `history` behind the prompt lose frequency_penalty times how often they are there,
#     and presence_penalty
#   temperature below 1e-5: argmax w, the lowest token on ties; else p = e^((w - max w) / temperature), and of
#     min_p   tokens with p >= min_p (p is relative to the most likely token's)
#     top_k   of these the k first in order of descending w, then ascending token
#     top_p   of these the shortest run of first ones with at least top_p of their sum (Holtzman et al., 2019)
#   one is drawn with probability p / sum p, by a number that depends on (seed, counter) alone.
#
# The order is vLLM's. A NaN logit counts as -inf. A token that is `given` is taken as it is. logprob is
# log_softmax(logits)[token], before any of this, and so are the numbers of the `top` tokens, of descending logits and
# then of ascending ids; fewer than top_len if the vocabulary ends.
# Task = logit row of the block; step.logits is not changed.

from libc.math cimport INFINITY, isfinite, log

cdef extern from "wait.h" nogil:
    void wait_for(const int32_t *flag)


# One logit row in scratch; contract.scratch_bytes counts the same.
cdef struct Candidates:
    int64_t vocab
    float *w
    float *p
    int32_t *order   # a heap of `count` tokens, then the `popped` ones, the first popped last
    int64_t count
    int64_t popped


# One output of SplitMix64 (Steele, Lea and Flood, 2014).
cdef inline uint64_t splitmix64(uint64_t x) noexcept nogil:
    x += <uint64_t> 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t> 0x94D049BB133111EB
    return x ^ (x >> 31)


# Uniform in [0, 1).
cdef inline double uniform(uint64_t seed, int64_t counter) noexcept nogil:
    return <double> (splitmix64(splitmix64(seed) + <uint64_t> counter) >> 11) * 2.0**-53


cdef inline float number(float x) noexcept nogil:
    return x if x == x else -INFINITY


cdef inline int64_t argmax(const float *x, int64_t n) noexcept nogil:
    cdef float top = vector_max(x, n)
    cdef int64_t i = 0
    while x[i] != top:
        i += 1
    return i


# `scratch` [vocab] is for logits of before the penalty, as a token may be in the history several times.
cdef inline void penalise_repeats(const ellm_sampling *how, float *w, float *scratch, int64_t vocab) noexcept nogil:
    cdef float penalty = <float> how.repeat_penalty, x
    cdef int64_t i, token
    for i in range(how.history_len):
        token = how.history[i]
        if 0 <= token < vocab:
            scratch[token] = w[token]
    for i in range(how.history_len):
        token = how.history[i]
        if 0 <= token < vocab:
            x = scratch[token]
            w[token] = x / penalty if x > 0 else x * penalty


# `counts` [vocab] is scratch.
cdef inline void penalise_counts(const ellm_sampling *how, float *w, float *counts, int64_t vocab) noexcept nogil:
    cdef float presence = <float> how.presence_penalty, frequency = <float> how.frequency_penalty
    cdef int64_t i, token
    for i in range(how.prompt_len, how.history_len):
        token = how.history[i]
        if 0 <= token < vocab:
            counts[token] = 0
    for i in range(how.prompt_len, how.history_len):
        token = how.history[i]
        if 0 <= token < vocab:
            counts[token] += 1
    for i in range(how.prompt_len, how.history_len):
        token = how.history[i]
        if 0 <= token < vocab and counts[token] > 0:
            w[token] = w[token] - frequency * counts[token] - presence
            counts[token] = 0


# w of a row of logits, all that comes before the temperature.
cdef inline void adjust(const float *logits, const ellm_sampling *how, const Candidates *c) noexcept nogil:
    cdef int64_t i, token
    for i in range(c.vocab):
        c.w[i] = number(logits[i])
    if how.mask != NULL:
        vector_allow(how.mask, c.w, c.vocab)
    for i in range(how.bias_len):
        token = how.bias[i].token
        if 0 <= token < c.vocab:
            c.w[token] += how.bias[i].number
    if how.repeat_penalty != 1:
        penalise_repeats(how, c.w, c.p, c.vocab)
    if how.presence_penalty != 0 or how.frequency_penalty != 0:
        penalise_counts(how, c.w, c.p, c.vocab)


cdef inline bint before(const Candidates *c, int32_t a, int32_t b) noexcept nogil:
    return c.w[a] > c.w[b] or (c.w[a] == c.w[b] and a < b)


cdef inline void sift_down(Candidates *c, int64_t parent) noexcept nogil:
    cdef int32_t token = c.order[parent]
    cdef int64_t child = 2 * parent + 1
    while child < c.count:
        if child + 1 < c.count and before(c, c.order[child + 1], c.order[child]):
            child += 1
        if before(c, token, c.order[child]):
            break
        c.order[parent] = c.order[child]
        parent = child
        child = 2 * parent + 1
    c.order[parent] = token


# The p of the next token in order.
cdef inline float pop(Candidates *c) noexcept nogil:
    cdef int32_t token = c.order[0]
    c.count -= 1
    c.popped += 1
    c.order[0] = c.order[c.count]
    c.order[c.count] = token
    sift_down(c, 0)
    return c.p[token]


# Lists the tokens with p >= floor and p > 0; returns the sum of their p.
cdef inline double collect(Candidates *c, float floor) noexcept nogil:
    cdef double mass = 0
    cdef int32_t token
    c.count = c.popped = 0
    for token in range(<int32_t> c.vocab):
        if c.p[token] > 0 and c.p[token] >= floor:
            c.order[c.count] = token
            c.count += 1
            mass += c.p[token]
    return mass


# The token where the running sum of p, over all tokens in their own order, passes u of the total.
cdef inline int32_t draw_any(const Candidates *c, double total, double u) noexcept nogil:
    cdef double sum = 0
    cdef int32_t token, last = 0
    for token in range(<int32_t> c.vocab):
        if c.p[token] > 0:
            last = token
            sum += c.p[token]
            if sum > u * total:
                break
    return last


# Makes a heap of tokens that has all those that top_k and top_p can keep.
cdef inline void heapify(Candidates *c, const ellm_sampling *how, double total) noexcept nogil:
    cdef double mass = collect(c, <float> 1e-3)  # most tokens are hopeless, and ordering them is slow
    cdef int64_t i
    if (c.count < how.top_k) if how.top_k > 0 else (mass < how.top_p * total):
        collect(c, 0)
    for i in range(c.count // 2 - 1, -1, -1):
        sift_down(c, i)


# The same as draw_any over the first tokens in order, as many as top_k and top_p keep.
cdef inline int32_t draw_top(Candidates *c, const ellm_sampling *how, double total, double u) noexcept nogil:
    cdef int64_t most, last, i, kept = 0
    cdef double mass = 0, sum = 0
    cdef int32_t token = 0
    heapify(c, how, total)
    most = c.count
    last = c.count - 1
    if how.top_k > 0:
        most = min(how.top_k, most)
        total = 0
        for i in range(most):
            total += pop(c)
    while kept < most and (kept == 0 or mass < how.top_p * total):
        if kept == c.popped:
            pop(c)
        mass += c.p[c.order[last - kept]]
        kept += 1
    for i in range(kept):
        token = c.order[last - i]
        sum += c.p[token]
        if sum > u * mass:
            break
    return token


# top is max w.
cdef inline int32_t draw(Candidates *c, const ellm_sampling *how, float top) noexcept nogil:
    cdef double total = 0, u = uniform(how.seed, how.counter)
    cdef int64_t i
    for i in range(c.vocab):
        c.p[i] = c.w[i] - top
    vector_exp(c.p, <float> (1 / how.temperature), 0, c.vocab)
    for i in range(c.vocab):
        if c.p[i] < how.min_p:
            c.p[i] = 0
        total += c.p[i]
    if 0 < how.top_k < c.vocab or how.top_p < 1:
        return draw_top(c, how, total, u)
    return draw_any(c, total, u)


# What log_softmax takes from each logit but for `top`, which becomes the highest one.
cdef inline float log_sum(const float *logits, float *top, float *scratch, int64_t vocab) noexcept nogil:
    cdef int64_t i
    for i in range(vocab):
        scratch[i] = number(logits[i])
    top[0] = vector_max(scratch, vocab)
    vector_exp(scratch, 1, top[0], vocab)
    return <float> log(vector_sum(scratch, vocab))


# The tokens of the highest logits, with these, in order.
cdef inline void list_top(const float *logits, const ellm_sampling *how, int64_t vocab) noexcept nogil:
    cdef ellm_token_number *top = how.top
    cdef int64_t token, at, count = 0
    cdef float x
    for token in range(vocab):
        x = number(logits[token])
        if count == how.top_len and x <= top[count - 1].number:
            continue
        count = min(count + 1, how.top_len)
        at = count - 1
        while at > 0 and top[at - 1].number < x:
            top[at] = top[at - 1]
            at -= 1
        top[at].token, top[at].number = <int32_t> token, x


cdef inline int64_t choose(const float *logits, const ellm_sampling *how, Candidates *c) noexcept nogil:
    cdef int64_t token
    adjust(logits, how, c)
    token = argmax(c.w, c.vocab)
    if how.temperature >= 1e-5 and isfinite(c.w[token]):
        token = draw(c, how, c.w[token])
    return token


cdef void sample(const ellm_task *task) noexcept nogil:
    cdef const ellm_sample *op = <const ellm_sample *> task.args
    cdef int64_t row = task.row + task.index, token, i
    cdef const float *logits = task.step.logits + row * op.vocab
    cdef const ellm_sampling *how = task.step.sampling + row
    cdef float top, sum
    cdef Candidates c
    c.vocab = op.vocab
    c.w = <float *> scratch_memory(task)
    c.p = c.w + op.vocab
    c.order = <int32_t *> (c.p + op.vocab)
    if how.ready != NULL:
        wait_for(how.ready)
    token = choose(logits, how, &c) if how.given == NULL else how.given[0]
    task.step.sampled[row] = <int32_t> token
    if task.step.logprob != NULL:
        sum = log_sum(logits, &top, c.w, op.vocab)
        task.step.logprob[row] = logits[token] - top - sum
        if how.top_len > 0:
            list_top(logits, how, op.vocab)
            for i in range(how.top_len):
                how.top[i].number = how.top[i].number - top - sum
