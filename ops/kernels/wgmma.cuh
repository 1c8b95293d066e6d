// Products of small matrices by groups of four warps, from shared memory (sm_90a).
#pragma once

#include "packs.cuh"

typedef unsigned long long Described;

// A matrix in shared memory, 64 numbers of 16 bits a row: pack p of row r stands where pack
// p ^ (r % 8) would, so that rows lie in different banks. It begins at a multiple of 1024 bytes.
__device__ inline Described described(unsigned at) {
    const Described eight_rows = 1024, swizzled_by_128 = 1;
    return (at & 0x3ffff) >> 4 | eight_rows >> 4 << 32 | Described(1) << 16 | swizzled_by_128 << 62;
}

__device__ inline void begin_products() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Return when all but the last PENDING groups of products are done.
template <int PENDING>
__device__ inline void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// c += a b: 64 rows of a, N columns of b, 16 numbers along both; float32 sums. The thread has, of
// every 8 columns, two next to each other of one row and two of the row 8 further down.
template <typename T, int N>
struct Group;

#define PRODUCT(n, kind, a, b, registers)                                              \
    "{ .reg .pred adds; setp.ne.b32 adds, 1, 0; "                                      \
    "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." kind "." kind " " registers      \
    ", " a ", " b ", adds, 1, 1, 0, 0; }"

#define OF_COLUMNS(n, a, b, registers, ...)                                            \
    template <>                                                                        \
    struct Group<__nv_bfloat16, n> {                                                   \
        static __device__ void multiply(float (&c)[n / 2], Described x, Described y) { \
            asm volatile(PRODUCT(n, "bf16", a, b, registers)                           \
                         : __VA_ARGS__ : "l"(x), "l"(y));                              \
        }                                                                              \
    };                                                                                 \
    template <>                                                                        \
    struct Group<__half, n> {                                                          \
        static __device__ void multiply(float (&c)[n / 2], Described x, Described y) { \
            asm volatile(PRODUCT(n, "f16", a, b, registers)                            \
                         : __VA_ARGS__ : "l"(x), "l"(y));                              \
        }                                                                              \
    };

OF_COLUMNS(48, "%24", "%25",
           "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
           "%15, %16, %17, %18, %19, %20, %21, %22, %23} ",
           "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
           "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]),
           "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]),
           "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]))
OF_COLUMNS(64, "%32", "%33",
           "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
           "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
           "%28, %29, %30, %31} ",
           "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
           "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]),
           "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]),
           "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),
           "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]),
           "+f"(c[31]))
