# angles: the rotations of rotary position embedding for the positions of a block.
#
#   out[r, i] = (cos(a), sin(a)) * factor,  a = f32(positions[row + r]) * inv_freq[i]     f32 [rows, half, 2]
#
# The angle is rounded to f32, as in Hugging Face's rotary embedding; its cosine and sine are exact to f32 at any size.
# `factor` is YaRN's attention factor (Peng et al., 2023, section 3.4), 1 otherwise. 1 task.

from libc.math cimport cos, sin


cdef void angles(const ellm_task *task) noexcept nogil:
    cdef const ellm_angles *op = <const ellm_angles *> task.args
    cdef const float *inv_freq = <const float *> op.inv_freq
    cdef float *out = <float *> (task.section + op.out)
    cdef float position, angle, factor = <float> op.factor
    cdef int64_t i
    cdef int32_t row
    for row in range(task.rows):
        position = <float> task.step.positions[task.row + row]
        for i in range(op.half):
            angle = position * inv_freq[i]
            out[2 * i] = <float> cos(angle) * factor
            out[2 * i + 1] = <float> sin(angle) * factor
        out += 2 * op.half
