// What the kernels need on both sides: number types, their conversion, and one exponential.
// Knows no torch. Compiles with nvcc, and with g++ or clang++ alone.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define E3D_HD __host__ __device__ __forceinline__
#else
#define E3D_HD inline
#endif

namespace export3d {

// The same numbers are used by the Python side of the tests and by binding.cpp.
enum DType : int32_t { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

// Storage types. Arithmetic happens in Compute<T>::type: float, or double for double.
struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

template <class T>
struct Compute {
    using type = float;
};
template <>
struct Compute<double> {
    using type = double;
};

template <class To, class From>
E3D_HD To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}

E3D_HD float load(float v) {
    return v;
}
E3D_HD double load(double v) {
    return v;
}
E3D_HD float load(BFloat16 v) {
    return same_bits<float>(static_cast<uint32_t>(v.bits) << 16);
}

E3D_HD float load(Half v) {
#if defined(__CUDA_ARCH__)
    return __half2float(same_bits<__half>(v.bits));
#elif defined(__FLT16_MANT_DIG__)
    return static_cast<float>(same_bits<_Float16>(v.bits));
#else
    // A half's exponent and mantissa, moved into a float's place, are a float that is 2^112 too
    // small; subnormals come out right by the same multiplication. Infinity and NaN are patched.
    const uint32_t magnitude = v.bits & 0x7fffu;
    uint32_t bits = same_bits<uint32_t>(same_bits<float>(magnitude << 13) * 0x1p112f);
    if (magnitude >= 0x7c00u) bits = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
    return same_bits<float>(bits | (static_cast<uint32_t>(v.bits & 0x8000u) << 16));
#endif
}

E3D_HD void store(float* to, float v) {
    *to = v;
}
E3D_HD void store(double* to, double v) {
    *to = v;
}

E3D_HD void store(BFloat16* to, float v) {
    const uint32_t bits = same_bits<uint32_t>(v);
    const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);  // to nearest, ties to even
    to->bits = static_cast<uint16_t>(v != v ? 0x7fc0u : rounded >> 16);
}

E3D_HD void store(Half* to, float v) {
#if defined(__CUDA_ARCH__)
    to->bits = same_bits<uint16_t>(__float2half_rn(v));
#elif defined(__FLT16_MANT_DIG__)
    to->bits = same_bits<uint16_t>(static_cast<_Float16>(v));
#else
    const uint32_t sign = (same_bits<uint32_t>(v) >> 16) & 0x8000u;
    const float a = std::fabs(v);
    uint32_t bits;
    if (a != a) {
        bits = 0x7e00u;
    } else if (a >= 65520.0f) {
        bits = 0x7c00u;  // everything from here on rounds to infinity
    } else if (a < 0x1p-14f) {
        // Adding 0.5 puts the subnormal half's last bit at the float's last bit: it rounds for us.
        bits = same_bits<uint32_t>(a + 0.5f) - same_bits<uint32_t>(0.5f);
    } else {
        const uint32_t f = same_bits<uint32_t>(a) - (112u << 23);
        bits = (f + 0xfffu + ((f >> 13) & 1u)) >> 13;
    }
    to->bits = static_cast<uint16_t>(sign | bits);
#endif
}

// exp(x) - 1, accurate near zero too.
E3D_HD double exp_minus_1(double x) {
    return expm1(x);
}
E3D_HD double exp_of(double x) {
    return exp(x);
}

#if defined(__CUDA_ARCH__)
E3D_HD float exp_minus_1(float x) {
    return expm1f(x);
}
E3D_HD float exp_of(float x) {
    return expf(x);
}
#else
// Free of branches and calls, so that loops over it vectorise.
// x = n ln 2 + r with |r| <= ln(2) / 2;  exp(x) = s + s (exp(r) - 1) with s = 2^n.
// Above this the result is infinity: a little early (floats end at exp(88.72)), which keeps n <=
// 127.
constexpr float kExpLimit = 88.37f;

inline void split_exp(float x, float* scale, float* rest) {
    x = x < -87.0f ? -87.0f : x;  // exp(-87) = 1.6e-38, the smallest normal float
    x = x > kExpLimit ? kExpLimit : x;
    const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float n = (x * 1.44269504f + shifter) - shifter;
    float r = x - n * 0.693359375f;  // ln 2 in two parts; the first times n is exact
    r = r - n * -2.12194440e-4f;
    // Taylor series of exp(r) - 1; the first term left out is |r|^8 / 8! < 6e-9.
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    *rest = r + r * r * p;
    *scale = same_bits<float>((static_cast<int32_t>(n) + 127) << 23);
}
inline float exp_minus_1(float x) {
    float scale, rest;
    split_exp(x, &scale, &rest);
    const float y = scale * rest + (scale - 1.0f);
    return x > kExpLimit ? same_bits<float>(0x7f800000) : y;
}
inline float exp_of(float x) {
    float scale, rest;
    split_exp(x, &scale, &rest);
    const float y = scale * rest + scale;
    return x > kExpLimit ? same_bits<float>(0x7f800000) : y;
}
#endif

}  // namespace export3d
