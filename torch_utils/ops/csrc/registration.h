// What the binding files, compiled once for the CPU library and once for the CUDA library, register
// their operators in.
#pragma once

#include <torch/library.h>

#ifdef EXPORT3D_CUDA
#define EXPORT3D_LIBRARY export3d_cuda
#define EXPORT3D_KEY CUDA
#else
#define EXPORT3D_LIBRARY export3d_cpu
#define EXPORT3D_KEY CPU
#endif
