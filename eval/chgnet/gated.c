/* CHGNet's gated MLP over gathered rows and its gradient, fused: rows go through in blocks that stay in the
   first cache. One source for every processor: GCC's and clang's vector types, compiled for several
   instruction sets where there are such, the best one chosen when it runs. */

#include <stdint.h>

#if !defined(__GNUC__)
#error "needs GCC or clang; without this extension the PyTorch path does the same work"
#endif

#define WIDTH 64 /* features */
#define ROWS_OF_TILE 6
#define BLOCK 24 /* rows, a multiple of ROWS_OF_TILE */
#define MAX_TABLES 4
#define EPSILON 1e-5f

/* kernels.py mirrors this. Matrices are dense and row by row; null pointers mean that there is no such part. */
struct job {
    int64_t n_rows, n_tables;
    const float *tables[MAX_TABLES];    /* (any, 2 WIDTH): core, gate */
    const int64_t *indices[MAX_TABLES]; /* (n_rows) */
    const float *second;                /* (2, WIDTH in, WIDTH out) */
    const float *second_transposed;     /* (2, WIDTH out, WIDTH in) */
    const float *bias;                  /* (2 WIDTH) */
    const float *norm, *shift;          /* (2 WIDTH) */
    const float *weights;               /* (any, WIDTH) */
    const int64_t *weight_index;        /* (n_rows) */
    const int64_t *owners;              /* (n_rows); null: each row is its own */
    float *saved;                       /* (n_rows, 2 WIDTH): rows after their norm; forward writes, backward reads */
    float *inverses;                    /* (n_rows, 2): what the norms multiplied them with, likewise */
    float *out;                         /* (owners, WIDTH): forward adds */
    const float *out_slope;             /* (owners, WIDTH) */
    float *table_slopes[MAX_TABLES];    /* as tables: backward adds */
    float *weight_slope;                /* as weights: backward adds */
};

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, SUFFIX)
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define BEGIN_TARGET(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
#define BEGIN_TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_TARGET PRAGMA(GCC pop_options)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#if defined(__x86_64__)
/* Without AVX2 PyTorch is faster. */
BEGIN_TARGET("avx2,fma")
#define SUFFIX avx2
#define LANES 8
#define TILE 2
#include "gated_kernel.h"
#undef SUFFIX
#undef LANES
#undef TILE
END_TARGET

BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define SUFFIX avx512
#define LANES 16
#define TILE 4
#include "gated_kernel.h"
#undef SUFFIX
#undef LANES
#undef TILE
END_TARGET
#else
#define SUFFIX baseline
#define LANES 4
#define TILE 2
#include "gated_kernel.h"
#undef SUFFIX
#undef LANES
#undef TILE
#endif

/* Whether this processor has an instruction set: 0 the compiler's own, 1 AVX2, 2 AVX-512. */
int gated_has(int level)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (level == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return level == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return level == 0;
#endif
}

void gated_forward(const struct job *job, int level)
{
#if defined(__x86_64__)
    if (level == 2) forward_avx512(job);
    else forward_avx2(job);
#else
    (void)level;
    forward_baseline(job);
#endif
}

void gated_backward(const struct job *job, int level)
{
#if defined(__x86_64__)
    if (level == 2) backward_avx512(job);
    else backward_avx2(job);
#else
    (void)level;
    backward_baseline(job);
#endif
}
