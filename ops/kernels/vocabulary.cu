// What runs over the vocabulary: likeliest tokens, and the walks that accept nodes of token trees.
//
// A row of logits is read in one of two ways. Where all rows are wanted, a row is cut into slices
// of up to 8192 numbers, a block has one of them in registers, and the last block of a row to
// arrive puts the results together. The slices depend on the vocabulary only, so that a row's
// result does not depend on the number of rows. Where a walk decides which row comes next, a block
// has a tree, and reads each row that it visits with all of its threads.
//
// Numbers are compared by keys, which differ for all tokens of a row: the logit above, and below it
// the token, of which lower ones have higher keys. NaN is below all numbers.
//
// instances: likeliest<float, 4>, likeliest<__half, 8>, likeliest<__nv_bfloat16, 8>
// instances: likeliest<float, 1>, likeliest<__half, 1>, likeliest<__nv_bfloat16, 1>
// instances: top_k<float, 4>, top_k<__half, 8>, top_k<__nv_bfloat16, 8>
// instances: top_k<float, 1>, top_k<__half, 1>, top_k<__nv_bfloat16, 1>
// instances: follow_known
// instances: greedy_walk<float, 4>, greedy_walk<__half, 8>, greedy_walk<__nv_bfloat16, 8>
// instances: greedy_walk<float, 1>, greedy_walk<__half, 1>, greedy_walk<__nv_bfloat16, 1>
#include "packs.cuh"

typedef long long Int;
typedef unsigned long long Key;

#define SLICE_THREADS 256
#define ITEMS 32       // numbers of a slice that a thread has
#define WALK_THREADS 1024
#define BATCH 4        // packs that a thread of a walk waits for at once
#define MOST_SLICES 32 // of a row

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

// In the order of numbers; NaN is below them all, and -0 is 0.
__device__ inline unsigned ordered(float x) {
    const unsigned bits = __float_as_uint(x + 0.0f);
    return x == x ? bits ^ (static_cast<int>(bits) >> 31 | 0x80000000u) : 0;
}

__device__ inline float number(unsigned order) {
    return __uint_as_float(order & 0x80000000u ? order ^ 0x80000000u : ~order);
}

// Above 0 for every number, and for NaN.
__device__ inline Key key_of(float x, int token) {
    return static_cast<Key>(ordered(x)) << 32 | ~static_cast<unsigned>(token);
}

__device__ inline unsigned high(Key key) { return static_cast<unsigned>(key >> 32); }

__device__ inline unsigned token_of(Key key) { return ~static_cast<unsigned>(key); }

__device__ inline Key warp_max(Key key) {
    const unsigned above = __reduce_max_sync(~0u, high(key));
    const unsigned below =
        __reduce_max_sync(~0u, high(key) == above ? static_cast<unsigned>(key) : 0);
    return static_cast<Key>(above) << 32 | below;
}

// The largest key of a block, for every thread. `warps` may be used again at once.
__device__ inline Key block_max(Key key, Key* warps) {
    const int lane = threadIdx.x % 32;
    key = warp_max(key);
    if (lane == 0) warps[threadIdx.x / 32] = key;
    __syncthreads();
    key = warp_max(lane < blockDim.x / 32 ? warps[lane] : 0);
    __syncthreads();
    return key;
}

