/* The gated MLP over gathered rows, for one instruction set; gated.c includes this file once for each.

   Expects NAME(x), which makes x the inclusion's own; LANES, the floats of a vector register; and TILE, how many
   vectors a tile of the matrix product is wide: as many as leave room for ROWS_OF_TILE rows of it in the registers. */

#define VECS (WIDTH / LANES)
#define vec NAME(vec_type)
#define ivec NAME(ivec_type)
#define loose NAME(loose_type)

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline __attribute__((always_inline)) vec NAME(load)(const float *from) { return *(const loose *)from; }

static inline __attribute__((always_inline)) void NAME(store)(float *to, vec x) { *(loose *)to = x; }

static inline __attribute__((always_inline)) void NAME(add)(float *to, vec x) { *(loose *)to += x; }

static inline __attribute__((always_inline)) float NAME(sum)(vec x)
{
    union { vec whole; float part[LANES]; } v = {x};
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++) v.part[i] += v.part[i + n];
    return v.part[0];
}

/* exp(x) for |x| <= 40, relative error below 2e-7: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. */
static inline __attribute__((always_inline)) vec NAME(exponential)(vec x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    vec shifted = x * 1.44269504f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693145752f - n * 1.42860677e-6f;
    vec p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f + r * 0.00138888889f)))));
    ivec exponent = ((ivec)shifted - 0x4b400000 + 127) << 23;
    return p * (vec)exponent;
}

static inline __attribute__((always_inline)) vec NAME(clamped)(vec x)
{
    const vec limit = (vec){0} + 40.0f;
    ivec above = x > limit, below = x < -limit;
    return (vec)((above & (ivec)limit) | (below & (ivec)-limit) | (~(above | below) & (ivec)x));
}

/* 1 / (1 + exp(-x)) of two vectors with one division. */
static inline __attribute__((always_inline)) void NAME(sigmoids)(vec x, vec y, vec *sx, vec *sy)
{
    vec a = 1.0f + NAME(exponential)(-NAME(clamped)(x));
    vec b = 1.0f + NAME(exponential)(-NAME(clamped)(y));
    vec inverse = 1.0f / (a * b);
    *sx = inverse * b;
    *sy = inverse * a;
}

/* out = in weights (+ bias): rows of WIDTH out of rows of WIDTH in; both strides are 2 WIDTH. */
static inline __attribute__((always_inline)) void NAME(product)(const float *in, const float *weights, const float *bias, float *out)
{
    for (int column = 0; column < WIDTH; column += TILE * LANES)
        for (int row = 0; row < BLOCK; row += ROWS_OF_TILE) {
            vec tile[ROWS_OF_TILE][TILE];
            for (int i = 0; i < ROWS_OF_TILE; i++)
                for (int j = 0; j < TILE; j++)
                    tile[i][j] = bias ? NAME(load)(bias + column + j * LANES) : (vec){0};
            const float *x = in + row * 2 * WIDTH;
            for (int k = 0; k < WIDTH; k++) {
                vec w[TILE];
                for (int j = 0; j < TILE; j++) w[j] = NAME(load)(weights + k * WIDTH + column + j * LANES);
#pragma GCC unroll 6
                for (int i = 0; i < ROWS_OF_TILE; i++)
                    for (int j = 0; j < TILE; j++) tile[i][j] += x[i * 2 * WIDTH + k] * w[j];
            }
            for (int i = 0; i < ROWS_OF_TILE; i++)
                for (int j = 0; j < TILE; j++)
                    NAME(store)(out + (row + i) * 2 * WIDTH + column + j * LANES, tile[i][j]);
        }
}

/* The sum of one row over all tables. */
static inline __attribute__((always_inline)) void NAME(gather)(const struct job *job, long row, vec sum[2 * VECS])
{
    const float *first = job->tables[0] + job->indices[0][row] * 2 * WIDTH;
    for (int v = 0; v < 2 * VECS; v++) sum[v] = NAME(load)(first + v * LANES);
    for (int t = 1; t < job->n_tables; t++) {
        const float *other = job->tables[t] + job->indices[t][row] * 2 * WIDTH;
        for (int v = 0; v < 2 * VECS; v++) sum[v] += NAME(load)(other + v * LANES);
    }
}

