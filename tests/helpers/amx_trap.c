/* Runs AMX code on a CPU without AMX: a SIGILL handler that decodes and emulates the instructions that the extension
 * uses. Semantics and encodings: Intel SDM volume 2, LDTILECFG, TILERELEASE, TILEZERO, TILELOADD[T1], TILESTORED,
 * TDPBF16PS, TDPBSSD and TDPBSUD. Anything else, and a tile instruction without a configuration, dies of SIGILL as on the real machine.
 * Build: cc -O2 -mavx2 -mfma -shared -fPIC amx_trap.c */
#define _GNU_SOURCE
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

typedef struct {
    uint8_t bytes[64]; /* as LDTILECFG reads it: palette (0: not configured), start row, widths at 16, heights at 48 */
    uint8_t tiles[TILES][ROWS][ROW_BYTES];
} amx_state;

typedef struct {
    int prefix, opcode, mod, reg, rm, vvvv, length; /* prefix: 0 none, 1 66, 2 F3, 3 F2 */
    uint8_t *address;                               /* of the memory operand */
    int64_t stride;
} instruction;

/* Memory of the handler's own, since a thread-local this large or malloc cannot be used in a handler. */
static __thread amx_state *state __attribute__((tls_model("initial-exec")));
static struct sigaction before;
static uint64_t products;

static int width(int tile) { return state->bytes[16 + 2 * tile]; }
static int height(int tile) { return state->bytes[48 + tile]; }

static int64_t reg_value(const ucontext_t *context, int number) {
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return context->uc_mcontext.gregs[order[number]];
}

/* Reads ModRM's memory operand; base + displacement is the address, index << scale the stride of tile rows. */
static void decode_memory(const ucontext_t *context, const uint8_t *code, int high_index, int high_base,
                          instruction *in) {
    int base = in->rm + high_base, displacement = in->mod == 1 ? 1 : in->mod == 2 ? 4 : 0, rip_relative = 0;
    int64_t address = 0;
    if (in->rm == 4) {
        uint8_t sib = code[in->length++];
        int index = (sib >> 3 & 7) + high_index;
        base = (sib & 7) + high_base;
        in->stride = index == 4 ? 0 : reg_value(context, index) << (sib >> 6);
    } else if (in->mod == 0 && in->rm == 5) {
        rip_relative = 1;
    }
    if (in->mod == 0 && (base & 7) == 5)
        displacement = 4;
    else
        address = reg_value(context, base);
    if (displacement == 1) address += (int8_t)code[in->length];
    if (displacement == 4) {
        int32_t value;
        memcpy(&value, code + in->length, 4);
        address += value;
    }
    in->length += displacement;
    if (rip_relative) address += (int64_t)(code + in->length);
    in->address = (uint8_t *)address;
}

/* Three-byte VEX, map 0F38, W0, 128 bit: what all of these instructions have. */
static int decode(const ucontext_t *context, instruction *in) {
    const uint8_t *code = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    memset(in, 0, sizeof *in);
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84)) return 0;
    in->prefix = code[2] & 3;
    in->vvvv = ~code[2] >> 3 & 15;
    in->opcode = code[3];
    in->mod = code[4] >> 6;
    in->reg = code[4] >> 3 & 7;
    in->rm = code[4] & 7;
    in->length = 5;
    if (in->mod != 3) decode_memory(context, code, code[1] & 0x40 ? 0 : 8, code[1] & 0x20 ? 0 : 8, in);
    return 1;
}

/* FP32 FMA with denormals flushed, even and odd elements of the pairs summed apart, then together, then added to C. */
static void multiply(int c, int a, int b) {
    _mm_setcsr(0x9fc0); /* FTZ, DAZ, exceptions masked, round to nearest; sigreturn restores the thread's own */
    for (int m = 0; m < height(c); m++) {
        float even[16] = {0}, odd[16] = {0}, *out = (float *)state->tiles[c][m];
        const uint32_t *row = (const uint32_t *)state->tiles[a][m];
        for (int k = 0; k < width(a) / 4; k++) {
            const uint32_t *column = (const uint32_t *)state->tiles[b][k];
            float low, high;
            memcpy(&low, &(uint32_t){row[k] << 16}, 4);
            memcpy(&high, &(uint32_t){row[k] & 0xffff0000u}, 4);
            for (int n = 0; n < 16; n++) {
                union { uint32_t bits; float value; } x = {column[n] << 16}, y = {column[n] & 0xffff0000u};
                even[n] = __builtin_fmaf(low, x.value, even[n]);
                odd[n] = __builtin_fmaf(high, y.value, odd[n]);
            }
        }
        for (int n = 0; n < width(c) / 4; n++) out[n] += even[n] + odd[n];
    }
    __atomic_fetch_add(&products, 1, __ATOMIC_RELAXED);
}

