/* The noise sampler in portable C99 with GCC's vector extensions: GCC 7 or clang, x86-64 or aarch64, libc only.
 *
 * What it computes is said in randomness.py (which random word serves what) and reference.py (the law) for a
 * collection, and in elements.py for independent noise. The same words give the same noise as there, to within
 * 4e-6 * scale; and every path below gives the same bits as every other, so nothing here may be contracted, reordered or
 * approximated by the compiler: -ffp-contract=off, never -ffast-math.
 *
 * How, for a collection. A tile is 256 ranks, which 16 blocks of ChaCha20 serve. A lane of a vector is a block, so
 * vector j of a tile holds word j of each block, and tiles stay in that order: rank r has its place at
 * 256 * (r / 256) + 16 * (r % 16) + r / 16 % 16. The caller's table holds places instead of ranks. Pass 1 draws every tile's exponential variates and
 * counts M; pass 2 sums outward from rank M, and writes loc + scale * sample; then each element takes its sample.
 *
 * How, for independent noise. Tile by tile: the variates in that order, which keeps the two words of a pair in one lane
 * of two vectors; then the tile turned into the values' own order; then loc + scale * u, added and written at once.
 * With a matrix, scale * u of up to GROUP requests is kept, and multiplied by a panel of PANEL rows at a time.
 *
 * This file includes itself, once for every number of lanes it is compiled for (LANES).
 */
#ifndef LANES

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define SHARED __attribute__((noinline)) /* called from several places, and too long for a copy in each */
#define JOIN_(name, lanes) name##_##lanes
#define JOIN(name, lanes) JOIN_(name, lanes)
#define NAME(name) JOIN(name, LANES)

/* No element of a loop depends on another one, though input and output may be one and the same array. */
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

enum { TILE = 256, BLOCK = 16, PANEL = 16, GROUP = 4, VERSION = 2 };

/* What stays the same from request to request. places: [distributions, n], uint16 or (wide) uint32. path: which way
 * through this file, at most edgecut_noise_widest_path(). */
struct edgecut_noise_table {
    uint64_t n;
    uint32_t distributions;
    uint32_t wide;
    uint32_t path;
    const float *loc;
    const float *scale;
    const void *places;
};

/* The same for independent noise. normal: whether u is normal, Laplace otherwise. silent: whether every scale is 0, so
 * that no word is drawn. mixing: [panels, n, PANEL], the matrix's rows PANEL at a time, 0 beyond the last; or NULL. */
struct edgecut_noise_elements {
    uint64_t n;
    uint32_t normal;
    uint32_t silent;
    const float *loc;
    const float *scale;
    const float *mixing;
};

/* One request's: ChaCha20's state with counter 0; what to add the noise to, or NULL; where to, float32 or int8. */
struct request {
    uint32_t state[BLOCK];
    const float *activation;
    float *sums;
    int8_t *levels;
    float inverse_step;
};

static const uint32_t LANE[BLOCK] __attribute__((aligned(64))) = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Zeros that the compiler may not leave out as never read. */
static void wipe(void *memory, size_t bytes)
{
    memset(memory, 0, bytes);
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}

/* Zeros over what the functions called before left on the stack: key, keystream and sums that registers spilled. */
static __attribute__((noinline)) void wipe_stack(void)
{
    unsigned char below[4096];
    wipe(below, sizeof below);
}

static uint32_t little_endian(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* RFC 8439, section 2.3. */
static void set_state(uint32_t state[BLOCK], const uint8_t *key, const uint8_t *nonce, uint32_t counter)
{
    static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}; /* "expand 32-byte k" */
    for (int i = 0; i < 4; i++)
        state[i] = constants[i];
    for (int i = 0; i < 8; i++)
        state[4 + i] = little_endian(key + 4 * i);
    state[12] = counter;
    for (int i = 0; i < 3; i++)
        state[13 + i] = little_endian(nonce + 4 * i);
}

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define QUARTER(a, b, c, d, ROTATE16, ROTATE8) \
    a += b, d ^= a, d = ROTATE16(d), c += d, b ^= c, b = ROTATE(b, 12), \
    a += b, d ^= a, d = ROTATE8(d), c += d, b ^= c, b = ROTATE(b, 7)
