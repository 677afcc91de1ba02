// bias_act on the CPU: runs over which the bias is one number, or one number per element, so that
// the compiler vectorises the loop. Half precision is converted in blocks that stay in the cache.
#include <algorithm>
#include <type_traits>

#include "cpu.h"

namespace export3d {
namespace {

constexpr int64_t kBlock = 512;  // elements converted at a time; four float blocks are 8 KiB

template <class S>
struct Scalars {
    S alpha, gain, clamp;
};

// b_step 0: one bias for the run; 1: one for each element. out may be x: no element is read after
// it was written, which the compiler cannot know of two pointers that might be one.
template <class S, int act, int order, int b_step>
void run(const S* x, const S* b, const S* g, const S* h, S* out, int64_t n, Scalars<S> k) {
    const S bias = *b;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
        const S u = x[i] + (b_step ? b[i] : bias);
        const S gi = order >= 1 ? g[i] : S(0);
        const S hi = order >= 2 ? h[i] : S(0);
        out[i] = bias_act_element<S>(order, act, u, gi, hi, k.alpha, k.gain, k.clamp);
    }
}

template <class S>
using Run = void (*)(const S*, const S*, const S*, const S*, S*, int64_t, Scalars<S>);

template <class S, int act>
Run<S> choose(int order, bool vector_bias) {
    if (order == 0) return vector_bias ? run<S, act, 0, 1> : run<S, act, 0, 0>;
    if (order == 1) return vector_bias ? run<S, act, 1, 1> : run<S, act, 1, 0>;
    return vector_bias ? run<S, act, 2, 1> : run<S, act, 2, 0>;
}

template <class S>
Run<S> choose(int act, int order, bool vector_bias) {
    switch (act) {
        case kRelu:
            return choose<S, kRelu>(order, vector_bias);
        case kLrelu:
            return choose<S, kLrelu>(order, vector_bias);
        case kTanh:
            return choose<S, kTanh>(order, vector_bias);
        case kSigmoid:
            return choose<S, kSigmoid>(order, vector_bias);
        case kElu:
            return choose<S, kElu>(order, vector_bias);
        case kSelu:
            return choose<S, kSelu>(order, vector_bias);
        case kSoftplus:
            return choose<S, kSoftplus>(order, vector_bias);
        case kSwish:
            return choose<S, kSwish>(order, vector_bias);
        default:
            return choose<S, kLinear>(order, vector_bias);
    }
}

// The elements as S: themselves where T is S, else converted into the buffer.
template <class T, class S>
const S* as_compute_type(const T* from, S* buffer, int64_t n) {
    if constexpr (std::is_same_v<T, S>) {
        return from;
    } else {
        for (int64_t i = 0; i < n; ++i) buffer[i] = load(from[i]);
        return buffer;
    }
}

// At most kBlock elements; b as `run` takes it.
template <class T, class S>
void block(Run<S> body, const T* x, const S* b, const T* g, const T* h, T* out, int64_t n,
           Scalars<S> k) {
    S xs[kBlock], gs[kBlock], hs[kBlock], ys[kBlock];
    const S* xp = as_compute_type(x, xs, n);
    const S* gp = g ? as_compute_type(g, gs, n) : nullptr;
    const S* hp = h ? as_compute_type(h, hs, n) : nullptr;
    if constexpr (std::is_same_v<T, S>) {
        body(xp, b, gp, hp, out, n, k);
    } else {
        body(xp, b, gp, hp, ys, n, k);
        for (int64_t i = 0; i < n; ++i) store(out + i, ys[i]);
    }
}

template <class T>
void range(const BiasActArgs& a, int64_t begin, int64_t end) {
    using S = typename Compute<T>::type;
    const T* x = static_cast<const T*>(a.x);
    const T* b = static_cast<const T*>(a.b);
    const T* g = a.order >= 1 ? static_cast<const T*>(a.g) : nullptr;
    const T* h = a.order >= 2 ? static_cast<const T*>(a.h) : nullptr;
    const bool vector_bias = b && a.bias_stride == 1;
    const Run<S> body = choose<S>(a.act, a.order, vector_bias);
    const Scalars<S> k = {S(a.alpha), S(a.gain), S(a.clamp)};
    S biases[kBlock] = {};
    // A short sequence of biases is repeated until it fills a block: every block then begins where
    // the sequence does, and the loops are as long with 3 channels as with 300.
    const int64_t whole = vector_bias ? kBlock / a.bias_size * a.bias_size : 0;
    for (int64_t j = 0; j < whole; ++j) biases[j] = load(b[(begin + j) % a.bias_size]);
    for (int64_t i = begin; i < end;) {
        int64_t stop = std::min(end, i + (whole ? whole : kBlock));
        if (b && !whole) {
            const int64_t index = (i / a.bias_stride) % a.bias_size;
            const int64_t period = vector_bias ? a.bias_size : a.bias_stride;
            stop = std::min(stop, i - i % period + period);
            const int64_t wanted = vector_bias ? stop - i : 1;
            for (int64_t j = 0; j < wanted; ++j) biases[j] = load(b[index + j]);
        }
        block<T, S>(body, x + i, biases, g ? g + i : nullptr, h ? h + i : nullptr,
                    static_cast<T*>(a.out) + i, stop - i, k);
        i = stop;
    }
}

}  // namespace

void bias_act_cpu(const BiasActArgs& a, int dtype, int64_t begin, int64_t end) {
    switch (dtype) {
        case kFloat32:
            return range<float>(a, begin, end);
        case kFloat64:
            return range<double>(a, begin, end);
        case kFloat16:
            return range<Half>(a, begin, end);
        case kBFloat16:
            return range<BFloat16>(a, begin, end);
    }
}

}  // namespace export3d
