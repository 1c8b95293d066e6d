// Tree attention: one kernel for decoding, prompts, draft frontiers and trees. See
// attention_cuda.py.
//
// The rows of a request and the query heads of a K/V head are packed into tiles of BM rows, so that
// K/V are read once for all of them. A unit is (request, K/V head, tile of rows); it walks the
// request's keys in tiles of BN. Steps of so many tiles, of all units in order, are divided evenly
// over a fixed number of blocks, whatever the requests' sizes are. A unit that is divided leaves
// partial results in memory (most, total, sum of values), which `merge` puts together in the order
// of the keys.
//
// instances: plan_attention, share_out, plain_attention<float>
// instances: plain_attention<__half>, plain_attention<__nv_bfloat16>
// instances: tree_attention<__half, 64, 1, 4, 64, 2, 2>, merge<__half, 64, 64, 64>
// instances: tree_attention<__half, 64, 2, 4, 64, 2, 2>, merge<__half, 64, 128, 64>
// instances: tree_attention<__half, 64, 2, 8, 64, 4, 1>, merge<__half, 64, 256, 64>
// instances: tree_attention<__half, 96, 1, 4, 64, 2, 2>, merge<__half, 96, 64, 64>
// instances: tree_attention<__half, 96, 2, 4, 64, 2, 2>, merge<__half, 96, 128, 64>
// instances: tree_attention<__half, 96, 2, 8, 64, 4, 1>, merge<__half, 96, 256, 64>
// instances: tree_attention<__half, 128, 1, 4, 64, 2, 2>, merge<__half, 128, 64, 64>
// instances: tree_attention<__half, 128, 2, 4, 64, 2, 2>, merge<__half, 128, 128, 64>
// instances: tree_attention<__half, 128, 2, 8, 64, 4, 1>, merge<__half, 128, 256, 64>
// instances: tree_attention<__half, 256, 1, 4, 32, 2, 2>, merge<__half, 256, 64, 32>
// instances: tree_attention<__nv_bfloat16, 64, 1, 4, 64, 2, 2>, merge<__nv_bfloat16, 64, 64, 64>
// instances: tree_attention<__nv_bfloat16, 64, 2, 4, 64, 2, 2>, merge<__nv_bfloat16, 64, 128, 64>
// instances: tree_attention<__nv_bfloat16, 64, 2, 8, 64, 4, 1>, merge<__nv_bfloat16, 64, 256, 64>
// instances: tree_attention<__nv_bfloat16, 96, 1, 4, 64, 2, 2>, merge<__nv_bfloat16, 96, 64, 64>
// instances: tree_attention<__nv_bfloat16, 96, 2, 4, 64, 2, 2>, merge<__nv_bfloat16, 96, 128, 64>
// instances: tree_attention<__nv_bfloat16, 96, 2, 8, 64, 4, 1>, merge<__nv_bfloat16, 96, 256, 64>
// instances: tree_attention<__nv_bfloat16, 128, 1, 4, 64, 2, 2>, merge<__nv_bfloat16, 128, 64, 64>
// instances: tree_attention<__nv_bfloat16, 128, 2, 4, 64, 2, 2>, merge<__nv_bfloat16, 128, 128, 64>
// instances: tree_attention<__nv_bfloat16, 128, 2, 8, 64, 4, 1>, merge<__nv_bfloat16, 128, 256, 64>
// instances: tree_attention<__nv_bfloat16, 256, 1, 4, 32, 2, 2>, merge<__nv_bfloat16, 256, 64, 32>

#include "packs.cuh"

#define PAGE_SLOTS 16
#define INFINITY __int_as_float(0x7f800000)
#define LOG2_E 1.4426950408889634f

typedef long long Int;
typedef unsigned long long Bits;

// ---------------------------------------------------------------------------------------- plan

