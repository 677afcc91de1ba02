// How the .cu files start a kernel: by nvcc on a stream, or by a C++ compiler through the shim.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define E3D_LAUNCH(kernel, blocks, threads, stream, ...) \
    kernel<<<(blocks), (threads), 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#else
#include "cuda_shim.h"
#define E3D_LAUNCH(kernel, blocks, threads, stream, ...) \
    export3d_shim::run((blocks), (threads), [&] { kernel(__VA_ARGS__); })
#endif

#include <cstdint>

// Tests make these small, so that small tensors reach every loop.
#ifndef EXPORT3D_MAX_BLOCKS
#define EXPORT3D_MAX_BLOCKS 65536
#endif
#ifndef EXPORT3D_SLICE
#define EXPORT3D_SLICE (int64_t(1) << 30)
#endif

namespace export3d {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = EXPORT3D_MAX_BLOCKS;  // the kernels stride over the rest

// Elements per launch. Index arithmetic is done in 32 bits, several times cheaper on a GPU than 64;
// larger tensors are cut into slices. Only a single sample beyond kMaxSample is refused.
constexpr int64_t kSlice = EXPORT3D_SLICE;
constexpr int64_t kMaxSample = (int64_t(1) << 31) - (int64_t(1) << 25);  // room for += stride
constexpr int kErrorInvalidValue = 1;                                    // cudaErrorInvalidValue

inline unsigned blocks_for(int64_t elements) {
    const int64_t blocks = (elements + kThreads - 1) / kThreads;
    return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

}  // namespace export3d
