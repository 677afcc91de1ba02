// The samples of one or a few rays at a time, whose features, hidden values and colours stay in the
// first caches: what the forward pass makes and the backward pass makes again.
#pragma once

#include <algorithm>
#include <type_traits>

#include "triplane_cpu.h"

namespace export3d {

constexpr int kChunkRows = 48;  // rows of a product that stay in the first cache
constexpr int kAhead = 6;       // samples between the prefetch of texels and their use
constexpr int kStretch = 12;    // coarse samples between two looks at what light is left
constexpr int kLazyRays = 8;    // times as many rays a group, where most samples are left out
static_assert(kChunkRows % kTileRows == 0, "chunks end between tiles");

// The samples of a group of rays. Arrays named by sample are [rays, samples], coarse before fine;
// arrays named by row hold the samples inside the planes only, in the order they were asked for.
class Group {
  public:
    Group(const TriplaneRenderArgs& a, const PackedDecoder& d, bool backward)
        : a_(a),
          d_(d),
          backward_(backward),
          lazy_(a.min_weight > 0.0f),
          samples_(static_cast<int>(a.coarse + a.fine)),
          max_rays_(rays_per_group(a)),
          ray_(max_rays_),
          count_(max_rays_),
          light_(max_rays_),
          rule_(max_rays_) {
        take_all();
        memory_.allocate();
        take_all();
    }

  protected:
    float* feature_row(int row) { return features_ + static_cast<int64_t>(row) * d_.pad_channels; }
    float* hidden_row(int row) { return hidden_ + static_cast<int64_t>(row) * d_.pad_hidden; }
    float* colour_row(int row) { return colour_ + static_cast<int64_t>(row) * d_.pad_colours; }

    // Depths, densities, order and weights of all samples.
    void trace(int64_t first_ray, int rays) {
        const int coarse = static_cast<int>(a_.coarse), fine = static_cast<int>(a_.fine);
        for (int r = 0; r < rays; ++r) ray_[r] = ray_in_turn(a_, first_ray + r);
        rays_ = rays;
        rows_ = 0;
        for (int r = 0; r < rays; ++r) {
            float* depths = depth_ + r * samples_;
            for (int i = 0; i < coarse; ++i) depths[i] = coarse_depth(a_, ray_[r], i);
            light_[r] = 1.0f;
        }
        const int step = lazy_ ? kStretch : coarse;
        for (int from = 0; from < coarse; from += step) {
            const int until = std::min(coarse, from + step);
            for (int r = 0; r < rays; ++r) count_[r] = until;
            query(from);
            if (lazy_) {
                for (int r = 0; r < rays; ++r) dim(r, from, until);
            }
        }
        for (int r = 0; r < rays; ++r) weigh(r, coarse);
        if (fine == 0) return;
        if (lazy_) find_needed();
        for (int r = 0; r < rays; ++r) {
            float* depths = depth_ + r * samples_;
            importance_depths(a_, ray_[r], depths, weight_ + r * samples_, line_a_,
                              depths + coarse);
            count_[r] = lazy_ ? coarse + drop_unneeded(r) : samples_;
            light_[r] = 1.0f;
        }
        query(coarse);
        for (int r = 0; r < rays; ++r) weigh(r, coarse);
    }

    // light_[r]: what is left of the light behind the coarse samples [from, until).
    void dim(int r, int from, int until) {
        const int32_t* row_of = row_of_ + r * samples_;
        const float* depths = depth_ + r * samples_;
        float optical = 0.0f;
        for (int i = std::max(from, 1); i < until; ++i) {
            const int row = row_of[i];
            const float density = row < 0 ? d_.empty_density : row_density_[row];
            optical += density * (depths[i] - depths[i - 1]);
        }
        light_[r] *= exp_of(-optical);
    }

    // needed_[i]: the most that the i-th interval between coarse samples, or one beside it, weighs
    // on any ray of the group. Neighbouring rays are asked, too, because a surface that one ray
    // grazes between two coarse samples is seen by the next.
    void find_needed() {
        const int intervals = static_cast<int>(a_.coarse) - 1;
        std::fill_n(line_b_, intervals, 0.0f);
        for (int r = 0; r < rays_; ++r) {
            const float* weights = weight_ + r * samples_;
            for (int i = 0; i < intervals; ++i) line_b_[i] = larger(line_b_[i], weights[i]);
        }
        for (int i = 0; i < intervals; ++i) {
            needed_[i] = larger(larger(line_b_[std::max(i - 1, 0)], line_b_[i]),
                                line_b_[std::min(i + 1, intervals - 1)]);
        }
    }

    static float larger(float a, float b) { return b <= a ? a : b; }  // NaN in b survives

    // Leaves out the fine samples of intervals that nobody needs: in front of the surfaces and
    // behind them. Returns how many are left.
    int drop_unneeded(int r) {
        const int coarse = static_cast<int>(a_.coarse), fine = static_cast<int>(a_.fine);
        const float* depths = depth_ + r * samples_;
        float* fine_depths = depth_ + r * samples_ + coarse;
        int kept = 0, interval = 0;
        for (int i = 0; i < fine; ++i) {
            while (interval < coarse - 2 && depths[interval + 1] <= fine_depths[i]) ++interval;
            fine_depths[kept] = fine_depths[i];
            kept += !(needed_[interval] <= a_.min_weight);
        }
        return kept;
    }

