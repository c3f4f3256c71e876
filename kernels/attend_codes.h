/* The two products of attention for few rows on keys and values in int8, whose codes become bf16 where they are used: the
 * sums of attend_tiles.h over tiles that are expanded before, in the same order. Each ISA has a `tile_codes`. */
#ifndef ELLM_ATTEND_CODES_H
#define ELLM_ATTEND_CODES_H

#ifdef __AMX_BF16__
#include "tile_codes_amx.h"
#elif defined __AVX512BF16__
#include "tile_codes_avx512.h"
#endif

#define CODES_FEW ELLM_TILE_N /* most rows: of more, keys and values are better expanded once for all of them */

#endif