/* RFC 8439, section 2.3: columns, then diagonals. */
#define DOUBLE_ROUND(x, R16, R8) \
    QUARTER(x[0], x[4], x[8], x[12], R16, R8); \
    QUARTER(x[1], x[5], x[9], x[13], R16, R8); \
    QUARTER(x[2], x[6], x[10], x[14], R16, R8); \
    QUARTER(x[3], x[7], x[11], x[15], R16, R8); \
    QUARTER(x[0], x[5], x[10], x[15], R16, R8); \
    QUARTER(x[1], x[6], x[11], x[12], R16, R8); \
    QUARTER(x[2], x[7], x[8], x[13], R16, R8); \
    QUARTER(x[3], x[4], x[9], x[14], R16, R8)
#define ROTATE_BY_16(x) ROTATE(x, 16)
#define ROTATE_BY_8(x) ROTATE(x, 8)

/* AVX2 rotates no words, but it moves bytes: one instruction where a shift each way and an or are three. */
typedef uint8_t bytes_8 __attribute__((vector_size(32), may_alias));
#define MOVES_4(a, b, c, d) a, b, c, d, 4 + a, 4 + b, 4 + c, 4 + d
#define MOVES_16(a, b, c, d) MOVES_4(a, b, c, d), MOVES_4(8 + a, 8 + b, 8 + c, 8 + d)
#define MOVES(a, b, c, d) MOVES_16(a, b, c, d), MOVES_16(16 + a, 16 + b, 16 + c, 16 + d)
#if defined(__clang__)
#define MOVE(x, a, b, c, d) (words_t_8) __builtin_shufflevector((bytes_8)(x), (bytes_8)(x), MOVES(a, b, c, d))
#else
#define MOVE(x, a, b, c, d) (words_t_8) __builtin_shuffle((bytes_8)(x), (bytes_8){MOVES(a, b, c, d)})
#endif
#define MOVE_BY_16(x) MOVE(x, 2, 3, 0, 1)
#define MOVE_BY_8(x) MOVE(x, 3, 0, 1, 2)

/* The distribution that block 0 chooses; see randomness.distribution_index. */
static uint32_t choose(const uint32_t state[BLOCK], uint32_t distributions)
{
    uint32_t x[BLOCK], word = 0;
    uint64_t bound = ((uint64_t)1 << 32) / distributions * distributions;
    memcpy(x, state, sizeof x);
    for (int i = 0; i < 10; i++) {
        DOUBLE_ROUND(x, ROTATE_BY_16, ROTATE_BY_8);
    }
    for (int i = 0; i < BLOCK; i++) {
        word = x[i] + state[i];
        if (word < bound)
            break;
    }
    wipe(x, sizeof x);
    return word % distributions;
}

typedef float four_t __attribute__((vector_size(16), may_alias));
#if defined(__clang__)
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t picks_t __attribute__((vector_size(16)));
#define PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (picks_t){i, j, k, l})
#endif

/* The first `blocks` blocks of a tile from word j of each block to the words of block i: 16 by 16, transposed. */
INLINE void turn(const float *tile, float *turned, uint64_t blocks)
{
    for (uint64_t i = 0; i < blocks; i += 4)
        for (int j = 0; j < BLOCK; j += 4) {
            const four_t a = *(const four_t *)(tile + BLOCK * j + i), b = *(const four_t *)(tile + BLOCK * (j + 1) + i);
            const four_t c = *(const four_t *)(tile + BLOCK * (j + 2) + i);
            const four_t d = *(const four_t *)(tile + BLOCK * (j + 3) + i);
            const four_t ab = PICK(a, b, 0, 4, 1, 5), cd = PICK(c, d, 0, 4, 1, 5);
            const four_t ab_high = PICK(a, b, 2, 6, 3, 7), cd_high = PICK(c, d, 2, 6, 3, 7);
            float *to = turned + BLOCK * i + j;
            *(four_t *)to = PICK(ab, cd, 0, 1, 4, 5);
            *(four_t *)(to + BLOCK) = PICK(ab, cd, 2, 3, 6, 7);
            *(four_t *)(to + 2 * BLOCK) = PICK(ab_high, cd_high, 0, 1, 4, 5);
            *(four_t *)(to + 3 * BLOCK) = PICK(ab_high, cd_high, 2, 3, 6, 7);
        }
}

/* n up to whole tiles. */
INLINE uint64_t padded(uint64_t n)
{
    return (n + TILE - 1) / TILE * TILE;
}

/* Which way pass 2 goes from rank M, and what the last loop writes. */
enum { LEFT, RIGHT };
enum { NOISE, SUMS, LEVELS };

#define LANES 4
#define TARGET
#include "noise.c"
#undef LANES
#undef TARGET

