// Tri-plane rendering on the CPU: what becomes of a group's samples, forward and backward.
#include "triplane_group.h"

namespace export3d {
namespace {

class ForwardGroup : public Group {
  public:
    ForwardGroup(const TriplaneRenderArgs& a, const PackedDecoder& d) : Group(a, d, false) {}

    void forward(int64_t first_ray, int rays) {
        trace(first_ray, rays);
        for (int r = 0; r < rays; ++r) composite_scalars(r);
        add_colours();
        for (int r = 0; r < rays; ++r) {
            float* out = a_.features + ray_[r] * d_.colours;
            const float* sum = sum_ + r * d_.pad_colours;
            const float shift = kColourShift * all_shares_[r];
            for (int c = 0; c < d_.colours; ++c) out[c] = kColourScale * sum[c] + shift;
        }
    }

  private:
    // Depth, opacity and every row's share in the colours of its ray.
    void composite_scalars(int r) {
        const int64_t at = r * samples_;
        const float* depths = sorted_depth_ + at;
        float opacity = 0.0f, depth = 0.0f, shares = 0.0f, empty = 0.0f;
        float inside = 0.0f, kept = 0.0f;
        for (int i = 0; i < count_[r] - 1; ++i) {
            opacity += weight_[at + i];
            depth += weight_[at + i] * 0.5f * (depths[i] + depths[i + 1]);
        }
        for (int k = 0; k < count_[r]; ++k) {
            const float share = share_of(r, k);
            const int row = row_of_[at + order_[at + k]];
            shares += share;
            if (row < 0) {
                empty += share;
            } else {
                row_share_[row] = share;
                inside += share;
                kept += share > a_.min_weight ? share : 0.0f;
            }
        }
        rule_[r] = faint_rule(inside, kept, a_.min_weight);
        a_.opacity[ray_[r]] = opacity;
        a_.depth[ray_[r]] = depth + (1.0f - opacity) * a_.far;
        all_shares_[r] = shares;
        for (int c = 0; c < d_.pad_colours; ++c) {
            sum_[r * d_.pad_colours + c] = empty * d_.empty_colour[c];
        }
    }

    // Adds the colours of those rows whose share is above their ray's limit.
    void add_colours() {
        int count = 0;
        for (int row = 0; row < rows_; ++row) {
            chosen_[count] = row;
            count += row_share_[row] > rule_[row_ray_[row]].limit;
        }
        for (int first = 0; first < count; first += kChunkRows) {
            const int here = std::min(kChunkRows, count - first);
            const int32_t* rows = chosen_ + first;
            const float* hidden = hidden_row(rows[0]);
            if (rows[here - 1] - rows[0] != here - 1) {  // not neighbours
                for (int i = 0; i < here; ++i) {
                    std::copy_n(hidden_row(rows[i]), d_.pad_hidden, compact_ + i * d_.pad_hidden);
                }
                hidden = compact_;
            }
            decode_colours(hidden, here, colour_);
            for (int i = 0; i < here; ++i) {
                const int ray = row_ray_[rows[i]];
                const float share = row_share_[rows[i]] * rule_[ray].gain;
                float* sum = sum_ + ray * d_.pad_colours;
                for (int c = 0; c < d_.pad_colours; c += kLanes) {
                    store_vec(sum + c, load_vec(sum + c) + share * load_vec(colour_row(i) + c));
                }
            }
        }
    }
};

class BackwardGroup : public Group {
  public:
    BackwardGroup(const TriplaneRenderArgs& a, const PackedDecoder& d) : Group(a, d, true) {}

    // The rows' gradients and places go to gradient and places; returns how many there are.
    int backward(int64_t first_ray, int rays, DecoderGradient* sums, float* gradient, float* places,
                 int64_t places_stride) {
        trace(first_ray, rays);
        for (int row = 0; row < rows_; row += kChunkRows) {
            decode_colours(hidden_row(row), std::min(kChunkRows, rows_ - row), colour_row(row));
        }
        for (int r = 0; r < rays; ++r) ray_backward(r, sums);
        outputs_backward(sums);
        decoder_backward(sums, gradient);
        if (a_.grad_origins) {
            for (int r = 0; r < rays; ++r) place_backward(r, gradient);
        }
        for (int axis = 0; axis < 3; ++axis) {
            std::copy_n(row_place_[axis], rows_, places + axis * places_stride);
        }
        return rows_;
    }

