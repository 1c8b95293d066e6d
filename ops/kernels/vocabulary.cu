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
// Probabilities are never stored: a row's are a function of its logits and of four numbers that a
// few passes over the row find (`Law`), and what rejected proposals leave of them is a function of
// these and of what the proposals were drawn from. Masses are added up as integers: their sums do
// not depend on an order.
//
// instances: likeliest<float, 4>, likeliest<__half, 8>, likeliest<__nv_bfloat16, 8>
// instances: likeliest<float, 1>, likeliest<__half, 1>, likeliest<__nv_bfloat16, 1>
// instances: top_k<float, 4>, top_k<__half, 8>, top_k<__nv_bfloat16, 8>
// instances: top_k<float, 1>, top_k<__half, 1>, top_k<__nv_bfloat16, 1>
// instances: follow_known
// instances: greedy_walk<float, 4>, greedy_walk<__half, 8>, greedy_walk<__nv_bfloat16, 8>
// instances: greedy_walk<float, 1>, greedy_walk<__half, 1>, greedy_walk<__nv_bfloat16, 1>
// instances: process<float, 4>, process<__half, 8>, process<__nv_bfloat16, 8>
// instances: process<float, 1>, process<__half, 1>, process<__nv_bfloat16, 1>
// instances: sample_rows<float, 4>, sample_rows<__half, 8>, sample_rows<__nv_bfloat16, 8>
// instances: sample_rows<float, 1>, sample_rows<__half, 1>, sample_rows<__nv_bfloat16, 1>
// instances: race<float, 4>, race<__half, 8>, race<__nv_bfloat16, 8>
// instances: race<float, 1>, race<__half, 1>, race<__nv_bfloat16, 1>
// instances: naive_walk<float, 4>, naive_walk<__half, 8>, naive_walk<__nv_bfloat16, 8>
// instances: naive_walk<float, 1>, naive_walk<__half, 1>, naive_walk<__nv_bfloat16, 1>
// instances: mss_walk<float, 4>, mss_walk<__half, 8>, mss_walk<__nv_bfloat16, 8>
// instances: mss_walk<float, 1>, mss_walk<__half, 1>, mss_walk<__nv_bfloat16, 1>
#include "chain.cuh"
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
    begin();
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
    begin();
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
    begin();
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
    begin();
    __shared__ Key warps[WALK_THREADS / 32];
    const Tree tree(rows, tokens, parents, first, counts);
    follow(tree, Path(path_nodes, path_tokens, path_counts, columns), [&](int node) {
        Best own;
        each<T, N>(logits + tree.rows[node] * row_stride, vocabulary,
                   [&](float x, int token) { own.offer(x, token); });
        return likeliest_of(block_max(own.key(), warps));
    });
}

// A number in (0, 1): see ops/noise.py, of which it has every bit.
__device__ inline double uniform(Key key, Key place) {
    Key z = key + (place + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return (static_cast<double>(z >> 11) + 0.5) * 0x1p-53;
}

#define BINS WALK_THREADS
#define MOST_LEVELS 32
#define MOST_TRIALS 64

// Of a weight of at most 1. That of all tokens of a row is less than 2^63.
__device__ inline Key mass_of(float weight) { return __float2ull_rn(weight * 0x1p44f); }

// One over a mass.
__device__ inline float share_of(Key mass) {
    return static_cast<float>(0x1p44 / static_cast<double>(mass));
}

// Of a block of WALK_THREADS.
struct Scratch {
    Key warps[32];
    Key parts[32];                    // masses of the parts of a range of tokens
    unsigned low[BINS], high[BINS];  // halves of what lies in each bin
    int bin;
    Key before;
};

__device__ inline Key warp_sum(Key value) {
    for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
    return value;
}

// The sum over a block, for every thread. `warps` may be used again at once.
__device__ inline Key block_total(Key value, Key* warps) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_sum(warps[threadIdx.x % 32]);
    __syncthreads();
    return value;
}