// Blocks (r, 0): what each row of request r sees. Blocks (r, 1...): slots of a share of its keys.
extern "C" __global__ void plan_attention(
    const Int* __restrict__ positions, const Int* __restrict__ request, Int rows,
    const Int* __restrict__ prefix_len, const Int* __restrict__ chain_len,
    const Int* __restrict__ num_nodes, const Int* __restrict__ pages, Int page_stride,
    const Int* __restrict__ tree, Int tree_stride, const Bits* __restrict__ ancestors, Int words,
    int* __restrict__ keys, Int key_stride, Bits* __restrict__ seen, Int seen_words,
    Int* __restrict__ extents) {
    const Int r = blockIdx.x, prefix = prefix_len[r], chain = chain_len[r], nodes = num_nodes[r];
    if (blockIdx.y > 0) {
        const Int step = (gridDim.y - 1) * blockDim.x;
        for (Int key = (blockIdx.y - 1) * blockDim.x + threadIdx.x; key < prefix + nodes;
             key += step) {
            const Int slot = key < prefix
                ? pages[r * page_stride + key / PAGE_SLOTS] * PAGE_SLOTS + key % PAGE_SLOTS
                : tree[r * tree_stride + key - prefix];
            keys[r * key_stride + key] = static_cast<int>(slot);
        }
        return;
    }
    __shared__ int start, stop;
    if (threadIdx.x == 0) start = static_cast<int>(rows), stop = 0;
    __syncthreads();
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        if (request[row] == r) {
            atomicMin(&start, row);
            atomicMax(&stop, row + 1);
        }
    }
    __syncthreads();
    bool all = true;
    for (Int i = threadIdx.x; i < (stop - start) * seen_words; i += blockDim.x) {
        const Int row = start + i / seen_words, word = i % seen_words;
        // Of the chain, what is not behind the row; of the tree, what is above it.
        const Int visible = min(positions[row] - prefix + 1, chain) - word * 64;
        Bits bits = visible <= 0 ? 0 : visible >= 64 ? ~Bits(0) : (Bits(1) << visible) - 1;
        const Int from = word - chain / 64, shift = chain % 64;
        if (from >= 0 && from < words) bits |= ancestors[row * words + from] << shift;
        if (shift && from >= 1 && from - 1 < words)
            bits |= ancestors[row * words + from - 1] >> (64 - shift);
        seen[row * seen_words + word] = bits;
        const Int left = nodes - word * 64;
        const Bits asked = left <= 0 ? 0 : left >= 64 ? ~Bits(0) : (Bits(1) << left) - 1;
        all = all && (bits & asked) == asked;
    }
    all = __syncthreads_and(all);
    if (threadIdx.x == 0) {
        const bool any = start < stop;
        extents[r * 4] = any ? start : 0;
        extents[r * 4 + 1] = any ? stop : 0;
        extents[r * 4 + 2] = any ? prefix + nodes : 0;
        extents[r * 4 + 3] = any && !all ? nodes : 0;
    }
}

// ------------------------------------------------------------------------------------ schedule

// How steps are counted, the same in all blocks and in `merge`.
struct Layout {
    const Int* extents;
    int requests, kv_heads, group;
    int length;  // of a step, in tiles
};

#define SHARE_THREADS 256

// How long steps are: work = {length, number of steps, whether a unit has more than one}. Best is
// one step a block, so that none ends one unit and begins another; where that would leave some
// blocks much more than the others, steps are single tiles, and a block has as many in a row as all
// others.
extern "C" __global__ void __launch_bounds__(SHARE_THREADS)
    share_out(const Int* __restrict__ extents, int requests, int kv_heads, int group, int rows,
              int keys, int blocks, int* __restrict__ work) {
    __shared__ int units[SHARE_THREADS], tiles[SHARE_THREADS], total, whole, best;
    const int thread = threadIdx.x;
    if (thread == 0) total = whole = 0, best = 1 << 30;
    int steps = 0, least = 0;
    // Once for the sum, once for each thread's length of steps.
    for (int round = 0; round < 2; round++) {
        for (int base = 0; base < requests; base += SHARE_THREADS) {
            __syncthreads();
            const int r = base + thread;
            units[thread] = tiles[thread] = 0;
            if (r < requests) {
                const Int* of = extents + r * 4;
                const int packed = static_cast<int>(of[1] - of[0]) * group;
                units[thread] = kv_heads * ((packed + rows - 1) / rows);
                tiles[thread] = (static_cast<int>(of[2]) + keys - 1) / keys;
            }
            if (round == 0) {
                atomicAdd(&total, units[thread] * tiles[thread]);
                if (tiles[thread]) atomicAdd(&whole, units[thread]);
            } else {
                __syncthreads();
                for (int i = 0; i < min(SHARE_THREADS, requests - base); i++)
                    steps += units[i] * ((tiles[i] + least + thread - 1) / (least + thread));
            }
        }
        __syncthreads();
        least = max((total + blocks - 1) / blocks, 1);
    }
    if (steps <= blocks && thread <= least / 4 + 2) atomicMin(&best, thread);
    __syncthreads();
    if (best < SHARE_THREADS ? thread == best : thread == 0) {
        work[0] = best < SHARE_THREADS ? least + best : 1;
        work[1] = best < SHARE_THREADS ? steps : total;
        work[2] = work[1] > whole;
    }
}

