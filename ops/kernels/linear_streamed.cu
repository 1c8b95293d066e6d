// Products of up to 128 rows with a weight, out = x weight^T: as fast as the weight can be read.
//
// A block has WIDE features, or both lines of as many gated ones, and a cluster of blocks shares
// what is summed over. One warp has tiles of the weight and of x brought to shared memory, as far
// ahead as there is room; the others multiply them, four of them 64 rows of x. The first tiles of
// the weight are asked for before the kernel in front is done: nobody writes weights.
//
// Rows that are not there are zeros. How a sum is cut does not depend on them: nor do a row's bits.
//
// architecture: sm_90a
// instances: streamed_linear<__nv_bfloat16, 64, 2, 1, 8, false>
// instances: streamed_linear<__nv_bfloat16, 64, 2, 2, 6, false>
// instances: streamed_linear<__nv_bfloat16, 48, 2, 1, 8, false>
// instances: streamed_linear<__nv_bfloat16, 48, 2, 2, 7, false>
// instances: streamed_linear<__nv_bfloat16, 64, 1, 1, 8, false>
// instances: streamed_linear<__nv_bfloat16, 64, 1, 2, 8, false>
// instances: streamed_linear<__nv_bfloat16, 48, 2, 1, 6, true>
// instances: streamed_linear<__nv_bfloat16, 48, 2, 2, 5, true>
// instances: streamed_linear<__nv_bfloat16, 64, 1, 1, 8, true>
// instances: streamed_linear<__nv_bfloat16, 64, 1, 2, 6, true>
// instances: streamed_linear<__nv_bfloat16, 48, 1, 1, 8, true>
// instances: streamed_linear<__nv_bfloat16, 48, 1, 2, 7, true>
// instances: streamed_linear<__half, 64, 2, 1, 8, false>
// instances: streamed_linear<__half, 64, 2, 2, 6, false>
// instances: streamed_linear<__half, 48, 2, 1, 8, false>
// instances: streamed_linear<__half, 48, 2, 2, 7, false>
// instances: streamed_linear<__half, 64, 1, 1, 8, false>
// instances: streamed_linear<__half, 64, 1, 2, 8, false>
// instances: streamed_linear<__half, 48, 2, 1, 6, true>
// instances: streamed_linear<__half, 48, 2, 2, 5, true>
// instances: streamed_linear<__half, 64, 1, 1, 8, true>
// instances: streamed_linear<__half, 64, 1, 2, 6, true>
// instances: streamed_linear<__half, 48, 1, 1, 8, true>
// instances: streamed_linear<__half, 48, 1, 2, 7, true>
#include "chain.cuh"
#include "cluster.cuh"
#include "mma.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

#define STEP 64  // numbers of a step along the sum
#define STEP_BYTES 128
#define TILE_ROWS 64
#define TILE_BYTES (TILE_ROWS * STEP_BYTES)

typedef long long Int;

