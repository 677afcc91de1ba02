// What one thread of the CUDA renderer does with a sample: its texels, its features, the decoder.
// No torch.
#pragma once

#include "launch.h"
#include "triplane_render.h"

#if defined(__CUDACC__)
#define E3D_UNROLL _Pragma("unroll")
#else
#define E3D_UNROLL
#endif

namespace export3d {
namespace {

constexpr int kParts = 8;       // threads that share the colours of a ray
constexpr int kSegments = 64;   // partial sums of a weight's gradient
constexpr int kMaxWidth = 64;   // channels and colours of the general kernels
constexpr int kRayArrays = 10;  // of a float per sample

// A chunk of rays and its part of the workspace. Arrays are [rays, samples] unless noted.
struct Chunk {
    TriplaneRenderArgs a;
    int64_t first, rays, samples;  // samples of a ray
    float *depth, *density;        // coarse samples before fine ones
    float *sorted_depth, *sorted_density, *optical, *passed, *weight;
    float* share;  // of a sample in the ray's colours
    float* grad;   // first of the share, then of the density
    int32_t* order;
    float* partial;  // forward [rays, kParts, colours + 1]
    // backward, of every sample: features, hidden values, their cotangents, those of the outputs
    float *x, *h, *grad_hidden, *grad_out;
    float* sums;   // [kSegments, entries]
    float* place;  // [rays, samples, 3]: gradients of the samples' places, where asked for
};

E3D_HD float softplus_of(float x) {
    return (x > 0.0f ? x : 0.0f) + log1pf(exp_of(x > 0.0f ? -x : x));
}
E3D_HD float sigmoid_of(float x) {
    const float t = exp_of(x > 0.0f ? -x : x);
    return (x > 0.0f ? 1.0f : t) / (1.0f + t);
}

E3D_HD int64_t sums_count(const TriplaneRenderArgs& a) {
    return a.hidden * (a.channels + 1) + (1 + a.colours) * (a.hidden + 1);
}

// Offsets of the four texels of a sample on a plane, and their shares.
struct Corners {
    int64_t at[4];
    float share[4];
    Tap x, y;
};

E3D_HD Corners corners(const TriplaneRenderArgs& a, int64_t ray, float depth, int plane) {
    const PlaneAxes axes = plane_axes(a.layout, plane);
    const int size = static_cast<int>(a.size);
    const float scale = static_cast<float>(size) / a.box_side;
    const float* o = a.origins + ray * 3;
    const float* v = a.directions + ray * 3;
    const Tap x = tap(o[axes.column] + depth * v[axes.column], axes.column_sign * scale, size);
    const Tap y = tap(o[axes.row] + depth * v[axes.row], axes.row_sign * scale, size);
    const int64_t image = a.planes_n == 1 ? 0 : ray / a.rays;
    const int64_t base = (image * 3 + plane) * a.size * a.size;
    const float low = y.low_share * (1.0f / 3.0f), high = y.high_share * (1.0f / 3.0f);
    Corners c;
    c.x = x, c.y = y;
    c.at[0] = (base + y.low * a.size + x.low) * a.padded_channels;
    c.at[1] = (base + y.low * a.size + x.high) * a.padded_channels;
    c.at[2] = (base + y.high * a.size + x.low) * a.padded_channels;
    c.at[3] = (base + y.high * a.size + x.high) * a.padded_channels;
    c.share[0] = low * x.low_share;
    c.share[1] = low * x.high_share;
    c.share[2] = high * x.low_share;
    c.share[3] = high * x.high_share;
    return c;
}

template <int kChannels>
E3D_HD void features_at(const TriplaneRenderArgs& a, int64_t ray, float depth, float* x) {
    for (int c = 0; c < kChannels; ++c) x[c] = 0.0f;
    for (int plane = 0; plane < 3; ++plane) {
        const Corners at = corners(a, ray, depth, plane);
        for (int k = 0; k < 4; ++k) {
            if (at.share[k] == 0.0f) continue;
            const float* texel = a.planes + at.at[k];
            E3D_UNROLL
            for (int c = 0; c < kChannels; ++c) {
                if (c < a.padded_channels) x[c] += at.share[k] * texel[c];
            }
        }
    }
}

template <int kChannels>
E3D_HD float before_softplus(const TriplaneRenderArgs& a, const float* x, int64_t j) {
    float sum = a.b1[j];
    const float* w = a.w1 + j * a.channels;
    E3D_UNROLL
    for (int c = 0; c < kChannels; ++c) {
        if (c < a.channels) sum += w[c] * x[c];
    }
    return sum;
}

// Outputs before sigmoid and softplus; returns the density's.
template <int kChannels, int kColours>
E3D_HD float decode(const TriplaneRenderArgs& a, const float* x, float* out) {
    float density = a.b2[0];
    E3D_UNROLL
    for (int o = 0; o < kColours; ++o) out[o] = o < a.colours ? a.b2[o + 1] : 0.0f;
    for (int64_t j = 0; j < a.hidden; ++j) {
        const float h = softplus_of(before_softplus<kChannels>(a, x, j));
        density += a.w2[j] * h;
        E3D_UNROLL
        for (int o = 0; o < kColours; ++o) {
            if (o < a.colours) out[o] += a.w2[(o + 1) * a.hidden + j] * h;
        }
    }
    return density;
}

#define E3D_FOR_EACH(i, count)                                                    \
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < (count); \
         i += int64_t(gridDim.x) * blockDim.x)

}  // namespace
}  // namespace export3d