#if defined(__x86_64__) && !defined(EDGECUT_NOISE_PORTABLE)
#define LANES 8
#define TARGET __attribute__((target("avx2")))
#include "noise.c"
#undef LANES
#undef TARGET

#define LANES 16
#if defined(__clang__) || __GNUC__ < 8
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw")))
#else /* the last loop, which the compiler vectorises, is a little faster with 8 lanes */
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,prefer-vector-width=256")))
#endif
#include "noise.c"
#undef LANES
#undef TARGET
#endif

struct path {
    uint64_t (*serve)(const struct edgecut_noise_table *, const struct request *, uint32_t, float *);
    void (*words)(const uint32_t *, uint32_t *);
    void (*elements)(const struct edgecut_noise_elements *, const struct request *, int, float *);
};

/* In the order of their numbers: 0 portable, 1 AVX2, 2 AVX-512. */
static const struct path PATHS[] = {
    {serve_4, words_4, elements_4},
#if defined(__x86_64__) && !defined(EDGECUT_NOISE_PORTABLE)
    {serve_8, words_8, elements_8},
    {serve_16, words_16, elements_16},
#endif
};

EXPORT int edgecut_noise_version(void)
{
    return VERSION;
}

/* The number of the widest path that this processor, and the system on it, can run; every smaller one can run, too. */
EXPORT int edgecut_noise_widest_path(void)
{
#if defined(__x86_64__) && !defined(EDGECUT_NOISE_PORTABLE)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return 2;
    if (__builtin_cpu_supports("avx2"))
        return 1;
#endif
    return 0;
}

/* Bytes of working memory for requests of n elements. */
EXPORT uint64_t edgecut_noise_scratch_bytes(uint64_t n)
{
    return padded(n) * sizeof(float) + 64;
}

/* The 16 blocks from `counter` on, uint32 [16, 16], as the path `path` makes them: for tests. */
EXPORT void edgecut_noise_words(int path, const uint8_t *key, const uint8_t *nonce, uint32_t counter, uint32_t *words)
{
    uint32_t state[BLOCK];
    set_state(state, key, nonce, counter);
    PATHS[path].words(state, words);
    wipe(state, sizeof state);
}

/* As edgecut_noise_fill, by the path `path`, and with each request's distribution and M to uint64 [batch, 2] `trace`
 * (or NULL): for tests. */
EXPORT void edgecut_noise_fill_traced(const struct edgecut_noise_table *table, const uint8_t *key,
                                      const uint8_t *nonces, uint64_t batch, const float *activation, void *out,
                                      float inverse_step, void *scratch, uint32_t path, uint64_t *trace)
{
    float *tiles = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    const int in_steps = inverse_step > 0;
    struct request request;
    for (uint64_t row = 0; row < batch; row++) {
        uint64_t start = row * table->n, negatives;
        uint32_t distribution;
        set_state(request.state, key, nonces + 12 * row, 0);
        request.activation = activation ? activation + start : NULL;
        request.sums = in_steps ? NULL : (float *)out + start;
        request.levels = in_steps ? (int8_t *)out + start : NULL;
        request.inverse_step = inverse_step;
        distribution = choose(request.state, table->distributions);
        negatives = PATHS[path].serve(table, &request, distribution, tiles);
        if (trace) {
            trace[2 * row] = distribution;
            trace[2 * row + 1] = negatives;
        }
    }
    wipe(scratch, edgecut_noise_scratch_bytes(table->n));
    wipe(&request, sizeof request);
    wipe_stack();
}

/* Serve `batch` requests, a row each, with nonces [batch, 12] under one key.
 *
 * activation -- float32 [batch, n], or NULL for the noise alone.
 * inverse_step -- 0, or, with an activation, positive: whether and how to write int8.
 * out -- [batch, n]: float32 activation + noise, which may go where the activation is; or int8, which is
 * reference.reference_int8 of the same sums.
 * scratch -- edgecut_noise_scratch_bytes(n), for this call alone; left as zeros.
 */
EXPORT void edgecut_noise_fill(const struct edgecut_noise_table *table, const uint8_t *key, const uint8_t *nonces,
                               uint64_t batch, const float *activation, void *out, float inverse_step, void *scratch)
{
    edgecut_noise_fill_traced(table, key, nonces, batch, activation, out, inverse_step, scratch, table->path, NULL);
}

/* Bytes of working memory for edgecut_noise_fill_elements. */
EXPORT uint64_t edgecut_noise_elements_scratch_bytes(uint64_t n, int mixed)
{
    return (2 * TILE + (mixed ? GROUP * padded(n) : 0)) * sizeof(float) + 64;
}

