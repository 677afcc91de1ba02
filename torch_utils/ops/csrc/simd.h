// Vectors of floats as wide as the processor's, and the three functions that the decoder needs.
// Written with the compilers' vector extension: AVX-512, AVX2 and anything narrower from one
// source.
#pragma once

#include <cstdint>
#include <cstring>

#include "portable.h"

#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

namespace export3d {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef uint16_t ShortVec __attribute__((vector_size(2 * kLanes)));

inline Vec load_vec(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}
inline Vec load_vec(const BFloat16* p) {
    ShortVec v;
    std::memcpy(&v, p, sizeof(v));
    return (Vec)(__builtin_convertvector(v, IntVec) << 16);
}
inline Vec load_vec(const Half* p) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX__) && defined(__F16C__)
    return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    Vec v = {};
    for (int i = 0; i < kLanes; ++i) v[i] = load(p[i]);
    return v;
#endif
}
// a[0] b[0] a[1] b[1] ... to 2 * kLanes floats.
inline void store_interleaved(float* p, Vec a, Vec b) {
#if defined(__AVX512F__)
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    _mm512_storeu_ps(p, _mm512_permutex2var_ps((__m512)a, low, (__m512)b));
    _mm512_storeu_ps(p + kLanes, _mm512_permutex2var_ps((__m512)a, high, (__m512)b));
#elif defined(__AVX__)
    const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b);
    const __m256 high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_storeu_ps(p + kLanes, _mm256_permute2f128_ps(low, high, 0x31));
#else
    for (int i = 0; i < kLanes; ++i) p[2 * i] = a[i], p[2 * i + 1] = b[i];
#endif
}
inline void store_vec(float* p, Vec v) {
    std::memcpy(p, &v, sizeof(v));
}
inline Vec splat(float v) {
    return v - Vec{};
}

// The larger one; NaN in b survives.
#if defined(__AVX512F__)
inline Vec max_vec(Vec a, Vec b) {
    return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
}
inline float sum_lanes(Vec v) {
    return _mm512_reduce_add_ps((__m512)v);
}
#elif defined(__AVX__)
inline Vec max_vec(Vec a, Vec b) {
    return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
}
inline float sum_lanes(Vec v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#else
inline Vec max_vec(Vec a, Vec b) {
    return a > b ? a : b;
}
inline float sum_lanes(Vec v) {
    return (v[0] + v[2]) + (v[1] + v[3]);
}
#endif

inline Vec absolute(Vec x) {
    return (Vec)((IntVec)x & 0x7fffffff);
}

// Functions of several vectors, in place, step by step. One vector alone is a chain of some twenty
// operations that wait for each other; a processor looks ahead over five such chains, not over the
// eight that would keep it busy.

// exp(x) for x <= 88; exp(-87) for anything below, 1.6e-38. Relative error below 5e-7 for x > -10.
// 2^(n + f) with |f| <= 1/2: the polynomial has a relative error of 7.5e-8, and n goes into the
// exponent.
template <int kCount>
inline void exp_vecs(Vec (&x)[kCount]) {
    const float log2e = 1.44269504f, shifter = 12582912.0f;  // 1.5 * 2^23 rounds to an integer
    const float factors[] = {0.00967554168f, 0.0555071329f, 0.240221197f, 0.693146967f, 1.0f};
    Vec p[kCount], shifted[kCount];
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) {
        x[v] = max_vec(splat(-87.0f), x[v]);
        shifted[v] = x[v] * log2e + shifter;
        x[v] = x[v] * log2e - (shifted[v] - shifter);
        p[v] = x[v] * 0.00132764672f + factors[0];
    }
#pragma GCC unroll 16
    for (int i = 1; i < 5; ++i) {
#pragma GCC unroll 16
        for (int v = 0; v < kCount; ++v) p[v] = p[v] * x[v] + factors[i];
    }
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) x[v] = (Vec)((IntVec)p[v] + ((IntVec)shifted[v] << 23));
}