/* Layer norm of core or gate without scale and shift; returns 1 / standard deviation. */
static inline __attribute__((always_inline)) float NAME(normalise)(vec x[VECS])
{
    vec total = x[0], squares;
    for (int v = 1; v < VECS; v++) total += x[v];
    float mean = NAME(sum)(total) / WIDTH;
    for (int v = 0; v < VECS; v++) x[v] -= mean;
    squares = x[0] * x[0];
    for (int v = 1; v < VECS; v++) squares += x[v] * x[v];
    float inverse = 1.0f / __builtin_sqrtf(NAME(sum)(squares) / WIDTH + EPSILON);
    for (int v = 0; v < VECS; v++) x[v] *= inverse;
    return inverse;
}

/* From a normalised row to core, gate, their sigmoids. */
static inline __attribute__((always_inline)) void NAME(activate)(const struct job *job, const vec z[2 * VECS], vec core[VECS], vec s_core[VECS], vec s_gate[VECS])
{
    for (int v = 0; v < VECS; v++) {
        core[v] = z[v];
        vec gate = z[VECS + v];
        if (job->norm) {
            core[v] = core[v] * NAME(load)(job->norm + v * LANES) + NAME(load)(job->shift + v * LANES);
            gate = gate * NAME(load)(job->norm + WIDTH + v * LANES) + NAME(load)(job->shift + WIDTH + v * LANES);
        }
        NAME(sigmoids)(core[v], gate, &s_core[v], &s_gate[v]);
    }
}

static void NAME(forward)(const struct job *job)
{
    float hidden[BLOCK * 2 * WIDTH] __attribute__((aligned(64))) = {0};
    float deep[BLOCK * 2 * WIDTH] __attribute__((aligned(64)));
    for (long start = 0; start < job->n_rows; start += BLOCK) {
        int rows = job->n_rows - start < BLOCK ? job->n_rows - start : BLOCK;
        for (int r = 0; r < rows; r++) {
            vec a[2 * VECS];
            NAME(gather)(job, start + r, a);
            for (int v = 0; job->second && v < VECS; v++) {
                vec s, t;
                NAME(sigmoids)(a[v], a[VECS + v], &s, &t);
                a[v] *= s;
                a[VECS + v] *= t;
            }
            for (int v = 0; v < 2 * VECS; v++) NAME(store)(hidden + r * 2 * WIDTH + v * LANES, a[v]);
        }
        const float *before = hidden;
        if (job->second) {
            NAME(product)(hidden, job->second, job->bias, deep);
            NAME(product)(hidden + WIDTH, job->second + WIDTH * WIDTH, job->bias + WIDTH, deep + WIDTH);
            before = deep;
        }
        for (int r = 0; r < rows; r++) {
            long row = start + r;
            vec z[2 * VECS], core[VECS], s_core[VECS], s_gate[VECS];
            for (int v = 0; v < 2 * VECS; v++) z[v] = NAME(load)(before + r * 2 * WIDTH + v * LANES);
            if (job->norm) {
                job->inverses[2 * row] = NAME(normalise)(z);
                job->inverses[2 * row + 1] = NAME(normalise)(z + VECS);
            }
            for (int v = 0; v < 2 * VECS; v++) NAME(store)(job->saved + row * 2 * WIDTH + v * LANES, z[v]);
            NAME(activate)(job, z, core, s_core, s_gate);
            float *to = job->out + (job->owners ? job->owners[row] : row) * WIDTH;
            const float *weights = job->weights ? job->weights + job->weight_index[row] * WIDTH : 0;
            for (int v = 0; v < VECS; v++) {
                vec message = core[v] * s_core[v] * s_gate[v];
                if (weights) message *= NAME(load)(weights + v * LANES);
                NAME(add)(to + v * LANES, message);
            }
        }
    }
}

