// Entry points of the CPU kernels. Each handles a range of the work, so that the caller decides
// about threads. dtype is a DType.
#pragma once

#include "bias_act.h"
#include "upfirdn2d.h"

namespace export3d {

// Elements [begin, end) of the output, counted in memory order.
void bias_act_cpu(const BiasActArgs& a, int dtype, int64_t begin, int64_t end);

// Output rows [begin, end). There are n * c * out_h rows, with channels_last n * out_h.
void upfirdn2d_cpu(const UpfirdnArgs& a, int dtype, int64_t begin, int64_t end);

}  // namespace export3d