    // Features, hidden values and densities of every ray's samples from `from` up to its count_.
    void query(int from) {
        const int start = rows_;
        for (int r = 0; r < rays_; ++r) {
            const int count = count_[r] - from;
            if (light_[r] <= a_.min_weight) {  // as if outside the planes: nobody will see it
                std::fill_n(row_of_ + r * samples_ + from, count, -1);
                continue;
            }
            const float* origin = a_.origins + 3 * ray_[r];
            const float* direction = a_.directions + 3 * ray_[r];
            const float* depths = depth_ + r * samples_ + from;
            for (int axis = 0; axis < 3; ++axis) {
                const float o = origin[axis], v = direction[axis];
                float* __restrict place = place_[axis];
                for (int i = 0; i < count; ++i) place[i] = o + depths[i] * v;
            }
            for (int p = 0; p < 3; ++p) find_taps(a_, p, place_, count, taps_[p]);
            find_inside(count);
            const int64_t image = a_.planes_n == 1 ? 0 : ray_[r] / a_.rays;
            const int64_t at = image * 3 * plane_floats();
            if (a_.plane_type == kPlanesBFloat16) {
                gather_ray(reinterpret_cast<const BFloat16*>(a_.planes) + at, r, from, count);
            } else if (a_.plane_type == kPlanesFloat16) {
                gather_ray(reinterpret_cast<const Half*>(a_.planes) + at, r, from, count);
            } else {
                gather_ray(a_.planes + at, r, from, count);
            }
        }
        for (int row = start; row < rows_; row += kChunkRows) {
            decode_hidden(row, std::min(kChunkRows, rows_ - row));
        }
        for (int row = start; row < rows_; row += kLanes) {
            const Vec raw = load_vec(row_raw_ + row);
            store_vec(row_density_ + row, softplus_vec(raw - 1.0f));
        }
    }

    int64_t plane_floats() const { return a_.size * a_.size * a_.padded_channels; }

    // inside_[i]: zero where no plane has anything, so that the features are exactly zero.
    void find_inside(int count) {
        std::fill_n(inside_, count, 0.0f);
        for (const Taps& plane : taps_) {
            for (const float* share : plane.share) {
                for (int i = 0; i < count; ++i) inside_[i] += share[i];
            }
        }
    }

    template <class Texel>
    void gather_ray(const Texel* planes, int r, int from, int count) {
        const Taps taps[3] = {taps_[0], taps_[1], taps_[2]};  // the compiler cannot know them fixed
        int32_t* row_of = row_of_ + r * samples_ + from;
        const int channels = d_.pad_channels;
        // The plane whose rows follow z, the way that rays go: every sample is rows away from the
        // one before, where the processor's own prefetching does not follow.
        const int deep_plane = plane_axes(a_.layout, 2).row == 2 ? 2 : 1;
        const Texel* deep = planes + deep_plane * plane_floats();
        const Taps far = taps_[deep_plane];
        for (int i = 0; i < count; ++i) {
            row_of[i] = -1;
            if (inside_[i] == 0.0f) continue;
            if (i + kAhead < count) {
                for (int k = 0; k < 4; k += 2) {  // with the neighbour in its row
                    const Texel* texel = deep + far.at[k][i + kAhead] * a_.padded_channels;
                    for (int c = 0; c < 2 * channels; c += 64 / sizeof(Texel)) {
                        __builtin_prefetch(texel + c);
                    }
                }
            }
            float* to = feature_row(rows_);
            int c = 0;
            for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
                gather<2>(planes + c, taps, i, to + c);
            }
            for (; c < channels; c += kLanes) gather<1>(planes + c, taps, i, to + c);
            if (backward_) {
                for (int axis = 0; axis < 3; ++axis) row_place_[axis][rows_] = place_[axis][i];
            }
            row_ray_[rows_] = r;
            row_of[i] = rows_++;
        }
    }

