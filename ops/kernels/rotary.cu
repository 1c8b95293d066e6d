// Rotary positions: the table of angles, and queries and keys turned by it.
//
// instances: angles<float>, angles<__half>, angles<__nv_bfloat16>
// instances: turn<float, 4>, turn<__half, 8>, turn<__nv_bfloat16, 8>
// instances: turn<float, 1>, turn<__half, 1>, turn<__nv_bfloat16, 1>
#include "chain.cuh"
#include "packs.cuh"

// Cosines of both halves of a head, then sines, the first half negated. Frequencies are rounded to
// float32 where the reference rounds them; the power is taken wider, as that is where an error
// would grow with the position.
template <typename T>
__global__ void angles(const long long* positions, T* out, int rows, int half, float theta,
                       long long stride) {
    begin();
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = at / half, i = at % half;
    if (row >= rows) return;
    const float exponent = (float)(2 * i) / (float)(2 * half);
    const float power = (float)pow((double)theta, (double)exponent);
    const float angle = (float)positions[row] * (1.0f / power);
    const float cosine = cosf(angle), sine = sinf(angle);
    out += row * stride + i;
    out[0] = out[half] = rounded<T>(cosine);
    out[2 * half] = rounded<T>(-sine);
    out[3 * half] = rounded<T>(sine);
}

// Heads of a row, in order: queries, turned to `out`; keys, turned to the row's slot of a pool;
// values, copied to theirs. A thread has a pack of each half of a head.
template <typename T, int N>
__global__ void turn(const T* q, const T* k, const T* v, const T* table, const long long* slots,
                     T* out, T* pool_k, T* pool_v, int rows, int heads, int kv_heads, int half,
                     long long q_stride, long long k_stride, long long v_stride,
                     long long table_stride, long long out_stride, long long slot_stride) {
    begin();
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const int packs = half / N, all = heads + 2 * kv_heads, size = 2 * half;
    const int i = at % packs * N;
    at /= packs;
    int head = at % all;
    const long long row = at / all;
    if (row >= rows) return;
    const bool turns = head < heads + kv_heads;
    const T* from;
    T* to;
    if (head < heads) {
        from = q + row * q_stride;
        to = out + row * out_stride;
    } else {
        head -= turns ? heads : heads + kv_heads;
        from = turns ? k + row * k_stride : v + row * v_stride;
        to = (turns ? pool_k : pool_v) + slots[row] * slot_stride;
    }
    from += head * size + i;
    to += head * size + i;
    Pack<T, N> low = Pack<T, N>::load(from), high = Pack<T, N>::load(from + half);
    if (turns) {
        table += row * table_stride + i;
        const Pack<T, N> cosines = Pack<T, N>::load(table);
        const Pack<T, N> sines = Pack<T, N>::load(table + size + half);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float x = wide(low.at[j]), y = wide(high.at[j]);
            const float cosine = wide(cosines.at[j]), sine = wide(sines.at[j]);
            low.at[j] = rounded<T>(fmaf(x, cosine, -wide(rounded<T>(y * sine))));
            high.at[j] = rounded<T>(fmaf(y, cosine, wide(rounded<T>(x * sine))));
        }
    }
    low.store(to);
    high.store(to + half);
}