/* As edgecut_noise_fill, for independent noise, by the path `path`; scratch: edgecut_noise_elements_scratch_bytes. */
EXPORT void edgecut_noise_fill_elements(const struct edgecut_noise_elements *table, const uint8_t *key,
                                        const uint8_t *nonces, uint64_t batch, const float *activation, void *out,
                                        float inverse_step, void *scratch, uint32_t path)
{
    float *memory = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    const int in_steps = inverse_step > 0, mixed = table->mixing && !table->silent;
    struct request group[GROUP];
    for (uint64_t row = 0; row < batch;) {
        /* The matrix is read once for a whole group. */
        const int count = mixed && batch - row >= GROUP ? GROUP : 1;
        for (int i = 0; i < count; i++, row++) {
            uint64_t start = row * table->n;
            set_state(group[i].state, key, nonces + 12 * row, 0);
            group[i].activation = activation ? activation + start : NULL;
            group[i].sums = in_steps ? NULL : (float *)out + start;
            group[i].levels = in_steps ? (int8_t *)out + start : NULL;
            group[i].inverse_step = inverse_step;
        }
        PATHS[path].elements(table, group, count, memory);
    }
    wipe(scratch, edgecut_noise_elements_scratch_bytes(table->n, table->mixing != NULL));
    wipe(group, sizeof group);
    wipe_stack();
}

#else /* LANES: what follows is compiled for each number of lanes. */

typedef uint32_t NAME(words_t) __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t NAME(masks_t) __attribute__((vector_size(4 * LANES), may_alias));
typedef float NAME(floats_t) __attribute__((vector_size(4 * LANES), may_alias));
typedef float NAME(anywhere_t) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define WORDS NAME(words_t)
#define MASKS NAME(masks_t)
#define FLOATS NAME(floats_t)
#define SPLAT(type, value) ((type){0} + (value))

/* A block from each lane: lane i's has counter state[12] + first + i. */
INLINE TARGET void NAME(blocks)(const uint32_t state[BLOCK], uint32_t first, WORDS x[BLOCK])
{
    WORDS counters = SPLAT(WORDS, state[12] + first) + *(const WORDS *)LANE;
    for (int i = 0; i < BLOCK; i++)
        x[i] = SPLAT(WORDS, state[i]);
    x[12] = counters;
    for (int i = 0; i < 10; i++) {
#if LANES == 8
        DOUBLE_ROUND(x, MOVE_BY_16, MOVE_BY_8);
#else
        DOUBLE_ROUND(x, ROTATE_BY_16, ROTATE_BY_8);
#endif
    }
    for (int i = 0; i < BLOCK; i++)
        x[i] += state[i];
    x[12] += counters - state[12];
}

static TARGET void NAME(words)(const uint32_t *state, uint32_t *words)
{
    WORDS x[BLOCK];
    for (int first = 0; first < BLOCK; first += LANES) {
        NAME(blocks)(state, first, x);
        for (int lane = 0; lane < LANES; lane++)
            for (int j = 0; j < BLOCK; j++)
                words[BLOCK * (first + lane) + j] = x[j][lane];
    }
    wipe(x, sizeof x);
}

/* E = -ln(((w >> 9) + 1/2) * 2^-23), with a relative error below 2e-7 (tests/noise_kernels/test_native.py).
 *
 * (w >> 9) + 1/2 is exact, and is taken apart as 2^e * (1 + f) with 1 + f from sqrt(1/2) to sqrt(2). The polynomial for
 * ln(1 + f) was fitted for this file, for the smallest greatest error relative to the logarithm.
 */