// Products have PIECE features, PIECES of them are side by side; TILES of 64 rows of x. GATED: out =
// silu(x gate^T) * (x up^T), the weight is gate above up, and `features` are those of one. The first
// dimension of the grid is a cluster.
template <typename T, int PIECE, int PIECES, int TILES, int STAGES, bool GATED>
__global__ void __launch_bounds__(TILES * 128 + 32)
    streamed_linear(const __grid_constant__ MatrixMap weight, const __grid_constant__ MatrixMap x,
                    const T* __restrict__ bias, T* out, Int out_stride, int rows, int features,
                    int inner) {
    constexpr int WIDE = PIECE * PIECES, LINES = GATED ? 2 : 1;
    constexpr int X_BYTES = TILES * TILE_BYTES, STAGE_BYTES = X_BYTES + LINES * WIDE * STEP_BYTES;
    constexpr int PITCH = LINES * WIDE + 4;  // floats between sums of two rows of x
    static_assert(TILES * TILE_ROWS * PITCH * 4 <= STAGES * STAGE_BYTES);
    extern __shared__ __align__(1024) unsigned char shared[];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int rank = blockIdx.x, blocks = gridDim.x, slab = blockIdx.y * WIDE;
    const int units = inner / STEP, first = units * rank / blocks;
    const int steps = units * (rank + 1) / blocks - first;
    const unsigned base = address(shared), barriers = base + STAGES * STAGE_BYTES;
    const auto stage_of = [=](int step) { return base + step % STAGES * STAGE_BYTES; };
    const auto is_full = [=](int step) { return barriers + step % STAGES * 8; };
    const auto is_empty = [=](int step) { return barriers + (STAGES + step % STAGES) * 8; };
    if (thread == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            make_barrier(is_full(stage), 1);
            make_barrier(is_empty(stage), TILES * 4);
        }
        show_barriers();
    }
    __syncthreads();
    let_next_begin();

    float sums[LINES][PIECES][PIECE / 2] = {};
    const auto bring_weight = [&](int step) {
        const unsigned to = stage_of(step) + X_BYTES, told = is_full(step);
        expect_bytes(told, STAGE_BYTES);
#pragma unroll
        for (int line = 0; line < LINES; line++)
            copy_tile(to + line * WIDE * STEP_BYTES, weight, (first + step) * STEP,
                      line * features + slab, told);
    };
    const auto bring_x = [&](int step) {
        copy_tile(stage_of(step), x, (first + step) * STEP, 0, is_full(step));
    };
    const bool brings = warp == TILES * 4 && lane == 0;
    if (brings)
        for (int step = 0; step < min(STAGES, steps); step++) bring_weight(step);
    wait_for_previous();
    if (warp == TILES * 4) {
        if (brings) {
            for (int step = 0; step < min(STAGES, steps); step++) bring_x(step);
            for (int step = STAGES; step < steps; step++) {
                wait_for_barrier(is_empty(step), step / STAGES - 1);
                bring_weight(step);
                bring_x(step);
            }
        }
        __syncwarp();
    } else {
        const unsigned own = warp / 4 * TILE_BYTES;
        for (int step = 0; step < steps; step++) {
            wait_for_barrier(is_full(step), step / STAGES);
            const unsigned of_weight = stage_of(step) + X_BYTES;
            begin_products();
#pragma unroll
            for (int k = 0; k < STEP_BYTES; k += 32) {
                const Described of_x = described(stage_of(step) + own + k);
#pragma unroll
                for (int line = 0; line < LINES; line++)
#pragma unroll
                    for (int piece = 0; piece < PIECES; piece++)
                        Group<T, PIECE>::multiply(
                            sums[line][piece], of_x,
                            described(of_weight + (line * PIECES + piece) * PIECE * STEP_BYTES +
                                      k));
            }
            commit_products();
            wait_for_products<1>();
            if (step > 0 && lane == 0) arrive(is_empty(step - 1));
        }
        wait_for_products<0>();
    }

    // Two features next to each other.
    const auto put = [&](int row, int feature, float2 value, float2 up) {
        if (row >= rows || feature >= features) return;
        const auto one = [&](float value, float up, int feature) {
            if (GATED) {
                const float gate = wide(rounded<T>(value));
                return wide(rounded<T>(gate / (1.0f + expf(-gate)))) * wide(rounded<T>(up));
            }
            return bias ? value + wide(bias[feature]) : value;
        };
        *reinterpret_cast<unsigned*>(out + row * out_stride + feature) = Numbers<T>::pair(
            one(value.x, up.x, feature), one(value.y, up.y, feature + 1));
    };
    // Of a thread: two rows, and of every 8 features two next to each other.
    const int own_row = warp * 16 + lane / 4, own_feature = lane % 4 * 2;
    if (blocks == 1) {
        if (warp == TILES * 4) return;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++)
#pragma unroll
            for (int i = 0; i < PIECE / 2; i += 2) {
                const float *own = &sums[0][piece][i], *up = &sums[LINES - 1][piece][i];
                put(own_row + i % 4 * 4, slab + piece * PIECE + i / 4 * 8 + own_feature,
                    make_float2(own[0], own[1]), make_float2(up[0], up[1]));
            }
        return;
    }

    // Sums of all blocks, each added up for a share of the features. Nothing is on its way to
    // shared memory, as all of it was waited for.
    __syncthreads();
    float* parts = reinterpret_cast<float*>(shared);
    if (warp < TILES * 4) {
#pragma unroll
        for (int line = 0; line < LINES; line++)
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++)
#pragma unroll
                for (int i = 0; i < PIECE / 2; i += 2) {
                    const int at = line * WIDE + piece * PIECE + i / 4 * 8 + own_feature;
                    *reinterpret_cast<float2*>(parts + (own_row + i % 4 * 4) * PITCH + at) =
                        make_float2(sums[line][piece][i], sums[line][piece][i + 1]);
                }
    }
    meet_cluster();
    const auto total = [&](int row, int at) {
        float4 value = {};
        for (int block = 0; block < blocks; block++) {
            const float4 part = read_of(block, base + (row * PITCH + at) * 4);
            value.x += part.x, value.y += part.y, value.z += part.z, value.w += part.w;
        }
        return value;
    };
    const int share = WIDE / 4 / blocks;  // in fours
    for (int i = thread; i < rows * share; i += blockDim.x) {
        const int row = i / share, at = (rank * share + i % share) * 4;
        const float4 own = total(row, at), up = GATED ? total(row, WIDE + at) : own;
        put(row, slab + at, make_float2(own.x, own.y), make_float2(up.x, up.y));
        put(row, slab + at + 2, make_float2(own.z, own.w), make_float2(up.z, up.w));
    }
    meet_cluster();  // others may still read what is here
}
