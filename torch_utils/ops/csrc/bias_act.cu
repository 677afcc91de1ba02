// bias_act on CUDA: one thread per element, striding over the grid. See bias_act.h.
#include "bias_act.h"
#include "launch.h"

namespace export3d {

template <class T, int order, class I>
__global__ void bias_act_kernel(BiasActArgs a) {
    using S = typename Compute<T>::type;
    const T* x = static_cast<const T*>(a.x);
    const T* b = static_cast<const T*>(a.b);
    const T* g = static_cast<const T*>(a.g);
    const T* h = static_cast<const T*>(a.h);
    T* out = static_cast<T*>(a.out);
    const I numel = I(a.numel), bias_size = I(a.bias_size), bias_stride = I(a.bias_stride);
    const I stride = I(gridDim.x) * I(blockDim.x);
    for (I i = I(blockIdx.x) * I(blockDim.x) + I(threadIdx.x); i < numel; i += stride) {
        S u = load(x[i]);
        if (b) u += load(b[(i / bias_stride) % bias_size]);
        const S gi = order >= 1 ? load(g[i]) : S(0);
        const S hi = order >= 2 ? load(h[i]) : S(0);
        store(out + i,
              bias_act_element<S>(order, a.act, u, gi, hi, S(a.alpha), S(a.gain), S(a.clamp)));
    }
}

template <class T, int order>
void launch_order(const BiasActArgs& a, void* stream) {
    // 32-bit index arithmetic is several times cheaper; the margin keeps i += stride from wrapping.
    const bool narrow = a.numel < (int64_t(1) << 31);
    auto kernel32 = bias_act_kernel<T, order, uint32_t>;
    auto kernel64 = bias_act_kernel<T, order, int64_t>;
    (void)stream;
    if (narrow) {
        E3D_LAUNCH(kernel32, blocks_for(a.numel), kThreads, stream, a);
    } else {
        E3D_LAUNCH(kernel64, blocks_for(a.numel), kThreads, stream, a);
    }
}

template <class T>
void launch_type(const BiasActArgs& a, void* stream) {
    if (a.order == 0) launch_order<T, 0>(a, stream);
    if (a.order == 1) launch_order<T, 1>(a, stream);
    if (a.order == 2) launch_order<T, 2>(a, stream);
}

}  // namespace export3d

// Returns a cudaError_t.
extern "C" int export3d_bias_act_cuda(const export3d::BiasActArgs* a, int dtype, void* stream) {
    using namespace export3d;
    if (a->numel == 0) return 0;
    switch (dtype) {
        case kFloat32:
            launch_type<float>(*a, stream);
            break;
        case kFloat64:
            launch_type<double>(*a, stream);
            break;
        case kFloat16:
            launch_type<Half>(*a, stream);
            break;
        case kBFloat16:
            launch_type<BFloat16>(*a, stream);
            break;
    }
    return static_cast<int>(cudaGetLastError());
}
