// upfirdn2d on CUDA: one thread per output pixel, striding over the grid. See upfirdn2d.h.
// Neighbouring threads take neighbouring addresses of the output, in either layout.
#include "launch.h"
#include "upfirdn2d.h"

namespace export3d {

template <class T>
__global__ void upfirdn_kernel(UpfirdnArgs a) {
    using I = int32_t;
    T* out = static_cast<T*>(a.out);
    const uint32_t c = uint32_t(a.c), h = uint32_t(a.out_h), w = uint32_t(a.out_w);
    const uint32_t numel = uint32_t(a.n) * c * h * w;
    const uint32_t stride = gridDim.x * blockDim.x;
    for (uint32_t j = blockIdx.x * blockDim.x + threadIdx.x; j < numel; j += stride) {
        uint32_t rest = j, channel, ox, oy;
        if (a.channels_last) {
            channel = rest % c, rest /= c;
            ox = rest % w, rest /= w;
            oy = rest % h, rest /= h;
        } else {
            ox = rest % w, rest /= w;
            oy = rest % h, rest /= h;
            channel = rest % c, rest /= c;
        }
        store(out + j, upfirdn_pixel<T, I>(a, I(rest), I(channel), I(oy), I(ox)));
    }
}

template <class T>
int launch_type(const UpfirdnArgs& whole, void* stream) {
    const int64_t sample_in = whole.c * whole.in_h * whole.in_w;
    const int64_t sample_out = whole.c * whole.out_h * whole.out_w;
    const int64_t sample = sample_in > sample_out ? sample_in : sample_out;
    if (sample > kMaxSample) return kErrorInvalidValue;
    const int64_t slice = kSlice > sample ? kSlice / sample : 1;  // in samples
    (void)stream;
    for (int64_t first = 0; first < whole.n; first += slice) {
        UpfirdnArgs a = whole;
        a.n = whole.n - first < slice ? whole.n - first : slice;
        a.x = static_cast<const T*>(whole.x) + first * sample_in;
        a.out = static_cast<T*>(whole.out) + first * sample_out;
        E3D_LAUNCH(upfirdn_kernel<T>, blocks_for(a.n * sample_out), kThreads, stream, a);
    }
    return static_cast<int>(cudaGetLastError());
}

}  // namespace export3d

// Returns a cudaError_t.
extern "C" int export3d_upfirdn2d_cuda(const export3d::UpfirdnArgs* a, int dtype, void* stream) {
    using namespace export3d;
    if (a->n * a->c * a->out_h * a->out_w == 0) return 0;
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
