/* The noise of a request on a GPU: drawn, a collection's without sorting, and added to the activation.

   What is drawn is in reference.py (`sorted_laplace`) for a collection and in elements.py for independent values; which
   random word serves what in randomness.py and again elements.py. One source for nvcc, for NVRTC (meant: 10.2 to 13;
   tried: 11.8, 12.9, 13.5), and for a C++ compiler that is given CUDA's words: nothing is included.

   A thread owns 16 ranks, or values: the words of one ChaCha20 block, in its registers. Inside a thread it is float32,
   rounded as IEEE 754 says and never contracted: the same bits from whatever compiler, on whatever processor.

   Collections: threads of a block, or tiles of 4096 ranks, need of each other only how many of their samples are
   negative, whose sum is M, and then the sums of their steps. Sums between threads are 64-bit integers in units of
   2^-48: they are exact in whatever order they are taken, so the one-block kernel and the tiled ones give the same
   bits, and a prefix minus its value at M loses nothing, however far out.

       n <= 10224   edgecut_noise_block                      one launch, one block a request
       else         edgecut_noise_tiles, _values, _gather    three launches, with E and the samples in global memory

   Independent values need nothing of each other, unless a matrix mixes them. Then every block draws all values of the
   request for itself, which spares a launch and global memory, and gives 64 of the sums, each in one fixed order.

       no matrix    edgecut_noise_elements                   one launch, a block for 1024 values of a request
       a matrix     edgecut_noise_mixed                      one launch, a block for 64, and 8192 at most in all

   All:             edgecut_noise_add                        adds what was drawn before, where that could be done early

   Where an activation is null the noise itself is written, in the order of the elements, to be added later. Where
   `inverse_step` is not 0 the result is int8: clamp(rint((activation + noise) * inverse_step), -128, 127).
   Key and nonces are kernel arguments and never lie in global memory. */

typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define RANKS 16            /* of a thread, or values: the words of a ChaCha20 block */
#define MOST_ROWS 64        /* requests of a launch */
#define BLOCK_THREADS 640   /* of edgecut_noise_block at most: block 0 and 10224 ranks; 48 registers each on a TX2 */
#define TILE_THREADS 256
#define TILE (TILE_THREADS * RANKS)
#define ELEMENT_THREADS 64
#define MIXED_ROWS 64       /* of the matrix, for a block of edgecut_noise_mixed */
#define MOST_WARPS (BLOCK_THREADS / 32)
#define SHARED_BYTES 640    /* of `Exchange`, before the samples */
#define ALL_LANES 0xffffffffu

struct Seeds {
    u32 key[8];
    u32 nonces[MOST_ROWS][3];
};

struct Tables {
    const void *ranks;      /* [distributions][n]: uint16 where n <= 65536, else uint32 */
    const float *loc;
    const float *scale;
    u32 n;
    u32 distributions;
};

struct Elements {
    const float *loc;       /* [values] */
    const float *scale;     /* [values] */
    const float *mixing;    /* [values][values], or null */
    u32 values;
    u32 normal;             /* the law: 1 for standard normal, 0 for Laplace */
};

struct Scratch {
    float *steps;           /* [row][tiles * TILE]: E, each thread's 16 ranks TILE_THREADS apart */
    float *samples;         /* the noise by rank, in the same order */
    i64 *below;             /* [row][tiles]: sum of E_i / i over the tile */
    i64 *above;             /* [row][tiles]: sum of E_i / (n + 1 - i) */
    u32 *negatives;         /* [row][tiles] */
    u32 *chosen;            /* [row]: the distribution */
    u32 tiles;
};

/* What the threads of a block tell each other; a field for each use, so that one barrier a use is enough. */
struct Exchange {
    i64 steps[MOST_WARPS];
    i64 starts[MOST_WARPS];
    i64 sums[2][TILE_THREADS / 32];
    u32 counts[MOST_WARPS];
    u32 chosen;
};

static_assert(sizeof(Exchange) <= SHARED_BYTES, "what threads tell each other must fit before the samples");

/* A thread's two sums of steps, in units of 2^-48. */
struct Sides {
    i64 below;
    i64 above;
};

extern __shared__ i64 shared_memory[];

