// Kernels in a row: the next one may begin to begin while the last one ends.
//
// From compute capability 9.0 on, a launch of cuda.py does not wait for the kernel in front of it:
// its blocks are put on processors that have room for them, and run up to `wait_for_previous`. What
// stands before that may read nothing that another kernel writes, and write nothing. As every kernel
// of such a file waits, one that is through has all that ran before it behind it.
#pragma once

// Let the next kernel's blocks come, once all of this one's have.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Return when all that was launched before is done, and to be seen.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// How a kernel begins that has nothing to do before.
__device__ inline void begin() {
    let_next_begin();
    wait_for_previous();
}
