// Tree attention whose bits depend on nothing but what a row sees: not on the tree's other nodes, nor
// on the batch, nor on how much is committed.
//
// A block has a row and a query head. The keys that the row sees, prefix and then its own
// ancestors, are numbered by depth; BATCH neighbours are one batch, and warp w has batches w,
// w + WARPS, ... So a key's place in every sum follows from its position alone.
//
// instances: invariant_attention<float>, invariant_attention<__half>
// instances: invariant_attention<__nv_bfloat16>
#include "chain.cuh"
#include "packs.cuh"

#define WARPS 8
#define BATCH 8
#define MOST_PER_LANE 8
#define NOTHING __int_as_float(0xff800000)  // minus infinity

typedef long long Int;
typedef unsigned long long Bits;

// The slots of the uncommitted nodes that a row sees, in order; how many there are.
__device__ inline int gather_seen(const Bits* seen, const int* slots, int nodes, int* to) {
    int all = 0;
    for (int word = 0; word < (nodes + 63) / 64; word++) {
        const int left = nodes - word * 64;
        const Bits bits = seen[word] & (left >= 64 ? ~Bits(0) : (Bits(1) << left) - 1);
        for (int i = threadIdx.x; i < 64; i += blockDim.x)
            if (bits >> i & 1)
                to[all + __popcll(bits & ((Bits(1) << i) - 1))] = slots[word * 64 + i];
        all += __popcll(bits);
    }
    return all;
}

template <typename T>
__global__ void __launch_bounds__(WARPS * 32)
    invariant_attention(const T* q, Int q_stride, const T* k_pool, const T* v_pool,
                        const int* keys, Int key_stride, const Bits* seen, Int words,
                        const Int* extents, int requests, int kv_heads, int group, T* out,
                        Int out_stride, int size, float scale) {
    extern __shared__ int own_slots[];
    __shared__ float all_most[WARPS], all_total[WARPS];
    __shared__ float all_sums[WARPS][MOST_PER_LANE * 32];
    begin();
    const int row = blockIdx.x, head = blockIdx.y, kv_head = head / group;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int r = 0;
    while (r < requests && !(extents[r * 4] <= row && row < extents[r * 4 + 1])) ++r;
    if (r == requests) return;  // no request has this row: nobody reads it
    const int nodes = static_cast<int>(extents[r * 4 + 3]);
    const int prefix = static_cast<int>(extents[r * 4 + 2]) - nodes;
    const int* slots = keys + r * key_stride;
    const int visible = prefix + gather_seen(seen + row * words, slots + prefix, nodes, own_slots);
    __syncthreads();

    float query[MOST_PER_LANE], sums[MOST_PER_LANE] = {};
#pragma unroll
    for (int i = 0; i < MOST_PER_LANE; i++) {
        const int column = i * 32 + lane;
        query[i] = column < size ? wide(q[row * q_stride + head * size + column]) * scale : 0.0f;
    }
    float most = NOTHING, total = 0.0f;
    for (int first = warp * BATCH; first < visible; first += WARPS * BATCH) {
        Int base[BATCH];
        float score[BATCH] = {};
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const int key = min(first + j, visible - 1);
            const int slot = key < prefix ? slots[key] : own_slots[key - prefix];
            base[j] = (static_cast<Int>(slot) * kv_heads + kv_head) * size + lane;
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
#pragma unroll
            for (int i = 0; i < MOST_PER_LANE; i++)
                if (i * 32 + lane < size) score[j] += query[i] * wide(k_pool[base[j] + i * 32]);
        }
        float now = most;
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            for (int by = 16; by; by /= 2) score[j] += __shfl_xor_sync(~0u, score[j], by);
            if (first + j >= visible) score[j] = NOTHING;
            now = fmaxf(now, score[j]);
        }
        const float keep = expf(most - now);
        total *= keep;
#pragma unroll
        for (int i = 0; i < MOST_PER_LANE; i++) sums[i] *= keep;
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const float weight = expf(score[j] - now);
            total += weight;
#pragma unroll
            for (int i = 0; i < MOST_PER_LANE; i++)
                if (i * 32 + lane < size) sums[i] += weight * wide(v_pool[base[j] + i * 32]);
        }
        most = now;
    }
    if (lane == 0) all_most[warp] = most, all_total[warp] = total;
#pragma unroll
    for (int i = 0; i < MOST_PER_LANE; i++) all_sums[warp][i * 32 + lane] = sums[i];
    __syncthreads();
    float best = NOTHING, whole = 0.0f;
    for (int w = 0; w < WARPS; w++) best = fmaxf(best, all_most[w]);
    for (int w = 0; w < WARPS; w++)
        if (all_total[w] > 0) whole += all_total[w] * expf(all_most[w] - best);
    for (int column = threadIdx.x; column < size; column += blockDim.x) {
        float value = 0.0f;
        for (int w = 0; w < WARPS; w++)
            if (all_total[w] > 0) value += all_sums[w][column] * expf(all_most[w] - best);
        // Whoever sees nothing is padding.
        out[row * out_stride + head * size + column] = rounded<T>(whole > 0 ? value / whole : 0);
    }
}
