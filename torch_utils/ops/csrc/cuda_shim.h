// Lets a C++ compiler build the .cu files and run their arithmetic on the CPU, one thread after
// another, for tests on machines without a GPU. Enough for kernels that use no shared memory and
// no barrier, and ours use neither.
#pragma once

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
using cudaStream_t = void*;
using cudaError_t = int;

inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

inline cudaError_t cudaGetLastError() {
    return 0;
}

inline float atomicAdd(float* to, float value) {
    const float before = *to;
    *to += value;
    return before;
}

namespace export3d_shim {

template <class Body>
void run(unsigned blocks, unsigned threads, Body body) {
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) body();
    }
}

}  // namespace export3d_shim
