// Binds the kernels to torch: checks, allocation, threads and streams, and no arithmetic.
// Compiled once for the CPU library and, with EXPORT3D_CUDA defined, once for the CUDA library.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <algorithm>
#include <optional>

#include "cpu.h"
#include "registration.h"

#ifdef EXPORT3D_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
extern "C" int export3d_bias_act_cuda(const export3d::BiasActArgs*, int, void*);
extern "C" int export3d_upfirdn2d_cuda(const export3d::UpfirdnArgs*, int, void*);
#endif

namespace {

using at::Tensor;
using export3d::BiasActArgs;
using export3d::UpfirdnArgs;

int dtype_code(const Tensor& t) {
    switch (t.scalar_type()) {
        case at::kFloat:
            return export3d::kFloat32;
        case at::kDouble:
            return export3d::kFloat64;
        case at::kHalf:
            return export3d::kFloat16;
        case at::kBFloat16:
            return export3d::kBFloat16;
        default:
            TORCH_CHECK(false, "float32, float64, float16 or bfloat16 expected");
    }
}

void check_device(const Tensor& t) {
#ifdef EXPORT3D_CUDA
    TORCH_CHECK(t.is_cuda(), "a CUDA tensor is expected");
#else
    TORCH_CHECK(t.is_cpu(), "a CPU tensor is expected");
#endif
}

#ifdef EXPORT3D_CUDA
void check_launch(int error) {
    TORCH_CHECK(error != 1, "CUDA launch refused: a single sample has more than 2^31 elements?");
    TORCH_CHECK(error == 0, "CUDA kernel launch failed: error ", error);
}
#endif

// Like x in everything, strides included; x must cover its memory without gaps.
const void* matching(const std::optional<Tensor>& t, const Tensor& x, const char* name) {
    if (!t) return nullptr;
    TORCH_CHECK(t->device() == x.device() && t->scalar_type() == x.scalar_type() &&
                    t->sizes() == x.sizes() && t->strides() == x.strides(),
                name, " must have the device, dtype, shape and strides of x");
    return t->const_data_ptr();
}

// Into out, which may be x itself. order 0: value; order 1: g times the slope; order 2: g times h
// times the curvature.
void bias_act_into(const Tensor& out, const Tensor& x, const std::optional<Tensor>& b,
                   const std::optional<Tensor>& g, const std::optional<Tensor>& h, int64_t order,
                   int64_t dim, int64_t act, double alpha, double gain, double clamp) {
    check_device(x);
    TORCH_CHECK(x.is_non_overlapping_and_dense(), "x must be dense");
    TORCH_CHECK(act >= 0 && act < export3d::kActCount, "unknown activation number ", act);
    TORCH_CHECK(order == 0 || (order == 1 && g) || (order == 2 && g && h),
                "order and g, h disagree");
    BiasActArgs a = {};
    a.bias_size = a.bias_stride = 1;
    if (b) {
        TORCH_CHECK(dim >= 0 && dim < x.dim() && b->dim() == 1 && b->size(0) == x.size(dim) &&
                        b->is_contiguous() && b->device() == x.device() &&
                        b->scalar_type() == x.scalar_type(),
                    "b must be contiguous, of x's dtype and device, with x.size(dim) elements");
        a.b = b->const_data_ptr();
        a.bias_size = b->size(0);
        // In dense memory a dimension's stride is the number of elements below it; the stride of a
        // dimension of size 1 means nothing.
        a.bias_stride = a.bias_size == 1 ? std::max<int64_t>(x.numel(), 1) : x.stride(dim);
    }
    TORCH_CHECK(out.strides() == x.strides(), "x's layout cannot be reproduced");
    a.x = x.const_data_ptr();
    a.g = matching(g, x, "g");
    a.h = matching(h, x, "h");
    a.out = out.mutable_data_ptr();
    a.numel = x.numel();
    a.alpha = alpha;
    a.gain = gain;
    a.clamp = clamp;
    a.act = static_cast<int32_t>(act);
    a.order = static_cast<int32_t>(order);
    const int dtype = dtype_code(x);
#ifdef EXPORT3D_CUDA
    const c10::cuda::CUDAGuard guard(x.device());
    check_launch(export3d_bias_act_cuda(&a, dtype, c10::cuda::getCurrentCUDAStream().stream()));
#else
    at::parallel_for(0, a.numel, 16384, [&](int64_t begin, int64_t end) {
        export3d::bias_act_cpu(a, dtype, begin, end);
    });
#endif
}

Tensor bias_act(const Tensor& x, const std::optional<Tensor>& b, const std::optional<Tensor>& g,
                const std::optional<Tensor>& h, int64_t order, int64_t dim, int64_t act,
                double alpha, double gain, double clamp) {
    Tensor out = at::empty_like(x);
    bias_act_into(out, x, b, g, h, order, dim, act, alpha, gain, clamp);
    return out;
}

// The value, in x's own memory, of which b may be a part.
void bias_act_(const Tensor& x, const std::optional<Tensor>& b, int64_t dim, int64_t act,
               double alpha, double gain, double clamp) {
    TORCH_CHECK(!x.is_inference() || c10::InferenceMode::is_enabled(),
                "an inference tensor can be overwritten in inference mode only");
    const bool shared = b && b->is_alias_of(x);
    bias_act_into(x, x, shared ? b->clone() : b, {}, {}, 0, dim, act, alpha, gain, clamp);
    // so that a gradient which needs the old x is an error
    if (!x.is_inference()) x.unsafeGetTensorImpl()->bump_version();
}

// size = (out_h, out_w), factors = (up_x, up_y, down_x, down_y, pad_x0, pad_y0).
Tensor upfirdn2d(const Tensor& x, const Tensor& f, at::IntArrayRef size, at::IntArrayRef factors,
                 bool flip, double gain) {
    check_device(x);
    TORCH_CHECK(x.dim() == 4 && size.size() == 2 && factors.size() == 6, "malformed call");
    const bool contiguous = x.is_contiguous();
    const auto layout = contiguous ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
    TORCH_CHECK(contiguous || x.is_contiguous(layout), "x must be contiguous or channels_last");
    TORCH_CHECK(f.device() == x.device() && f.is_contiguous() && (f.dim() == 1 || f.dim() == 2) &&
                    f.numel() > 0 &&
                    f.scalar_type() == (x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
                "f must be contiguous [k] or [kh, kw], float32, or float64 for a float64 x");
    TORCH_CHECK(size[0] >= 0 && size[1] >= 0 && factors[0] > 0 && factors[1] > 0 &&
                    factors[2] > 0 && factors[3] > 0,
                "sizes and factors must be positive");
    Tensor out = at::empty({x.size(0), x.size(1), size[0], size[1]}, x.options(), layout);
    UpfirdnArgs a = {};
    a.x = x.const_data_ptr();
    a.f = f.const_data_ptr();
    a.out = out.mutable_data_ptr();
    a.n = x.size(0), a.c = x.size(1), a.in_h = x.size(2), a.in_w = x.size(3);
    a.out_h = size[0], a.out_w = size[1];
    a.fh = f.size(0), a.fw = f.size(-1);
    a.up_x = factors[0], a.up_y = factors[1], a.down_x = factors[2], a.down_y = factors[3];
    a.pad_x0 = factors[4], a.pad_y0 = factors[5];
    a.gain = gain;
    a.flip = flip;
    a.separable = f.dim() == 1;
    a.channels_last = !contiguous;
    const int dtype = dtype_code(x);
    if (out.numel() == 0) return out;
#ifdef EXPORT3D_CUDA
    const c10::cuda::CUDAGuard guard(x.device());
    check_launch(export3d_upfirdn2d_cuda(&a, dtype, c10::cuda::getCurrentCUDAStream().stream()));
#else
    const int64_t rows = a.n * (a.channels_last ? 1 : a.c) * a.out_h;
    const int64_t row_cost = a.out_w * (a.channels_last ? a.c : 1) * (a.fh + a.fw);
    at::parallel_for(
        0, rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, row_cost)),
        [&](int64_t begin, int64_t end) { export3d::upfirdn2d_cpu(a, dtype, begin, end); });
#endif
    return out;
}

}  // namespace

TORCH_LIBRARY(EXPORT3D_LIBRARY, m) {
    m.def(
        "bias_act(Tensor x, Tensor? b, Tensor? g, Tensor? h, int order, int dim, int act, "
        "float alpha, float gain, float clamp) -> Tensor");
    m.def(
        "bias_act_(Tensor(a!) x, Tensor? b, int dim, int act, float alpha, float gain, "
        "float clamp) -> ()");
    m.def(
        "upfirdn2d(Tensor x, Tensor f, int[] size, int[] factors, bool flip, float gain) -> "
        "Tensor");
}

TORCH_LIBRARY_IMPL(EXPORT3D_LIBRARY, EXPORT3D_KEY, m) {
    m.impl("bias_act", &bias_act);
    m.impl("bias_act_", &bias_act_);
    m.impl("upfirdn2d", &upfirdn2d);
}

// Forward-mode derivatives are refused instead of lost.
TORCH_LIBRARY_IMPL(EXPORT3D_LIBRARY, Autograd, m) {
    m.impl("bias_act_", torch::autograd::autogradNotImplementedFallback());
}