// The sum over a block, the same bits in every thread. `warps` may be used again at once.
__device__ inline float block_sum(float value, float* warps) {
    const int lane = threadIdx.x % 32;
    for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
    if (lane == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = lane < blockDim.x / 32 ? warps[lane] : 0.0f;
    for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
    __syncthreads();
    return value;
}

// Numbers [at, at + N) of a row, -inf from `stop` on.
template <typename T, int N>
__device__ inline Pack<T, N> pack_at(const T* row, int at, int stop) {
    if (at + N <= stop) return Pack<T, N>::load(row + at);
    Pack<T, N> pack;
#pragma unroll
    for (int j = 0; j < N; j++)
        pack.at[j] = at + j < stop ? row[at + j] : rounded<T>(-infinity());
    return pack;
}

// The numbers of a slice that a thread has: packs with those of the other threads between them.
template <typename T, int N>
struct Slice {
    Pack<T, N> packs[ITEMS / N];
    int first, stop;

    __device__ Slice(const T* row, int begin, int end) : first(begin + threadIdx.x * N), stop(end) {
#pragma unroll
        for (int i = 0; i < ITEMS / N; i++) packs[i] = pack_at<T, N>(row, token(i, 0), stop);
    }

    __device__ int token(int i, int j) const { return first + i * SLICE_THREADS * N + j; }

    // use(number, token), by increasing token.
    template <typename Use>
    __device__ void each(Use use) const {
#pragma unroll
        for (int i = 0; i < ITEMS / N; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) use(wide(packs[i].at[j]), token(i, j));
        }
    }
};

// The first of the largest numbers above -inf that are offered, by increasing token.
struct Best {
    float most = -infinity();
    int token = -1;

    __device__ void offer(float x, int its) {
        if (x > most) most = x, token = its;  // never NaN
    }

    // 0: there was none.
    __device__ Key key() const { return token < 0 ? 0 : key_of(most, token); }
};

// Token 0 if a row has no number above -inf.
__device__ inline Int likeliest_of(Key key) { return key ? token_of(key) : 0; }

// A block for each slice of each row. `best` and `arrived`, one for each row, are 0 before, and
// again afterwards.
template <typename T, int N>
__global__ void __launch_bounds__(SLICE_THREADS)
    likeliest(const T* logits, Int row_stride, int vocabulary, int width, int slices, Key* best,
              unsigned* arrived, Int* tokens, Int tokens_stride) {
    __shared__ Key warps[SLICE_THREADS / 32];
    const Int row = blockIdx.x / slices;
    const int begin = blockIdx.x % slices * width;
    const Slice<T, N> slice(logits + row * row_stride, begin, min(begin + width, vocabulary));
    Best own;
    slice.each([&](float x, int token) { own.offer(x, token); });
    const Key key = block_max(own.key(), warps);
    if (threadIdx.x > 0) return;
    atomicMax(best + row, key);
    __threadfence();
    if (atomicInc(arrived + row, slices - 1) < slices - 1) return;
    __threadfence();
    tokens[row * tokens_stride] = likeliest_of(atomicExch(best + row, 0ull));
}

// How many keys of a falling list are above `key`.
__device__ inline int count_above(const Key* list, int length, Key key) {
    int from = 0, to = length;
    while (from < to) {
        const int middle = (from + to) / 2;
        if (list[middle] > key) from = middle + 1;
        else to = middle;
    }
    return from;
}