#define QUARTER(a, b, c, d)                                   \
    a += b; d ^= a; d = __funnelshift_l(d, d, 16);            \
    c += d; b ^= c; b = __funnelshift_l(b, b, 12);            \
    a += b; d ^= a; d = __funnelshift_l(d, d, 8);             \
    c += d; b ^= c; b = __funnelshift_l(b, b, 7);

/* RFC 8439, section 2.3. */
static __device__ __forceinline__ void chacha20(const Seeds &seeds, u32 row, u32 counter, u32 *w) {
    const u32 constants[4] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
    for (int j = 0; j < 4; j++) w[j] = constants[j];
    for (int j = 0; j < 8; j++) w[4 + j] = seeds.key[j];
    w[12] = counter;
    for (int j = 0; j < 3; j++) w[13 + j] = seeds.nonces[row][j];
    for (int i = 0; i < 10; i++) {
        QUARTER(w[0], w[4], w[8], w[12])
        QUARTER(w[1], w[5], w[9], w[13])
        QUARTER(w[2], w[6], w[10], w[14])
        QUARTER(w[3], w[7], w[11], w[15])
        QUARTER(w[0], w[5], w[10], w[15])
        QUARTER(w[1], w[6], w[11], w[12])
        QUARTER(w[2], w[7], w[8], w[13])
        QUARTER(w[3], w[4], w[9], w[14])
    }
    for (int j = 0; j < 4; j++) w[j] += constants[j];
    for (int j = 0; j < 8; j++) w[4 + j] += seeds.key[j];
    w[12] += counter;
    for (int j = 0; j < 3; j++) w[13 + j] += seeds.nonces[row][j];
}

/* The distribution that block 0 chooses: the first word below the largest multiple of the number, else the last. */
static __device__ __forceinline__ u32 choose(const u32 *w, u32 distributions) {
    u32 last = 0xffffffffu - (0xffffffffu % distributions + 1) % distributions;
    u32 word = w[15];
    for (int j = 14; j >= 0; j--) word = w[j] <= last ? w[j] : word;
    return word % distributions;
}

/* -ln(((w >> 9) + 1/2) 2^-23), to a relative 9e-8. The number is 2^e (1 + f) with |f| <= 1/3, and ln(1 + f) is
   f + f^2 p(f); p was fitted here, for the least relative error. */
static __device__ __forceinline__ float exponential(u32 w) {
    float x = __fadd_rn(__uint_as_float(0x4b000000u | w >> 9), -8388607.5f); /* (w >> 9) + 1/2, exactly */
    u32 bits = __float_as_uint(x);
    u32 exponent = (bits - 0x3f2aaaabu) & 0xff800000u;
    float f = __fadd_rn(__uint_as_float(bits - exponent), -1.0f);
    float p = 0.140262514f;
    p = __fmaf_rn(p, f, -0.153885588f);
    p = __fmaf_rn(p, f, 0.139958277f);
    p = __fmaf_rn(p, f, -0.164159566f);
    p = __fmaf_rn(p, f, 0.200111672f);
    p = __fmaf_rn(p, f, -0.250078201f);
    p = __fmaf_rn(p, f, 0.333331972f);
    p = __fmaf_rn(p, f, -0.499999374f);
    p = __fmaf_rn(__fmul_rn(f, f), p, f);
    return __fmaf_rn((float)(23 - ((int)exponent >> 23)), 0.693147182f, -p);
}

/* Words to exponential variates, in place, and how many of their lowest bits are set. `first` is the rank of the
   first, from 0; the ranks from n on do not count. */
static __device__ __forceinline__ u32 exponentials(const u32 *w, float *e, u32 first, u32 n) {
    u32 negatives = 0;
    for (u32 j = 0; j < RANKS; j++) {
        negatives += first + j < n ? w[j] & 1u : 0u;
        e[j] = exponential(w[j]);
    }
    return negatives;
}

static __device__ __forceinline__ i64 fixed(float sum) {
    return __float2ll_rz(__fmul_rn(sum, 281474976710656.0f));
}

/* E to what a thread's samples are, counted from its own edge towards 0: prefix sums of E_i / (n + 1 - i) above rank m,
   minus suffix sums of E_i / i up to it; i counts from 1. 0 beyond n. */
