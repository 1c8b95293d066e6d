// Products of up to 128 rows with a weight, out = x weight^T: as fast as the weight can be read.
//
// The weight's rows are the left side of tensor-core products, rows of x their columns: a cluster
// has LINES rows of the weight and all of x, and its blocks share what is summed over. Parts are
// added in order, and how many there are does not depend on the rows: nor do a row's bits.
//
// architecture: sm_90a
// instances: wide_linear<__nv_bfloat16, 16, 16, false>, wide_linear<__nv_bfloat16, 16, 16, true>
// instances: wide_linear<__nv_bfloat16, 32, 32, false>, wide_linear<__nv_bfloat16, 32, 32, true>
// instances: wide_linear<__nv_bfloat16, 48, 48, false>, wide_linear<__nv_bfloat16, 48, 48, true>
// instances: wide_linear<__nv_bfloat16, 64, 64, false>, wide_linear<__nv_bfloat16, 64, 64, true>
// instances: wide_linear<__nv_bfloat16, 96, 48, false>, wide_linear<__nv_bfloat16, 96, 48, true>
// instances: wide_linear<__nv_bfloat16, 128, 64, false>, wide_linear<__nv_bfloat16, 128, 64, true>
// instances: wide_linear<__half, 16, 16, false>, wide_linear<__half, 16, 16, true>
// instances: wide_linear<__half, 32, 32, false>, wide_linear<__half, 32, 32, true>
// instances: wide_linear<__half, 48, 48, false>, wide_linear<__half, 48, 48, true>
// instances: wide_linear<__half, 64, 64, false>, wide_linear<__half, 64, 64, true>
// instances: wide_linear<__half, 96, 48, false>, wide_linear<__half, 96, 48, true>
// instances: wide_linear<__half, 128, 64, false>, wide_linear<__half, 128, 64, true>
#include "chain.cuh"
#include "cluster.cuh"
#include "mma.cuh"
#include "wgmma.cuh"

#define LINES 128
#define THREADS 256
#define STEP 64          // numbers of a step along the sum
#define STEP_BYTES 128
#define PITCH (LINES + 4)  // floats between sums of two rows of x

typedef long long Int;

// ROWS of x, N at once. GATED: out = silu(x gate^T) * (x up^T), the weight is gate above up, and
// `features` are those of one. The first dimension of the grid is a cluster.
template <typename T, int ROWS, int N, bool GATED>
__global__ void __launch_bounds__(THREADS, 2)
    wide_linear(const T* x, Int x_stride, const T* __restrict__ weight, const T* __restrict__ bias,
                T* out, Int out_stride, int rows, int features, int inner) {
    constexpr int STAGES = ROWS <= 64 ? 4 : 3;
    constexpr int STAGE_BYTES = (LINES + ROWS) * STEP_BYTES;
    constexpr int WIDE = GATED ? LINES / 2 : LINES;  // features of a cluster
    extern __shared__ __align__(1024) unsigned char shared[];
    begin();
    const int thread = threadIdx.x, group = thread / 128;
    const int rank = blockIdx.x, blocks = gridDim.x, slab = blockIdx.y * WIDE;
    const int units = inner / STEP, first = units * rank / blocks;
    const int steps = units * (rank + 1) / blocks - first;
    const unsigned base = address(shared);

    // A thread copies a pack of every 32nd row.
    const int row = thread / 8, pack = thread % 8;
    const T* lines[LINES / 32];
#pragma unroll
    for (int i = 0; i < LINES / 32; i++) {
        const int line = row + 32 * i;
        const int feature = min(slab + line % WIDE, features - 1) + line / WIDE * features;
        lines[i] = weight + static_cast<Int>(feature) * inner + first * STEP + pack * 8;
    }
    const T* own = x + row * x_stride + first * STEP + pack * 8;
    const unsigned own_to = row * STEP_BYTES + (pack ^ row % 8) * 16;
    // Rows of x that are not there stay as they are: they only make columns that nobody reads.
    const auto send = [&](int step) {
        const unsigned to = base + step % STAGES * STAGE_BYTES + own_to;
#pragma unroll
        for (int i = 0; i < LINES / 32; i++)
            copy16(to + i * 32 * STEP_BYTES, lines[i] + step * STEP, true);
#pragma unroll
        for (int i = 0; i < (ROWS + 31) / 32; i++)
            if (row + 32 * i < rows)
                copy16(to + (LINES + 32 * i) * STEP_BYTES, own + 32 * i * x_stride + step * STEP,
                       true);
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) send(step);
        end_of_group();
    }
    float sums[ROWS / N][N / 2] = {};
    for (int step = 0; step < steps; step++) {
        wait_for_groups<STAGES - 2>();
        show_tensor_cores();
        __syncthreads();
        if (step + STAGES - 1 < steps) send(step + STAGES - 1);
        end_of_group();
        const unsigned stage = base + step % STAGES * STAGE_BYTES;
        begin_products();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) {
            const Described of_weight = described(stage + group * 64 * STEP_BYTES + k * 32);
#pragma unroll
            for (int n = 0; n < ROWS / N; n++) {
                const Described of_x = described(stage + (LINES + n * N) * STEP_BYTES + k * 32);
                Group<T, N>::multiply(sums[n], of_weight, of_x);
            }
        }
        end_products();
    }

    // Sums of all blocks, each added up for a share of the features.
    wait_for_groups<0>();
    __syncthreads();
    float* parts = reinterpret_cast<float*>(shared);
    const int line = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
#pragma unroll
    for (int n = 0; n < ROWS / N; n++) {
#pragma unroll
        for (int i = 0; i < N / 8; i++) {
            float* to = parts + (n * N + i * 8 + column) * PITCH + line;
            to[0] = sums[n][4 * i], to[PITCH] = sums[n][4 * i + 1];
            to[8] = sums[n][4 * i + 2], to[PITCH + 8] = sums[n][4 * i + 3];
        }
    }
    meet_cluster();
    const auto total = [&](int x_row, int at) {
        float value = 0.0f;
        for (int block = 0; block < blocks; block++)
            value += read_of(block, base + (x_row * PITCH + at) * 4);
        return value;
    };
    const int share = WIDE / blocks;
    for (int i = thread; i < rows * share; i += THREADS) {
        const int x_row = i / share, at = rank * share + i % share, feature = slab + at;
        if (feature >= features) continue;
        float value = total(x_row, at);
        if constexpr (GATED) {
            const float gate = wide(rounded<T>(value));
            const float up = wide(rounded<T>(total(x_row, at + WIDE)));
            value = wide(rounded<T>(gate / (1.0f + expf(-gate)))) * up;
        } else if (bias) {
            value += wide(bias[feature]);
        }
        out[x_row * out_stride + feature] = rounded<T>(value);
    }
    meet_cluster();  // others may still read what is here
}
