// Products of up to 8 rows with a weight, out = x weight^T: as fast as the weight can be read.
//
// The weight's rows are the left side of tensor-core tiles, rows of x their columns: a block has 16
// features and all rows of x. What is summed over is cut in SLICES parts, each summed in order by a
// warp, and the parts are added in order: a row's result does not depend on how many there are.
//
// Which number of a row stands where in a tile is free, as long as both sides agree: each thread
// reads 16 bytes of two rows, which are its share of two products.
//
// instances: linear<__nv_bfloat16, false>, linear<__nv_bfloat16, true>
// instances: linear<__half, false>, linear<__half, true>
#include "chain.cuh"
#include "mma.cuh"

#define SLICES 8  // parts of a sum, and warps of a block
#define STEP 32   // numbers of a step along the sum
#define DEPTH 8   // steps of a chunk, which are read ahead
#define STAGES 2  // chunks of x in shared memory
#define X_ROWS 8
#define CHUNK (SLICES * DEPTH * X_ROWS * 4)  // of x, in packs
#define PITCH 20  // floats between sums of two rows of x: threads of a warp write to all banks

typedef long long Int;

__device__ inline uint4 read_once(const void* from) {
    uint4 to;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "l"(from));
    return to;
}

// GATED: out = silu(x gate^T) * (x up^T), the weight is gate above up, and `features` are those of
// one.
template <typename T, bool GATED>
__global__ void __launch_bounds__(SLICES * 32)
    linear(const T* x, Int x_stride, const T* __restrict__ weight, const T* __restrict__ bias,
           T* out, Int out_stride, int rows, int features, int inner) {
    constexpr int WIDE = GATED ? 8 : 16;  // features of a block
    extern __shared__ uint4 shared[];
    begin();
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int row = lane / 4, pack = lane % 4, units = inner / STEP;
    const auto part_at = [=](int part) { return units * part / SLICES; };
    const int first = part_at(warp), steps = part_at(warp + 1) - first;
    // Lines of the tile: `row`, and the one 8 further down.
    const int low_line = blockIdx.x * WIDE + row;
    const int high_line = GATED ? features + min(low_line, features - 1) : low_line + 8;
    const int last = GATED ? 2 * features - 1 : features - 1;
    const T* low_row = weight + static_cast<Int>(min(low_line, features - 1)) * inner +
                       first * STEP + pack * 8;
    const T* high_row =
        weight + static_cast<Int>(min(high_line, last)) * inner + first * STEP + pack * 8;
    uint4 low[DEPTH], high[DEPTH];
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        if (i < steps)
            low[i] = read_once(low_row + i * STEP), high[i] = read_once(high_row + i * STEP);
    // Rows of x that are not there stay as they are: they only make columns that nobody reads.
    const unsigned x_shared = address(shared);
    const auto send = [&](int chunk) {
        const unsigned to = x_shared + chunk % STAGES * CHUNK * 16;
        for (int i = thread; i < rows * SLICES * DEPTH * 4; i += SLICES * 32) {
            const int of_step = i % 4, step = i / 4 % DEPTH, part = i / (4 * DEPTH) % SLICES;
            const int x_row = i / (4 * DEPTH * SLICES);
            const int at = part_at(part) + chunk * DEPTH + step;
            if (at < part_at(part + 1))
                copy16(to + (((part * DEPTH + step) * X_ROWS + x_row) * 4 + of_step) * 16,
                       x + x_row * x_stride + at * STEP + of_step * 8, true);
        }
    };
    const int chunks = ((units + SLICES - 1) / SLICES + DEPTH - 1) / DEPTH;
#pragma unroll
    for (int chunk = 0; chunk < STAGES - 1; chunk++) {
        if (chunk < chunks) send(chunk);
        end_of_group();
    }
    float sums[4] = {};
    for (int chunk = 0; chunk < chunks; chunk++) {
        wait_for_groups<STAGES - 2>();
        __syncthreads();
        if (chunk + STAGES - 1 < chunks) send(chunk + STAGES - 1);
        end_of_group();
        const uint4* packs =
            shared + (chunk % STAGES * SLICES + warp) * DEPTH * X_ROWS * 4 + row * 4 + pack;
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const int step = chunk * DEPTH + i;
            if (step >= steps) break;
            const unsigned even[4] = {low[i].x, high[i].x, low[i].y, high[i].y};
            const unsigned odd[4] = {low[i].z, high[i].z, low[i].w, high[i].w};
            const uint4 of_x = packs[i * X_ROWS * 4];
            Numbers<T>::multiply(sums, even, of_x.x, of_x.y);
            Numbers<T>::multiply(sums, odd, of_x.z, of_x.w);
            if (step + DEPTH < steps) {
                low[i] = read_once(low_row + (step + DEPTH) * STEP);
                high[i] = read_once(high_row + (step + DEPTH) * STEP);
            }
        }
    }

    wait_for_groups<0>();
    __syncthreads();  // x is no longer needed
    float* parts = reinterpret_cast<float*>(shared);
    float* own = parts + (warp * X_ROWS + 2 * pack) * PITCH + row;
    own[0] = sums[0], own[PITCH] = sums[1], own[8] = sums[2], own[PITCH + 8] = sums[3];
    __syncthreads();
    const auto total = [&](int x_row, int line) {
        float value = 0.0f;
#pragma unroll
        for (int part = 0; part < SLICES; part++)
            value += parts[(part * X_ROWS + x_row) * PITCH + line];
        return value;
    };
    for (int i = thread; i < rows * WIDE; i += SLICES * 32) {
        const int x_row = i / WIDE, line = i % WIDE, feature = blockIdx.x * WIDE + line;
        if (feature >= features) continue;
        float value = total(x_row, line);
        if constexpr (GATED) {
            const float gate = wide(rounded<T>(value));
            const float up = wide(rounded<T>(total(x_row, line + 8)));
            value = wide(rounded<T>(gate / (1.0f + expf(-gate)))) * up;
        } else if (bias) {
            value += wide(bias[feature]);
        }
        out[x_row * out_stride + feature] = rounded<T>(value);
    }
}