// What a row's next token is drawn from.
struct Law {
    float most;        // the largest logit
    float scale;       // one over the temperature
    float least;       // logits below it are cut
    float min_weight;  // weights below it are cut
    int only;          // temperature 0: this token; else -1
    bool is_broken;    // there is none: a logit is no number, or none is above -inf

    // Relative to that of the likeliest token.
    __device__ float weight(float x, int token) const {
        if (only >= 0) return token == only ? 1.0f : 0.0f;
        if (!(x >= least)) return 0.0f;
        const float weight = expf((x - most) * scale);
        return weight >= min_weight ? weight : 0.0f;
    }
};

// The largest logit such that those not below it measure as much as is wanted: so many tokens, or
// (IS_MASS) that share of the mass of all. It is looked for from `bottom` to `top`: they are divided
// into bins, and then the bin that it is in, until that has one number only.
template <bool IS_MASS, typename T, int N>
__device__ inline float cut(const T* row, int vocabulary, const Law& law, float bottom, float top,
                            double wanted, Scratch& scratch) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Key above = 0, need = static_cast<Key>(wanted);
    for (int level = 0; level < MOST_LEVELS && bottom < top; level++) {
        const float bins = BINS / (top - bottom);
        const auto bin_of = [&](float x) {
            return x >= bottom && x <= top ? min(__float2int_rz((top - x) * bins), BINS - 1) : -1;
        };
        scratch.low[threadIdx.x] = scratch.high[threadIdx.x] = 0;
        if (threadIdx.x == 0) scratch.bin = -1;
        __syncthreads();
        Key all = 0;
        each<T, N>(row, vocabulary, [&](float x, int token) {
            const int bin = bin_of(x);
            if (!IS_MASS) {
                if (bin >= 0) atomicAdd(&scratch.low[bin], 1u);
                return;
            }
            if (level > 0 && bin < 0) return;
            const Key mass = mass_of(law.weight(x, token));
            all += mass;
            if (bin < 0) return;
            const unsigned low = static_cast<unsigned>(mass);
            const unsigned old = atomicAdd(&scratch.low[bin], low);
            const unsigned carried = high(mass) + (old + low < old);
            if (carried) atomicAdd(&scratch.high[bin], carried);
        });
        if (IS_MASS && level == 0)
            need = static_cast<Key>(ceil(wanted * static_cast<double>(
                                             block_total(all, scratch.warps))));
        __syncthreads();
        const Key own = static_cast<Key>(scratch.high[threadIdx.x]) << 32 | scratch.low[threadIdx.x];
        Key reached = own;
        for (int by = 1; by < 32; by *= 2) {
            const Key other = __shfl_up_sync(~0u, reached, by);
            if (lane >= by) reached += other;
        }
        if (lane == 31) scratch.warps[warp] = reached;
        __syncthreads();
        reached += above;
        for (int other = 0; other < warp; other++) reached += scratch.warps[other];
        if (reached >= need && reached - own < need) {
            scratch.bin = threadIdx.x;
            scratch.before = reached - own;
        }
        __syncthreads();
        const int bin = scratch.bin;
        if (bin < 0) return bottom;  // all that there is
        above = scratch.before;
        unsigned largest = 0, smallest = 0;  // of it, the order of numbers turned round
        each<T, N>(row, vocabulary, [&](float x, int) {
            if (bin_of(x) != bin) return;
            largest = max(largest, ordered(x));
            smallest = max(smallest, ~ordered(x));
        });
        top = number(static_cast<unsigned>(block_max(largest, scratch.warps)));
        bottom = number(~static_cast<unsigned>(block_max(smallest, scratch.warps)));
    }
    return bottom;
}