/* Signed bytes of A times signed or unsigned ones of B, added to 32 bits that wrap around. */
static void multiply_bytes(int c, int a, int b, int is_signed) {
    for (int m = 0; m < height(c); m++) {
        uint32_t *out = (uint32_t *)state->tiles[c][m];
        const int8_t *row = (const int8_t *)state->tiles[a][m];
        for (int k = 0; k < width(a); k++)
            for (int n = 0; n < width(c) / 4; n++) {
                uint8_t column = state->tiles[b][k / 4][4 * n + k % 4];
                out[n] += (uint32_t)(row[k] * (is_signed ? (int8_t)column : column));
            }
    }
    __atomic_fetch_add(&products, 1, __ATOMIC_RELAXED);
}

static void load(int tile, const uint8_t *address, int64_t stride) {
    memset(state->tiles[tile], 0, sizeof state->tiles[tile]);
    for (int row = 0; row < height(tile); row++) memcpy(state->tiles[tile][row], address + row * stride, width(tile));
}

static void store(int tile, uint8_t *address, int64_t stride) {
    for (int row = 0; row < height(tile); row++) memcpy(address + row * stride, state->tiles[tile][row], width(tile));
}

static int configured(int tile) { return state->bytes[0] == 1 && tile < TILES && width(tile) && height(tile); }

static int configure(const uint8_t *bytes) {
    if (bytes[0] != 1) return 0;
    for (int tile = 0; tile < TILES; tile++)
        if (bytes[16 + 2 * tile] > ROW_BYTES || bytes[17 + 2 * tile] || bytes[48 + tile] > ROWS) return 0;
    memcpy(state->bytes, bytes, sizeof state->bytes);
    memset(state->tiles, 0, sizeof state->tiles);
    return 1;
}

static int execute(const instruction *in) {
    int memory = in->mod != 3;
    if (in->opcode == 0x49 && in->prefix == 0 && memory) return configure(in->address);
    if (in->opcode == 0x49 && in->prefix == 0) return memset(state, 0, sizeof *state), 1;
    if (!configured(in->reg)) return 0;
    if (in->opcode == 0x49 && in->prefix == 3 && !memory)
        return memset(state->tiles[in->reg], 0, sizeof state->tiles[in->reg]), 1;
    if (in->opcode == 0x4b && memory && in->prefix == 2) return store(in->reg, in->address, in->stride), 1;
    if (in->opcode == 0x4b && memory && in->prefix) return load(in->reg, in->address, in->stride), 1;
    if (!memory && configured(in->rm) && configured(in->vvvv)) {
        if (in->reg == in->rm || in->reg == in->vvvv || in->rm == in->vvvv) return 0;
        if (in->opcode == 0x5c && in->prefix == 2) return multiply(in->reg, in->rm, in->vvvv), 1;
        if (in->opcode == 0x5e && in->prefix >= 2) return multiply_bytes(in->reg, in->rm, in->vvvv, in->prefix == 3), 1;
    }
    return 0;
}

static void handle(int signal, siginfo_t *info, void *opaque) {
    ucontext_t *context = opaque;
    instruction in;
    (void)signal, (void)info;
    if (!state) state = mmap(0, sizeof *state, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (decode(context, &in) && execute(&in))
        context->uc_mcontext.gregs[REG_RIP] += in.length;
    else
        sigaction(SIGILL, &before, 0); /* not ours: faults again, into the handler that was there before */
}

int amx_trap_install(void) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
    return sigaction(SIGILL, &action, &before);
}

int amx_trap_remove(void) { return sigaction(SIGILL, &before, 0); }

/* Products of tiles executed so far, in all threads. */
uint64_t amx_trap_products(void) { return __atomic_load_n(&products, __ATOMIC_RELAXED); }
