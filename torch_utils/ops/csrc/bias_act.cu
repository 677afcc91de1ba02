// bias_act on CUDA: one thread per element, striding over the grid. See bias_act.h.
#include "bias_act.h"
#include "launch.h"

namespace export3d {

template <class T, int order>
__global__ void bias_act_kernel(BiasActArgs a) {
    using S = typename Compute<T>::type;
    using I = uint32_t;
    const T* x = static_cast<const T*>(a.x);
    const T* b = static_cast<const T*>(a.b);
    const T* g = static_cast<const T*>(a.g);
    const T* h = static_cast<const T*>(a.h);
    T* out = static_cast<T*>(a.out);
    const I numel = I(a.numel), bias_size = I(a.bias_size), bias_stride = I(a.bias_stride);
    const I stride = gridDim.x * blockDim.x;
    for (I i = blockIdx.x * blockDim.x + threadIdx.x; i < numel; i += stride) {
        S u = load(x[i]);
        if (b) u += load(b[(i / bias_stride) % bias_size]);
        const S gi = order >= 1 ? load(g[i]) : S(0);
        const S hi = order >= 2 ? load(h[i]) : S(0);
        store(out + i,
              bias_act_element<S>(order, a.act, u, gi, hi, S(a.alpha), S(a.gain), S(a.clamp)));
    }
}

template <class T>
const void* advanced(const void* from, int64_t elements) {
    return from ? static_cast<const T*>(from) + elements : nullptr;
}

template <class T>
int launch_type(const BiasActArgs& whole, void* stream) {
    // Slices begin where the sequence of biases begins anew.
    const int64_t period = whole.b && whole.bias_size > 1 ? whole.bias_size * whole.bias_stride : 1;
    if (period > kMaxSample) return kErrorInvalidValue;
    const int64_t slice = kSlice > period ? kSlice / period * period : period;
    (void)stream;
    for (int64_t first = 0; first < whole.numel; first += slice) {
        BiasActArgs a = whole;
        a.numel = whole.numel - first < slice ? whole.numel - first : slice;
        if (period == 1) a.bias_stride = a.numel;  // one bias or none
        a.x = advanced<T>(whole.x, first);
        a.g = advanced<T>(whole.g, first);
        a.h = advanced<T>(whole.h, first);
        a.out = static_cast<T*>(whole.out) + first;
        auto kernel = a.order == 0   ? bias_act_kernel<T, 0>
                      : a.order == 1 ? bias_act_kernel<T, 1>
                                     : bias_act_kernel<T, 2>;
        E3D_LAUNCH(kernel, blocks_for(a.numel), kThreads, stream, a);
    }
    return static_cast<int>(cudaGetLastError());
}

}  // namespace export3d

// Returns a cudaError_t.
extern "C" int export3d_bias_act_cuda(const export3d::BiasActArgs* a, int dtype, void* stream) {
    using namespace export3d;
    if (a->numel == 0) return 0;
    switch (dtype) {
        case kFloat32:
            return launch_type<float>(*a, stream);
        case kFloat64:
            return launch_type<double>(*a, stream);
        case kFloat16:
            return launch_type<Half>(*a, stream);
        case kBFloat16:
            return launch_type<BFloat16>(*a, stream);
    }
    return kErrorInvalidValue;
}
