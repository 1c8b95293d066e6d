// Tree attention, and its plan: see ops/attention.py.
//
// instances: plan_attention
// instances: tree_attention<float>, tree_attention<__half>, tree_attention<__nv_bfloat16>

#include "packs.cuh"

#define PAGE_SLOTS 16
#define WARPS 4
#define MOST_PER_LANE 8

typedef long long Int;
typedef unsigned long long Bits;

// A block for each request: which slots its rows look at, and what each of them sees.
extern "C" __global__ void plan_attention(
    const Int* __restrict__ positions, const Int* __restrict__ request, Int rows,
    const Int* __restrict__ prefix_len, const Int* __restrict__ chain_len,
    const Int* __restrict__ num_nodes, const Int* __restrict__ pages, Int page_stride,
    const Int* __restrict__ tree, Int tree_stride, const Bits* __restrict__ ancestors, Int words,
    int* __restrict__ keys, Int key_stride, Bits* __restrict__ seen, Int seen_words,
    Int* __restrict__ extents) {
    const Int r = blockIdx.x, prefix = prefix_len[r], chain = chain_len[r], nodes = num_nodes[r];
    __shared__ int start, stop;
    if (threadIdx.x == 0) start = static_cast<int>(rows), stop = 0;
    __syncthreads();
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        if (request[row] == r) {
            atomicMin(&start, row);
            atomicMax(&stop, row + 1);
        }
    }
    for (Int key = threadIdx.x; key < prefix + nodes; key += blockDim.x) {
        const Int slot = key < prefix
            ? pages[r * page_stride + key / PAGE_SLOTS] * PAGE_SLOTS + key % PAGE_SLOTS
            : tree[r * tree_stride + key - prefix];
        keys[r * key_stride + key] = static_cast<int>(slot);
    }
    __syncthreads();
    if (start >= stop) {
        if (threadIdx.x < 4) extents[r * 4 + threadIdx.x] = 0;
        return;
    }
    for (Int i = threadIdx.x; i < (stop - start) * seen_words; i += blockDim.x) {
        const Int row = start + i / seen_words, word = i % seen_words;
        // Of the chain, what is not behind the row; of the tree, what is above it.
        Int visible = positions[row] - prefix + 1 - word * 64;
        visible = min(visible, chain - word * 64);
        Bits bits = visible <= 0 ? 0 : visible >= 64 ? ~Bits(0) : (Bits(1) << visible) - 1;
        const Int from = word - chain / 64, shift = chain % 64;
        if (from >= 0 && from < words) bits |= ancestors[row * words + from] << shift;
        if (shift && from >= 1 && from - 1 < words)
            bits |= ancestors[row * words + from - 1] >> (64 - shift);
        seen[row * seen_words + word] = bits;
    }
    if (threadIdx.x == 0) {
        extents[r * 4] = start;
        extents[r * 4 + 1] = stop;
        extents[r * 4 + 2] = prefix + nodes;
        extents[r * 4 + 3] = nodes;
    }
}

#define INFINITY __int_as_float(0x7f800000)

// A block for each row and query head; its warps share out the keys.
template <class T>
__global__ void tree_attention(
    const T* __restrict__ q, Int q_stride, const T* __restrict__ k_pool,
    const T* __restrict__ v_pool, const int* __restrict__ keys, Int key_stride,
    const Bits* __restrict__ seen, Int seen_words, const Int* __restrict__ extents, int requests,
    T* __restrict__ out, Int out_stride, int kv_heads, int group,
    int size, float scale) {
    const int row = blockIdx.x, head = blockIdx.y, kv_head = head / group;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int r = 0;
    while (r < requests && !(extents[r * 4] <= row && row < extents[r * 4 + 1])) ++r;
    if (r == requests) return;  // no request has this row: nobody reads it
    const Int num_keys = extents[r * 4 + 2], first_asked = num_keys - extents[r * 4 + 3];
    const int per_lane = (size + 31) / 32;
    float query[MOST_PER_LANE], sum[MOST_PER_LANE];
    for (int i = 0; i < MOST_PER_LANE; ++i) {
        const int at = i * 32 + lane;
        query[i] = i < per_lane && at < size ? wide(q[row * q_stride + head * size + at]) * scale : 0;
        sum[i] = 0;
    }
    float most = -INFINITY, total = 0;
    for (Int key = warp; key < num_keys; key += WARPS) {
        const Int node = key - first_asked;
        if (node >= 0 && !(seen[row * seen_words + node / 64] >> (node % 64) & 1)) continue;
        const Int base = (static_cast<Int>(keys[r * key_stride + key]) * kv_heads + kv_head) * size;
        float score = 0;
        for (int i = 0; i < per_lane; ++i) {
            const int at = i * 32 + lane;
            if (at < size) score += query[i] * wide(k_pool[base + at]);
        }
        for (int step = 16; step; step /= 2) score += __shfl_xor_sync(~0u, score, step);
        const float now = fmaxf(most, score), keep = expf(most - now), weight = expf(score - now);
        total = total * keep + weight;
        for (int i = 0; i < per_lane; ++i) {
            const int at = i * 32 + lane;
            if (at < size) sum[i] = sum[i] * keep + weight * wide(v_pool[base + at]);
        }
        most = now;
    }
    __shared__ float all_most[WARPS], all_total[WARPS], all_sum[WARPS][MOST_PER_LANE * 32];
    if (lane == 0) all_most[warp] = most, all_total[warp] = total;
    for (int i = 0; i < per_lane; ++i) all_sum[warp][i * 32 + lane] = sum[i];
    __syncthreads();
    float best = -INFINITY, whole = 0;
    for (int w = 0; w < WARPS; ++w) best = fmaxf(best, all_most[w]);
    for (int w = 0; w < WARPS; ++w)
        if (all_total[w] > 0) whole += all_total[w] * expf(all_most[w] - best);
    for (int at = threadIdx.x; at < size; at += blockDim.x) {
        float value = 0;
        for (int w = 0; w < WARPS; ++w)
            if (all_total[w] > 0) value += all_sum[w][at] * expf(all_most[w] - best);
        // Whoever sees nothing is padding.
        out[row * out_stride + head * size + at] = rounded<T>(whole > 0 ? value / whole : 0);
    }
}
