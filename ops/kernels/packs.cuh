// Numbers as kernels see them: wide (float) inside, packed by 16 bytes outside.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(__half x) { return __half2float(x); }
__device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

// The nearest number of type T.
template <typename T>
__device__ T rounded(float x);
template <>
__device__ inline float rounded<float>(float x) {
    return x;
}
template <>
__device__ inline __half rounded<__half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 rounded<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

template <int BYTES>
struct Word;
template <>
struct Word<16> {
    using type = uint4;
};
template <>
struct Word<4> {
    using type = unsigned int;
};
template <>
struct Word<2> {
    using type = unsigned short;
};

// N neighbours, read and written by one access.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
    using Bits = typename Word<N * sizeof(T)>::type;
    T at[N];

    static __device__ Pack load(const T* from) {
        Pack pack;
        *reinterpret_cast<Bits*>(&pack) = *reinterpret_cast<const Bits*>(from);
        return pack;
    }

    __device__ void store(T* to) const {
        *reinterpret_cast<Bits*>(to) = *reinterpret_cast<const Bits*>(this);
    }
};
