// Tiles of matrices that come to shared memory by themselves, and barriers that tell of it (sm_90).
#pragma once

// How a matrix lies in memory, as the driver encodes it.
struct alignas(64) MatrixMap {
    unsigned long long words[16];
};

__device__ inline void make_barrier(unsigned at, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}

// Barriers that were made are to be seen by whoever copies; the block has to meet behind it.
__device__ inline void show_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrive, and have the barrier wait for so many bytes, too.
__device__ inline void expect_bytes(unsigned barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}

// Return when the barrier has gone through its `round`th phase (even and odd ones take turns).
__device__ inline void wait_for_barrier(unsigned barrier, int round) {
    asm volatile(
        "{ .reg .pred done; again: "
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; "
        "@!done bra.uni again; }" ::"r"(barrier),
        "r"(round & 1)
        : "memory");
}

// Begin to copy the tile that begins at this column and row; what is outside of the matrix is zero.
// The barrier is told.
__device__ inline void copy_tile(unsigned to, const MatrixMap& from, int column, int row,
                                 unsigned barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(&from), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}
