// Tri-plane volume rendering: what the CPU and the CUDA kernels share. No torch.
// The specification is training/rendering/triplane.py and volume.py; names follow them.
#pragma once

#include "portable.h"

namespace export3d {

enum PlaneType : int32_t { kPlanesFloat32, kPlanesBFloat16, kPlanesFloat16 };

// Contiguous float32 arrays. Null where not asked for. Mirrored by tests/test_triplane_cuda.py.
struct TriplaneRenderArgs {
    const float* planes;   // (or see plane_type) [planes_n, 3, size, size, padded_channels], zeros
                           // behind channels
    const float* w1;       // [hidden, channels]
    const float* b1;       // [hidden]
    const float* w2;       // [1 + colours, hidden]; row 0 is the density
    const float* b2;       // [1 + colours]
    const float* origins;  // [n, rays, 3]
    const float* directions;     // [n, rays, 3]
    const float* noise_coarse;   // [n, rays, coarse] in [0, 1), or null
    const float* noise_fine;     // [n, rays, fine], or null
    float* features;             // [n, rays, colours]: results of the forward pass
    float* depth;                // [n, rays]
    float* opacity;              // [n, rays]
    const float* grad_features;  // what comes back to them
    const float* grad_depth;
    const float* grad_opacity;
    float* grad_planes;  // like planes; the caller fills it with zeros
    float* grad_w1;
    float* grad_b1;
    float* grad_w2;
    float* grad_b2;
    float* grad_origins;  // like origins and directions; null: not asked for
    float* grad_directions;
    int64_t n, planes_n, rays;  // planes_n is n, or 1: one tri-plane for all images
    int64_t size, channels, padded_channels, hidden, colours;
    int64_t coarse, fine, layout;  // layout 0: xyz, 1: eg3d_legacy
    float near, span, far, box_side;
    float min_weight;    // what weighs no more may be left out (FaintRule); 0 changes nothing
    int32_t plane_type;  // of planes: a PlaneType; only the CPU's forward pass takes others than 0
};

constexpr float kColourScale = 1.002f, kColourShift = -0.001f;  // EG3D's widened sigmoid

// World axis (0..2) and sign of a plane's columns and rows.
struct PlaneAxes {
    int column, row;
    float column_sign, row_sign;
};

E3D_HD PlaneAxes plane_axes(int64_t layout, int plane) {
    if (layout == 0) {
        if (plane == 0) return {0, 1, 1.0f, -1.0f};
        if (plane == 1) return {2, 1, 1.0f, -1.0f};
        return {0, 2, 1.0f, -1.0f};
    }
    if (plane == 0) return {0, 1, 1.0f, 1.0f};
    if (plane == 1) return {0, 2, 1.0f, 1.0f};
    return {2, 0, 1.0f, 1.0f};
}

// One axis of a bilinear sample: two texels and their shares, zero outside (align_corners=False).
struct Tap {
    int low, high;
    float low_share, high_share;
    float low_slope, high_slope;  // how the shares change along the axis, per texel
};

E3D_HD Tap tap(float coordinate, float scale, int size) {
    float at = coordinate * scale + 0.5f * static_cast<float>(size - 1);
    at = at < -2.0f ? -2.0f : at;
    at = at > size + 1.0f ? size + 1.0f : at;
    const int low = static_cast<int>(at + 2.0f) - 2;  // at + 2 >= 0, where truncation is floor
    const float share = at - static_cast<float>(low);
    Tap t;
    const bool has_low = (low >= 0) & (low < size), has_high = (low >= -1) & (low < size - 1);
    t.low_share = has_low ? 1.0f - share : 0.0f;
    t.high_share = has_high ? share : 0.0f;
    t.low_slope = has_low ? -1.0f : 0.0f;
    t.high_slope = has_high ? 1.0f : 0.0f;
    t.low = low < 0 ? 0 : low > size - 1 ? size - 1 : low;
    t.high = low < -1 ? 0 : low > size - 2 ? size - 1 : low + 1;
    return t;
}

// Adds to place[3] the gradient of a point in the world by what it reads of a plane. dot: the
// cotangent of the features times each of the four texels (low row first, low column first).
E3D_HD void add_place_gradient(const TriplaneRenderArgs& a, int plane, const Tap& x, const Tap& y,
                               const float* dot, float* place) {
    const PlaneAxes axes = plane_axes(a.layout, plane);
    const float scale = static_cast<float>(a.size) / a.box_side * (1.0f / 3.0f);
    const float along_x = y.low_share * (x.low_slope * dot[0] + x.high_slope * dot[1]) +
                          y.high_share * (x.low_slope * dot[2] + x.high_slope * dot[3]);
    const float along_y = x.low_share * (y.low_slope * dot[0] + y.high_slope * dot[2]) +
                          x.high_share * (y.low_slope * dot[1] + y.high_slope * dot[3]);
    place[axes.column] += axes.column_sign * scale * along_x;
    place[axes.row] += axes.row_sign * scale * along_y;
}

// ------------------------------------------------------------------------------------------------
// One ray. Arrays hold the samples of the ray; on a GPU one thread runs these.

E3D_HD float coarse_depth(const TriplaneRenderArgs& a, int64_t ray, int i) {
    const float offset = a.noise_coarse ? a.noise_coarse[ray * a.coarse + i] : 0.5f;
    return (static_cast<float>(i) + offset) / static_cast<float>(a.coarse) * a.span + a.near;
}

// optical[i] = sigma_i delta_i, passed[i] = sum_{j<i} optical[j], and the interval weights
// w_i = exp(-passed_i) (1 - exp(-optical_i)), i < samples - 1. [paper, eq. 6]
E3D_HD void quadrature(const float* depths, const float* density, int samples, float* optical,
                       float* passed, float* weights) {
    float sum = 0.0f;
    for (int i = 0; i < samples - 1; ++i) {
        optical[i] = 0.5f * (density[i + 1] + density[i]) * (depths[i + 1] - depths[i]);
    }
    for (int i = 0; i < samples - 1; ++i) {
        passed[i] = sum;
        sum += optical[i];
    }
    for (int i = 0; i < samples - 1; ++i) {
        weights[i] = exp_of(-passed[i]) * -exp_minus_1(-optical[i]);
    }
}

// Gradients of the densities. grad_sample[s]: of the weight of sample s, the cotangent of the
// features times the sample's features. scratch: samples floats.
E3D_HD void quadrature_backward(const float* depths, const float* optical, const float* passed,
                                const float* weights, const float* grad_sample, int samples,
                                float grad_depth, float grad_opacity, float far, float* scratch,
                                float* grad_density) {
    for (int i = 0; i < samples - 1; ++i) {
        const float middle = 0.5f * (depths[i] + depths[i + 1]) - far;
        scratch[i] =
            0.5f * (grad_sample[i] + grad_sample[i + 1]) + grad_opacity + grad_depth * middle;
        grad_density[i] = exp_of(-(passed[i] + optical[i]));  // what is left behind the interval
    }
    float behind = 0.0f;  // sum over the intervals further back
    for (int i = samples - 2; i >= 0; --i) {
        const float own = scratch[i] * weights[i];
        scratch[i] = (scratch[i] * grad_density[i] - behind) * (depths[i + 1] - depths[i]) * 0.5f;
        behind += own;
    }
    grad_density[samples - 1] = scratch[samples - 2];
    for (int i = samples - 2; i > 0; --i) grad_density[i] = scratch[i] + scratch[i - 1];
    grad_density[0] = scratch[0];
}

E3D_HD void sort_ascending(float* values, int count) {
    for (int i = 1; i < count; ++i) {
        const float v = values[i];
        int j = i;
        for (; j > 0 && values[j - 1] > v; --j) values[j] = values[j - 1];
        values[j] = v;
    }
}

// Depths drawn from the smoothed weights of the coarse samples, ascending. cdf: coarse floats.
E3D_HD void importance_depths(const TriplaneRenderArgs& a, int64_t ray, const float* depths,
                              const float* weights, float* cdf, float* fine) {
    const int last = static_cast<int>(a.coarse) - 2;  // index of the last weight
    float sum = 0.0f;
    cdf[0] = 0.0f;
    for (int i = 0; i <= last; ++i) {
        const float here = weights[i];
        const float before = weights[i > 0 ? i - 1 : 0], after = weights[i < last ? i + 1 : last];
        const float peak = here > before ? here : before, next = here > after ? here : after;
        sum += 0.5f * (peak + next) + (1e-5f + 0.01f);
        cdf[i + 1] = sum;
    }
    for (int i = 1; i <= last + 1; ++i) cdf[i] /= sum;
    const int count = static_cast<int>(a.fine);
    for (int i = 0; i < count; ++i) {
        fine[i] = a.noise_fine ? a.noise_fine[ray * a.fine + i]
                               : (static_cast<float>(i) + 0.5f) / static_cast<float>(a.fine);
    }
    if (a.noise_fine) sort_ascending(fine, count);
    int above = 1;  // the first entry above u, at most the last one
    for (int i = 0; i < count; ++i) {
        while (above <= last && cdf[above] <= fine[i]) ++above;
        const float mass = cdf[above] - cdf[above - 1];
        const float share = mass < 1e-7f ? 0.0f : (fine[i] - cdf[above - 1]) / mass;
        fine[i] = depths[above - 1] + share * (depths[above] - depths[above - 1]);
    }
}

// order[k]: which sample, of coarse ones followed by fine ones, is the k-th along the ray.
E3D_HD void merge_order(const float* depths, int coarse, int fine, int32_t* order) {
    int i = 0, j = 0;
    for (int k = 0; k < coarse + fine; ++k) {
        const bool take_coarse = j >= fine || (i < coarse && depths[i] <= depths[coarse + j]);
        order[k] = take_coarse ? i++ : coarse + j++;
    }
}

// Which samples of a ray get a colour, and what the others' weight does: those above the limit get
// it in proportion. Where faint samples make the picture, as in fog, they all get their colour.
struct FaintRule {
    float limit, gain;
};

// all, kept: summed weights of all samples and of those above min_weight.
E3D_HD FaintRule faint_rule(float all, float kept, float min_weight) {
    const float lost = all - kept, part = 0.1f * all, few = 4.0f * min_weight;
    if (min_weight == 0.0f || !(lost <= (part > few ? part : few))) return {0.0f, 1.0f};
    return {min_weight, kept > 0.0f ? all / kept : 1.0f};
}

}  // namespace export3d