struct Unit {
    int start, packed;         // first row; packed rows of the request: rows x group
    int num_keys, asked, keys_row;  // keys; how many of the last `seen` is asked about; request
    int kv_head, row_tile;
    int first, steps;          // the unit's steps among those of all units
};

struct Extent {
    int start, rows, num_keys, asked;
};

__device__ inline Extent extent_of(const Layout& at, int r) {
    if (r >= at.requests) return {0, 0, 0, 0};
    const longlong2* from = reinterpret_cast<const longlong2*>(at.extents) + 2 * r;
    const longlong2 rows = __ldg(from), keys = __ldg(from + 1);
    return {static_cast<int>(rows.x), static_cast<int>(rows.y - rows.x), static_cast<int>(keys.x),
            static_cast<int>(keys.y)};
}

template <int BN>
__device__ inline int unit_steps(const Layout& at, int num_keys) {
    return ((num_keys + BN - 1) / BN + at.length - 1) / at.length;
}

template <int BM, int BN>
__device__ inline int steps_of(const Layout& at, const Extent& of) {
    return at.kv_heads * ((of.rows * at.group + BM - 1) / BM) * unit_steps<BN>(at, of.num_keys);
}

__device__ inline int sum_up_to(int value) {
    for (int by = 1; by < 32; by *= 2) {
        const int other = __shfl_up_sync(~0u, value, by);
        if (threadIdx.x % 32 >= by) value += other;
    }
    return value;
}

// The unit that has this step; every lane of a warp must ask.
template <int BM, int BN>
__device__ Unit unit_at(const Layout& at, int step) {
    int before = 0;
    for (int base = 0;; base += 32) {
        const Extent of = extent_of(at, base + threadIdx.x % 32);
        const int steps = steps_of<BM, BN>(at, of), upto = before + sum_up_to(steps);
        const unsigned beyond = __ballot_sync(~0u, upto > step);
        if (!beyond) {
            before = __shfl_sync(~0u, upto, 31);
            continue;
        }
        const int lane = __ffs(beyond) - 1;
        Unit unit;
        unit.keys_row = base + lane;
        unit.start = __shfl_sync(~0u, of.start, lane);
        unit.packed = __shfl_sync(~0u, of.rows, lane) * at.group;
        unit.num_keys = __shfl_sync(~0u, of.num_keys, lane);
        unit.asked = __shfl_sync(~0u, of.asked, lane);
        before = __shfl_sync(~0u, upto - steps, lane);
        unit.steps = unit_steps<BN>(at, unit.num_keys);
        const int row_tiles = (unit.packed + BM - 1) / BM, index = (step - before) / unit.steps;
        unit.kv_head = index / row_tiles;
        unit.row_tile = index % row_tiles;
        unit.first = before + index * unit.steps;
        return unit;
    }
}

// Block b of `blocks` has steps [share(b), share(b + 1)): at least one, as blocks <= total.
__device__ inline int share(int block, int blocks, int total) {
    return blocks == total ? block : static_cast<int>(static_cast<Int>(block) * total / blocks);
}

__device__ inline int block_of(int step, int blocks, int total) {
    return blocks == total ? step
                           : static_cast<int>((static_cast<Int>(step + 1) * blocks - 1) / total);
}

// Where a block leaves its part of a divided unit. It can have parts of two: one that began in an
// earlier block, and one that begins here.
template <int BM, int D>
__device__ inline Int part_at(int block, bool begins) {
    return static_cast<Int>(2 * block + begins) * BM * (D + 2);
}

// ----------------------------------------------------------------------- instructions of the card

