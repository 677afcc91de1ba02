// The per-element functions of bias_act, shared by the CPU and the CUDA kernel.
//
//   order 0:  y            = clamp(gain act(u)),  u = x + b
//   order 1:  dL/du        = g gain act'(u) inside the clamp, else 0          (g = dL/dy)
//   order 2:  g h gain act''(u) inside the clamp, else 0; the derivative of order 1 with respect
//             to u in the direction h. (With respect to g it is order 1 applied to h.)
#pragma once

#include "portable.h"

namespace export3d {

// Numbers as in ACTIVATIONS of bias_act.py.
enum Act : int32_t {
    kLinear = 0,
    kRelu = 1,
    kLrelu = 2,
    kTanh = 3,
    kSigmoid = 4,
    kElu = 5,
    kSelu = 6,
    kSoftplus = 7,
    kSwish = 8,
    kActCount = 9
};

struct BiasActArgs {
    const void* x;
    const void* b;  // null: no bias
    const void* g;  // used from order 1
    const void* h;  // used in order 2
    void* out;      // may be x
    int64_t numel;
    int64_t bias_size;  // element i of x takes b[(i / bias_stride) % bias_size]
    int64_t bias_stride;
    double alpha;
    double gain;
    double clamp;  // negative: none
    int32_t act;
    int32_t order;
};

constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
constexpr double kSeluScale = 1.0507009873554804934193349852946;

template <class S>
E3D_HD S sigmoid(S u) {
    return S(1) / (S(1) + exp_of(-u));
}

template <class S>
E3D_HD S hyperbolic_tangent(S u) {
    // expm1(2a) / (expm1(2a) + 2) keeps its relative accuracy near zero; 1 - 2 / (..) far from it.
    const S a = u < S(0) ? -u : u;
    const S e = exp_minus_1(S(2) * (a < S(20) ? a : (a != a ? a : S(20))));
    const S t = e / (e + S(2));
    return u < S(0) ? -t : t;
}

// Comparisons are written so that a NaN comes through as a NaN.
template <class S>
E3D_HD S act_value(int act, S u, S alpha) {
    switch (act) {
        case kRelu:
            return u <= S(0) ? S(0) : u;
        case kLrelu:
            return u > S(0) ? u : u * alpha;
        case kTanh:
            return hyperbolic_tangent(u);
        case kSigmoid:
            return sigmoid(u);
        case kElu:
            return u > S(0) ? u : alpha * exp_minus_1(u);
        case kSelu:
            return S(kSeluScale) * (u > S(0) ? u : S(kSeluAlpha) * exp_minus_1(u));
        case kSoftplus:
            return (u > S(0) ? u : (u != u ? u : S(0))) + log1p(exp_of(u > S(0) ? -u : u));
        case kSwish:
            return u * sigmoid(u);
        default:
            return u;
    }
}

template <class S>
E3D_HD S act_first(int act, S u, S alpha) {
    switch (act) {
        case kRelu:
            return u > S(0) ? S(1) : S(0);
        case kLrelu:
            return u > S(0) ? S(1) : alpha;
        case kTanh: {
            const S t = hyperbolic_tangent(u);
            return S(1) - t * t;
        }
        case kSigmoid: {
            const S s = sigmoid(u);
            return s * (S(1) - s);
        }
        case kElu:
            return u > S(0) ? S(1) : alpha * exp_of(u);
        case kSelu:
            return S(kSeluScale) * (u > S(0) ? S(1) : S(kSeluAlpha) * exp_of(u));
        case kSoftplus:
            return sigmoid(u);
        case kSwish: {
            const S s = sigmoid(u);
            return s * (S(1) + u * (S(1) - s));
        }
        default:
            return S(1);
    }
}

template <class S>
E3D_HD S act_second(int act, S u, S alpha) {
    switch (act) {
        case kTanh: {
            const S t = hyperbolic_tangent(u);
            return S(-2) * t * (S(1) - t * t);
        }
        case kSigmoid: {
            const S s = sigmoid(u);
            return s * (S(1) - s) * (S(1) - S(2) * s);
        }
        case kElu:
            return u > S(0) ? S(0) : alpha * exp_of(u);
        case kSelu:
            return u > S(0) ? S(0) : S(kSeluScale * kSeluAlpha) * exp_of(u);
        case kSoftplus: {
            const S s = sigmoid(u);
            return s * (S(1) - s);
        }
        case kSwish: {
            const S s = sigmoid(u);
            return s * (S(1) - s) * (S(2) + u * (S(1) - S(2) * s));
        }
        default:
            return S(0);
    }
}

// One element. `order` and, on the CPU, `act` are constants by the time this is compiled.
template <class S>
E3D_HD S bias_act_element(int order, int act, S u, S g, S h, S alpha, S gain, S clamp) {
    if (order == 0) {
        const S y = gain * act_value(act, u, alpha);
        if (clamp < S(0)) return y;
        return y < -clamp ? -clamp : (y > clamp ? clamp : y);
    }
    const S slope = order == 1 ? g * act_first(act, u, alpha) : g * h * act_second(act, u, alpha);
    if (clamp < S(0)) return gain * slope;
    const S y = gain * act_value(act, u, alpha);
    return (y >= -clamp && y <= clamp) ? gain * slope : S(0);
}

}  // namespace export3d
