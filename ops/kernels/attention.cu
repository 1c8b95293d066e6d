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
// instances: tree_attention<__half, 64, 1, 4, 64, 2, 2>
// instances: merge<__half, 64, 64, 64, 8, 3>, merge<__half, 64, 64, 64, 2, 6>
// instances: tree_attention<__half, 64, 2, 4, 64, 2, 2>
// instances: merge<__half, 64, 128, 64, 8, 3>, merge<__half, 64, 128, 64, 2, 6>
// instances: tree_attention<__half, 64, 2, 8, 64, 4, 1>
// instances: merge<__half, 64, 256, 64, 8, 3>, merge<__half, 64, 256, 64, 2, 6>
// instances: tree_attention<__half, 96, 1, 4, 64, 2, 2>
// instances: merge<__half, 96, 64, 64, 8, 3>, merge<__half, 96, 64, 64, 2, 6>
// instances: tree_attention<__half, 96, 2, 4, 64, 2, 2>
// instances: merge<__half, 96, 128, 64, 8, 3>, merge<__half, 96, 128, 64, 2, 6>
// instances: tree_attention<__half, 96, 2, 8, 64, 4, 1>
// instances: merge<__half, 96, 256, 64, 8, 3>, merge<__half, 96, 256, 64, 2, 6>
// instances: tree_attention<__half, 128, 1, 4, 64, 2, 2>
// instances: merge<__half, 128, 64, 64, 8, 3>, merge<__half, 128, 64, 64, 2, 6>
// instances: tree_attention<__half, 128, 2, 4, 64, 2, 2>
// instances: merge<__half, 128, 128, 64, 8, 3>, merge<__half, 128, 128, 64, 2, 6>
// instances: tree_attention<__half, 128, 2, 8, 64, 4, 1>
// instances: merge<__half, 128, 256, 64, 8, 3>, merge<__half, 128, 256, 64, 2, 6>
// instances: tree_attention<__half, 256, 1, 4, 32, 2, 2>
// instances: merge<__half, 256, 64, 32, 4, 3>, merge<__half, 256, 64, 32, 2, 6>
// instances: tree_attention<__nv_bfloat16, 64, 1, 4, 64, 2, 2>
// instances: merge<__nv_bfloat16, 64, 64, 64, 8, 3>, merge<__nv_bfloat16, 64, 64, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 64, 2, 4, 64, 2, 2>
// instances: merge<__nv_bfloat16, 64, 128, 64, 8, 3>, merge<__nv_bfloat16, 64, 128, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 64, 2, 8, 64, 4, 1>
// instances: merge<__nv_bfloat16, 64, 256, 64, 8, 3>, merge<__nv_bfloat16, 64, 256, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 96, 1, 4, 64, 2, 2>
// instances: merge<__nv_bfloat16, 96, 64, 64, 8, 3>, merge<__nv_bfloat16, 96, 64, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 96, 2, 4, 64, 2, 2>
// instances: merge<__nv_bfloat16, 96, 128, 64, 8, 3>, merge<__nv_bfloat16, 96, 128, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 96, 2, 8, 64, 4, 1>
// instances: merge<__nv_bfloat16, 96, 256, 64, 8, 3>, merge<__nv_bfloat16, 96, 256, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 128, 1, 4, 64, 2, 2>
// instances: merge<__nv_bfloat16, 128, 64, 64, 8, 3>, merge<__nv_bfloat16, 128, 64, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 128, 2, 4, 64, 2, 2>
// instances: merge<__nv_bfloat16, 128, 128, 64, 8, 3>, merge<__nv_bfloat16, 128, 128, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 128, 2, 8, 64, 4, 1>
// instances: merge<__nv_bfloat16, 128, 256, 64, 8, 3>, merge<__nv_bfloat16, 128, 256, 64, 2, 6>
// instances: tree_attention<__nv_bfloat16, 256, 1, 4, 32, 2, 2>
// instances: merge<__nv_bfloat16, 256, 64, 32, 4, 3>, merge<__nv_bfloat16, 256, 64, 32, 2, 6>
#include "attention.cuh"
#include "chain.cuh"

#define PAGE_SLOTS 16

// ---------------------------------------------------------------------------------------- plan