// A block for each slice of each row: the slice's k largest keys, largest first, to `keys` (rows,
// slices, k), and the logarithm of the sum of its exponentials to `sums`: the largest number, and
// the sum relative to it. The last block of a row puts these together. `arrived` is 0 before, and
// again afterwards. Dynamic shared memory: 32 keys for each of the k.
template <typename T, int N>
__global__ void __launch_bounds__(SLICE_THREADS, 3)
    top_k(const T* logits, Int row_stride, int vocabulary, int width, int slices, int k, Key* keys,
          float2* sums, unsigned* arrived, Int* tokens, Int tokens_stride, float* log_probs,
          Int log_probs_stride) {
    extern __shared__ Key found[];
    __shared__ Key firsts[SLICE_THREADS], most, least;
    __shared__ float warps[SLICE_THREADS / 32];
    __shared__ float2 parts[MOST_SLICES];
    __shared__ int count;
    __shared__ bool is_last;
    const Int row = blockIdx.x / slices;
    const int begin = blockIdx.x % slices * width;
    const Slice<T, N> slice(logits + row * row_stride, begin, min(begin + width, vocabulary));

    // The k-th largest of the threads' largest keys: at least k keys are not below it, and they
    // are those of k threads, so that they fit.
    Key key = 0;
    slice.each([&](float x, int token) {
        if (token < slice.stop) key = max(key, key_of(x, token));
    });
    firsts[threadIdx.x] = key;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (threadIdx.x < 32) {
        Key own[SLICE_THREADS / 32];
#pragma unroll
        for (int i = 0; i < SLICE_THREADS / 32; i++) own[i] = firsts[i * 32 + threadIdx.x];
        for (int place = 0; place < k; place++) {
            Key largest = 0;
#pragma unroll
            for (int i = 0; i < SLICE_THREADS / 32; i++) largest = max(largest, own[i]);
            largest = warp_max(largest);
            if (threadIdx.x == 0 && place == 0) most = largest;
            if (threadIdx.x == 0 && place == k - 1) least = largest;
#pragma unroll
            for (int i = 0; i < SLICE_THREADS / 32; i++)
                if (own[i] == largest) own[i] = 0;
        }
    }
    __syncthreads();

    float base = number(high(most));
    if (!(base > -infinity())) base = 0.0f;  // and every exponential is 0, or NaN
    float sum = 0.0f;
    const unsigned bound = high(least);
    slice.each([&](float x, int token) {
        sum += __expf(x - base);
        if (ordered(x) >= bound && token < slice.stop) {
            const Key candidate = key_of(x, token);
            if (candidate >= least) found[atomicAdd(&count, 1)] = candidate;
        }
    });
    sum = block_sum(sum, warps);  // and all candidates are there
    Key* list = keys + static_cast<Int>(blockIdx.x) * k;
    for (int i = threadIdx.x; i < max(count, k); i += SLICE_THREADS) {
        if (i >= count) {
            list[i] = 0;
            continue;
        }
        int rank = 0;
        for (int other = 0; other < count; other++) rank += found[other] > found[i];
        if (rank < k) list[rank] = found[i];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = make_float2(base, sum);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicInc(arrived + row, slices - 1) == slices - 1;
    __syncthreads();
    if (!is_last) return;

    __threadfence();
    for (int i = threadIdx.x; i < slices * k; i += SLICE_THREADS)
        found[i] = __ldcg(keys + row * slices * k + i);
    if (threadIdx.x < slices) parts[threadIdx.x] = __ldcg(sums + row * slices + threadIdx.x);
    __syncthreads();
    base = parts[0].x;
    for (int i = 1; i < slices; i++) base = fmaxf(base, parts[i].x);
    sum = 0.0f;
    for (int i = 0; i < slices; i++) sum += parts[i].y * expf(parts[i].x - base);
    const float log_sum = logf(sum);
    for (int i = threadIdx.x; i < slices * k; i += SLICE_THREADS) {
        if (found[i] == 0) continue;
        int rank = 0;
        for (int other = 0; other < slices && rank < k; other++)
            rank += count_above(found + other * k, k, found[i]);
        if (rank < k) {
            tokens[row * tokens_stride + rank] = token_of(found[i]);
            log_probs[row * log_probs_stride + rank] = number(high(found[i])) - base - log_sum;
        }
    }
}

// use(number, token) for a row's numbers that are a thread's of a whole block, by increasing token.
template <typename T, int N, typename Use>
__device__ inline void each(const T* row, int vocabulary, Use use) {
    const int step = blockDim.x * N;
    for (int at = threadIdx.x * N; at < vocabulary; at += BATCH * step) {
        Pack<T, N> packs[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) packs[i] = pack_at<T, N>(row, at + i * step, vocabulary);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) use(wide(packs[i].at[j]), at + i * step + j);
        }
    }
}

// A tree as walks see it: its part of the arrays of all nodes.
struct Tree {
    const Int *rows, *tokens, *parents;
    int count;