    // (F_xy + F_yz + F_zx) / 3, bilinear, kVecs vectors of channels.  [paper, eq. 5]
    template <int kVecs, class Texel>
    void gather(const Texel* planes, const Taps* taps, int i, float* to) const {
        // Two vectors of bfloat16 come by one load, the even channels and the odd ones.
        constexpr bool kPairs = kVecs == 2 && std::is_same_v<Texel, BFloat16>;
        Vec sum[kVecs] = {};
        for (int p = 0; p < 3; ++p) {
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                const Texel* texel = planes + taps[p].at[k][i] * a_.padded_channels;
                const float share = taps[p].share[k][i];
                if constexpr (kPairs) {
                    IntVec both;
                    std::memcpy(&both, texel, sizeof(both));
                    sum[0] += share * (Vec)(both << 16);
                    sum[1] += share * (Vec)(both & ~0xffff);
                } else {
                    for (int v = 0; v < kVecs; ++v) sum[v] += share * load_vec(texel + v * kLanes);
                }
            }
            planes += plane_floats();
        }
        if constexpr (kPairs) {
            store_interleaved(to, sum[0], sum[1]);
        } else {
            for (int v = 0; v < kVecs; ++v) store_vec(to + v * kLanes, sum[v]);
        }
    }

    // hidden = softplus(W1 x + b1) and the density before its softplus, of at most kChunkRows rows.
    void decode_hidden(int first, int rows) {
        float* hidden = hidden_row(first);
        product<false>(rows, d_.pad_hidden, d_.channels, feature_row(first), d_.pad_channels, 1,
                       d_.w1_in, d_.pad_hidden, d_.b1, hidden, d_.pad_hidden);
        const int width = d_.pad_hidden;
        const float* density_row = d_.density_row;
        softplus_all(hidden, rows * width);
        for (int i = 0; i < rows; ++i) {
            Vec dot = {};
            for (int j = 0; j < width; j += kLanes) {
                dot += load_vec(hidden + j) * load_vec(density_row + j);
            }
            row_raw_[first + i] = sum_lanes(dot) + d_.density_bias;
            hidden += width;
        }
    }

    void decode_colours(const float* hidden, int rows, float* colour) {
        product<false>(rows, d_.pad_colours, d_.hidden, hidden, d_.pad_hidden, 1, d_.w2_in,
                       d_.pad_colours, d_.b2, colour, d_.pad_colours);
        sigmoid_all(colour, rows * d_.pad_colours);
    }

    // Order and interval weights of a ray's first count_ samples.
    void weigh(int r, int coarse) {
        const int64_t at = r * samples_;
        const int count = count_[r];
        merge_order(depth_ + at, coarse, count - coarse, order_ + at);
        float* density = line_b_;
        for (int k = 0; k < count; ++k) {
            const int sample = order_[at + k];
            const int row = row_of_[at + sample];
            sorted_depth_[at + k] = depth_[at + sample];
            density[k] = row < 0 ? d_.empty_density : row_density_[row];
        }
        quadrature(sorted_depth_ + at, density, count, optical_ + at, passed_ + at, weight_ + at);
    }

    float share_of(int r, int k) const {
        const float* weights = weight_ + r * samples_;
        const float before = k > 0 ? weights[k - 1] : 0.0f;
        return 0.5f * (before + (k < count_[r] - 1 ? weights[k] : 0.0f));
    }

    void take_all() {
        const size_t rays = max_rays_, samples = samples_, all = rays * samples;
        const size_t rows = all + 2 * kChunkRows;  // products write whole tiles
        const size_t line = samples + kLanes;
        depth_ = memory_.take(all);
        sorted_depth_ = memory_.take(all);
        optical_ = memory_.take(all);
        passed_ = memory_.take(all);
        weight_ = memory_.take(all);
        row_of_ = memory_.take_integers(all);
        order_ = memory_.take_integers(all);
        for (float** p : {&line_a_, &line_b_, &line_c_, &inside_, &needed_})
            *p = memory_.take(line);
        for (float*& p : place_) p = memory_.take(line);
        for (auto& plane : taps_) {
            for (int k = 0; k < 4; ++k) {
                plane.at[k] = memory_.take_integers(line);
                plane.share[k] = memory_.take(line);
            }
        }
        row_ray_ = memory_.take_integers(rows);
        for (float** p : {&row_raw_, &row_density_, &row_share_}) *p = memory_.take(rows);
        features_ = memory_.take(rows * d_.pad_channels);
        hidden_ = memory_.take((rows + 1) * d_.pad_hidden);
        colour_ = memory_.take((backward_ ? rows : kChunkRows) * d_.pad_colours);
        sum_ = memory_.take(rays * d_.pad_colours);
        all_shares_ = memory_.take(rays);
        chosen_ = memory_.take_integers(rows);
        if (backward_) {
            grad_hidden_ = memory_.take(rows * d_.pad_hidden);
            for (float*& p : row_place_) p = memory_.take(rows);
        } else {
            compact_ = memory_.take(kChunkRows * d_.pad_hidden);
        }
    }

    const TriplaneRenderArgs& a_;
    const PackedDecoder& d_;
    const bool backward_;
    const bool lazy_;  // saves work that changes the result by about min_weight
    const int samples_, max_rays_;
    std::vector<int64_t> ray_;  // their numbers
    std::vector<int> count_;    // their samples
    std::vector<float> light_;  // what reaches the samples that are asked for next
    std::vector<FaintRule> rule_;
    int rays_ = 0, rows_ = 0;
    Buffer memory_;
    float *depth_, *sorted_depth_, *optical_, *passed_,
        *weight_;               // by sample; the last four sorted
    int32_t *row_of_, *order_;  // by sample; -1: outside
    float *line_a_, *line_b_, *line_c_, *inside_, *needed_, *place_[3];  // of one ray
    Taps taps_[3];
    int32_t *row_ray_, *chosen_;
    float *row_raw_, *row_density_, *row_share_, *row_place_[3];
    float *features_, *hidden_, *colour_, *grad_hidden_, *compact_;
    float *sum_, *all_shares_;  // by ray
};

}  // namespace export3d
