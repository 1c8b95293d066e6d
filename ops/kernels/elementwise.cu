// Functions of one number or of two, over rows that lie a stride apart. A thread has a pack.
//
// instances: each<float, 4, Gelu>, each<__half, 8, Gelu>, each<__nv_bfloat16, 8, Gelu>
// instances: each<float, 1, Gelu>, each<__half, 1, Gelu>, each<__nv_bfloat16, 1, Gelu>
// instances: each<float, 4, GeluTanh>, each<__half, 8, GeluTanh>, each<__nv_bfloat16, 8, GeluTanh>
// instances: each<float, 1, GeluTanh>, each<__half, 1, GeluTanh>, each<__nv_bfloat16, 1, GeluTanh>
// instances: each<float, 4, Relu>, each<__half, 8, Relu>, each<__nv_bfloat16, 8, Relu>
// instances: each<float, 1, Relu>, each<__half, 1, Relu>, each<__nv_bfloat16, 1, Relu>
// instances: pairs<float, 4, Add>, pairs<__half, 8, Add>, pairs<__nv_bfloat16, 8, Add>
// instances: pairs<float, 1, Add>, pairs<__half, 1, Add>, pairs<__nv_bfloat16, 1, Add>
// instances: pairs<float, 4, SiluMul>, pairs<__half, 8, SiluMul>, pairs<__nv_bfloat16, 8, SiluMul>
// instances: pairs<float, 1, SiluMul>, pairs<__half, 1, SiluMul>, pairs<__nv_bfloat16, 1, SiluMul>
#include "chain.cuh"
#include "packs.cuh"

struct Gelu {
    template <typename T>
    static __device__ T of(float x) {
        return rounded<T>(x * 0.5f * (1.0f + erff(x * 0.70710678118654752f)));
    }
};

struct GeluTanh {
    template <typename T>
    static __device__ T of(float x) {
        const float inner = 0.79788456080286536f * (x + 0.044715f * (x * x * x));
        return rounded<T>(0.5f * x * (1.0f + tanhf(inner)));
    }
};

struct Relu {
    template <typename T>
    static __device__ T of(float x) {
        return rounded<T>(x < 0.0f ? 0.0f : x);  // NaN stays NaN
    }
};

struct Add {
    template <typename T>
    static __device__ T of(float x, float y) {
        return rounded<T>(x + y);
    }
};

// The gate is rounded before it is multiplied, as two operators would.
struct SiluMul {
    template <typename T>
    static __device__ T of(float x, float y) {
        return rounded<T>(wide(rounded<T>(x / (1.0f + expf(-x)))) * y);
    }
};

template <typename T, int N, typename F>
__global__ void each(const T* x, T* out, int rows, int packs, long long x_stride,
                     long long out_stride) {
    begin();
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = at / packs;
    if (row >= rows) return;
    const int i = at % packs * N;
    Pack<T, N> pack = Pack<T, N>::load(x + row * x_stride + i);
#pragma unroll
    for (int j = 0; j < N; j++) pack.at[j] = F::template of<T>(wide(pack.at[j]));
    pack.store(out + row * out_stride + i);
}

template <typename T, int N, typename F>
__global__ void pairs(const T* x, const T* y, T* out, int rows, int packs, long long x_stride,
                      long long y_stride, long long out_stride) {
    begin();
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = at / packs;
    if (row >= rows) return;
    const int i = at % packs * N;
    Pack<T, N> pack = Pack<T, N>::load(x + row * x_stride + i);
    const Pack<T, N> other = Pack<T, N>::load(y + row * y_stride + i);
#pragma unroll
    for (int j = 0; j < N; j++)
        pack.at[j] = F::template of<T>(wide(pack.at[j]), wide(other.at[j]));
    pack.store(out + row * out_stride + i);
}