    __device__ Tree(const Int* rows, const Int* tokens, const Int* parents, const Int* first,
                    const Int* counts)
        : rows(rows + first[blockIdx.x]),
          tokens(tokens + first[blockIdx.x]),
          parents(parents + first[blockIdx.x]),
          count(counts[blockIdx.x]) {}

    // The first child of a node that has a token, or `count`; the same for every thread.
    __device__ int child(int node, Int token, int* found) const {
        __syncthreads();
        if (threadIdx.x == 0) *found = count;
        __syncthreads();
        for (int i = node + 1 + threadIdx.x; i < count; i += blockDim.x)
            if (parents[i] == node && tokens[i] == token) atomicMin(found, i);
        __syncthreads();
        return *found;
    }
};

// What a walk writes: nodes and tokens (trees, columns), -1 behind the last, and how many tokens.
struct Path {
    Int *nodes, *tokens, *counts;
    int columns;

    __device__ Path(Int* nodes, Int* tokens, Int* counts, int columns)
        : nodes(nodes + static_cast<Int>(blockIdx.x) * columns),
          tokens(tokens + static_cast<Int>(blockIdx.x) * columns),
          counts(counts + blockIdx.x),
          columns(columns) {}

    __device__ void accept(int place, int node, Int token) {
        if (threadIdx.x == 0) nodes[place] = node, tokens[place] = token;
    }

    // After so many nodes were accepted; the last token is the LLM's own.
    __device__ void end(int accepted, Int token) {
        for (int i = accepted + threadIdx.x; i < columns; i += blockDim.x) {
            nodes[i] = -1;
            tokens[i] = i == accepted ? token : -1;
        }
        if (threadIdx.x == 0) *counts = accepted + 1;
    }

    // There is no tree.
    __device__ void none() {
        for (int i = threadIdx.x; i < columns; i += blockDim.x) nodes[i] = tokens[i] = -1;
        if (threadIdx.x == 0) *counts = 0;
    }
};

// From the root along next_token(node) for as long as the tree has it, and the path has room.
template <typename Next>
__device__ inline void follow(const Tree& tree, Path path, Next next_token) {
    __shared__ int found;
    if (tree.count == 0) return path.none();
    int node = 0, accepted = 0;
    while (true) {
        const Int token = next_token(node);
        const int child = accepted + 1 < path.columns ? tree.child(node, token, &found) : tree.count;
        if (child == tree.count) return path.end(accepted, token);
        path.accept(accepted++, child, token);
        node = child;
    }
}

// A block for each tree: the walk along the likeliest token of each row, which are known.
__global__ void follow_known(const Int* known, const Int* rows, const Int* tokens,
                             const Int* parents, const Int* first, const Int* counts,
                             Int* path_nodes, Int* path_tokens, Int* path_counts, int columns) {
    const Tree tree(rows, tokens, parents, first, counts);
    follow(tree, Path(path_nodes, path_tokens, path_counts, columns),
           [&](int node) { return known[tree.rows[node]]; });
}

// A block for each tree: the same walk; rows are read as they are come to.
template <typename T, int N>
__global__ void __launch_bounds__(WALK_THREADS)
    greedy_walk(const T* logits, Int row_stride, int vocabulary, const Int* rows,
                const Int* tokens, const Int* parents, const Int* first, const Int* counts,
                Int* path_nodes, Int* path_tokens, Int* path_counts, int columns) {
    __shared__ Key warps[WALK_THREADS / 32];
    const Tree tree(rows, tokens, parents, first, counts);
    follow(tree, Path(path_nodes, path_tokens, path_counts, columns), [&](int node) {
        Best own;
        each<T, N>(logits + tree.rows[node] * row_stride, vocabulary,
                   [&](float x, int token) { own.offer(x, token); });
        return likeliest_of(block_max(own.key(), warps));
    });
}
