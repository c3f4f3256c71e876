# route: chooses the experts of each row and their weights.
#
#   s = scores | softmax(scores) | sigmoid(scores)          scores: f32 [rows, experts]
#   c = s + bias; experts outside of the keep_groups best groups have c = masked_value instead
#   ids = the top_k experts by c, descending, ties to the lower number          i32 [top_k]
#   weights = s[ids], or these / their sum, or softmax(s[ids]), times scale          f32 [top_k]
#
# A group is a run of experts / groups experts, its score the sum of its group_top best c. Groups: DeepSeek-AI, 2024
# (DeepSeek-V2, section 2.1.2); sigmoid with a bias for the choice only: DeepSeek-V3, section 2.1.2. What is not a
# number is chosen last. 1 task.

# The numbers of the k greatest of x[0 .. n - 1], in descending order, ties to the lower number.
cdef inline void top_numbers(const float *x, int64_t n, int64_t k, int32_t *ids) noexcept nogil:
    cdef int64_t found = 0, i, at
    for i in range(n):
        if found == k and not x[i] > x[ids[k - 1]]:
            continue
        at = found if found < k else k - 1
        while at > 0 and x[i] > x[ids[at - 1]]:
            ids[at] = ids[at - 1]
            at -= 1
        ids[at] = <int32_t> i
        found = min(found + 1, k)


# x = e^x / sum of e^x.
cdef inline void softmax(float *x, int64_t n) noexcept nogil:
    cdef float sum
    cdef int64_t i
    vector_exp(x, 1, vector_max(x, n), n)
    sum = vector_sum(x, n)
    for i in range(n):
        x[i] /= sum


# s from scores, and c as far as the groups do not matter.
cdef inline void route_score(const ellm_route *op, const float *scores, float *s, float *c) noexcept nogil:
    cdef const float *bias = <const float *> op.bias
    cdef int64_t e
    memcpy(s, scores, op.experts * sizeof(float))
    if op.score == 1:
        softmax(s, op.experts)
    elif op.score == 2:
        for e in range(op.experts):
            s[e] = 1 / (1 + exp_f32(-s[e]))
    for e in range(op.experts):
        c[e] = s[e] + (bias[e] if bias != NULL else 0)
        if c[e] != c[e]:
            c[e] = -INFINITY


# Masks c outside of the best groups; top and ids have room for op.groups.
cdef inline void route_groups(const ellm_route *op, float *c, float *top, int32_t *ids) noexcept nogil:
    cdef int64_t size = op.experts // op.groups, g, e, i
    for g in range(op.groups):
        top_numbers(c + g * size, size, op.group_top, ids)
        top[g] = 0
        for i in range(op.group_top):
            top[g] += c[g * size + ids[i]]
    top_numbers(top, op.groups, op.keep_groups, ids)
    for i in range(op.keep_groups):
        top[ids[i]] = INFINITY
    for g in range(op.groups):
        if top[g] != INFINITY:
            for e in range(g * size, (g + 1) * size):
                c[e] = <float> op.masked_value


cdef inline void route_weights(const ellm_route *op, const float *s, const int32_t *ids, float *weights) noexcept nogil:
    cdef float sum = 1
    cdef int64_t j
    for j in range(op.top_k):
        weights[j] = s[ids[j]]
    if op.normalize == 1:
        sum = 1e-20 if op.score == 2 else 0
        for j in range(op.top_k):
            sum += weights[j]
    elif op.normalize == 2:
        softmax(weights, op.top_k)
    for j in range(op.top_k):
        weights[j] = weights[j] / sum * <float> op.scale


cdef void route(const ellm_task *task) noexcept nogil:
    cdef const ellm_route *op = <const ellm_route *> task.args
    cdef const float *scores = <const float *> (task.section + op.scores)
    cdef int32_t *ids = <int32_t *> (task.arena + op.ids) + task.row * op.top_k
    cdef float *weights = <float *> (task.arena + op.weights) + task.row * op.top_k
    cdef float *s = <float *> scratch_memory(task)
    cdef float *c = s + op.experts
    cdef int64_t row
    for row in range(task.rows):
        route_score(op, scores + row * op.experts, s, c)
        if op.groups:
            route_groups(op, c, c + op.experts, <int32_t *> (c + op.experts + op.groups))
        top_numbers(c, op.experts, op.top_k, ids + row * op.top_k)
        route_weights(op, s, ids + row * op.top_k, weights + row * op.top_k)