// A row's law. `params`: temperature, top_k, top_p and min_p, see scheduler/sampling/process.py.
template <typename T, int N>
__device__ inline Law law_of(const T* row, int vocabulary, const double* params,
                             Scratch& scratch) {
    Best own;
    unsigned turned = 0;  // of the smallest number above -inf
    bool has_nan = false;
    each<T, N>(row, vocabulary, [&](float x, int token) {
        own.offer(x, token);
        if (x > -infinity()) turned = max(turned, ~ordered(x));
        has_nan |= x != x;
    });
    const Key best = block_max(own.key(), scratch.warps);
    const float lowest = number(~static_cast<unsigned>(block_max(turned, scratch.warps)));
    Law law;
    law.most = number(high(best));
    law.is_broken = __syncthreads_or(has_nan) || best == 0 || law.most == infinity();
    law.only = params[0] == 0 ? token_of(best) : -1;
    law.scale = fminf(static_cast<float>(1 / params[0]), 3e38f);
    law.least = -infinity();
    law.min_weight = 0.0f;
    if (law.is_broken || law.only >= 0) return law;
    if (params[1] > 0 && params[1] < vocabulary)
        law.least = cut<false, T, N>(row, vocabulary, law, lowest, law.most, params[1], scratch);
    if (params[2] < 1) {
        // All that weigh less together weigh less than half of what may be missing.
        const double floor = log((1 - params[2]) / (2.0 * vocabulary));
        const float bottom = law.most + static_cast<float>(floor) / law.scale;
        law.least = cut<true, T, N>(row, vocabulary, law, fmaxf(fmaxf(bottom, lowest), law.least),
                                    law.most, params[2], scratch);
    }
    law.min_weight = static_cast<float>(params[3]);
    return law;
}

// Masses of tokens [begin, end), of each thirty-second of them by itself in `scratch.parts`.
template <typename Weight>
__device__ inline Key measure(int begin, int end, Weight weight, Scratch& scratch) {
    const int part = (end - begin + 31) / 32, lane = threadIdx.x % 32;
    const int from = begin + static_cast<int>(threadIdx.x / 32) * part, to = min(from + part, end);
    Key mass = 0;
#pragma unroll 8
    for (int token = from + lane; token < to; token += 32) mass += mass_of(weight(token));
    mass = warp_sum(mass);
    __syncthreads();  // the last parts were read
    if (lane == 0) scratch.parts[threadIdx.x / 32] = mass;
    __syncthreads();
    return warp_sum(scratch.parts[lane]);
}

// The first token behind which there is more than a share `u` of the mass, once all was measured.
template <typename Weight>
__device__ inline Int pick(int vocabulary, Key total, double u, Weight weight, Scratch& scratch) {
    Key left = min(static_cast<Key>(u * static_cast<double>(total)), total - 1);
    int begin = 0, end = vocabulary;
    while (true) {
        const int length = (end - begin + 31) / 32;
        int part = 0;
        while (part < 31 && left >= scratch.parts[part]) left -= scratch.parts[part++];
        begin += part * length;
        end = min(begin + length, end);
        if (end - begin <= 1) return begin;
        measure(begin, end, weight, scratch);
    }
}

// A draw from a row; -1 if that has no law.
template <typename T, int N>
__device__ inline Int draw(const T* row, int vocabulary, const double* params, double u,
                           Scratch& scratch) {
    const Law law = law_of<T, N>(row, vocabulary, params, scratch);
    if (law.is_broken) return -1;
    const auto weight = [&](int token) { return law.weight(wide(row[token]), token); };
    return pick(vocabulary, measure(0, vocabulary, weight, scratch), u, weight, scratch);
}

// A block for each row: its probabilities; NaN if it has no law.
template <typename T, int N>
__global__ void __launch_bounds__(WALK_THREADS, 1)
    process(const T* logits, Int row_stride, int vocabulary, const double* params,
            float* probabilities, Int probabilities_stride) {
    begin();
    __shared__ Scratch scratch;
    const T* row = logits + blockIdx.x * row_stride;
    probabilities += blockIdx.x * probabilities_stride;
    const Law law = law_of<T, N>(row, vocabulary, params + blockIdx.x * 4, scratch);
    const auto weight = [&](int token) { return law.weight(wide(row[token]), token); };
    float share = infinity() - infinity();
    if (!law.is_broken) share = share_of(measure(0, vocabulary, weight, scratch));
    for (int token = threadIdx.x; token < vocabulary; token += blockDim.x)
        probabilities[token] = weight(token) * share;
}

