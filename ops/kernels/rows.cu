// Copies of rows, whatever their numbers are: a row is counted in words, and so are its strides.
//
// instances: gather<uint4>, gather<unsigned int>, gather<unsigned short>
// instances: write_kv<uint4>, write_kv<unsigned int>, write_kv<unsigned short>
// instances: commit_kv<uint4>, commit_kv<unsigned int>, commit_kv<unsigned short>
#include "chain.cuh"

// out[i] = x[rows[i]]
template <typename Word>
__global__ void gather(const Word* x, const long long* rows, Word* out, int count, int words,
                       long long x_stride, long long out_stride) {
    begin();
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = at / words;
    const int i = at % words;
    if (row < count) out[row * out_stride + i] = x[rows[row] * x_stride + i];
}

// pool_k[slots[i]] = k[i], and the same of v
template <typename Word>
__global__ void write_kv(const Word* k, const Word* v, const long long* slots, Word* pool_k,
                         Word* pool_v, int count, int words, long long k_stride,
                         long long v_stride, long long slot_stride) {
    begin();
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = at / words;
    const int i = at % words;
    if (row >= count) return;
    const long long to = slots[row] * slot_stride + i;
    const Word key = k[row * k_stride + i], value = v[row * v_stride + i];
    pool_k[to] = key;
    pool_v[to] = value;
}

// pool[layer][moves[1][m]] = pool[layer][moves[0][m]] for the first `count` moves, or for all if it
// is null; a block has a layer of one pool, and shares its words with the other blocks of that
// layer. No target is a source of another move, so that the order does not matter.
template <typename Word>
__global__ void commit_kv(Word* pool_k, Word* pool_v, const long long* moves,
                          const long long* count, int capacity, int words, long long moves_stride,
                          long long layer_stride, long long slot_stride) {
    begin();
    Word* pool = (blockIdx.y % 2 ? pool_v : pool_k) + blockIdx.y / 2 * layer_stride;
    const long long all = (count && *count < capacity ? *count : capacity) * words;
    for (long long at = blockIdx.x * blockDim.x + threadIdx.x; at < all;
         at += gridDim.x * blockDim.x) {
        const int move = at / words, i = at % words;
        pool[moves[moves_stride + move] * slot_stride + i] = pool[moves[move] * slot_stride + i];
    }
}
