// What surrounds the rays: the decoder's weights packed for the products, their gradients unpacked,
// and the sums into the planes.
#include <algorithm>

#include "triplane_cpu.h"

namespace export3d {

PackedDecoder::PackedDecoder(const TriplaneRenderArgs& a)
    : channels(static_cast<int>(a.channels)),
      colours(static_cast<int>(a.colours)),
      hidden(static_cast<int>(a.hidden)),
      pad_channels(static_cast<int>(a.padded_channels)),
      pad_colours(padded(colours, kLanes)),
      pad_hidden(padded(hidden, kLanes)),
      density_bias(a.b2[0]) {
    take_all();
    memory_.allocate();
    take_all();
    for (int j = 0; j < hidden; ++j) {
        for (int c = 0; c < channels; ++c) {
            const float w = a.w1[j * channels + c];
            w1_in[c * pad_hidden + j] = w;
            w1_out[j * pad_channels + c] = w;
        }
        for (int o = 0; o < colours; ++o) {
            const float w = a.w2[(o + 1) * hidden + j];
            w2_in[j * pad_colours + o] = w;
            w2_out[o * pad_hidden + j] = w;
        }
        b1[j] = a.b1[j];
        density_row[j] = a.w2[j];
    }
    for (int o = 0; o < colours; ++o) b2[o] = a.b2[o + 1];
    empty_raw = density_bias;
    std::copy_n(b2, pad_colours, empty_colour);
    for (int j = 0; j < pad_hidden; j += kLanes) {
        store_vec(empty_hidden + j, softplus_vec(load_vec(b1 + j)));
    }
    for (int j = 0; j < hidden; ++j) {
        empty_raw += density_row[j] * empty_hidden[j];
        for (int o = 0; o < colours; ++o) {
            empty_colour[o] += w2_in[j * pad_colours + o] * empty_hidden[j];
        }
    }
    for (int o = 0; o < pad_colours; o += kLanes) {
        store_vec(empty_colour + o, sigmoid_vec(load_vec(empty_colour + o)));
    }
    empty_density = softplus_vec(splat(empty_raw - 1.0f))[0];
}

void PackedDecoder::take_all() {
    const size_t slack = kLanes * kTileRows;  // products read whole tiles
    w1_in = memory_.take(channels * pad_hidden);
    w1_out = memory_.take(hidden * pad_channels);
    w2_in = memory_.take(hidden * pad_colours);
    w2_out = memory_.take(colours * pad_hidden + slack);
    b1 = memory_.take(pad_hidden);
    b2 = memory_.take(pad_colours);
    density_row = memory_.take(pad_hidden);
    empty_hidden = memory_.take(pad_hidden);
    empty_colour = memory_.take(pad_colours);
}

DecoderGradient::DecoderGradient(const PackedDecoder& d) {
    take_all(d);
    memory_.allocate();
    take_all(d);
}

void DecoderGradient::take_all(const PackedDecoder& d) {
    w1 = memory_.take(padded(d.channels, kTileRows) * d.pad_hidden);
    w2 = memory_.take(padded(d.hidden, kTileRows) * d.pad_colours);
    b1 = memory_.take(d.pad_hidden);
    b2 = memory_.take(d.pad_colours);
    density_row = memory_.take(d.pad_hidden);
    empty_colour = memory_.take(d.pad_colours);
}

void DecoderGradient::finish(const PackedDecoder& d) {
    empty_raw *= sigmoid_vec(splat(d.empty_raw - 1.0f))[0];
    density_bias += empty_raw;
    for (int o = 0; o < d.colours; ++o) b2[o] += empty_colour[o];
    for (int j = 0; j < d.hidden; ++j) {
        float grad = empty_raw * d.density_row[j];
        density_row[j] += empty_raw * d.empty_hidden[j];
        for (int o = 0; o < d.colours; ++o) {
            w2[j * d.pad_colours + o] += empty_colour[o] * d.empty_hidden[j];
            grad += empty_colour[o] * d.w2_in[j * d.pad_colours + o];
        }
        b1[j] += grad * -exp_minus_1(-d.empty_hidden[j]);
    }
}

void DecoderGradient::add_to(const TriplaneRenderArgs& a, const PackedDecoder& d) const {
    for (int j = 0; j < d.hidden; ++j) {
        for (int c = 0; c < d.channels; ++c) {
            a.grad_w1[j * d.channels + c] += w1[c * d.pad_hidden + j];
        }
        for (int o = 0; o < d.colours; ++o) {
            a.grad_w2[(o + 1) * d.hidden + j] += w2[j * d.pad_colours + o];
        }
        a.grad_w2[j] += density_row[j];
        a.grad_b1[j] += b1[j];
    }
    a.grad_b2[0] += density_bias;
    for (int o = 0; o < d.colours; ++o) a.grad_b2[o + 1] += b2[o];
}

ScatterBlock::ScatterBlock(const TriplaneRenderArgs& a, int64_t rays)
    : group_rays(rays_per_group(a)),
      group_rows(padded(static_cast<int>(group_rays * (a.coarse + a.fine)), kTileRows)),
      pad_channels(a.padded_channels),
      capacity((rays + group_rays - 1) / group_rays * group_rows) {
    take_all(capacity / group_rows);
    memory_.allocate();
    take_all(capacity / group_rows);
}

void ScatterBlock::take_all(int64_t groups) {
    gradient = memory_.take(capacity * pad_channels);
    places = memory_.take(3 * capacity + kLanes);
    rows = memory_.take_integers(groups);
}

void triplane_scatter_cpu(const TriplaneRenderArgs& a, const ScatterBlock& block, int64_t groups,
                          int64_t image, int plane, int64_t first_channel) {
    constexpr int kRun = 64, kAhead = 8, kVecs = kScatterChannels / kLanes;
    alignas(64) int32_t at[4][kRun];
    alignas(64) float share[4][kRun];
    const Taps taps = {{at[0], at[1], at[2], at[3]}, {share[0], share[1], share[2], share[3]}};
    const int64_t which = (a.planes_n == 1 ? 0 : image) * 3 + plane;
    float* to = a.grad_planes + which * a.size * a.size * a.padded_channels + first_channel;
    for (int64_t group = 0; group < groups; ++group) {
        for (int done = 0; done < block.rows[group]; done += kRun) {
            const int64_t row = group * block.group_rows + done;
            const int count = std::min(kRun, block.rows[group] - done);
            const float* places[3];
            for (int axis = 0; axis < 3; ++axis) {
                places[axis] = block.places + axis * block.capacity + row;
            }
            find_taps(a, plane, places, count, taps);
            // Neighbours along a ray often lie between the same texels: add up in registers.
            for (int i = 0; i < count;) {
                for (int k = 0; k < 4 && i + kAhead < count; ++k) {
                    __builtin_prefetch(to + at[k][i + kAhead] * a.padded_channels, 1);
                }
                Vec sum[4][kVecs] = {};
                const int32_t cell = at[0][i], across = at[3][i];
                const int64_t corner[4] = {cell, at[1][i], at[2][i], across};
                for (; i < count && at[0][i] == cell && at[3][i] == across; ++i) {
                    const int64_t from = (row + i) * block.pad_channels + first_channel;
                    for (int v = 0; v < kVecs; ++v) {
                        const Vec value = load_vec(block.gradient + from + v * kLanes);
                        for (int k = 0; k < 4; ++k) sum[k][v] += share[k][i] * value;
                    }
                }
                for (int k = 0; k < 4; ++k) {
                    float* texel = to + corner[k] * a.padded_channels;
                    for (int v = 0; v < kVecs; ++v) {
                        store_vec(texel + v * kLanes, load_vec(texel + v * kLanes) + sum[k][v]);
                    }
                }
            }
        }
    }
}

}  // namespace export3d
