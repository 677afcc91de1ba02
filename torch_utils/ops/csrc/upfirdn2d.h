// The per-element function of upfirdn2d, shared by the CPU and the CUDA kernel.
//
// With z the input spread out by `up` (z[i up] = x[i]), along one axis
//   y[o] = sum_k w[k] z[o down + k - pad],   w[k] = f[k] (flip: correlation) or f[K - 1 - k].
// Only every up-th k meets a sample, so the sum runs over the samples i instead:
//   k = i up - (o down - pad),   0 <= k < K,   0 <= i < size.
#pragma once

#include "portable.h"

namespace export3d {

struct UpfirdnArgs {
    const void* x;  // dense, [N, C, H, W] or, with channels_last, [N, H, W, C] in memory
    const void* f;  // Compute<T>::type; [fh, fw], or with separable [fw] used along both axes
    void* out;      // dense, the layout of x
    int64_t n, c, in_h, in_w, out_h, out_w;
    int64_t fh, fw;
    int64_t up_x, up_y, down_x, down_y, pad_x0, pad_y0;
    double gain;
    int32_t flip;
    int32_t separable;
    int32_t channels_last;
    int32_t reserved;
};

template <class I>
E3D_HD I floor_div(I a, I b) {  // b > 0
    const I q = a / b;
    return q - (a % b < 0 ? 1 : 0);
}

// The samples that output o sees along one axis: i in [first, last], the tap of `first` is `tap`.
template <class I>
struct TapRange {
    I first, last, tap;
};

template <class I>
E3D_HD TapRange<I> tap_range(I o, I up, I down, I pad, I taps, I size) {
    const I base = o * down - pad;
    TapRange<I> range;
    range.first = base <= 0 ? 0 : (base + up - 1) / up;
    range.last = floor_div<I>(base + taps - 1, up);
    if (range.last > size - 1) range.last = size - 1;
    range.tap = range.first * up - base;
    return range;
}

// The value of output pixel (n, c, oy, ox). I is a signed index type wide enough for every offset.
template <class T, class I>
E3D_HD typename Compute<T>::type upfirdn_pixel(const UpfirdnArgs& a, I n, I c, I oy, I ox) {
    using S = typename Compute<T>::type;
    const I in_h = I(a.in_h), in_w = I(a.in_w), channels = I(a.c), fh = I(a.fh), fw = I(a.fw);
    const I step_x = a.channels_last ? channels : 1;
    const I step_y = in_w * step_x;
    const T* x = static_cast<const T*>(a.x) +
                 (a.channels_last ? n * in_h * step_y + c : (n * channels + c) * in_h * step_y);
    const S* f = static_cast<const S*>(a.f);
    const TapRange<I> ry = tap_range<I>(oy, I(a.up_y), I(a.down_y), I(a.pad_y0), fh, in_h);
    const TapRange<I> rx = tap_range<I>(ox, I(a.up_x), I(a.down_x), I(a.pad_x0), fw, in_w);
    S sum = 0;
    I ky = ry.tap;
    for (I iy = ry.first; iy <= ry.last; ++iy, ky += I(a.up_y)) {
        const I wy = a.flip ? ky : fh - 1 - ky;
        const S* weights = a.separable ? f : f + wy * fw;
        S row = 0;
        I kx = rx.tap;
        for (I ix = rx.first; ix <= rx.last; ++ix, kx += I(a.up_x)) {
            row += weights[a.flip ? kx : fw - 1 - kx] * load(x[iy * step_y + ix * step_x]);
        }
        sum += a.separable ? f[wy] * row : row;
    }
    return S(a.gain) * sum;
}

}  // namespace export3d