// Blocks (r, 0): what each row of request r sees. Blocks (r, 1...): slots of a share of its keys.
extern "C" __global__ void plan_attention(
    const Int* positions, const Int* request, Int rows, const Int* prefix_len,
    const Int* chain_len, const Int* num_nodes, const Int* pages, Int page_stride,
    const Int* tree, Int tree_stride, const Bits* ancestors, Int words, int* keys, Int key_stride,
    Bits* seen, Int seen_words, Int* extents) {
    begin();
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

#define SHARE_THREADS 256

// How long steps are, see `Work`. Best is
// one step a block, so that none ends one unit and begins another; where that would leave some
// blocks much more than the others, steps are single tiles, and a block has as many in a row as all
// others.
extern "C" __global__ void __launch_bounds__(SHARE_THREADS)
    share_out(const Int* extents, int requests, int kv_heads, int group, int rows, int keys,
              int blocks, int* work) {
    __shared__ int units[SHARE_THREADS], tiles[SHARE_THREADS], total, whole, best;
    begin();
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

// ------------------------------------------------------------------------------------ attention

__device__ inline void copy4(unsigned to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from));
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

// WARPS of MT x 16 rows; BN keys a tile, STAGES of them in shared memory; BLOCKS of these fit
// a multiprocessor.
template <typename T, int D, int MT, int WARPS, int BN, int STAGES, int BLOCKS>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS)
    tree_attention(const T* q, Int q_stride, const T* k_pool, const T* v_pool, const int* keys,
                   Int key_stride, const Bits* seen, Int words,
                   const Int* extents, int requests, int kv_heads, int group, const int* work,
                   float* parts, T* out, Int out_stride, float scale) {
    constexpr int BM = MT * WARPS * 16, THREADS = WARPS * 32;
    constexpr int PITCH = D + 8;  // so that eight rows lie in different banks
    constexpr int PACKS = D / 8, COPIES = BN * PACKS / THREADS;
    static_assert(BN * PACKS % THREADS == 0 && BM * PACKS % THREADS == 0);
    extern __shared__ __align__(16) char shared[];
    T* const shared_q = reinterpret_cast<T*>(shared);
    T* const stages = shared_q + BM * PITCH;
    int* const slots = reinterpret_cast<int*>(stages + STAGES * 2 * BN * PITCH);

    Layout layout{extents, requests, kv_heads, group, 1};
    begin();
    const Work planned = read_work(work);
    const int total = planned.total, block = blockIdx.x;
    const int blocks = min(static_cast<int>(gridDim.x), total);
    if (block >= blocks) return;
    layout.length = planned.length;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const float by = scale * LOG2_E;
    const Int slot_stride = static_cast<Int>(kv_heads) * D;

    const unsigned q_from =
        address(shared_q + (warp * MT * 16 + lane % 16) * PITCH + lane / 16 * 8);
    const unsigned k_from =
        address(stages + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8);
    const unsigned v_from = address(stages + (BN + lane % 16) * PITCH + lane / 16 * 8);

    const int stop = share(block + 1, blocks, total);
    for (int at = share(block, blocks, total); at < stop;) {
        const Unit unit = unit_at<BM, BN>(layout, at);
        const int first_step = at - unit.first;
        const int last_step = min(unit.steps, first_step + stop - at);
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
                const int row = (thread + i * THREADS) / PACKS;
                const int chunk = (thread + i * THREADS) % PACKS * 8;
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
                const int key = (begin + i) * BN + (thread + j * THREADS) / PACKS;
                first_slots[i][j] = key < unit.num_keys ? unit_keys[key] : 0;
            }
#pragma unroll 4
        for (int i = thread; i < BM * PACKS; i += THREADS) {
            const int row = i / PACKS, chunk = i % PACKS * 8, packed = first_packed + row;
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
                    slot[i] = slots[next % STAGES * BN + (thread + i * THREADS) / PACKS];
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

// The parts that a row has, if its unit is divided: in blocks `begin` to `end`, `within` the tile.
struct Parts {
    int begin, end, within;
    bool divided;
};

// Looked for among the first `requests` requests; `own` is the extent of the lane's number.
template <int BM, int BN>
__device__ Parts find_parts(const Layout& at, const Work& planned, const Extent& own, int requests,
                            int row, int head, int blocks) {
    Parts parts = {};
    if (!planned.divided || planned.length <= 0 || planned.total <= 0) return parts;
    int before = 0;
    for (int base = 0; base < requests; base += 32) {
        const Extent of =
            base ? extent_of(at.extents, at.requests, base + threadIdx.x % 32) : own;
        const int all = steps_of<BM, BN>(at, of), upto = before + sum_up_to(all);
        const unsigned here = __ballot_sync(~0u, of.start <= row && row < of.start + of.rows);
        if (here) {
            const int packed = (row - of.start) * at.group + head % at.group;
            const int row_tiles = (of.rows * at.group + BM - 1) / BM;
            const int steps = unit_steps<BN>(at, of.num_keys);
            const int first = upto - all + (head / at.group * row_tiles + packed / BM) * steps;
            blocks = min(blocks, planned.total);
            const int from = __ffs(here) - 1;
            parts.begin = __shfl_sync(~0u, block_of(first, blocks, planned.total), from);
            parts.end = __shfl_sync(~0u, block_of(first + steps - 1, blocks, planned.total), from);
            parts.within = __shfl_sync(~0u, packed % BM, from);
            parts.divided = parts.begin < parts.end;
            return parts;
        }
        before = __shfl_sync(~0u, upto, 31);
    }
    return parts;  // a row that is padding
}

#define MERGE_WARPS 8

// Puts together the parts of divided units: a warp a row and query head, then another. With few rows
// each has many parts, and asks for many AT_ONCE; with many rows there are BLOCKS of them at once on
// a multiprocessor.
template <typename T, int D, int BM, int BN, int AT_ONCE, int BLOCKS>
__global__ void __launch_bounds__(MERGE_WARPS * 32, BLOCKS)
    merge(const Int* extents, int requests, int kv_heads, int group, const int* work, int blocks,
          const float* parts, int rows, T* out, Int out_stride) {
    const int lane = threadIdx.x % 32, first = blockIdx.x * MERGE_WARPS + threadIdx.x / 32;
    const int heads = kv_heads * group;
    Layout layout{extents, requests, kv_heads, group, 0};
    Work planned, guessed_plan = {};
    Extent own, guessed_own = {};
    Parts guess = {};
    let_next_begin();
#if __CUDA_ARCH__ >= 900
    // What is gathered by a plan that may be old is only used if it was the right one.
    read_plan(layout, work, guessed_plan, guessed_own);
    layout.length = guessed_plan.length;
    guess = find_parts<BM, BN>(layout, guessed_plan, guessed_own, min(32, requests),
                               first / heads, first % heads, blocks);
    if (guess.begin < 0 || guess.end >= blocks || guess.within < 0) guess.divided = false;
#endif
    wait_for_previous();
    read_plan(layout, work, planned, own);
    for (int index = first; index < rows * heads; index += gridDim.x * MERGE_WARPS) {
        const int row = index / heads, head = index % heads;
        const bool guessed = index == first && guess.divided;
        Gathered<D> gathered;
        if (guessed)
            gathered = gather_parts<D, BM, AT_ONCE>(parts, guess.begin, guess.end, guess.within);
        if (!guessed || !same_plan(planned, own, guessed_plan, guessed_own)) {
            layout.length = planned.length;
            const Parts its =
                find_parts<BM, BN>(layout, planned, own, requests, row, head, blocks);
            if (!its.divided) continue;
            gathered = gather_parts<D, BM, AT_ONCE>(parts, its.begin, its.end, its.within);
        }
        const float over = gathered.total > 0 ? 1.0f / gathered.total : 0.0f;
        T* const to = out + row * out_stride + static_cast<Int>(head) * D;
#pragma unroll
        for (int p = 0; p < (D + 63) / 64; p++) {
            const int column = p * 64 + lane * 2;
            if (column < D)
                *reinterpret_cast<unsigned*>(to + column) = Numbers<T>::pair(
                    gathered.sums[p].x * over, gathered.sums[p].y * over);
        }
    }
}

// ---------------------------------------------------------------------------------------- plain

#define PLAIN_WARPS 4
#define PLAIN_PER_LANE 8

// A block for each row and query head, exact in float32: for what the tiles above are not made for.
template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS * 32)
    plain_attention(const T* q, Int q_stride, const T* k_pool, const T* v_pool, const int* keys,
                    Int key_stride, const Bits* seen, Int words, const Int* extents, int requests,
                    int kv_heads, int group, T* out, Int out_stride, int size, float scale) {
    __shared__ float all_most[PLAIN_WARPS], all_total[PLAIN_WARPS];
    __shared__ float all_sums[PLAIN_WARPS][PLAIN_PER_LANE * 32];
    begin();
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