__device__ inline unsigned address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// 16 bytes from memory to shared memory, or zeros.
__device__ inline void copy16(unsigned to, const void* from, bool given) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(given ? 16 : 0));
}

__device__ inline void copy4(unsigned to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from));
}

__device__ inline void end_of_group() { asm volatile("cp.async.commit_group;"); }

template <int PENDING>
__device__ inline void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
}

__device__ inline void load_matrices(unsigned (&to)[4], unsigned from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

__device__ inline void load_transposed(unsigned (&to)[4], unsigned from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

template <typename T>
struct Numbers;

template <>
struct Numbers<__nv_bfloat16> {
    static __device__ unsigned pair(float low, float high) {
        const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
        return reinterpret_cast<const unsigned&>(both);
    }
    static __device__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                    unsigned b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

template <>
struct Numbers<__half> {
    static __device__ unsigned pair(float low, float high) {
        const __half2 both = __floats2half2_rn(low, high);
        return reinterpret_cast<const unsigned&>(both);
    }
    static __device__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                    unsigned b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

__device__ inline float exp_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---------------------------------------------------------------------------------------- masks

// Bit j: the row sees key `key + j`, for the 64 keys from `key` on.
__device__ inline Bits seen_from(const Bits* row_seen, int words, int key, int num_keys,
                                 int asked) {
    const int node = key - (num_keys - asked), left = num_keys - key;
    const int word = node >> 6, by = node & 63;  // rounded down: what is in front of them is seen
    const Bits one = row_seen[max(min(word, words - 1), 0)];
    const Bits two = row_seen[max(min(word + 1, words - 1), 0)];
    const Bits low = word < 0 ? ~Bits(0) : word < words ? one : 0;
    const Bits high = word + 1 < 0 ? ~Bits(0) : word + 1 < words ? two : 0;
    const Bits bits = low >> by | (by ? high << (64 - by) : 0);
    return left >= 64 ? bits : left <= 0 ? 0 : bits & ((Bits(1) << left) - 1);
}

// ------------------------------------------------------------------------------------ attention

// WARPS of MT x 16 rows; BN keys a tile, STAGES of them in shared memory; BLOCKS of these fit
// a multiprocessor.
template <typename T, int D, int MT, int WARPS, int BN, int STAGES, int BLOCKS>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS)
    tree_attention(const T* __restrict__ q, Int q_stride, const T* __restrict__ k_pool,
                   const T* __restrict__ v_pool, const int* __restrict__ keys, Int key_stride,
                   const Bits* __restrict__ seen, Int words, const Int* __restrict__ extents,
                   int requests, int kv_heads, int group, const int* __restrict__ work,
                   float* __restrict__ parts, T* __restrict__ out, Int out_stride, float scale) {
    constexpr int BM = MT * WARPS * 16, THREADS = WARPS * 32;
    constexpr int PITCH = D + 8;  // so that eight rows lie in different banks
    constexpr int CHUBNS = D / 8, COPIES = BN * CHUBNS / THREADS;
    extern __shared__ __align__(16) char shared[];
    T* const shared_q = reinterpret_cast<T*>(shared);
    T* const stages = shared_q + BM * PITCH;
    int* const slots = reinterpret_cast<int*>(stages + STAGES * 2 * BN * PITCH);

    const Layout layout{extents, requests, kv_heads, group, __ldg(work)};
    const int total = __ldg(work + 1);
    const int blocks = min(static_cast<int>(gridDim.x), total), block = blockIdx.x;
    if (block >= blocks) return;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int stop = share(block + 1, blocks, total);
    const float by = scale * LOG2_E;
    const Int slot_stride = static_cast<Int>(kv_heads) * D;

    const unsigned q_from =
        address(shared_q + (warp * MT * 16 + lane % 16) * PITCH + lane / 16 * 8);
    const unsigned k_from =
        address(stages + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8);
    const unsigned v_from = address(stages + (BN + lane % 16) * PITCH + lane / 16 * 8);

    for (int at = share(block, blocks, total); at < stop;) {
        const Unit unit = unit_at<BM, BN>(layout, at);
        const int first_step = at - unit.first, last_step = min(unit.steps, first_step + stop - at);
        const int tiles = (unit.num_keys + BN - 1) / BN;
        const int begin = first_step * layout.length, end = min(tiles, last_step * layout.length);
        const int first_packed = unit.row_tile * BM, count = min(BM, unit.packed - first_packed);
        const int head = unit.kv_head * group;
        const int* const unit_keys = keys + unit.keys_row * key_stride;
        const T* const k_head = k_pool + unit.kv_head * D;
        const T* const v_head = v_pool + unit.kv_head * D;
        at += last_step - first_step;

        // Slots first, then all copies: a copy after each slot would wait for each.
        const auto load_tile = [&](int tile, int stage, const int(&slot)[COPIES]) {
#pragma unroll
            for (int i = 0; i < COPIES; i++) {
                const int row = (thread + i * THREADS) / CHUBNS;
                const int chunk = (thread + i * THREADS) % CHUBNS * 8;
                const bool given = tile * BN + row < unit.num_keys;
                const Int from = given ? slot[i] * slot_stride + chunk : 0;
                const unsigned to = address(stages + (stage * 2 * BN + row) * PITCH + chunk);
                copy16(to, k_head + from, given);
                copy16(to + BN * PITCH * 2, v_head + from, given);
            }
        };
        const auto load_slots = [&](int tile) {
            const int key = tile * BN + thread;
            if (thread < BN && tile < end && key < unit.num_keys)
                copy4(address(slots + tile % STAGES * BN + thread), unit_keys + key);
        };

        int first_slots[STAGES - 1][COPIES];
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++)
#pragma unroll
            for (int j = 0; j < COPIES; j++) {
                const int key = (begin + i) * BN + (thread + j * THREADS) / CHUBNS;
                first_slots[i][j] = key < unit.num_keys ? __ldg(unit_keys + key) : 0;
            }
#pragma unroll 4
        for (int i = thread; i < BM * CHUBNS; i += THREADS) {
            const int row = i / CHUBNS, chunk = i % CHUBNS * 8, packed = first_packed + row;
            const T* from = q;
            if (row < count)
                from += (unit.start + packed / group) * q_stride +
                        static_cast<Int>(head + packed % group) * D + chunk;
            copy16(address(shared_q + row * PITCH + chunk), from, row < count);
        }
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++) {
            const int tile = begin + i;
            if (tile < end) load_tile(tile, i, first_slots[i]);
            load_slots(tile + STAGES - 1);
            end_of_group();
        }

        float sums[MT][D / 8][4], most[MT][2], totals[MT][2];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            most[m][0] = most[m][1] = -INFINITY;
            totals[m][0] = totals[m][1] = 0.0f;
#pragma unroll
            for (int d = 0; d < D / 8; d++)
                sums[m][d][0] = sums[m][d][1] = sums[m][d][2] = sums[m][d][3] = 0.0f;
        }
        const bool active = warp * MT * 16 < count;
        int stage = 0, free_stage = STAGES - 1;
        for (int tile = begin; tile < end; tile++) {
            wait_for_groups<STAGES - 2>();
            __syncthreads();
            const int next = tile + STAGES - 1;
            if (next < end) {
                int slot[COPIES];
#pragma unroll
                for (int i = 0; i < COPIES; i++)
                    slot[i] = slots[next % STAGES * BN + (thread + i * THREADS) / CHUBNS];
                load_tile(next, free_stage, slot);
            }
            load_slots(next + STAGES - 1);
            end_of_group();
            const unsigned stage_bytes = stage * 2 * BN * PITCH * 2;
            free_stage = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            if (!active) continue;

            float scores[MT][BN / 8][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < BN / 8; n++)
                    scores[m][n][0] = scores[m][n][1] = scores[m][n][2] = scores[m][n][3] = 0.0f;
            // What the next products are of is loaded before these are started.
            constexpr int QK_STEPS = D / 16 * (BN / 16);
            unsigned a[2][MT][4], b[2][4];
            const auto load_qk = [&](int step) {
                const int d = step / (BN / 16) * 16, n = step % (BN / 16) * 16;
                load_matrices(b[step % 2], k_from + stage_bytes + (n * PITCH + d) * 2);
                if (n == 0)
#pragma unroll
                    for (int m = 0; m < MT; m++)
                        load_matrices(a[d / 16 % 2][m], q_from + (m * 16 * PITCH + d) * 2);
            };
            load_qk(0);
#pragma unroll
            for (int step = 0; step < QK_STEPS; step++) {
                if (step + 1 < QK_STEPS) load_qk(step + 1);
                const int d = step / (BN / 16), n = step % (BN / 16);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    Numbers<T>::multiply(scores[m][2 * n], a[d % 2][m], b[step % 2][0],
                                         b[step % 2][1]);
                    Numbers<T>::multiply(scores[m][2 * n + 1], a[d % 2][m], b[step % 2][2],
                                         b[step % 2][3]);
                }
            }

            if ((tile + 1) * BN > unit.num_keys - unit.asked) {
                const int key = tile * BN;
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int row = (warp * MT + m) * 16 + half * 8 + lane / 4;
                        const int packed = first_packed + min(row, count - 1);
                        const Bits* const row_seen =
                            seen + static_cast<Int>(unit.start + packed / group) * words;
                        const Bits bits =
                            seen_from(row_seen, words, key, unit.num_keys, unit.asked) >>
                            lane % 4 * 2;
#pragma unroll
                        for (int n = 0; n < BN / 8; n++)
#pragma unroll
                            for (int i = 0; i < 2; i++)
                                if (!(bits >> (n * 8 + i) & 1))
                                    scores[m][n][half * 2 + i] = -INFINITY;
                    }
            }

            // The greatest score so far, of what the exponents are taken. It is left as it was
            // while no row's has grown by more than 2^8: that costs no precision.
            float now[MT][2];
            bool grown = false;
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float best = most[m][half];
#pragma unroll
                    for (int n = 0; n < BN / 8; n++)
                        best = fmaxf(
                            best, fmaxf(scores[m][n][half * 2], scores[m][n][half * 2 + 1]));
                    best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
                    best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));
                    now[m][half] = best;
                    grown = grown || (best - most[m][half]) * by > 8.0f;
                }
            if (__any_sync(~0u, grown)) {
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const float best = now[m][half];
                        const float keep =
                            best == -INFINITY ? 1.0f : exp_of_2((most[m][half] - best) * by);
                        most[m][half] = best;
                        totals[m][half] *= keep;
#pragma unroll
                        for (int d = 0; d < D / 8; d++) {
                            sums[m][d][half * 2] *= keep;
                            sums[m][d][half * 2 + 1] *= keep;
                        }
                    }
            }

            unsigned weights[MT][BN / 16][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float less = most[m][half] == -INFINITY ? 0.0f : most[m][half] * by;
#pragma unroll
                    for (int n = 0; n < BN / 8; n++) {
                        const float one = exp_of_2(fmaf(scores[m][n][half * 2], by, -less));
                        const float two = exp_of_2(fmaf(scores[m][n][half * 2 + 1], by, -less));
                        totals[m][half] += one + two;
                        weights[m][n / 2][n % 2 * 2 + half] = Numbers<T>::pair(one, two);
                    }
                }
            constexpr int PV_STEPS = QK_STEPS;
            const auto load_pv = [&](int step) {
                const int n = step / (D / 16) * 16, d = step % (D / 16) * 16;
                load_transposed(b[step % 2], v_from + stage_bytes + (n * PITCH + d) * 2);
            };
            load_pv(0);