static __device__ __forceinline__ Sides outward(float *e, u32 first, u32 n, u32 m) {
    float above = 0.0f, below = 0.0f;
    const float start = (float)first, end = (float)(n + 1);
    for (u32 j = 0; j < RANKS; j++) {
        float i = __fadd_rn(start, (float)(j + 1));
        bool inside = first + j < n, negative = first + j < m;
        float step = __fmul_rn(e[j], __frcp_rn(!inside ? 1.0f : negative ? i : __fadd_rn(end, -i)));
        above = __fadd_rn(above, inside && !negative ? step : 0.0f);
        e[j] = !inside ? 0.0f : negative ? step : above;
    }
    for (int j = RANKS - 1; j >= 0; j--) {
        bool negative = first + (u32)j < m;
        below = __fadd_rn(below, negative ? e[j] : 0.0f);
        e[j] = negative ? -below : e[j];
    }
    Sides sides = {fixed(below), fixed(above)};
    return sides;
}

template <typename T> static __device__ __forceinline__ T warp_sum(T value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

static __device__ __forceinline__ u32 block_sum(u32 *counts, u32 value) {
    u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    if (lane == 0) counts[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_sum(lane < warps ? counts[lane] : 0u);
}

/* The sum of all threads' `start`, and of the `step` of those before this one. */
static __device__ __forceinline__ i64 block_place(Exchange *shared, i64 step, i64 start) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    i64 sum = step;
    for (u32 distance = 1; distance < 32; distance *= 2) {
        i64 other = __shfl_up_sync(ALL_LANES, sum, distance);
        sum += lane >= distance ? other : 0;
    }
    start = warp_sum(start);
    if (lane == 31) {
        shared->steps[warp] = sum;
        shared->starts[warp] = start;
    }
    __syncthreads();
    i64 share = 0;
    if (lane < warps) share = shared->starts[lane] + (lane < warp ? shared->steps[lane] : 0);
    return warp_sum(share) + sum - step;
}

/* loc + scale * (edge + e) where the edge is in units of 2^-48: its leading 24 bits, and the rest with e. */
static __device__ __forceinline__ float sample(i64 edge, float e, float loc, float scale) {
    const float unit = 3.5527136788005009e-15f;
    float high = __ll2float_rn(edge);
    float low = __ll2float_rn(edge - __float2ll_rz(high));
    return __fmaf_rn(scale, __fadd_rn(__fmul_rn(high, unit), __fadd_rn(__fmul_rn(low, unit), e)), loc);
}

/* out[at] = activation[at] + noise. */
static __device__ __forceinline__ void put(
    void *out, const float *activation, u32 at, float noise, float inverse_step) {
    float sum = activation ? __fadd_rn(activation[at], noise) : noise;
    if (inverse_step == 0.0f)
        ((float *)out)[at] = sum;
    else
        ((signed char *)out)[at] = (signed char)fminf(fmaxf(rintf(__fmul_rn(sum, inverse_step)), -128.0f), 127.0f);
}

/* All of a request in one block. Thread 0 takes ChaCha20 block 0, and thread t > 0 the ranks from 16 (t - 1) on.
   Grid: a block a request. Dynamic shared memory: SHARED_BYTES and 17 floats for every 16 ranks begun. */
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    edgecut_noise_block(Seeds seeds, Tables tables, const float *activation, void *out, float inverse_step) {
    Exchange *shared = (Exchange *)shared_memory;
    float *samples = (float *)(shared_memory + SHARED_BYTES / sizeof(i64));
    const u32 n = tables.n, first = threadIdx.x ? RANKS * (threadIdx.x - 1) : n;
    u32 words[RANKS];
    float e[RANKS];
    chacha20(seeds, blockIdx.x, threadIdx.x, words);
    if (threadIdx.x == 0) shared->chosen = choose(words, tables.distributions);
    u32 negatives = exponentials(words, e, first, n);
    u32 m = block_sum(shared->counts, negatives);
    Sides sides = outward(e, first, n, m);
    i64 edge = block_place(shared, sides.below + sides.above, -sides.below) + sides.below;
    const u32 d = shared->chosen;
    const float loc = tables.loc[d], scale = tables.scale[d];
    /* A place is skipped after every 16, so that a warp's lanes write to different banks. */
    if (first < n)
        for (u32 j = 0; j < RANKS; j++) samples[first / RANKS * (RANKS + 1) + j] = sample(edge, e[j], loc, scale);
    __syncthreads();
    const unsigned short *ranks = (const unsigned short *)tables.ranks + (u64)d * n;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        u32 rank = ranks[i];
        put(out, activation, blockIdx.x * n + i, samples[rank + rank / RANKS], inverse_step);
    }
}

