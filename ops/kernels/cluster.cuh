// Clusters: blocks that run at once and see each other's shared memory (sm_90).
#pragma once

// Wait for all threads of the cluster.
__device__ inline void meet_cluster() {
    asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

// A float in the shared memory of a block of the cluster, at the address that it has here.
__device__ inline float read_of(int block, unsigned at) {
    float value;
    asm volatile(
        "{ .reg .u32 there; mapa.shared::cluster.u32 there, %1, %2; "
        "ld.shared::cluster.f32 %0, [there]; }"
        : "=f"(value)
        : "r"(at), "r"(block)
        : "memory");
    return value;
}