#pragma unroll
            for (int step = 0; step < PV_STEPS; step++) {
                if (step + 1 < PV_STEPS) load_pv(step + 1);
                const int n = step / (D / 16), d = step % (D / 16);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    Numbers<T>::multiply(sums[m][2 * d], weights[m][n], b[step % 2][0],
                                         b[step % 2][1]);
                    Numbers<T>::multiply(sums[m][2 * d + 1], weights[m][n], b[step % 2][2],
                                         b[step % 2][3]);
                }
            }
        }

        const bool whole = end - begin == tiles;
        float* const part = parts + part_at<BM, D>(block, begin == 0);
        const auto out_row = [&](int row) {
            const int packed = first_packed + row;
            return out + (unit.start + packed / group) * out_stride +
                   static_cast<Int>(head + packed % group) * D;
        };
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                totals[m][half] += __shfl_xor_sync(~0u, totals[m][half], 1);
                totals[m][half] += __shfl_xor_sync(~0u, totals[m][half], 2);
            }
        wait_for_groups<0>();
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = (warp * MT + m) * 16 + half * 8 + lane / 4;
                if (row >= count) continue;
                const float sum = totals[m][half];
                if (whole) {
                    const float over = sum > 0 ? 1.0f / sum : 0.0f;
                    T* const to = out_row(row) + lane % 4 * 2;
#pragma unroll
                    for (int d = 0; d < D / 8; d++)
                        *reinterpret_cast<unsigned*>(to + d * 8) = Numbers<T>::pair(
                            sums[m][d][half * 2] * over, sums[m][d][half * 2 + 1] * over);
                } else {
                    float* const to = part + row * D + lane % 4 * 2;
#pragma unroll
                    for (int d = 0; d < D / 8; d++)
                        *reinterpret_cast<float2*>(to + d * 8) =
                            make_float2(sums[m][d][half * 2], sums[m][d][half * 2 + 1]);
                    if (lane % 4 == 0)
                        *reinterpret_cast<float2*>(part + BM * D + row * 2) =
                            make_float2(most[m][half] * by, sum);
                }
            }
        __syncthreads();
    }
}

