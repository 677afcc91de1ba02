// Tri-plane rendering on CUDA: a few kernels for one chunk of rays after the other, so that the
// workspace has a fixed size. One thread is a sample, or a ray where samples depend on each other;
// no shared memory, no barriers. Everything is computed again on the way back. No torch.
#include "triplane_sample.h"

// Tests make these small, so that small images take several chunks.
#ifndef EXPORT3D_FORWARD_SAMPLES
#define EXPORT3D_FORWARD_SAMPLES (int64_t(1) << 18)
#endif
#ifndef EXPORT3D_BACKWARD_SAMPLES
#define EXPORT3D_BACKWARD_SAMPLES (int64_t(1) << 16)
#endif

namespace export3d {
namespace {

constexpr int64_t kForwardSamples = EXPORT3D_FORWARD_SAMPLES;  // of a chunk
constexpr int64_t kBackwardSamples = EXPORT3D_BACKWARD_SAMPLES;

// Densities of samples [from, from + count) of every ray; coarse ones get their depth here.
template <int kChannels>
__global__ void density_kernel(Chunk c, int64_t from, int64_t count) {
    E3D_FOR_EACH(i, c.rays * count) {
        const int64_t ray = i / count, sample = from + i % count, at = ray * c.samples + sample;
        if (from == 0) c.depth[at] = coarse_depth(c.a, c.first + ray, static_cast<int>(sample));
        float x[kChannels];
        features_at<kChannels>(c.a, c.first + ray, c.depth[at], x);
        float density = c.a.b2[0];
        for (int64_t j = 0; j < c.a.hidden; ++j) {
            density += c.a.w2[j] * softplus_of(before_softplus<kChannels>(c.a, x, j));
        }
        c.density[at] = softplus_of(density - 1.0f);
    }
}

__global__ void importance_kernel(Chunk c) {
    E3D_FOR_EACH(ray, c.rays) {
        const int64_t at = ray * c.samples;
        quadrature(c.depth + at, c.density + at, static_cast<int>(c.a.coarse), c.optical + at,
                   c.passed + at, c.weight + at);
        importance_depths(c.a, c.first + ray, c.depth + at, c.weight + at, c.optical + at,
                          c.depth + at + c.a.coarse);
    }
}

// Order, weights, depth and opacity of a ray, and the share of every sample.
__global__ void weights_kernel(Chunk c, int write) {
    E3D_FOR_EACH(ray, c.rays) {
        const int64_t at = ray * c.samples;
        const int samples = static_cast<int>(c.samples);
        merge_order(c.depth + at, static_cast<int>(c.a.coarse), static_cast<int>(c.a.fine),
                    c.order + at);
        float *depths = c.sorted_depth + at, *density = c.sorted_density + at;
        for (int k = 0; k < samples; ++k) {
            depths[k] = c.depth[at + c.order[at + k]];
            density[k] = c.density[at + c.order[at + k]];
        }
        float* weight = c.weight + at;
        quadrature(depths, density, samples, c.optical + at, c.passed + at, weight);
        float opacity = 0.0f, depth = 0.0f;
        for (int k = 0; k < samples; ++k) {
            const float before = k > 0 ? weight[k - 1] : 0.0f;
            const float after = k < samples - 1 ? weight[k] : 0.0f;
            c.share[at + c.order[at + k]] = 0.5f * (before + after);
            if (k == samples - 1) continue;
            opacity += after;
            depth += after * 0.5f * (depths[k] + depths[k + 1]);
        }
        if (!write) continue;
        float all = 0.0f, kept = 0.0f;
        for (int k = 0; k < samples; ++k) {
            const float share = c.share[at + k];
            all += share;
            kept += share > c.a.min_weight ? share : 0.0f;
        }
        const FaintRule rule = faint_rule(all, kept, c.a.min_weight);
        for (int k = 0; k < samples; ++k) {
            const float share = c.share[at + k];
            c.share[at + k] = share > rule.limit ? share * rule.gain : 0.0f;
        }
        c.a.opacity[c.first + ray] = opacity;
        c.a.depth[c.first + ray] = depth + (1.0f - opacity) * c.a.far;
    }
}

// Colours of every kParts-th sample, summed with their shares.
template <int kChannels, int kColours>
__global__ void colour_kernel(Chunk c) {
    E3D_FOR_EACH(i, c.rays * kParts) {
        const int64_t ray = i / kParts;
        float sum[kColours], x[kChannels], out[kColours], shares = 0.0f;
        for (int o = 0; o < kColours; ++o) sum[o] = 0.0f;
        for (int64_t s = i % kParts; s < c.samples; s += kParts) {
            const int64_t at = ray * c.samples + s;
            const float share = c.share[at];
            shares += share;
            if (share == 0.0f) continue;
            features_at<kChannels>(c.a, c.first + ray, c.depth[at], x);
            decode<kChannels, kColours>(c.a, x, out);
            E3D_UNROLL
            for (int o = 0; o < kColours; ++o) sum[o] += share * sigmoid_of(out[o]);
        }
        float* to = c.partial + i * (c.a.colours + 1);
        E3D_UNROLL
        for (int o = 0; o < kColours; ++o) {
            if (o < c.a.colours) to[o] = sum[o];
        }
        to[c.a.colours] = shares;
    }
}

__global__ void features_kernel(Chunk c) {
    E3D_FOR_EACH(i, c.rays * c.a.colours) {
        const int64_t ray = i / c.a.colours, o = i % c.a.colours, step = c.a.colours + 1;
        float sum = 0.0f, shares = 0.0f;
        for (int part = 0; part < kParts; ++part) {
            sum += c.partial[(ray * kParts + part) * step + o];
            shares += c.partial[(ray * kParts + part) * step + c.a.colours];
        }
        c.a.features[(c.first + ray) * c.a.colours + o] =
            kColourScale * sum + kColourShift * shares;
    }
}

// The cotangent of every sample's share: that of the features times the sample's colours.
template <int kChannels, int kColours>
__global__ void share_grad_kernel(Chunk c) {
    E3D_FOR_EACH(i, c.rays * c.samples) {
        const int64_t ray = c.first + i / c.samples;
        const float* cotangent = c.a.grad_features + ray * c.a.colours;
        float x[kChannels], out[kColours], sum = 0.0f;
        features_at<kChannels>(c.a, ray, c.depth[i], x);
        decode<kChannels, kColours>(c.a, x, out);
        E3D_UNROLL
        for (int o = 0; o < kColours; ++o) {
            if (o < c.a.colours) {
                sum += cotangent[o] * (kColourScale * sigmoid_of(out[o]) + kColourShift);
            }
        }
        c.grad[i] = sum;
    }
}

__global__ void ray_grad_kernel(Chunk c) {
    E3D_FOR_EACH(i, c.rays) {
        const int64_t at = i * c.samples, ray = c.first + i;
        const int samples = static_cast<int>(c.samples);
        float* of_sorted = c.sorted_density + at;  // no longer needed as such
        for (int k = 0; k < samples; ++k) of_sorted[k] = c.grad[at + c.order[at + k]];
        float* result = c.density + at;  // likewise
        quadrature_backward(c.sorted_depth + at, c.optical + at, c.passed + at, c.weight + at,
                            of_sorted, samples, c.a.grad_depth[ray], c.a.grad_opacity[ray], c.a.far,
                            c.grad + at, result);
        for (int k = 0; k < samples; ++k) c.grad[at + c.order[at + k]] = result[k];
    }
}

// The gradient of sample i's place, from that of its features.
template <int kChannels>
E3D_HD void place_grad(const Chunk& c, int64_t i, const float* grad_x) {
    float place[3] = {0.0f, 0.0f, 0.0f};
    for (int plane = 0; plane < 3; ++plane) {
        const Corners at = corners(c.a, c.first + i / c.samples, c.depth[i], plane);
        float dot[4];
        for (int k = 0; k < 4; ++k) {
            dot[k] = 0.0f;
            E3D_UNROLL
            for (int ch = 0; ch < kChannels; ++ch) {
                if (ch < c.a.channels) dot[k] += c.a.planes[at.at[k] + ch] * grad_x[ch];
            }
        }
        add_place_gradient(c.a, plane, at.x, at.y, dot, place);
    }
    for (int axis = 0; axis < 3; ++axis) c.place[3 * i + axis] = place[axis];
}

// place = origin + depth * direction, and no gradient flows through the choice of depths.
__global__ void camera_grad_kernel(Chunk c) {
    E3D_FOR_EACH(i, c.rays * 3) {
        const int64_t ray = i / 3, axis = i % 3;
        float origin = 0.0f, direction = 0.0f;
        for (int64_t s = ray * c.samples; s < (ray + 1) * c.samples; ++s) {
            origin += c.place[3 * s + axis];
            direction += c.depth[s] * c.place[3 * s + axis];
        }
        c.a.grad_origins[3 * (c.first + ray) + axis] = origin;
        c.a.grad_directions[3 * (c.first + ray) + axis] = direction;
    }
}

// Every sample's way back through the decoder and into the planes.
template <int kChannels, int kColours, bool kOfRays>
__global__ void sample_grad_kernel(Chunk c) {
    E3D_FOR_EACH(i, c.rays * c.samples) {
        const TriplaneRenderArgs& a = c.a;
        const int64_t ray = c.first + i / c.samples;
        float x[kChannels], out[kColours], grad_x[kChannels];
        features_at<kChannels>(a, ray, c.depth[i], x);
        const float density = c.grad[i] * sigmoid_of(decode<kChannels, kColours>(a, x, out) - 1.0f);
        float* grad_out = c.grad_out + i * (1 + a.colours);
        grad_out[0] = density;
        const float share = c.share[i] * kColourScale;
        E3D_UNROLL
        for (int o = 0; o < kColours; ++o) {
            const float s = sigmoid_of(out[o]);
            out[o] = o < a.colours ? share * a.grad_features[ray * a.colours + o] * s * (1.0f - s)
                                   : 0.0f;
            if (o < a.colours) grad_out[o + 1] = out[o];
        }
        E3D_UNROLL
        for (int k = 0; k < kChannels; ++k) {
            grad_x[k] = 0.0f;
            if (k < a.channels) c.x[i * a.channels + k] = x[k];
        }
        for (int64_t j = 0; j < a.hidden; ++j) {
            const float before = before_softplus<kChannels>(a, x, j);
            float grad = density * a.w2[j];
            E3D_UNROLL
            for (int o = 0; o < kColours; ++o) {
                if (o < a.colours) grad += out[o] * a.w2[(o + 1) * a.hidden + j];
            }
            grad *= sigmoid_of(before);
            c.h[i * a.hidden + j] = softplus_of(before);
            c.grad_hidden[i * a.hidden + j] = grad;
            E3D_UNROLL
            for (int k = 0; k < kChannels; ++k) {
                if (k < a.channels) grad_x[k] += grad * a.w1[j * a.channels + k];
            }
        }
        if (kOfRays) place_grad<kChannels>(c, i, grad_x);
        for (int plane = 0; plane < 3; ++plane) {
            const Corners at = corners(a, ray, c.depth[i], plane);
            for (int k = 0; k < 4; ++k) {
                if (at.share[k] == 0.0f) continue;
                float* texel = a.grad_planes + at.at[k];
                E3D_UNROLL
                for (int ch = 0; ch < kChannels; ++ch) {
                    if (ch < a.channels) atomicAdd(texel + ch, at.share[k] * grad_x[ch]);
                }
            }
        }
    }
}

// One entry of the decoder's gradients, summed over a segment of the chunk's samples.
__global__ void weight_grad_kernel(Chunk c) {
    const int64_t entries = sums_count(c.a), total = c.rays * c.samples;
    E3D_FOR_EACH(i, entries * kSegments) {
        const int64_t segment = i / entries, entry = i % entries;
        const int64_t first_layer = c.a.hidden * (c.a.channels + 1);
        const bool first = entry < first_layer;
        const int64_t in = first ? c.a.channels : c.a.hidden;
        const int64_t rows = first ? c.a.hidden : 1 + c.a.colours;
        const int64_t at = first ? entry : entry - first_layer;
        const int64_t row = at / (in + 1), column = at % (in + 1);  // the last column is the bias
        const float* left = (first ? c.grad_hidden : c.grad_out) + row;
        const float* right = (first ? c.x : c.h) + column;
        float sum = 0.0f;
        const int64_t end = total * (segment + 1) / kSegments;
        for (int64_t s = total * segment / kSegments; s < end; ++s) {
            sum += left[s * rows] * (column == in ? 1.0f : right[s * in]);
        }
        c.sums[i] += sum;
    }
}

__global__ void clear_kernel(float* values, int64_t count) {
    E3D_FOR_EACH(i, count) values[i] = 0.0f;
}

__global__ void finish_kernel(Chunk c) {
    const int64_t entries = sums_count(c.a);
    E3D_FOR_EACH(entry, entries) {
        float sum = 0.0f;
        for (int segment = 0; segment < kSegments; ++segment) {
            sum += c.sums[segment * entries + entry];
        }
        const int64_t first_layer = c.a.hidden * (c.a.channels + 1);
        const bool first = entry < first_layer;
        const int64_t in = first ? c.a.channels : c.a.hidden;
        const int64_t at = first ? entry : entry - first_layer;
        const int64_t row = at / (in + 1), column = at % (in + 1);
        float* bias = first ? c.a.grad_b1 : c.a.grad_b2;
        float* weight = first ? c.a.grad_w1 : c.a.grad_w2;
        (column == in ? bias[row] : weight[row * in + column]) = sum;
    }
}

// ------------------------------------------------------------------------------------------------
// Host

int64_t chunk_rays(const TriplaneRenderArgs& a, bool backward) {
    const int64_t samples = a.coarse + a.fine;
    const int64_t fit = (backward ? kBackwardSamples : kForwardSamples) / samples;
    const int64_t rays = a.n * a.rays;
    return fit < 1 ? 1 : fit < rays ? fit : rays;
}

// Lays the workspace out; returns the floats that it takes. space may be null.
int64_t lay_out(Chunk* c, float* space, int64_t rays, bool backward) {
    const TriplaneRenderArgs& a = c->a;
    const int64_t samples = a.coarse + a.fine, all = rays * samples;
    int64_t used = 0;
    const auto take = [&](int64_t count) {
        used += count;
        return space ? space + used - count : nullptr;
    };
    c->samples = samples;
    float** const arrays[] = {&c->depth,          &c->density, &c->sorted_depth,
                              &c->sorted_density, &c->optical, &c->passed,
                              &c->weight,         &c->share,   &c->grad};
    static_assert(sizeof(arrays) / sizeof(arrays[0]) + 1 == kRayArrays, "and the order");
    for (float** array : arrays) *array = take(all);
    c->order = reinterpret_cast<int32_t*>(take(all));
    if (!backward) {
        c->partial = take(rays * kParts * (a.colours + 1));
        return used;
    }
    c->x = take(all * a.channels);
    c->h = take(all * a.hidden);
    c->grad_hidden = take(all * a.hidden);
    c->grad_out = take(all * (1 + a.colours));
    c->sums = take(kSegments * sums_count(a));
    if (a.grad_origins) c->place = take(3 * all);
    return used;
}

#define E3D_RUN(kernel, count, ...) \
    E3D_LAUNCH((kernel), blocks_for(count), kThreads, stream, __VA_ARGS__)

template <int kChannels, int kColours>
int run(const TriplaneRenderArgs& a, float* space, bool backward, void* stream) {
    Chunk c = {};
    c.a = a;
    const int64_t step = chunk_rays(a, backward), total = a.n * a.rays;
    lay_out(&c, space, step, backward);
    const int64_t entries = sums_count(a);
    if (backward) {
        E3D_RUN(clear_kernel, kSegments * entries, c.sums, kSegments * entries);
    }
    for (c.first = 0; c.first < total; c.first += step) {
        c.rays = total - c.first < step ? total - c.first : step;
        E3D_RUN(density_kernel<kChannels>, c.rays * a.coarse, c, int64_t(0), a.coarse);
        if (a.fine > 0) {
            E3D_RUN(importance_kernel, c.rays, c);
            E3D_RUN(density_kernel<kChannels>, c.rays * a.fine, c, a.coarse, a.fine);
        }
        E3D_RUN(weights_kernel, c.rays, c, backward ? 0 : 1);
        if (!backward) {
            const auto colours = colour_kernel<kChannels, kColours>;
            E3D_RUN(colours, c.rays * kParts, c);
            E3D_RUN(features_kernel, c.rays * a.colours, c);
            continue;
        }
        const auto share_grads = share_grad_kernel<kChannels, kColours>;
        const auto sample_grads = a.grad_origins ? sample_grad_kernel<kChannels, kColours, true>
                                                 : sample_grad_kernel<kChannels, kColours, false>;
        E3D_RUN(share_grads, c.rays * c.samples, c);
        E3D_RUN(ray_grad_kernel, c.rays, c);
        E3D_RUN(sample_grads, c.rays * c.samples, c);
        if (a.grad_origins) E3D_RUN(camera_grad_kernel, c.rays * 3, c);
        E3D_RUN(weight_grad_kernel, kSegments * entries, c);
    }
    if (backward) E3D_RUN(finish_kernel, entries, c);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace
}  // namespace export3d

// Floats of workspace that a pass needs.
extern "C" int64_t export3d_triplane_workspace(const export3d::TriplaneRenderArgs* a,
                                               int backward) {
    export3d::Chunk c = {};
    c.a = *a;
    return export3d::lay_out(&c, nullptr, export3d::chunk_rays(*a, backward != 0), backward != 0);
}

// Forward or backward pass. Returns a cudaError_t.
extern "C" int export3d_triplane_cuda(const export3d::TriplaneRenderArgs* a, float* space,
                                      int backward, void* stream) {
    using namespace export3d;
    if (a->n * a->rays == 0) return 0;
    if (a->channels == 32 && a->colours == 32) return run<32, 32>(*a, space, backward, stream);
    if (a->channels <= kMaxWidth && a->colours <= kMaxWidth) {
        return run<kMaxWidth, kMaxWidth>(*a, space, backward, stream);
    }
    return kErrorInvalidValue;
}
