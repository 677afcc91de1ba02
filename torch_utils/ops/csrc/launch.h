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

namespace export3d {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65536;  // more elements than this covers: the kernels stride

inline unsigned blocks_for(int64_t elements) {
    const int64_t blocks = (elements + kThreads - 1) / kThreads;
    return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

}  // namespace export3d
