// Clusters: blocks that run at once and see each other's shared memory (sm_90).
#pragma once

// Wait for all threads of the cluster.
__device__ inline void meet_cluster() {
    asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

// Four numbers in the shared memory of a block of the cluster, at the address that they have here.
__device__ inline float4 read_of(int block, unsigned at) {
    float4 value;
    asm volatile(
        "{ .reg .u32 there; mapa.shared::cluster.u32 there, %4, %5; "
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }"
        : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
        : "r"(at), "r"(block)
        : "memory");
    return value;
}
