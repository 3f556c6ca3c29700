/* CUDA's words for a C++17 compiler: what noise.cu uses of the language, on the processor. See shim.cpp. */
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>

#include <utility>

struct Index {
    unsigned x, y, z;
};

/* A kernel, called with the addresses of its parameters. */
struct Known {
    const char *name;
    void (*call)(void *const *);
    const size_t *sizes;
    size_t parameters;
};
extern const Known known[];
extern const size_t known_kernels;

/* Of the thread that runs now. */
struct Place {
    Index thread, block, threads, grid;
};
Place &place();

constexpr size_t SHARED_LIMIT = 48 << 10;
extern "C" long long shared_memory[];

/* Gives the warp's 32 values to each of its lanes, once all have come. */
void exchange(const char *what, unsigned lane, const void *value, size_t size, void *all);
void barrier();
[[noreturn]] void fault(const char *what);

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define threadIdx (place().thread)
#define blockIdx (place().block)
#define blockDim (place().threads)
#define gridDim (place().grid)
#define __syncthreads() barrier()

template <typename T> T shuffled(const char *what, unsigned mask, T value, unsigned source) {
    if (mask != 0xffffffffu) fault("a shuffle leaves lanes out");
    T all[32];
    const unsigned lane = place().thread.x % 32;
    exchange(what, lane, &value, sizeof value, all);
    return all[source < 32 ? source : lane];
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, unsigned lanes) {
    return shuffled("xor", mask, value, place().thread.x % 32 ^ lanes);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
    return shuffled("up", mask, value, place().thread.x % 32 - distance); /* below lane 0: a lane's own */
}

template <auto kernel> struct Bound;
template <typename... P, void (*kernel)(P...)> struct Bound<kernel> {
    static constexpr size_t sizes[] = {sizeof(P)...};
    template <size_t... I> static void at(void *const *parameters, std::index_sequence<I...>) {
        kernel(*static_cast<P *>(parameters[I])...);
    }
    static void call(void *const *parameters) { at(parameters, std::index_sequence_for<P...>()); }
    static constexpr Known as(const char *name) { return {name, call, sizes, sizeof...(P)}; }
};

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline long long __float2ll_rz(float a) { return (long long)a; }
inline float __ll2float_rn(long long a) { return (float)a; }
inline unsigned __float_as_uint(float a) {
    unsigned bits;
    memcpy(&bits, &a, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float a;
    memcpy(&a, &bits, 4);
    return a;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned bits) {
    return bits %= 32, bits ? high << bits | low >> (32 - bits) : high;
}