// A warp for each row and query head: puts together the parts of a divided unit.
template <typename T, int D, int BM, int BN>
__global__ void __launch_bounds__(256)
    merge(const Int* __restrict__ extents, int requests, int kv_heads, int group,
          const int* __restrict__ work, int blocks, const float* __restrict__ parts,
          int rows, T* __restrict__ out, Int out_stride) {
    const int lane = threadIdx.x % 32, index = blockIdx.x * 8 + threadIdx.x / 32;
    const int heads = kv_heads * group, row = index / heads, head = index % heads;
    if (row >= rows) return;
    if (!__ldg(work + 2)) return;
    const Layout layout{extents, requests, kv_heads, group, __ldg(work)};
    const int total = __ldg(work + 1);
    int before = 0, first = -1, steps = 0, packed = 0;
    for (int base = 0; base < requests && first < 0; base += 32) {
        const Extent of = extent_of(layout, base + lane);
        const int own = steps_of<BM, BN>(layout, of), upto = before + sum_up_to(own);
        const unsigned here = __ballot_sync(~0u, of.start <= row && row < of.start + of.rows);
        if (here) {
            packed = (row - of.start) * group + head % group;
            steps = unit_steps<BN>(layout, of.num_keys);
            const int row_tiles = (of.rows * group + BM - 1) / BM;
            first = upto - own + (head / group * row_tiles + packed / BM) * steps;
            const int from = __ffs(here) - 1;
            packed = __shfl_sync(~0u, packed, from);
            steps = __shfl_sync(~0u, steps, from);
            first = __shfl_sync(~0u, first, from);
        }
        before = __shfl_sync(~0u, upto, 31);
    }
    if (first < 0 || steps < 2) return;  // a row that is padding, or a unit that is not divided
    blocks = min(blocks, total);
    const int begin = block_of(first, blocks, total);
    const int end = block_of(first + steps - 1, blocks, total);
    if (begin == end) return;
    const int within = packed % BM;
    const auto weight_of = [&](int block) {
        return block > end ? make_float2(-INFINITY, 0.0f)
                           : *reinterpret_cast<const float2*>(
                                 parts + part_at<BM, D>(block, block == begin) + BM * D +
                                 within * 2);
    };
    float best = -INFINITY;
    for (int block = begin + lane; block <= end; block += 32)
        best = fmaxf(best, weight_of(block).x);
    for (int by = 16; by; by /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, by));
    constexpr int PAIRS = (D + 63) / 64;
    float2 sums[PAIRS] = {};
    float weight = 0.0f;
    for (int base = begin; base <= end; base += 32) {
        const float2 own = weight_of(base + lane);
        const float factor = own.x == -INFINITY ? 0.0f : exp_of_2(own.x - best);
        weight += own.y * factor;
        const int here = min(32, end + 1 - base);
#pragma unroll 8
        for (int i = 0; i < here; i++) {
            const float keep = __shfl_sync(~0u, factor, i);
            const float* from = parts + part_at<BM, D>(base + i, base + i == begin) + within * D;
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                const int column = p * 64 + lane * 2;
                if (column < D) {
                    const float2 one = *reinterpret_cast<const float2*>(from + column);
                    sums[p].x += keep * one.x, sums[p].y += keep * one.y;
                }
            }
        }
    }
    for (int by = 16; by; by /= 2) weight += __shfl_xor_sync(~0u, weight, by);
    const float over = weight > 0 ? 1.0f / weight : 0.0f;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        const int column = p * 64 + lane * 2;
        if (column < D)
            *reinterpret_cast<unsigned*>(out + row * out_stride + static_cast<Int>(head) * D +
                                         column) =
                Numbers<T>::pair(sums[p].x * over, sums[p].y * over);
    }
}

