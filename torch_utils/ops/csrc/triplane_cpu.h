// The CPU side of tri-plane rendering. Each function handles a part of the work, so that the caller
// decides about threads; the result does not depend on how the parts are dealt out.
#pragma once

#include <cstddef>
#include <vector>

#include "simd.h"
#include "triplane_render.h"

namespace export3d {

// Floats that start at a multiple of 64 bytes. Call every take() once, then allocate(), then every
// take() again: the second time they are real.
class Buffer {
  public:
    float* take(size_t count) {
        const size_t start = used_;
        used_ += (count + 15) / 16 * 16;
        return base_ ? base_ + start : nullptr;
    }
    int32_t* take_integers(size_t count) { return reinterpret_cast<int32_t*>(take(count)); }
    void allocate() {
        memory_.assign(used_ + 16, 0.0f);
        const auto address = reinterpret_cast<uintptr_t>(memory_.data());
        base_ = memory_.data() + ((64 - address % 64) % 64) / sizeof(float);
        used_ = 0;
    }

  private:
    std::vector<float> memory_;
    float* base_ = nullptr;
    size_t used_ = 0;
};

// The decoder's weights in the layouts that the products want, padded with zeros.
struct PackedDecoder {
    explicit PackedDecoder(const TriplaneRenderArgs& a);

    int channels, colours, hidden;              // as they are
    int pad_channels, pad_colours, pad_hidden;  // multiples of kLanes
    float *w1_in, *w1_out;                      // [channels, pad_hidden], [hidden, pad_channels]
    float *w2_in, *w2_out;                      // [hidden, pad_colours], [colours, pad_hidden]
    float *b1, *b2;                             // [pad_hidden], [pad_colours]
    float* density_row;                         // [pad_hidden]
    float density_bias;
    // What the decoder says of a point outside all planes, where the features are zero.
    float *empty_hidden, *empty_colour;  // [pad_hidden], sigmoids [pad_colours]
    float empty_raw, empty_density;      // before and behind its softplus

  private:
    void take_all();
    Buffer memory_;
};

// Sums of the decoder's gradients over some rays, in the layouts of the products.
struct DecoderGradient {
    explicit DecoderGradient(const PackedDecoder& d);
    DecoderGradient(DecoderGradient&&) = default;  // moved memory stays where it is, copied would not
    // Carries what the samples outside all planes asked for on to the weights; once, at the end.
    void finish(const PackedDecoder& d);
    void add_to(const TriplaneRenderArgs& a, const PackedDecoder& d) const;

    float *w1, *w2;       // [channels, pad_hidden], [hidden, pad_colours]; rows rounded up
    float *b1, *b2;       // [pad_hidden], [pad_colours]
    float* density_row;   // [pad_hidden]
    float* empty_colour;  // [pad_colours], before the sigmoid
    float density_bias = 0.0f, empty_raw = 0.0f;

  private:
    void take_all(const PackedDecoder& d);
    Buffer memory_;
};

// Rays that are worked on together, so that small numbers of samples still fill the products.
int rays_per_group(const TriplaneRenderArgs& a);

// A block of rays of one image on the way back: gradients of sampled features that wait to be added
// to the planes, with their places. The i-th group's rows start at i * group_rows.
struct ScatterBlock {
    ScatterBlock(const TriplaneRenderArgs& a, int64_t rays);

    int64_t group_rays, group_rows, pad_channels, capacity;
    float* gradient;  // [capacity, pad_channels]
    float* places;    // [3, capacity], world units
    int32_t* rows;    // of each group: how many rows it has

  private:
    void take_all(int64_t groups);
    Buffer memory_;
};

constexpr int kScatterChannels = 16;

// Texel offsets (in texels) and shares of a run of samples on one plane.
struct Taps {
    int32_t* at[4];
    float* share[4];
};

inline void find_taps(const TriplaneRenderArgs& a, int plane, const float* const* places, int count,
                      const Taps& taps) {
    const PlaneAxes axes = plane_axes(a.layout, plane);
    const int size = static_cast<int>(a.size);
    const float scale = static_cast<float>(size) / a.box_side;
    const float column_scale = axes.column_sign * scale, row_scale = axes.row_sign * scale;
    const float* __restrict column = places[axes.column];
    const float* __restrict row = places[axes.row];
    int32_t *__restrict at0 = taps.at[0], *__restrict at1 = taps.at[1];
    int32_t *__restrict at2 = taps.at[2], *__restrict at3 = taps.at[3];
    float *__restrict s0 = taps.share[0], *__restrict s1 = taps.share[1];
    float *__restrict s2 = taps.share[2], *__restrict s3 = taps.share[3];
    for (int i = 0; i < count; ++i) {
        const Tap x = tap(column[i], column_scale, size);
        const Tap y = tap(row[i], row_scale, size);
        const float low = y.low_share * (1.0f / 3.0f), high = y.high_share * (1.0f / 3.0f);
        at0[i] = y.low * size + x.low;
        at1[i] = y.low * size + x.high;
        at2[i] = y.high * size + x.low;
        at3[i] = y.high * size + x.high;
        s0[i] = low * x.low_share;
        s1[i] = low * x.high_share;
        s2[i] = high * x.low_share;
        s3[i] = high * x.high_share;
    }
}

// Rays [begin, end) of all n * rays.
void triplane_forward_cpu(const TriplaneRenderArgs& a, const PackedDecoder& d, int64_t begin,
                          int64_t end);

// Rays [begin, end), all of one block that starts at ray block_begin.
void triplane_backward_cpu(const TriplaneRenderArgs& a, const PackedDecoder& d, int64_t begin,
                           int64_t end, int64_t block_begin, DecoderGradient* sums,
                           ScatterBlock* block);

// Adds the block's first `groups` groups to a plane of an image, kScatterChannels from first_channel.
void triplane_scatter_cpu(const TriplaneRenderArgs& a, const ScatterBlock& block, int64_t groups,
                          int64_t image, int plane, int64_t first_channel);

}  // namespace export3d