/* E and the sums of a tile. Grid: the tiles and one more, which chooses the distribution; by requests. */
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    edgecut_noise_tiles(Seeds seeds, Tables tables, Scratch scratch) {
    Exchange *shared = (Exchange *)shared_memory;
    const u32 row = blockIdx.y, tile = blockIdx.x, n = tables.n, warp = threadIdx.x / 32;
    const bool choosing = tile == scratch.tiles;
    const u32 block = choosing ? 0 : 1 + tile * TILE_THREADS + threadIdx.x;
    const u32 first = (block - 1) * RANKS;
    u32 words[RANKS];
    float e[RANKS];
    chacha20(seeds, row, block, words);
    if (choosing) {
        if (threadIdx.x == 0) scratch.chosen[row] = choose(words, tables.distributions);
        return;
    }
    u32 negatives = exponentials(words, e, first, n);
    const u64 at = (u64)row * scratch.tiles + tile;
    for (u32 j = 0; j < RANKS; j++) scratch.steps[at * TILE + j * TILE_THREADS + threadIdx.x] = e[j];
    float above = 0.0f, below = 0.0f;
    const float start = (float)first, end = (float)(n + 1);
    for (u32 j = 0; j < RANKS; j++) {
        float weight = first + j < n ? __frcp_rn(__fadd_rn(end, -__fadd_rn(start, (float)(j + 1)))) : 0.0f;
        above = __fadd_rn(above, __fmul_rn(e[j], weight));
    }
    for (int j = RANKS - 1; j >= 0; j--) {
        float weight = first + (u32)j < n ? __frcp_rn(__fadd_rn(start, (float)(j + 1))) : 0.0f;
        below = __fadd_rn(below, __fmul_rn(e[j], weight));
    }
    i64 all_below = warp_sum(fixed(below)), all_above = warp_sum(fixed(above));
    if (threadIdx.x % 32 == 0) {
        shared->sums[0][warp] = all_below;
        shared->sums[1][warp] = all_above;
    }
    u32 m = block_sum(shared->counts, negatives);
    if (threadIdx.x == 0) {
        all_below = all_above = 0;
        for (u32 i = 0; i < TILE_THREADS / 32; i++) {
            all_below += shared->sums[0][i];
            all_above += shared->sums[1][i];
        }
        scratch.below[at] = all_below;
        scratch.above[at] = all_above;
        scratch.negatives[at] = m;
    }
}

/* E to noise. Every block sums up for itself where its tile lies: all whole tiles between it and the one in
   which rank m lies, and that one's share, whose steps have a weight on either side. Grid: tiles by requests. */
extern "C" __global__ void __launch_bounds__(TILE_THREADS) edgecut_noise_values(Tables tables, Scratch scratch) {
    Exchange *shared = (Exchange *)shared_memory;
    const u32 row = blockIdx.y, tile = blockIdx.x, tiles = scratch.tiles, n = tables.n;
    const u64 at = (u64)row * tiles;
    u32 negatives = 0;
    for (u32 i = threadIdx.x; i < tiles; i += TILE_THREADS) negatives += scratch.negatives[at + i];
    const u32 m = block_sum(shared->counts, negatives), centre = m ? (m - 1) / TILE : 0;
    const float *middle = scratch.steps + (at + centre) * TILE + threadIdx.x;
    const float *steps = scratch.steps + (at + tile) * TILE + threadIdx.x;
    float *samples = scratch.samples + (at + tile) * TILE + threadIdx.x;
    float e[RANKS];
    i64 start = 0;
    if (tile != centre) {
        for (u32 j = 0; j < RANKS; j++) e[j] = middle[j * TILE_THREADS];
        Sides sides = outward(e, centre * TILE + threadIdx.x * RANKS, n, m);
        start = tile < centre ? -sides.below : sides.above;
    }
    for (u32 i = tile + threadIdx.x; i < centre; i += TILE_THREADS) start -= scratch.below[at + i];
    for (u32 i = centre + 1 + threadIdx.x; i < tile; i += TILE_THREADS) start += scratch.above[at + i];
    for (u32 j = 0; j < RANKS; j++) e[j] = steps[j * TILE_THREADS];
    Sides sides = outward(e, tile * TILE + threadIdx.x * RANKS, n, m);
    if (tile == centre) start = -sides.below;
    i64 edge = block_place(shared, sides.below + sides.above, start) + sides.below;
    const u32 d = scratch.chosen[row];
    const float loc = tables.loc[d], scale = tables.scale[d];
    for (u32 j = 0; j < RANKS; j++) samples[j * TILE_THREADS] = sample(edge, e[j], loc, scale);
}