// A block for each row: a token drawn with the number of its key that stands at its place.
template <typename T, int N>
__global__ void __launch_bounds__(WALK_THREADS, 1)
    sample_rows(const T* logits, Int row_stride, int vocabulary, const double* params,
                const Key* keys, const Key* places, Int* tokens) {
    begin();
    __shared__ Scratch scratch;
    const int row = blockIdx.x;
    const Int token = draw<T, N>(logits + row * row_stride, vocabulary, params + row * 4,
                                 uniform(keys[row], places[row]), scratch);
    if (threadIdx.x == 0) tokens[row] = token;
}

__device__ inline Key mixed(Key z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

// The key of some words and one more, see key_of in ops/noise.py; of none, it is their number.
__device__ inline Key with_word(Key key, Key word) {
    return mixed((key ^ mixed(word + 0x9E3779B97F4A7C15ull)) + 0x9E3779B97F4A7C15ull);
}

#define CHOICE 5  // numbers of a lane: the bits of four parameters, and a seed
#define NEXT 2    // see scheduler/verifiers/chance.py

// A block for each row: the first tokens to arrive in the race of its position, see finish_times in
// ops/noise.py. Those that cannot arrive are last, lower ones first. Without a law, or at
// temperature 0, the likeliest are first.
template <typename T, int N>
__global__ void __launch_bounds__(WALK_THREADS, 1)
    race(const T* logits, Int row_stride, int vocabulary, const Key* choices, int rows_each,
         const Int* positions, Int behind, const Int* names, Int* tokens, Int tokens_stride, int k) {
    begin();
    __shared__ Scratch scratch;
    const T* row = logits + blockIdx.x * row_stride;
    const Key* choice = choices + blockIdx.x / rows_each * CHOICE;
    const Law law =
        law_of<T, N>(row, vocabulary, reinterpret_cast<const double*>(choice), scratch);
    const bool is_race = !law.is_broken && law.only < 0;
    const Key position = static_cast<Key>(positions[blockIdx.x] + behind);
    const Key key = with_word(with_word(with_word(3, choice[CHOICE - 1]), NEXT), position);
    const Key never = 0x7ff0000000000000ull;  // the bits of infinity: times are never negative
    const auto time_of = [&](int token) -> Key {
        const float x = wide(row[token]);
        if (!is_race) return ~ordered(x);
        const float weight = law.weight(x, token);
        if (!(weight > 0.0f)) return never;
        const double clock = fabs(log(uniform(key, names ? names[token] : token)));
        return __double_as_longlong(clock / static_cast<double>(weight));
    };
    Key last = 0;  // time and token of the last arrival
    int last_token = -1;
    for (int place = 0; place < k; place++) {
        Key first = ~0ull;
        int its = vocabulary;
        for (int token = threadIdx.x; token < vocabulary; token += blockDim.x) {
            const Key time = time_of(token);
            if (time < first && (time > last || (time == last && token > last_token)))
                first = time, its = token;
        }
        last = ~block_max(~first, scratch.warps);
        last_token = static_cast<int>(
            ~block_max(first == last ? ~static_cast<Key>(its) : 0, scratch.warps));
        if (threadIdx.x == 0)
            tokens[blockIdx.x * tokens_stride + place] = names ? names[last_token] : last_token;
    }
}

// A block for each tree: the walk along tokens that are drawn independently. `keys`: of coins (not
// tossed), and of draws.
template <typename T, int N>
__global__ void __launch_bounds__(WALK_THREADS, 1)
    naive_walk(const T* logits, Int row_stride, int vocabulary, const double* params,
               const Key* keys, const Int* rows, const Int* tokens, const Int* parents,
               const Int* first, const Int* counts, Int* path_nodes, Int* path_tokens,
               Int* path_counts, int columns) {
    begin();
    __shared__ Scratch scratch;
    const Tree tree(rows, tokens, parents, first, counts);
    Key asked = 0;
    follow(tree, Path(path_nodes, path_tokens, path_counts, columns), [&](int node) {
        return draw<T, N>(logits + tree.rows[node] * row_stride, vocabulary,
                          params + blockIdx.x * 4, uniform(keys[blockIdx.x * 2 + 1], ++asked),
                          scratch);
    });
}

// A proposal that was rejected.
struct Rejection {
    float share;       // one over the mass of what it was tried against
    const float* row;  // what it was drawn from; null: it was certain
    Int token;
};

// A block for each tree: multi-step speculative sampling, see scheduler/verifiers/mss.py. `keys`:
// of coins, and of draws. Behind each node, `trial_counts` proposals from `trial_first` on: the
// child, and the row of `drawn_from` that it was drawn from, -1 if it was certain. Proposals behind
// the first 64 of a node are not tried.
template <typename T, int N>
__global__ void __launch_bounds__(WALK_THREADS, 1)
    mss_walk(const T* logits, Int row_stride, int vocabulary, const double* params,
             const Key* keys, const float* drawn_from, Int drawn_stride, const Int* trial_first,
             const Int* trial_counts, const Int* trial_nodes, const Int* trial_rows,
             const Int* rows, const Int* tokens, const Int* parents, const Int* first,
             const Int* counts, Int* path_nodes, Int* path_tokens, Int* path_counts,
             int columns) {
    begin();
    __shared__ Scratch scratch;
    __shared__ Rejection rejections[MOST_TRIALS];
    const Tree tree(rows, tokens, parents, first, counts);
    Path path(path_nodes, path_tokens, path_counts, columns);
    if (tree.count == 0) return path.none();
    int node = 0, accepted = 0;
    Key asked = 0;
    while (true) {
        const T* row = logits + tree.rows[node] * row_stride;
        const Law law = law_of<T, N>(row, vocabulary, params + blockIdx.x * 4, scratch);
        if (law.is_broken) return path.end(accepted, -1);
        int rejected = 0;
        const auto weight = [&](int token) {
            float left = law.weight(wide(row[token]), token);
            for (int i = 0; i < rejected; i++) {
                const Rejection& by = rejections[i];
                left *= by.share;
                if (by.row) left = fmaxf(left - by.row[token], 0.0f);
                else if (token == by.token) left = 0.0f;
            }
            return left;
        };
        Key total = measure(0, vocabulary, weight, scratch);
        const Int trial = trial_first[first[blockIdx.x] + node];
        const bool has_room = accepted + 1 < columns;
        const int trials =
            has_room ? min(static_cast<int>(trial_counts[first[blockIdx.x] + node]), MOST_TRIALS) : 0;
        int child = -1;
        for (int i = 0; i < trials; i++) {
            const int its = trial_nodes[trial + i];
            const Int token = tree.tokens[its], from = trial_rows[trial + i];
            const float* drawn = from < 0 ? nullptr : drawn_from + from * drawn_stride;
            const float share = share_of(total);
            const double odds =
                static_cast<double>(weight(token) * share) / (drawn ? drawn[token] : 1.0f);
            if (uniform(keys[blockIdx.x * 2], ++asked) < odds) {
                child = its;
                break;
            }
            if (threadIdx.x == 0) rejections[rejected] = {share, drawn, token};
            __syncthreads();
            rejected++;
            const Key left = measure(0, vocabulary, weight, scratch);
            if (left == 0) {  // it was impossible but for rounding
                rejected--;
                measure(0, vocabulary, weight, scratch);
            } else {
                total = left;
            }
        }
        if (child < 0) {
            const double u = uniform(keys[blockIdx.x * 2 + 1], ++asked);
            return path.end(accepted, pick(vocabulary, total, u, weight, scratch));
        }
        path.accept(accepted++, child, tree.tokens[child]);
        node = child;
    }
}
