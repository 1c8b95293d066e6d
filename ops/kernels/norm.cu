// Normalisation of rows. A block has a row, and as many threads as its width asks for: a row's
// result does not depend on the number of rows. The first pack of each thread stays in registers,
// which is all of a row of up to 8192 numbers of 16 bits; the others are read again.
//
// instances: rms_norm<float, 4, false>, rms_norm<__half, 8, false>
// instances: rms_norm<__nv_bfloat16, 8, false>, rms_norm<float, 1, false>
// instances: rms_norm<__half, 1, false>, rms_norm<__nv_bfloat16, 1, false>
// instances: rms_norm<float, 4, true>, rms_norm<__half, 8, true>, rms_norm<__nv_bfloat16, 8, true>
// instances: rms_norm<float, 1, true>, rms_norm<__half, 1, true>, rms_norm<__nv_bfloat16, 1, true>
// instances: layer_norm<float, 4>, layer_norm<__half, 8>, layer_norm<__nv_bfloat16, 8>
// instances: layer_norm<float, 1>, layer_norm<__half, 1>, layer_norm<__nv_bfloat16, 1>
#include "chain.cuh"
#include "packs.cuh"

// The sum over a block, the same bits in every thread. `parts` must not be used otherwise.
__device__ inline float block_sum(float value, float* parts) {
    const int lane = threadIdx.x % 32;
    for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
    if (lane == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = lane < blockDim.x / 32 ? parts[lane] : 0.0f;
    for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
    return value;
}

// out = x / sqrt(mean(x^2) + eps) * weight, rounded before the weight is applied and after it.
// ADDS: of total = x + y, rounded, which may be written over x or y.
template <typename T, int N, bool ADDS>
__global__ void __launch_bounds__(1024)
    rms_norm(const T* x, const T* y, const T* weight, T* total, T* out, int features,
             long long x_stride, long long y_stride, long long total_stride, long long out_stride,
             float eps) {
    begin();
    __shared__ float parts[32];
    const long long row = blockIdx.x;
    const int first = threadIdx.x * N, step = blockDim.x * N;
    x += row * x_stride;
    out += row * out_stride;
    if constexpr (ADDS) {
        y += row * y_stride;
        total += row * total_stride;
    }
    Pack<T, N> held;
    float squares = 0.0f;
    for (int i = first; i < features; i += step) {
        Pack<T, N> pack = Pack<T, N>::load(x + i);
        if constexpr (ADDS) {
            const Pack<T, N> other = Pack<T, N>::load(y + i);
#pragma unroll
            for (int j = 0; j < N; j++)
                pack.at[j] = rounded<T>(wide(pack.at[j]) + wide(other.at[j]));
            pack.store(total + i);
        }
#pragma unroll
        for (int j = 0; j < N; j++) squares += wide(pack.at[j]) * wide(pack.at[j]);
        if (i == first) held = pack;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, parts) * (1.0f / features) + eps);
    const T* again = ADDS ? total : x;
    for (int i = first; i < features; i += step) {
        Pack<T, N> pack = i == first ? held : Pack<T, N>::load(again + i);
        const Pack<T, N> by = Pack<T, N>::load(weight + i);
#pragma unroll
        for (int j = 0; j < N; j++)
            pack.at[j] = rounded<T>(wide(rounded<T>(wide(pack.at[j]) * scale)) * wide(by.at[j]));
        pack.store(out + i);
    }
}

// out = (x - mean) / sqrt(variance + eps) * weight + bias, rounded once.
template <typename T, int N>
__global__ void __launch_bounds__(1024)
    layer_norm(const T* x, const T* weight, const T* bias, T* out, int features,
               long long x_stride, long long out_stride, float eps) {
    begin();
    __shared__ float sums[32], squares[32];
    const long long row = blockIdx.x;
    const int first = threadIdx.x * N, step = blockDim.x * N;
    x += row * x_stride;
    out += row * out_stride;
    Pack<T, N> held;
    float sum = 0.0f;
    for (int i = first; i < features; i += step) {
        const Pack<T, N> pack = Pack<T, N>::load(x + i);
#pragma unroll
        for (int j = 0; j < N; j++) sum += wide(pack.at[j]);
        if (i == first) held = pack;
    }
    const float mean = block_sum(sum, sums) * (1.0f / features);
    float spread = 0.0f;
    for (int i = first; i < features; i += step) {
        const Pack<T, N> pack = i == first ? held : Pack<T, N>::load(x + i);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float away = wide(pack.at[j]) - mean;
            spread += away * away;
        }
    }
    const float scale = 1.0f / sqrtf(block_sum(spread, squares) * (1.0f / features) + eps);
    for (int i = first; i < features; i += step) {
        Pack<T, N> pack = i == first ? held : Pack<T, N>::load(x + i);
        const Pack<T, N> by = Pack<T, N>::load(weight + i), plus = Pack<T, N>::load(bias + i);
#pragma unroll
        for (int j = 0; j < N; j++)
            pack.at[j] =
                rounded<T>((wide(pack.at[j]) - mean) * scale * wide(by.at[j]) + wide(plus.at[j]));
        pack.store(out + i);
    }
}
