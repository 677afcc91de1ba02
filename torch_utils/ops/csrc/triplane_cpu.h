// The CPU side of tri-plane rendering. Each function handles a part of the work, so that the caller
// decides about threads; the result does not depend on how the parts are dealt out.
#pragma once

#include <cmath>
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
    DecoderGradient(DecoderGradient&&) =
        default;  // moved memory stays where it is, copied would not
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

// The number of the k-th ray to be worked on. Square images are walked in tiles of 8 x 8 pixels:
// the texels that a tile's rays share stay in the second cache, those of a row of pixels do not.
inline int64_t ray_in_turn(const TriplaneRenderArgs& a, int64_t k) {
    const int64_t side = static_cast<int64_t>(std::sqrt(static_cast<double>(a.rays)) + 0.5);
    if (side * side != a.rays || side % 8 != 0) return k;
    const int64_t image = k / a.rays, tile = k % a.rays / 64, inside = k % 64;
    const int64_t row = tile / (side / 8) * 8 + inside / 8;
    const int64_t column = tile % (side / 8) * 8 + inside % 8;
    return image * a.rays + row * side + column;
}

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

// One axis of kLanes samples: see tap() in triplane_render.h.
struct VecTap {
    IntVec low, high;
    Vec low_share, high_share;
};

inline VecTap tap_vec(Vec coordinate, float scale, int size) {
    const float last = static_cast<float>(size) - 1.0f;
    Vec at = max_vec(splat(-2.0f), coordinate * scale + 0.5f * last);
    at = at < last + 2.0f ? at : splat(last + 2.0f);
    const IntVec low = __builtin_convertvector(at + 2.0f, IntVec) - 2;
    const Vec share = at - __builtin_convertvector(low, Vec);
    const IntVec zero = {};
    VecTap t;
    t.low_share = (Vec)((IntVec)(1.0f - share) & (low >= 0) & (low < size));
    t.high_share = (Vec)((IntVec)share & (low >= -1) & (low < size - 1));
    t.low = low < 0 ? zero : low;
    t.low = t.low > size - 1 ? zero + (size - 1) : t.low;
    t.high = low < -1 ? zero : low + 1;
    t.high = t.high > size - 1 ? zero + (size - 1) : t.high;
    return t;
}

// Whole vectors: places are read and taps written up to kLanes - 1 entries behind count.
inline void find_taps(const TriplaneRenderArgs& a, int plane, const float* const* places, int count,
                      const Taps& taps) {
    const PlaneAxes axes = plane_axes(a.layout, plane);
    const int size = static_cast<int>(a.size);
    const float scale = static_cast<float>(size) / a.box_side;
    const auto put = [](int32_t* to, IntVec v) { std::memcpy(to, &v, sizeof(v)); };
    for (int i = 0; i < count; i += kLanes) {
        const VecTap x = tap_vec(load_vec(places[axes.column] + i), axes.column_sign * scale, size);
        const VecTap y = tap_vec(load_vec(places[axes.row] + i), axes.row_sign * scale, size);
        const Vec low = y.low_share * (1.0f / 3.0f), high = y.high_share * (1.0f / 3.0f);
        put(taps.at[0] + i, y.low * size + x.low);
        put(taps.at[1] + i, y.low * size + x.high);
        put(taps.at[2] + i, y.high * size + x.low);
        put(taps.at[3] + i, y.high * size + x.high);
        store_vec(taps.share[0] + i, low * x.low_share);
        store_vec(taps.share[1] + i, low * x.high_share);
        store_vec(taps.share[2] + i, high * x.low_share);
        store_vec(taps.share[3] + i, high * x.high_share);
    }
}

// Rays [begin, end) of all n * rays, in turn.
void triplane_forward_cpu(const TriplaneRenderArgs& a, const PackedDecoder& d, int64_t begin,
                          int64_t end);

// Rays [begin, end), all of one block that starts at ray block_begin.
void triplane_backward_cpu(const TriplaneRenderArgs& a, const PackedDecoder& d, int64_t begin,
                           int64_t end, int64_t block_begin, DecoderGradient* sums,
                           ScatterBlock* block);

// Adds the block's first `groups` groups to a plane of an image, kScatterChannels from
// first_channel.
void triplane_scatter_cpu(const TriplaneRenderArgs& a, const ScatterBlock& block, int64_t groups,
                          int64_t image, int plane, int64_t first_channel);

}  // namespace export3d
