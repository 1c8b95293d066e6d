// How the work of tree attention is divided, and where a block begins; see attention.cu.
#pragma once

#include "mma.cuh"

#define INFINITY __int_as_float(0x7f800000)
#define LOG2_E 1.4426950408889634f

typedef long long Int;
typedef unsigned long long Bits;

// Reads of what other kernels write come from the cache that all processors have in common, and stay
// where they stand: a kernel of a chain may be there before it is written.
__device__ inline int read_now(const int* from) {
    int value;
    asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

// Or zeros.
__device__ inline float2 read_now(const float2* from, bool given) {
    float2 value;
    asm volatile(
        "{ .reg .pred given; setp.ne.s32 given, %3, 0; mov.b32 %0, 0; mov.b32 %1, 0; "
        "@given ld.global.cg.v2.f32 {%0, %1}, [%2]; }"
        : "=&f"(value.x), "=&f"(value.y)
        : "l"(from), "r"(static_cast<int>(given))
        : "memory");
    return value;
}

__device__ inline longlong2 read_now(const longlong2* from) {
    longlong2 value;
    asm volatile("ld.global.cg.v2.s64 {%0, %1}, [%2];"
                 : "=l"(value.x), "=l"(value.y)
                 : "l"(from)
                 : "memory");
    return value;
}

// ------------------------------------------------------------------------------------ schedule

// What `share_out` writes, in 16 bytes.
struct Work {
    int length;   // of a step, in tiles
    int total;    // steps
    int divided;  // whether a unit has more than one
};

__device__ inline Work read_work(const int* work) {
    const longlong2 both = read_now(reinterpret_cast<const longlong2*>(work));
    return {static_cast<int>(both.x), static_cast<int>(both.x >> 32), static_cast<int>(both.y)};
}

// How steps are counted, the same in all blocks and in `merge`.
struct Layout {
    const Int* extents;
    int requests, kv_heads, group;
    int length;  // of a step, in tiles
};

struct Unit {
    int start, packed;         // first row; packed rows of the request: rows x group
    int num_keys, asked, keys_row;  // keys; how many of the last `seen` is asked about; request
    int kv_head, row_tile;
    int first, steps;          // the unit's steps among those of all units
};

struct Extent {
    int start, rows, num_keys, asked;
};

__device__ inline Extent extent_of(const Int* extents, int requests, int r) {
    if (r >= requests) return {0, 0, 0, 0};
    const longlong2* from = reinterpret_cast<const longlong2*>(extents) + 2 * r;
    const longlong2 rows = read_now(from), keys = read_now(from + 1);
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

// The unit that has this step, which there must be. Every lane of a warp must ask.
template <int BM, int BN>
__device__ Unit unit_at(const Layout& at, int step) {
    int before = 0;
    for (int base = 0;; base += 32) {
        const Extent of = extent_of(at.extents, at.requests, base + threadIdx.x % 32);
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
    return block * (total / blocks) + min(block, total % blocks);
}

__device__ inline int block_of(int step, int blocks, int total) {
    const int each = total / blocks, more = total % blocks, behind = step - more * (each + 1);
    return behind < 0 ? step / (each + 1) : more + behind / each;
}

__device__ inline void read_plan(const Layout& layout, const int* work, Work& planned,
                                 Extent& own) {
    planned = read_work(work);
    own = extent_of(layout.extents, layout.requests, threadIdx.x % 32);
}

// Whether two plans are the same, for all that a warp looks at first.
__device__ inline bool same_plan(const Work& one, const Extent& own, const Work& other,
                                 const Extent& its) {
    return __all_sync(~0u, one.length == other.length && one.total == other.total &&
                               own.start == its.start && own.rows == its.rows &&
                               own.num_keys == its.num_keys && own.asked == its.asked);
}

// ---------------------------------------------------------------------------------------- masks

// Bit j: the row sees key `key + j`, for the 64 keys from `key` on.
__device__ inline Bits seen_from(const Bits* row_seen, int words, int key, int num_keys,
                                 int asked) {
    const int node = key - (num_keys - asked), left = num_keys - key;
    Bits bits = ~Bits(0);
    if (asked) {
        const int word = node >> 6, by = node & 63;  // rounded down: what is in front is seen
        const Bits one = row_seen[max(min(word, words - 1), 0)];
        const Bits two = row_seen[max(min(word + 1, words - 1), 0)];
        const Bits low = word < 0 ? ~Bits(0) : word < words ? one : 0;
        const Bits high = word + 1 < 0 ? ~Bits(0) : word + 1 < words ? two : 0;
        bits = low >> by | (by ? high << (64 - by) : 0);
    }
    return left >= 64 ? bits : left <= 0 ? 0 : bits & ((Bits(1) << left) - 1);
}

__device__ inline float exp_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---------------------------------------------------------------------------------------- parts

// Where a block leaves its part of a divided unit: sums, then the most and total of each row. It can
// have parts of two: one that began in an earlier block, and one that begins here.
template <int BM, int D>
__device__ inline Int part_at(int block, bool begins) {
    return static_cast<Int>(2 * block + begins) * BM * (D + 2);
}

// A row that a warp has put together from parts: each lane two columns of every 64.
template <int D>
struct Gathered {
    float2 sums[(D + 63) / 64];
    float total;
};

// From the parts of blocks `begin` to `end`, in order, AT_ONCE of them asked for at once; `within` is
// the row's number in its tile.
template <int D, int BM, int AT_ONCE>
__device__ inline Gathered<D> gather_parts(const float* parts, int begin, int end, int within) {
    constexpr int PAIRS = (D + 63) / 64;
    const int lane = threadIdx.x % 32;
    float2 some[AT_ONCE][PAIRS];
    const auto read_some = [&](int first) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                const int block = first + i, column = p * 64 + lane * 2;
                const float* at =
                    parts + part_at<BM, D>(block, block == begin) + within * D + column;
                some[i][p] =
                    read_now(reinterpret_cast<const float2*>(at), block <= end && column < D);
            }
    };
    const auto weight_of = [&](int block) {
        const float* at = parts + part_at<BM, D>(block, block == begin) + BM * D + within * 2;
        const float2 both = read_now(reinterpret_cast<const float2*>(at), block <= end);
        return block <= end ? both : make_float2(-INFINITY, 0.0f);
    };
    read_some(begin);
    float2 own = weight_of(begin + lane);
    float best = own.x;
    for (int block = begin + 32 + lane; block <= end; block += 32)
        best = fmaxf(best, weight_of(block).x);
    for (int by = 16; by; by /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, by));
    Gathered<D> gathered = {};
    for (int base = begin; base <= end; base += 32) {
        if (base > begin) own = weight_of(base + lane);
        const float factor = own.x == -INFINITY ? 0.0f : exp_of_2(own.x - best);
        gathered.total += own.y * factor;
        for (int first = base; first < base + 32 && first <= end; first += AT_ONCE) {
            if (first > begin) read_some(first);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                // Behind the last block both are nothing.
                const float keep = __shfl_sync(~0u, factor, first - base + i);
#pragma unroll
                for (int p = 0; p < PAIRS; p++) {
                    gathered.sums[p].x += keep * some[i][p].x;
                    gathered.sums[p].y += keep * some[i][p].y;
                }
            }
        }
    }
    for (int by = 16; by; by /= 2) gathered.total += __shfl_xor_sync(~0u, gathered.total, by);
    return gathered;
}