INLINE TARGET FLOATS NAME(exponentials)(WORDS w)
{
    FLOATS x = (FLOATS)(w >> 9 | 0x4b000000) - 8388607.5f; /* 2^23 + (w >> 9), less 2^23 - 1/2 */
    WORDS shifted = (WORDS)x + (0x3f800000 - 0x3f3504f3);  /* by 1 / sqrt(1/2), so that f lies on both sides of 0 */
    FLOATS e = (FLOATS)(shifted >> 23 | 0x4b000000) - (8388608.0f + 127 + 23);
    FLOATS f = (FLOATS)((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
    FLOATS q = SPLAT(FLOATS, 0x1.65c766p-4f);
    q = q * f + -0x1.25049ap-3f;
    q = q * f + 0x1.318526p-3f;
    q = q * f + -0x1.535d3p-3f;
    q = q * f + 0x1.98d2cp-3f;
    q = q * f + -0x1.00049ap-2f;
    q = q * f + 0x1.5556f4p-2f;
    q = q * f + -0x1.fffffap-2f;
    return e * -0x1.62e43p-1f - (f + f * f * q);
}

/* Pass 1: the variates of all ranks, in the tiles' order, and M. Places beyond rank n - 1 get 0. */
INLINE TARGET uint64_t NAME(draw)(const uint32_t state[BLOCK], float *tiles, uint64_t n)
{
    const WORDS ranks = *(const WORDS *)LANE * BLOCK;
    uint64_t negatives = 0;
    for (uint64_t tile = 0; tile < n; tile += TILE) {
        WORDS odd = SPLAT(WORDS, 0);
        for (int lane = 0; lane < BLOCK; lane += LANES) {
            FLOATS *e = (FLOATS *)(tiles + tile + lane);
            uint64_t first = tile + BLOCK * lane;
            WORDS x[BLOCK];
            if (first >= n) {
                for (int j = 0; j < BLOCK; j++)
                    e[BLOCK / LANES * j] = SPLAT(FLOATS, 0);
                continue;
            }
            NAME(blocks)(state, (uint32_t)(first / BLOCK) + 1, x);
            if (first + BLOCK * LANES <= n) {
                for (int j = 0; j < BLOCK; j++) {
                    odd += x[j] & 1;
                    e[BLOCK / LANES * j] = NAME(exponentials)(x[j]);
                }
            } else {
                for (int j = 0; j < BLOCK; j++) {
                    WORDS there = (WORDS)(ranks + j < SPLAT(WORDS, (uint32_t)(n - first)));
                    odd += x[j] & 1 & there;
                    e[BLOCK / LANES * j] = (FLOATS)((WORDS)NAME(exponentials)(x[j]) & there);
                }
            }
        }
        for (int lane = 0; lane < LANES; lane++)
            negatives += odd[lane];
    }
    return negatives;
}

/* Pass 2 on one tile: from variates to loc + scale * sample (LEFT: loc - ...) for its ranks first..past - 1.
 *
 * `sum` is what the tiles between this one and rank M sum up to; returned with this tile's added. Within a lane the sum
 * is float32's; a lane starts from the float64 sum, rounded, and is held to where the next one starts, without which
 * rounding could put two neighbours in the wrong order.
 * partial: whether the tile has ranks outside first..past - 1; those are left as they are.
 */
INLINE TARGET double NAME(outward)(float *tile, int way, int partial, uint64_t start, uint64_t first, uint64_t past,
                                   uint64_t n, double sum, float loc, float scale)
{
    float sums[TILE] __attribute__((aligned(64)));
    float begins[BLOCK] __attribute__((aligned(64))), ends[BLOCK] __attribute__((aligned(64)));
    const int nearest = way == LEFT ? BLOCK - 1 : 0, farthest = BLOCK - 1 - nearest, step = way == LEFT ? -1 : 1;
    const WORDS low = SPLAT(WORDS, (uint32_t)(first - start)), high = SPLAT(WORDS, (uint32_t)(past - start));
    for (int lane = 0; lane < BLOCK; lane += LANES) {
        const WORDS ranks = *(const WORDS *)(LANE + lane) * BLOCK;
        const FLOATS offsets = (FLOATS)(ranks | 0x4b000000) - 8388608.0f;
        FLOATS total = SPLAT(FLOATS, 0);
        for (int count = 0, j = nearest; count < BLOCK; count++, j += step) {
            /* Rank k is divided by k + 1 on the left, by n - k on the right (k from 0). */
            FLOATS divisor = way == LEFT ? offsets + (float)(start + 1 + j) : (float)((int64_t)(n - start) - j) - offsets;
            FLOATS quotient = *(const FLOATS *)(tile + BLOCK * j + lane) / divisor;
            if (partial)
                quotient = (FLOATS)((WORDS)quotient & (WORDS)(ranks + j >= low) & (WORDS)(ranks + j < high));
            total += quotient;
            *(FLOATS *)(sums + BLOCK * j + lane) = total;
        }
    }
    for (int count = 0, lane = nearest; count < BLOCK; count++, lane += step) {
        begins[lane] = (float)sum;
        sum += sums[BLOCK * farthest + lane];
        ends[lane] = (float)sum;
    }
    if (way == LEFT)
        scale = -scale;
    for (int lane = 0; lane < BLOCK; lane += LANES) {
        const WORDS ranks = *(const WORDS *)(LANE + lane) * BLOCK;
        const FLOATS begin = *(const FLOATS *)(begins + lane), end = *(const FLOATS *)(ends + lane);
        for (int j = 0; j < BLOCK; j++) {
            FLOATS *place = (FLOATS *)(tile + BLOCK * j + lane);
            FLOATS x = begin + *(const FLOATS *)(sums + BLOCK * j + lane);
            MASKS over = x > end;
            x = (FLOATS)(((MASKS)end & over) | ((MASKS)x & ~over));
            x = loc + scale * x;
            if (partial) {
                WORDS mine = (WORDS)(ranks + j >= low) & (WORDS)(ranks + j < high);
                x = (FLOATS)(((WORDS)x & mine) | (*(const WORDS *)place & ~mine));
            }
            *place = x;
        }
    }
    return sum;
}

/* Element i's noise x to where it goes. */
INLINE TARGET void NAME(write)(const float *activation, float *sums, int8_t *levels, float inverse_step, uint64_t i,
                               float x, int what)
{
    if (what != NOISE)
        x = activation[i] + x;
    if (what != LEVELS) {
        sums[i] = x;
    } else {
        x *= inverse_step;
        x = x > -128.0f ? x : -128.0f; /* NaN becomes -128, too */
        x = x < 127.0f ? x : 127.0f;
        levels[i] = (int8_t)(int32_t)(x + 12582912.0f - 12582912.0f); /* 1.5 * 2^23: rounds half to even */
    }
}

/* Give each element its sample. */
INLINE TARGET void NAME(put)(const float *samples, const struct edgecut_noise_table *table, uint32_t distribution,
                             const struct request *request, int wide, int what)
{
    const uint64_t n = table->n;
    const uint16_t *narrow_places = (const uint16_t *)table->places + distribution * n;
    const uint32_t *wide_places = (const uint32_t *)table->places + distribution * n;
    const float *activation = request->activation;
    float *sums = request->sums;
    int8_t *levels = request->levels;
    const float inverse_step = request->inverse_step;
    INDEPENDENT
    for (uint64_t i = 0; i < n; i++) {
        float x = samples[wide ? (int32_t)wide_places[i] : (int32_t)narrow_places[i]];
        NAME(write)(activation, sums, levels, inverse_step, i, x, what);
    }
}

/* One request from its state to its row of the output; returns M. */
static TARGET uint64_t NAME(serve)(const struct edgecut_noise_table *table, const struct request *request,
                                   uint32_t distribution, float *tiles)
{
    const uint64_t n = table->n, negatives = NAME(draw)(request->state, tiles, n);
    const float loc = table->loc[distribution], scale = table->scale[distribution];
    const int what = request->levels ? LEVELS : request->activation ? SUMS : NOISE;
    double sum = 0;
    for (uint64_t past = negatives; past > 0;) {
        uint64_t start = (past - 1) / TILE * TILE;
        if (past == start + TILE)
            sum = NAME(outward)(tiles + start, LEFT, 0, start, start, past, n, sum, loc, scale);
        else
            sum = NAME(outward)(tiles + start, LEFT, 1, start, start, past, n, sum, loc, scale);
        past = start;
    }
    sum = 0;
    for (uint64_t first = negatives; first < n;) {
        uint64_t start = first / TILE * TILE, past = start + TILE < n ? start + TILE : n;
        if (first == start && past == start + TILE)
            sum = NAME(outward)(tiles + start, RIGHT, 0, start, first, past, n, sum, loc, scale);
        else
            sum = NAME(outward)(tiles + start, RIGHT, 1, start, first, past, n, sum, loc, scale);
        first = past;
    }
    if (table->wide) {
        if (what == NOISE)
            NAME(put)(tiles, table, distribution, request, 1, NOISE);
        else if (what == SUMS)
            NAME(put)(tiles, table, distribution, request, 1, SUMS);
        else
            NAME(put)(tiles, table, distribution, request, 1, LEVELS);
    } else if (what == NOISE) {
        NAME(put)(tiles, table, distribution, request, 0, NOISE);
    } else if (what == SUMS) {
        NAME(put)(tiles, table, distribution, request, 0, SUMS);
    } else {
        NAME(put)(tiles, table, distribution, request, 0, LEVELS);
    }
    return negatives;
}

/* Cosine and sine of 2 pi ((w >> 9) + 1/2) * 2^-23, each within 9e-8 (tried for every word).
 *
 * The angle is that many quarter turns, from 0 to 4, and z eighths of a turn; z is exact, from -1 to 1. The polynomials
 * for cos(z pi / 4) and sin(z pi / 4) / z in z^2 were fitted for this file, for the smallest greatest relative error.
 */
INLINE TARGET void NAME(circle)(WORDS w, FLOATS *cosine, FLOATS *sine)
{
    const WORDS angle = w >> 8 | 1, quarters = (angle + (1 << 21)) >> 22; /* the angle: 2^24 a turn */
    /* 2^23 + 2^21 and on, as the difference may be negative. */
    const FLOATS z = ((FLOATS)((angle - (quarters << 22) + 0x4b200000)) - 10485760.0f) * 0x1p-21f, square = z * z;
    FLOATS c = square * 0x1.d9d57ep-19f + -0x1.55c5ep-12f;
    FLOATS s = square * -0x1.2d9302p-15f + 0x1.465e92p-9f;
    c = c * square + 0x1.03c1dep-6f;
    s = s * square + -0x1.4abbbap-4f;
    c = c * square + -0x1.3bd3ccp-2f;
    s = s * square + 0x1.921fb6p-1f;
    c = c * square + 1.0f;
    s = s * z;
    /* An odd number of quarters makes one of the other; the second and third quarter have the signs' bits. */
    const WORDS swap = -(quarters & 1);
    *cosine = (FLOATS)((((WORDS)s & swap) | ((WORDS)c & ~swap)) ^ (((quarters + 1) & 2) << 30));
    *sine = (FLOATS)((((WORDS)c & swap) | ((WORDS)s & ~swap)) ^ ((quarters & 2) << 30));
}

/* u of Laplace's law: E with the word's lowest bit as its sign. */
INLINE TARGET void NAME(two_sided)(const WORDS x[BLOCK], float *tile)
{
    for (int j = 0; j < BLOCK; j++)
        *(WORDS *)(tile + BLOCK * j) = (WORDS)NAME(exponentials)(x[j]) ^ x[j] << 31;
}

/* u of the normal law, by pairs of words. */
INLINE TARGET void NAME(pairs)(const WORDS x[BLOCK], float *tile)
{
    float radius[BLOCK / 2 * LANES] __attribute__((aligned(64)));
    for (int p = 0; p < BLOCK / 2; p++)
        *(FLOATS *)(radius + LANES * p) = NAME(exponentials)(x[2 * p]) * 2.0f;
    for (int i = 0; i < BLOCK / 2 * LANES; i++)
        radius[i] = __builtin_sqrtf(radius[i]); /* exactly rounded, an instruction; vectors have no operator for it */
    for (int p = 0; p < BLOCK / 2; p++) {
        const FLOATS r = *(const FLOATS *)(radius + LANES * p);
        FLOATS cosine, sine;
        NAME(circle)(x[2 * p + 1], &cosine, &sine);
        *(FLOATS *)(tile + BLOCK * 2 * p) = r * cosine;
        *(FLOATS *)(tile + BLOCK * (2 * p + 1)) = r * sine;
    }
}

/* u of the values from `start` on, of n, up to a tile of them, to `values`; both have room for a tile. */
static TARGET SHARED void NAME(standard)(const uint32_t state[BLOCK], int normal, uint64_t start, uint64_t n,
                                         float *tile, float *values)
{
    const uint64_t blocks = n - start < TILE ? (n - start + BLOCK - 1) / BLOCK : BLOCK;
    for (uint64_t lane = 0; lane < blocks; lane += LANES) {
        WORDS x[BLOCK];
        NAME(blocks)(state, (uint32_t)(start / BLOCK + lane) + 1, x);
        if (normal)
            NAME(pairs)(x, tile + lane);
        else
            NAME(two_sided)(x, tile + lane);
    }
    turn(tile, values, blocks);
}

/* loc + scale * u, or loc + what is scaled already, to where it goes: the elements from `start` on, `count` of them. */
INLINE TARGET void NAME(give)(const struct edgecut_noise_elements *table, const struct request *request,
                              const float *values, int scaled, uint64_t start, uint64_t count, int what)
{
    const float *loc = table->loc + start, *scale = table->scale + start;
    const float *activation = what == NOISE ? NULL : request->activation + start;
    float *sums = what == LEVELS ? NULL : request->sums + start;
    int8_t *levels = what == LEVELS ? request->levels + start : NULL;
    const float inverse_step = request->inverse_step;
    INDEPENDENT
    for (uint64_t i = 0; i < count; i++)
        NAME(write)(activation, sums, levels, inverse_step, i, loc[i] + (scaled ? values[i] : scale[i] * values[i]),
                    what);
}

/* Requests without a matrix. */
INLINE TARGET void NAME(plain)(const struct edgecut_noise_elements *table, const struct request *request, int what,
                               float *memory)
{
    const uint64_t n = table->n;
    float *values = memory + TILE;
    if (table->silent)
        memset(values, 0, TILE * sizeof(float));
    for (uint64_t start = 0; start < n; start += TILE) {
        if (!table->silent)
            NAME(standard)(request->state, (int)table->normal, start, n, memory, values);
        NAME(give)(table, request, values, 0, start, n - start < TILE ? n - start : TILE, what);
    }
}

/* The first `width` of a panel's rows times each request's values, [PANEL] for a request to `mixed`. Every sum goes
 * from the first column to the last in float32, whatever the path and however many requests there are. */
INLINE TARGET void NAME(product)(const float *panel, const float *values, uint64_t n, int requests, int width,
                                 float *mixed)
{
    FLOATS sums[GROUP * PANEL / LANES];
    const int vectors = width / LANES;
    for (int i = 0; i < requests * vectors; i++)
        sums[i] = SPLAT(FLOATS, 0);
    for (uint64_t k = 0; k < n; k++, panel += PANEL)
        for (int v = 0; v < vectors; v++) {
            const FLOATS column = *(const NAME(anywhere_t) *)(panel + LANES * v);
            for (int r = 0; r < requests; r++)
                sums[r * vectors + v] += column * values[r * padded(n) + k];
        }
    for (int r = 0; r < requests; r++)
        for (int v = 0; v < vectors; v++)
            *(FLOATS *)(mixed + PANEL * r + LANES * v) = sums[r * vectors + v];
}

static TARGET SHARED void NAME(product_of_one)(const float *panel, const float *values, uint64_t n, float *mixed)
{
    NAME(product)(panel, values, n, 1, PANEL, mixed);
}

static TARGET SHARED void NAME(product_of_group)(const float *panel, const float *values, uint64_t n, float *mixed)
{
    const int width = LANES == 4 ? PANEL / 2 : PANEL; /* no more sums than there are registers */
    for (int first = 0; first < PANEL; first += width)
        NAME(product)(panel + first, values, n, GROUP, width, mixed + first);
}

/* Up to GROUP requests with a matrix. */
INLINE TARGET void NAME(mix)(const struct edgecut_noise_elements *table, const struct request *group, int count,
                             int what, float *memory)
{
    float mixed[GROUP * PANEL] __attribute__((aligned(64)));
    const uint64_t n = table->n;
    float *values = memory + 2 * TILE;
    for (int r = 0; r < count; r++)
        for (uint64_t start = 0; start < n; start += TILE) {
            const uint64_t here = n - start < TILE ? n - start : TILE;
            float *scaled = values + r * padded(n) + start;
            NAME(standard)(group[r].state, (int)table->normal, start, n, memory, scaled);
            for (uint64_t i = 0; i < here; i++)
                scaled[i] *= table->scale[start + i];
        }
    for (uint64_t start = 0; start < n; start += PANEL) {
        const float *panel = table->mixing + start * n;
        if (count < GROUP)
            NAME(product_of_one)(panel, values, n, mixed);
        else
            NAME(product_of_group)(panel, values, n, mixed);
        for (int r = 0; r < count; r++)
            NAME(give)(table, group + r, mixed + PANEL * r, 1, start, n - start < PANEL ? n - start : PANEL, what);
    }
    wipe(mixed, sizeof mixed);
}

/* One request, or with a matrix up to GROUP, from their states to their rows of the output. */
static TARGET void NAME(elements)(const struct edgecut_noise_elements *table, const struct request *group, int count,
                                  float *memory)
{
    const int what = group->levels ? LEVELS : group->activation ? SUMS : NOISE;
    if (table->mixing && !table->silent) {
        if (what == NOISE)
            NAME(mix)(table, group, count, NOISE, memory);
        else if (what == SUMS)
            NAME(mix)(table, group, count, SUMS, memory);
        else
            NAME(mix)(table, group, count, LEVELS, memory);
    } else if (what == NOISE) {
        NAME(plain)(table, group, NOISE, memory);
    } else if (what == SUMS) {
        NAME(plain)(table, group, SUMS, memory);
    } else {
        NAME(plain)(table, group, LEVELS, memory);
    }
}

#undef WORDS
#undef MASKS
#undef FLOATS
#undef SPLAT

#endif
