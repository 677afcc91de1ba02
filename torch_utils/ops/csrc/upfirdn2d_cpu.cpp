// upfirdn2d on the CPU, one output row at a time, so that everything between input and output stays
// in the first-level cache.
//
// A separable filter first sums the input rows that the output row sees into one padded line, then
// filters the line. A general filter filters each of those rows with its own taps and adds up.
// `inner` is 1 for NCHW (outer = N C) and C for channels_last (outer = N).
#include <algorithm>
#include <vector>

#include "cpu.h"

namespace export3d {
namespace {

// Outputs phase, phase + phases, ... share their taps and see samples `step` apart.
struct Phase {
    int64_t tap, taps, first;
};

template <class S>
struct Plan {
    int64_t phases, step;
    int64_t line_first, line_size;  // the padded line holds samples [line_first, + line_size)
    std::vector<Phase> table;
    int64_t weight_line;     // weights per line; fewer than fw if some taps meet no sample
    std::vector<S> weights;  // fh lines (separable: one) of taps, phase by phase, correlating
    std::vector<S> column;   // separable: the taps along y, correlating, times gain
};

int64_t greatest_common_divisor(int64_t a, int64_t b) {
    return b ? greatest_common_divisor(b, a % b) : a;
}

template <class S>
Plan<S> make_plan(const UpfirdnArgs& a) {
    Plan<S> plan;
    const int64_t common = greatest_common_divisor(a.up_x, a.down_x);
    plan.phases = a.up_x / common;
    plan.step = a.down_x / common;
    std::vector<int64_t> order;  // tap indices sorted by phase
    int64_t low = 0, high = a.in_w - 1;
    for (int64_t p = 0; p < plan.phases; ++p) {
        const int64_t base = p * a.down_x - a.pad_x0;
        const int64_t first = -floor_div<int64_t>(-base, a.up_x);  // ceiling of base / up
        const int64_t tap = first * a.up_x - base;
        Phase phase = {static_cast<int64_t>(order.size()), 0, first};
        for (int64_t k = tap; k < a.fw; k += a.up_x) order.push_back(k), ++phase.taps;
        plan.table.push_back(phase);
        if (p >= a.out_w) continue;
        const int64_t outputs = (a.out_w - p + plan.phases - 1) / plan.phases;
        low = std::min(low, first);
        high = std::max(high, first + (outputs - 1) * plan.step + phase.taps - 1);
    }
    plan.weight_line = static_cast<int64_t>(order.size());
    plan.line_first = low;
    plan.line_size = high - low + 1;
    const S* f = static_cast<const S*>(a.f);
    const S gain = S(a.gain);
    for (int64_t ky = 0; ky < (a.separable ? 1 : a.fh); ++ky) {
        const S* row = f + (a.separable ? 0 : (a.flip ? ky : a.fh - 1 - ky) * a.fw);
        for (int64_t k : order) {
            plan.weights.push_back(row[a.flip ? k : a.fw - 1 - k] * (a.separable ? S(1) : gain));
        }
    }
    if (a.separable) {
        for (int64_t k = 0; k < a.fh; ++k)
            plan.column.push_back(f[a.flip ? k : a.fh - 1 - k] * gain);
    }
    return plan;
}

// out[i * out_step] = or += sum_t w[t] x[i * x_step + t], for single channels.
template <class S, int taps, int x_step, int out_step, bool add>
void filter_fixed(const S* x, const S* w, S* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        S sum = 0;
        for (int t = 0; t < taps; ++t) sum += w[t] * x[i * x_step + t];
        out[i * out_step] = add ? out[i * out_step] + sum : sum;
    }
}

template <class S, bool add>
void filter_any(const S* x, const S* w, S* out, int64_t n, int64_t taps, int64_t x_step,
                int64_t out_step) {
    for (int64_t i = 0; i < n; ++i) {
        S sum = 0;
        for (int64_t t = 0; t < taps; ++t) sum += w[t] * x[i * x_step + t];
        out[i * out_step] = add ? out[i * out_step] + sum : sum;
    }
}

template <class S, bool add>
void filter_phase(const S* x, const S* w, S* out, int64_t n, int64_t taps, int64_t x_step,
                  int64_t out_step) {
    if (taps == 4 && x_step == 1 && out_step == 1)
        return filter_fixed<S, 4, 1, 1, add>(x, w, out, n);
    if (taps == 4 && x_step == 2 && out_step == 1)
        return filter_fixed<S, 4, 2, 1, add>(x, w, out, n);
    if (taps == 2 && x_step == 1 && out_step == 2)
        return filter_fixed<S, 2, 1, 2, add>(x, w, out, n);
    filter_any<S, add>(x, w, out, n, taps, x_step, out_step);
}

// Both phases of an enlargement by two with two taps each: neighbours are written together.
template <class S, bool add>
void filter_double(const S* x0, const S* x1, const S* w, S* out, int64_t pairs) {
    for (int64_t i = 0; i < pairs; ++i) {
        const S even = w[0] * x0[i] + w[1] * x0[i + 1];
        const S odd = w[2] * x1[i] + w[3] * x1[i + 1];
        out[2 * i] = add ? out[2 * i] + even : even;
        out[2 * i + 1] = add ? out[2 * i + 1] + odd : odd;
    }
}

// One line, [line_size, inner] -> [out_w, inner]. `line` points at sample line_first.
template <class S, bool add>
void filter_line(const UpfirdnArgs& a, const Plan<S>& plan, const S* w, const S* line, S* out,
                 int64_t inner) {
    if (inner == 1) {
        int64_t start = 0;  // outputs done already
        const bool pairs = plan.phases == 2 && plan.step == 1 && plan.table[0].taps == 2 &&
                           plan.table[1].taps == 2;
        if (pairs) {
            filter_double<S, add>(line + plan.table[0].first - plan.line_first,
                                  line + plan.table[1].first - plan.line_first, w, out,
                                  a.out_w / 2);
            start = a.out_w / 2 * 2;
        }
        for (int64_t p = 0; p < plan.phases; ++p) {
            const Phase& phase = plan.table[p];
            const int64_t done = start / plan.phases;
            const int64_t outputs = (a.out_w - p + plan.phases - 1) / plan.phases - done;
            if (outputs <= 0) continue;
            filter_phase<S, add>(line + phase.first - plan.line_first + done * plan.step,
                                 w + phase.tap, out + p + done * plan.phases, outputs, phase.taps,
                                 plan.step, plan.phases);
        }
        return;
    }
    for (int64_t ox = 0; ox < a.out_w; ++ox) {
        const Phase& phase = plan.table[ox % plan.phases];
        const S* x = line + (phase.first + ox / plan.phases * plan.step - plan.line_first) * inner;
        const S* taps = w + phase.tap;
        S* y = out + ox * inner;
        if (!add) std::fill(y, y + inner, S(0));
        for (int64_t t = 0; t < phase.taps; ++t) {
            const S weight = taps[t];
            const S* xt = x + t * inner;
            for (int64_t i = 0; i < inner; ++i) y[i] += weight * xt[i];
        }
    }
}

template <class T, class S>
void set_scaled(const T* x, S weight, S* line, int64_t n) {
    for (int64_t i = 0; i < n; ++i) line[i] = weight * load(x[i]);
}
template <class T, class S>
void add_scaled(const T* x, S weight, S* line, int64_t n) {
    for (int64_t i = 0; i < n; ++i) line[i] += weight * load(x[i]);
}
template <class T, class S>
void set_two(const T* x0, const T* x1, S w0, S w1, S* line, int64_t n) {
    for (int64_t i = 0; i < n; ++i) line[i] = w0 * load(x0[i]) + w1 * load(x1[i]);
}

template <class T>
void rows(const UpfirdnArgs& a, int64_t begin, int64_t end) {
    using S = typename Compute<T>::type;
    const Plan<S> plan = make_plan<S>(a);
    const int64_t inner = a.channels_last ? a.c : 1;
    const int64_t in_row = a.in_w * inner, out_row = a.out_w * inner;
    std::vector<S> padded(plan.line_size * inner, S(0));  // the zeros at both ends stay
    S* line = padded.data() - plan.line_first * inner;    // where sample 0 goes
    std::vector<S> result(sizeof(T) == sizeof(S) ? 0 : out_row);
    for (int64_t r = begin; r < end; ++r) {
        const int64_t plane = r / a.out_h;
        const TapRange<int64_t> range =
            tap_range<int64_t>(r % a.out_h, a.up_y, a.down_y, a.pad_y0, a.fh, a.in_h);
        const T* x = static_cast<const T*>(a.x) + plane * a.in_h * in_row;
        T* out = static_cast<T*>(a.out) + r * out_row;
        S* y = sizeof(T) == sizeof(S) ? reinterpret_cast<S*>(out) : result.data();
        int64_t tap = range.tap;
        if (range.first > range.last) {
            std::fill(y, y + out_row, S(0));
        } else if (a.separable) {
            int64_t iy = range.first;
            if (iy < range.last) {
                set_two<T, S>(x + iy * in_row, x + (iy + 1) * in_row, plan.column[tap],
                              plan.column[tap + a.up_y], line, in_row);
                iy += 2, tap += 2 * a.up_y;
            } else {
                set_scaled<T, S>(x + iy * in_row, plan.column[tap], line, in_row);
                iy += 1, tap += a.up_y;
            }
            for (; iy <= range.last; ++iy, tap += a.up_y) {
                add_scaled<T, S>(x + iy * in_row, plan.column[tap], line, in_row);
            }
            filter_line<S, false>(a, plan, plan.weights.data(), padded.data(), y, inner);
        } else {
            std::fill(y, y + out_row, S(0));
            for (int64_t iy = range.first; iy <= range.last; ++iy, tap += a.up_y) {
                set_scaled<T, S>(x + iy * in_row, S(1), line, in_row);
                filter_line<S, true>(a, plan, plan.weights.data() + tap * plan.weight_line,
                                     padded.data(), y, inner);
            }
        }
        if (sizeof(T) != sizeof(S)) {
            for (int64_t i = 0; i < out_row; ++i) store(out + i, y[i]);
        }
    }
}

}  // namespace

void upfirdn2d_cpu(const UpfirdnArgs& a, int dtype, int64_t begin, int64_t end) {
    switch (dtype) {
        case kFloat32:
            return rows<float>(a, begin, end);
        case kFloat64:
            return rows<double>(a, begin, end);
        case kFloat16:
            return rows<Half>(a, begin, end);
        case kBFloat16:
            return rows<BFloat16>(a, begin, end);
    }
}

}  // namespace export3d