/* Gradient in the input of a layer norm, from that in its output before scale and shift. */
static inline __attribute__((always_inline)) void NAME(unnormalise)(const vec normal[VECS], vec slope[VECS], float inverse)
{
    vec total = slope[0], along = slope[0] * normal[0];
    for (int v = 1; v < VECS; v++) {
        total += slope[v];
        along += slope[v] * normal[v];
    }
    float mean = NAME(sum)(total) / WIDTH, projection = NAME(sum)(along) / WIDTH;
    for (int v = 0; v < VECS; v++) slope[v] = (slope[v] - mean - normal[v] * projection) * inverse;
}

static void NAME(backward)(const struct job *job)
{
    float slopes[BLOCK * 2 * WIDTH] __attribute__((aligned(64))) = {0};
    float deep[BLOCK * 2 * WIDTH] __attribute__((aligned(64)));
    for (long start = 0; start < job->n_rows; start += BLOCK) {
        int rows = job->n_rows - start < BLOCK ? job->n_rows - start : BLOCK;
        for (int r = 0; r < rows; r++) {
            long row = start + r;
            vec z[2 * VECS], core[VECS], s_core[VECS], s_gate[VECS], slope[2 * VECS];
            for (int v = 0; v < 2 * VECS; v++) z[v] = NAME(load)(job->saved + row * 2 * WIDTH + v * LANES);
            NAME(activate)(job, z, core, s_core, s_gate);
            const float *above = job->out_slope + (job->owners ? job->owners[row] : row) * WIDTH;
            const float *weights = job->weights ? job->weights + job->weight_index[row] * WIDTH : 0;
            float *weight_slope = job->weights ? job->weight_slope + job->weight_index[row] * WIDTH : 0;
            for (int v = 0; v < VECS; v++) {
                vec down = NAME(load)(above + v * LANES);
                vec silu = core[v] * s_core[v];
                if (weights) {
                    NAME(add)(weight_slope + v * LANES, down * silu * s_gate[v]);
                    down *= NAME(load)(weights + v * LANES);
                }
                slope[v] = down * s_gate[v] * s_core[v] * (1.0f + core[v] * (1.0f - s_core[v]));
                slope[VECS + v] = down * silu * s_gate[v] * (1.0f - s_gate[v]);
                if (job->norm) {
                    slope[v] *= NAME(load)(job->norm + v * LANES);
                    slope[VECS + v] *= NAME(load)(job->norm + WIDTH + v * LANES);
                }
            }
            if (job->norm) {
                NAME(unnormalise)(z, slope, job->inverses[2 * row]);
                NAME(unnormalise)(z + VECS, slope + VECS, job->inverses[2 * row + 1]);
            }
            for (int v = 0; v < 2 * VECS; v++) NAME(store)(slopes + r * 2 * WIDTH + v * LANES, slope[v]);
        }
        if (job->second) {
            NAME(product)(slopes, job->second_transposed, 0, deep);
            NAME(product)(slopes + WIDTH, job->second_transposed + WIDTH * WIDTH, 0, deep + WIDTH);
        }
        for (int r = 0; r < rows; r++) {
            long row = start + r;
            vec slope[2 * VECS];
            const float *from = (job->second ? deep : slopes) + r * 2 * WIDTH;
            for (int v = 0; v < 2 * VECS; v++) slope[v] = NAME(load)(from + v * LANES);
            if (job->second) {
                vec a[2 * VECS];
                NAME(gather)(job, row, a);
                for (int v = 0; v < VECS; v++) {
                    vec s, t;
                    NAME(sigmoids)(a[v], a[VECS + v], &s, &t);
                    slope[v] *= s * (1.0f + a[v] * (1.0f - s));
                    slope[VECS + v] *= t * (1.0f + a[VECS + v] * (1.0f - t));
                }
            }
            for (int t = 0; t < job->n_tables; t++) {
                float *to = job->table_slopes[t] + job->indices[t][row] * 2 * WIDTH;
                for (int v = 0; v < 2 * VECS; v++) NAME(add)(to + v * LANES, slope[v]);
            }
        }
    }
}

#undef VECS
#undef vec
#undef ivec
#undef loose
