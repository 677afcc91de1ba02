// upfirdn2d on CUDA: one thread per output pixel, striding over the grid. See upfirdn2d.h.
// Neighbouring threads take neighbouring addresses of the output, in either layout.
#include "launch.h"
#include "upfirdn2d.h"

namespace export3d {

template <class T, class I>
__global__ void upfirdn_kernel(UpfirdnArgs a) {
    T* out = static_cast<T*>(a.out);
    const I c = I(a.c), h = I(a.out_h), w = I(a.out_w);
    const int64_t numel = a.n * a.c * a.out_h * a.out_w;
    const int64_t stride = int64_t(gridDim.x) * blockDim.x;
    for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < numel; j += stride) {
        I rest = I(j), channel, ox, oy;
        if (a.channels_last) {
            channel = rest % c, rest /= c;
            ox = rest % w, rest /= w;
            oy = rest % h, rest /= h;
        } else {
            ox = rest % w, rest /= w;
            oy = rest % h, rest /= h;
            channel = rest % c, rest /= c;
        }
        store(out + j, upfirdn_pixel<T, I>(a, rest, channel, oy, ox));
    }
}

template <class T>
void launch_type(const UpfirdnArgs& a, void* stream) {
    const int64_t numel_in = a.n * a.c * a.in_h * a.in_w;
    const int64_t numel_out = a.n * a.c * a.out_h * a.out_w;
    const int64_t limit = (int64_t(1) << 31) - 1;
    auto kernel32 = upfirdn_kernel<T, int32_t>;
    auto kernel64 = upfirdn_kernel<T, int64_t>;
    (void)stream;
    if (numel_in < limit && numel_out < limit) {
        E3D_LAUNCH(kernel32, blocks_for(numel_out), kThreads, stream, a);
    } else {
        E3D_LAUNCH(kernel64, blocks_for(numel_out), kThreads, stream, a);
    }
}

}  // namespace export3d

// Returns a cudaError_t.
extern "C" int export3d_upfirdn2d_cuda(const export3d::UpfirdnArgs* a, int dtype, void* stream) {
    using namespace export3d;
    if (a->n * a->c * a->out_h * a->out_w == 0) return 0;
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