/* From the order of ranks to that of the elements, and added. Grid: elements by requests. */
template <typename Rank>
static __device__ __forceinline__ void gather(
    const Tables &tables, const Scratch &scratch, const float *activation, void *out, float inverse_step) {
    const u32 row = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x, n = tables.n;
    if (i >= n) return;
    const u32 rank = ((const Rank *)tables.ranks)[(u64)scratch.chosen[row] * n + i];
    const float *samples = scratch.samples + ((u64)row * scratch.tiles + rank / TILE) * TILE;
    put(out, activation, row * n + i, samples[rank % RANKS * TILE_THREADS + rank % TILE / RANKS], inverse_step);
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    edgecut_noise_gather16(Tables tables, Scratch scratch, const float *activation, void *out, float inverse_step) {
    gather<unsigned short>(tables, scratch, activation, out, inverse_step);
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    edgecut_noise_gather32(Tables tables, Scratch scratch, const float *activation, void *out, float inverse_step) {
    gather<u32>(tables, scratch, activation, out, inverse_step);
}

/* The cosine and the sine of 2 pi ((w >> 9) + 1/2) 2^-23, to 1e-7. The angle is whole quarters of a turn and x of one,
   |x| <= 1/2, both exactly; the polynomials were fitted here, for the least error relative to either. */
static __device__ __forceinline__ void direction(u32 w, float *cosine, float *sine) {
    u32 angle = (w >> 9) * 2 + 1; /* 2^24 are a turn */
    u32 quarter = (angle + 0x200000u) >> 22;
    float x = __fmul_rn((float)((int)angle - (int)(quarter << 22)), 2.38418579e-7f);
    float square = __fmul_rn(x, x);
    float s = -0.00460172f;
    s = __fmaf_rn(s, square, 0.07968006f);
    s = __fmaf_rn(s, square, -0.64596346f);
    s = __fmul_rn(x, __fmaf_rn(s, square, 1.57079632f));
    float c = 0.000903955907f;
    c = __fmaf_rn(c, square, -0.0208602824f);
    c = __fmaf_rn(c, square, 0.253669246f);
    c = __fmaf_rn(c, square, -1.23370054f);
    c = __fmaf_rn(c, square, 1.0f);
    bool swapped = quarter & 1u;
    *cosine = swapped ? s : c;
    *sine = swapped ? c : s;
    if ((quarter + 1) & 2u) *cosine = -*cosine;
    if (quarter & 2u) *sine = -*sine;
}

/* The 16 standard variates that block 1 + `block` of a request serves: Laplace, or normal by Box and Muller. */
static __device__ __forceinline__ void variates(const Seeds &seeds, u32 row, u32 block, u32 normal, float *values) {
    u32 words[RANKS];
    chacha20(seeds, row, 1 + block, words);
    if (!normal) {
        for (u32 j = 0; j < RANKS; j++) {
            float e = exponential(words[j]);
            values[j] = words[j] & 1u ? -e : e;
        }
        return;
    }
    for (u32 j = 0; j < RANKS; j += 2) {
        float radius = __fsqrt_rn(__fmul_rn(2.0f, exponential(words[j]))), cosine, sine;
        direction(words[j + 1], &cosine, &sine);
        values[j] = __fmul_rn(radius, cosine);
        values[j + 1] = __fmul_rn(radius, sine);
    }
}

/* Where value i lies in shared memory. A place is skipped after every 32, so that the lanes of a warp meet different
   banks both where they write, 16 values apart, and where they read, side by side. */
static __device__ __forceinline__ u32 place(u32 i) {
    return i + i / 32;
}

/* Independent values. Grid: 1024 values by requests. Dynamic shared memory: 33 floats for every 32 values. */
extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)
    edgecut_noise_elements(Seeds seeds, Elements elements, const float *activation, void *out, float inverse_step) {
    float *drawn = (float *)shared_memory;
    const u32 row = blockIdx.y, n = elements.values, start = blockIdx.x * ELEMENT_THREADS * RANKS;
    const u32 mine = threadIdx.x * RANKS, left = n - start;
    if (mine < left) {
        float values[RANKS];
        variates(seeds, row, (start + mine) / RANKS, elements.normal, values);
        for (u32 j = 0; j < RANKS; j++) drawn[place(mine + j)] = values[j];
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < left && i < ELEMENT_THREADS * RANKS; i += ELEMENT_THREADS) {
        float noise = __fmaf_rn(elements.scale[start + i], drawn[place(i)], elements.loc[start + i]);
        put(out, activation, row * n + start + i, noise, inverse_step);
    }
}

/* Values that a matrix mixes, a warp for each sum in turn. Grid: MIXED_ROWS values by requests. Dynamic shared memory:
   33 floats for every 32 values, which are made up to whole 16s. */
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    edgecut_noise_mixed(Seeds seeds, Elements elements, const float *activation, void *out, float inverse_step) {
    float *drawn = (float *)shared_memory;
    const u32 row = blockIdx.y, n = elements.values, lane = threadIdx.x % 32;
    for (u32 first = threadIdx.x * RANKS; first < n; first += TILE) {
        float values[RANKS];
        variates(seeds, row, first / RANKS, elements.normal, values);
        for (u32 j = 0; j < RANKS; j++)
            drawn[place(first + j)] = __fmul_rn(first + j < n ? elements.scale[first + j] : 0.0f, values[j]);
    }
    __syncthreads();
    const u32 start = blockIdx.x * MIXED_ROWS, end = n - start < MIXED_ROWS ? n : start + MIXED_ROWS;
    for (u32 i = start + threadIdx.x / 32; i < end; i += TILE_THREADS / 32) {
        const float *weights = elements.mixing + (u64)i * n;
        float sum = 0.0f;
        for (u32 j = lane; j < n; j += 32) sum = __fmaf_rn(weights[j], drawn[place(j)], sum);
        sum = warp_sum(sum);
        if (lane == 0) put(out, activation, row * n + i, __fadd_rn(elements.loc[i], sum), inverse_step);
    }
}

/* Noise that was drawn before, [row][n], to one tensor of the cut: its `size` elements from `offset` on. `broken`, where
   there is one, becomes 1 if the activation has NaN or infinities, which int8 cannot show. Grid: elements by requests. */
extern "C" __global__ void __launch_bounds__(TILE_THREADS) edgecut_noise_add(
    const float *noise, u32 n, u32 offset, u32 size, const float *activation, void *out, float inverse_step,
    u32 *broken) {
    const u32 row = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    if (broken && !(fabsf(activation[row * size + i]) <= 3.402823466e38f)) *broken = 1;
    put(out, activation, row * size + i, noise[(u64)row * n + offset + i], inverse_step);
}

#ifdef EDGECUT_NOISE_DEBUG
/* For tests: the words of one block's threads, the distribution they would choose, and their exponential variates. */
extern "C" __global__ void edgecut_noise_debug(Seeds seeds, u32 distributions, u32 *words, u32 *chosen, float *steps) {
    u32 w[RANKS];
    float e[RANKS];
    chacha20(seeds, blockIdx.x, threadIdx.x, w);
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    chosen[thread] = choose(w, distributions);
    exponentials(w, e, 0, RANKS);
    for (u32 j = 0; j < RANKS; j++) {
        words[thread * RANKS + j] = w[j];
        steps[thread * RANKS + j] = e[j];
    }
}
#endif