// log(1 + exp(x)) = max(x, 0) + log1p(t), t = exp(-|x|); log1p(t) / t to a relative 3e-8 on [0, 1].
template <int kCount>
inline void softplus_vecs(Vec (&x)[kCount]) {
    const float factors[] = {-0.0295049866f, 0.078225557f, -0.13663214f,  0.191059928f,
                             -0.24842979f,   0.333190965f, -0.499994931f, 0.99999997f};
    Vec t[kCount], p[kCount];
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) t[v] = -absolute(x[v]);
    exp_vecs(t);
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) p[v] = t[v] * 0.00523262925f + factors[0];
#pragma GCC unroll 16
    for (int i = 1; i < 8; ++i) {
#pragma GCC unroll 16
        for (int v = 0; v < kCount; ++v) p[v] = p[v] * t[v] + factors[i];
    }
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) x[v] = p[v] * t[v] + max_vec(Vec{}, x[v]);
}

template <int kCount>
inline void sigmoid_vecs(Vec (&x)[kCount]) {
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) x[v] = -max_vec(splat(-87.0f), x[v]);
    exp_vecs(x);
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) x[v] = 1.0f / (1.0f + x[v]);
}

inline Vec softplus_vec(Vec x) {
    Vec one[] = {x};
    softplus_vecs(one);
    return one[0];
}
inline Vec sigmoid_vec(Vec x) {
    Vec one[] = {x};
    sigmoid_vecs(one);
    return one[0];
}

template <int kCount>
inline void load_vecs(const float* p, Vec (&x)[kCount]) {
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) x[v] = load_vec(p + v * kLanes);
}
template <int kCount>
inline void store_vecs(float* p, const Vec (&x)[kCount]) {
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) store_vec(p + v * kLanes, x[v]);
}

// Of count floats, a multiple of kLanes, in place.
inline void softplus_all(float* x, int count) {
    Vec v[8];
    int i = 0;
    for (; i + 8 * kLanes <= count; i += 8 * kLanes) {
        load_vecs(x + i, v);
        softplus_vecs(v);
        store_vecs(x + i, v);
    }
    for (; i < count; i += kLanes) store_vec(x + i, softplus_vec(load_vec(x + i)));
}
inline void sigmoid_all(float* x, int count) {
    Vec v[8];
    int i = 0;
    for (; i + 8 * kLanes <= count; i += 8 * kLanes) {
        load_vecs(x + i, v);
        sigmoid_vecs(v);
        store_vecs(x + i, v);
    }
    for (; i < count; i += kLanes) store_vec(x + i, sigmoid_vec(load_vec(x + i)));
}

// ------------------------------------------------------------------------------------------------
// Products of small matrices that stay in the caches.

// Rows of a register tile. Tiles are two vectors wide: 16 and 12 accumulators of 32 and 16
// registers.
constexpr int kTileRows = kLanes == 16 ? 8 : 6;

inline int padded(int n, int step) {
    return (n + step - 1) / step * step;
}

// C[i][j] = start[j] + sum_k A(i, k) B[k][j] for kTileRows rows and kVecs vectors of columns, where
// A(i, k) = a[i * a_row + k * a_k]. start: null for zeros. Add: C itself is the start.
template <int kVecs, bool Add>
inline void tile_product(const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t ldb,
                         int k_count, const float* start, float* c, int64_t ldc) {
    Vec sum[kTileRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) {
            sum[i][v] = Add     ? load_vec(c + i * ldc + v * kLanes)
                        : start ? load_vec(start + v * kLanes)
                                : Vec{};
        }
    }
    for (int k = 0; k < k_count; ++k) {
        Vec row[kVecs];
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) row[v] = load_vec(b + k * ldb + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kTileRows; ++i) {
            const float factor = a[i * a_row + k * a_k];
#pragma GCC unroll 8
            for (int v = 0; v < kVecs; ++v) sum[i][v] += factor * row[v];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) store_vec(c + i * ldc + v * kLanes, sum[i][v]);
    }
}

// The whole product: rows is rounded up to kTileRows (the buffers have that many), columns is a
// multiple of kLanes.
template <bool Add>
inline void product(int rows, int columns, int k_count, const float* a, int64_t a_row, int64_t a_k,
                    const float* b, int64_t ldb, const float* start, float* c, int64_t ldc) {
    for (int j = 0; j < columns; j += 2 * kLanes) {
        const bool wide = columns - j >= 2 * kLanes;
        const auto tile = wide ? tile_product<2, Add> : tile_product<1, Add>;
        for (int i = 0; i < rows; i += kTileRows) {
            tile(a + i * a_row, a_row, a_k, b + j, ldb, k_count, start ? start + j : nullptr,
                 c + i * ldc + j, ldc);
        }
    }
}

}  // namespace export3d