// ---------------------------------------------------------------------------------------- plain

#define PLAIN_WARPS 4
#define PLAIN_PER_LANE 8

// A block for each row and query head, exact in float32: for what the tiles above are not made for.
template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS * 32)
    plain_attention(const T* __restrict__ q, Int q_stride, const T* __restrict__ k_pool,
                    const T* __restrict__ v_pool, const int* __restrict__ keys, Int key_stride,
                    const Bits* __restrict__ seen, Int words, const Int* __restrict__ extents,
                    int requests, int kv_heads, int group, T* __restrict__ out, Int out_stride,
                    int size, float scale) {
    __shared__ float all_most[PLAIN_WARPS], all_total[PLAIN_WARPS];
    __shared__ float all_sums[PLAIN_WARPS][PLAIN_PER_LANE * 32];
    const int row = blockIdx.x, head = blockIdx.y, kv_head = head / group;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int r = 0;
    while (r < requests && !(extents[r * 4] <= row && row < extents[r * 4 + 1])) ++r;
    if (r == requests) return;  // no request has this row: nobody reads it
    const int num_keys = static_cast<int>(extents[r * 4 + 2]);
    const int first_asked = num_keys - static_cast<int>(extents[r * 4 + 3]);
    float query[PLAIN_PER_LANE], sums[PLAIN_PER_LANE];
#pragma unroll
    for (int i = 0; i < PLAIN_PER_LANE; i++) {
        const int column = i * 32 + lane;
        query[i] = column < size ? wide(q[row * q_stride + head * size + column]) * scale : 0.0f;
        sums[i] = 0.0f;
    }
    float most = -INFINITY, total = 0.0f;
    for (int key = warp; key < num_keys; key += PLAIN_WARPS) {
        const int node = key - first_asked;
        if (node >= 0 && !(seen[static_cast<Int>(row) * words + node / 64] >> node % 64 & 1))
            continue;
        const Int base = (static_cast<Int>(keys[r * key_stride + key]) * kv_heads + kv_head) * size;
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < PLAIN_PER_LANE; i++)
            if (i * 32 + lane < size) score += query[i] * wide(k_pool[base + i * 32 + lane]);
        for (int by = 16; by; by /= 2) score += __shfl_xor_sync(~0u, score, by);
        const float now = fmaxf(most, score), keep = expf(most - now), weight = expf(score - now);
        total = total * keep + weight;
#pragma unroll
        for (int i = 0; i < PLAIN_PER_LANE; i++)
            if (i * 32 + lane < size)
                sums[i] = sums[i] * keep + weight * wide(v_pool[base + i * 32 + lane]);
        most = now;
    }
    if (lane == 0) all_most[warp] = most, all_total[warp] = total;
#pragma unroll
    for (int i = 0; i < PLAIN_PER_LANE; i++) all_sums[warp][i * 32 + lane] = sums[i];
    __syncthreads();
    float best = -INFINITY, whole = 0.0f;
    for (int w = 0; w < PLAIN_WARPS; w++) best = fmaxf(best, all_most[w]);
    for (int w = 0; w < PLAIN_WARPS; w++)
        if (all_total[w] > 0) whole += all_total[w] * expf(all_most[w] - best);
    for (int column = threadIdx.x; column < size; column += blockDim.x) {
        float value = 0.0f;
        for (int w = 0; w < PLAIN_WARPS; w++)
            if (all_total[w] > 0) value += all_sums[w][column] * expf(all_most[w] - best);
        // Whoever sees nothing is padding.
        out[row * out_stride + head * size + column] = rounded<T>(whole > 0 ? value / whole : 0);
    }
}