  private:
    // From the cotangents of one ray to those of its densities (in row_density_) and shares.
    void ray_backward(int r, DecoderGradient* sums) {
        const int64_t at = r * samples_, ray = ray_[r];
        float* cotangent = sum_ + r * d_.pad_colours;
        std::copy_n(a_.grad_features + ray * d_.colours, d_.colours, cotangent);
        float total = 0.0f;
        for (int c = 0; c < d_.colours; ++c) total += cotangent[c];
        for (int k = 0; k < samples_; ++k) {
            const int row = row_of_[at + order_[at + k]];
            const float* colour = row < 0 ? d_.empty_colour : colour_row(row);
            Vec dot = {};
            for (int c = 0; c < d_.pad_colours; c += kLanes) {
                dot += load_vec(cotangent + c) * load_vec(colour + c);
            }
            line_a_[k] = kColourScale * sum_lanes(dot) + kColourShift * total;
        }
        quadrature_backward(sorted_depth_ + at, optical_ + at, passed_ + at, weight_ + at, line_a_,
                            samples_, a_.grad_depth[ray], a_.grad_opacity[ray], a_.far, line_b_,
                            line_c_);
        float empty = 0.0f;
        for (int k = 0; k < samples_; ++k) {
            const int row = row_of_[at + order_[at + k]];
            const float share = share_of(r, k);
            if (row < 0) {
                empty += share;
                sums->empty_raw += line_c_[k];
            } else {
                row_share_[row] = share;
                row_density_[row] = line_c_[k];
            }
        }
        for (int c = 0; c < d_.pad_colours; ++c) {
            const float s = d_.empty_colour[c];
            sums->empty_colour[c] += empty * kColourScale * cotangent[c] * s * (1.0f - s);
        }
    }

    // Cotangents of the colours and densities in front of their sigmoid and softplus.
    void outputs_backward(DecoderGradient* sums) {
        for (int row = 0; row < rows_; row += kLanes) {
            const Vec slope = sigmoid_vec(load_vec(row_raw_ + row) - 1.0f);
            store_vec(row_density_ + row, load_vec(row_density_ + row) * slope);
        }
        for (int row = 0; row < rows_; ++row) {
            const float share = row_share_[row] * kColourScale;
            const float* cotangent = sum_ + row_ray_[row] * d_.pad_colours;
            float* colour = colour_row(row);
            for (int c = 0; c < d_.pad_colours; c += kLanes) {
                const Vec s = load_vec(colour + c);
                const Vec g = share * load_vec(cotangent + c) * (s - s * s);
                store_vec(colour + c, g);
                store_vec(sums->b2 + c, load_vec(sums->b2 + c) + g);
            }
            const float density = row_density_[row];
            sums->density_bias += density;
            const float* hidden = hidden_row(row);
            float* grad = grad_hidden_ + static_cast<int64_t>(row) * d_.pad_hidden;
            for (int j = 0; j < d_.pad_hidden; j += kLanes) {
                store_vec(grad + j, density * load_vec(d_.density_row + j));
                float* sum = sums->density_row + j;
                store_vec(sum, load_vec(sum) + density * load_vec(hidden + j));
            }
        }
    }

    // The gradients of hidden values, in place, to those in front of their softplus; adds them up.
    // softplus' = sigmoid = 1 - exp(-softplus)
    template <int kCount>
    static void hidden_backward(const float* hidden, float* grad, float* sum) {
        Vec gone[kCount];
#pragma GCC unroll 16
        for (int v = 0; v < kCount; ++v) gone[v] = -load_vec(hidden + v * kLanes);
        exp_vecs(gone);
#pragma GCC unroll 16
        for (int v = 0; v < kCount; ++v) {
            const Vec g = load_vec(grad + v * kLanes) * (1.0f - gone[v]);
            store_vec(grad + v * kLanes, g);
            store_vec(sum + v * kLanes, load_vec(sum + v * kLanes) + g);
        }
    }

    // The two layers of the decoder, back to the sampled features. colour_ holds the cotangents.
    void decoder_backward(DecoderGradient* sums, float* gradient) {
        const int ph = d_.pad_hidden, pc = d_.pad_colours, px = d_.pad_channels;
        product<true>(rows_, ph, d_.colours, colour_, pc, 1, d_.w2_out, ph, nullptr, grad_hidden_,
                      ph);
        for (int row = 0; row < rows_; ++row) {
            float* grad = grad_hidden_ + static_cast<int64_t>(row) * ph;
            int j = 0;
            for (; j + 8 * kLanes <= ph; j += 8 * kLanes) {
                hidden_backward<8>(hidden_row(row) + j, grad + j, sums->b1 + j);
            }
            for (; j < ph; j += kLanes) {
                hidden_backward<1>(hidden_row(row) + j, grad + j, sums->b1 + j);
            }
        }
        product<true>(d_.hidden, pc, rows_, hidden_, 1, ph, colour_, pc, nullptr, sums->w2, pc);
        product<true>(d_.channels, ph, rows_, features_, 1, px, grad_hidden_, ph, nullptr, sums->w1,
                      ph);
        product<false>(rows_, px, d_.hidden, grad_hidden_, ph, 1, d_.w1_out, px, nullptr, gradient,
                       px);
    }

    // The ray's origin and direction: place = origin + depth * direction, and no gradient flows
    // through the choice of depths.
    void place_backward(int r, const float* gradient) {
        float* origin = a_.grad_origins + 3 * ray_[r];
        float* direction = a_.grad_directions + 3 * ray_[r];
        for (int s = 0; s < samples_; ++s) {
            const int row = row_of_[r * samples_ + s];
            if (row < 0) continue;
            float place[3] = {};
            for (int p = 0; p < 3; ++p) {
                add_plane(p, row, r, gradient + static_cast<int64_t>(row) * d_.pad_channels, place);
            }
            for (int axis = 0; axis < 3; ++axis) {
                origin[axis] += place[axis];
                direction[axis] += depth_[r * samples_ + s] * place[axis];
            }
        }
    }

    void add_plane(int plane, int row, int r, const float* cotangent, float* place) const {
        const PlaneAxes axes = plane_axes(a_.layout, plane);
        const int size = static_cast<int>(a_.size);
        const float scale = static_cast<float>(size) / a_.box_side;
        const Tap x = tap(row_place_[axes.column][row], axes.column_sign * scale, size);
        const Tap y = tap(row_place_[axes.row][row], axes.row_sign * scale, size);
        const int64_t image = a_.planes_n == 1 ? 0 : ray_[r] / a_.rays;
        const float* texels = a_.planes + (image * 3 + plane) * plane_floats();
        float dot[4];
        for (int k = 0; k < 4; ++k) {
            const int64_t at = (k < 2 ? y.low : y.high) * a_.size + (k % 2 ? x.high : x.low);
            const float* texel = texels + at * a_.padded_channels;
            Vec sum = {};
            for (int c = 0; c < d_.pad_channels; c += kLanes) {
                sum += load_vec(texel + c) * load_vec(cotangent + c);
            }
            dot[k] = sum_lanes(sum);
        }
        add_place_gradient(a_, plane, x, y, dot, place);
    }
};

}  // namespace

int rays_per_group(const TriplaneRenderArgs& a) {
    const int64_t rows = 2 * kChunkRows * (a.min_weight > 0.0f ? kLazyRays : 1);
    return static_cast<int>(std::max<int64_t>(1, rows / (a.coarse + a.fine)));
}

void triplane_forward_cpu(const TriplaneRenderArgs& a, const PackedDecoder& d, int64_t begin,
                          int64_t end) {
    ForwardGroup group(a, d);
    const int step = rays_per_group(a);
    for (int64_t ray = begin; ray < end; ray += step) {
        group.forward(ray, static_cast<int>(std::min<int64_t>(step, end - ray)));
    }
}

void triplane_backward_cpu(const TriplaneRenderArgs& a, const PackedDecoder& d, int64_t begin,
                           int64_t end, int64_t block_begin, DecoderGradient* sums,
                           ScatterBlock* block) {
    BackwardGroup group(a, d);
    const int step = rays_per_group(a);
    for (int64_t ray = begin; ray < end; ray += step) {
        const int64_t index = (ray - block_begin) / step;
        const int64_t row = index * block->group_rows;
        block->rows[index] = group.backward(
            ray, static_cast<int>(std::min<int64_t>(step, end - ray)), sums,
            block->gradient + row * block->pad_channels, block->places + row, block->capacity);
    }
}

}  // namespace export3d
