// Binds tri-plane rendering to torch: checks, allocation, threads and streams, and no arithmetic.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <tuple>
#include <vector>

#include "registration.h"
#include "triplane_render.h"

#ifdef EXPORT3D_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
extern "C" int export3d_triplane_cuda(const export3d::TriplaneRenderArgs*, float*, int, void*);
extern "C" int64_t export3d_triplane_workspace(const export3d::TriplaneRenderArgs*, int);
#else
#include "triplane_cpu.h"
#endif

namespace {

using at::Tensor;
using export3d::TriplaneRenderArgs;

const float* checked(const Tensor& t, const Tensor& like, at::IntArrayRef sizes, const char* name) {
    TORCH_CHECK(t.device() == like.device() && t.scalar_type() == at::kFloat && t.is_contiguous() &&
                    t.sizes() == sizes,
                name, " must be contiguous float32 ", sizes, " on the device of planes");
    return t.const_data_ptr<float>();
}

// sizes: channels, coarse, fine, layout. lengths: near, far, box_side, min_weight.
TriplaneRenderArgs arguments(const Tensor& planes, at::TensorList decoder, const Tensor& origins,
                             const Tensor& directions, const std::optional<Tensor>& noise_coarse,
                             const std::optional<Tensor>& noise_fine, at::IntArrayRef sizes,
                             at::ArrayRef<double> lengths) {
#ifdef EXPORT3D_CUDA
    TORCH_CHECK(planes.is_cuda() && planes.scalar_type() == at::kFloat,
                "a CUDA tensor of float32 is expected");
#else
    TORCH_CHECK(planes.is_cpu(), "a CPU tensor is expected");
#endif
    TORCH_CHECK(planes.dim() == 5 && planes.size(1) == 3 && planes.size(2) == planes.size(3) &&
                    planes.size(4) % 16 == 0 && planes.size(2) < 32768,
                "planes must be [N, 3, P, P, C], C a multiple of 16");
    TORCH_CHECK(decoder.size() == 4 && sizes.size() == 4 && lengths.size() == 4 &&
                    origins.dim() == 3 && decoder[0].dim() == 2 && decoder[2].dim() == 2,
                "malformed call");
    TriplaneRenderArgs a = {};
    a.n = origins.size(0), a.rays = origins.size(1);
    a.planes_n = planes.size(0), a.size = planes.size(2), a.padded_channels = planes.size(4);
    a.channels = sizes[0], a.coarse = sizes[1], a.fine = sizes[2], a.layout = sizes[3];
    a.hidden = decoder[0].size(0), a.colours = decoder[2].size(0) - 1;
    TORCH_CHECK(a.planes_n == a.n || a.planes_n == 1, "planes and rays disagree about N");
    TORCH_CHECK(a.coarse >= 2 && a.fine >= 0 && a.colours >= 1 && a.size >= 1 && a.hidden >= 1 &&
                    a.channels >= 1 && a.channels <= a.padded_channels,
                "at least 2 coarse samples, one channel, one hidden value and one colour");
    switch (planes.scalar_type()) {
        case at::kBFloat16:
            a.plane_type = export3d::kPlanesBFloat16;
            break;
        case at::kHalf:
            a.plane_type = export3d::kPlanesFloat16;
            break;
        default:
            checked(planes, planes, planes.sizes(), "planes");
    }
    TORCH_CHECK(planes.is_contiguous(), "planes must be contiguous");
    a.planes = static_cast<const float*>(planes.const_data_ptr());
    a.w1 = checked(decoder[0], planes, {a.hidden, a.channels}, "w1");
    a.b1 = checked(decoder[1], planes, {a.hidden}, "b1");
    a.w2 = checked(decoder[2], planes, {1 + a.colours, a.hidden}, "w2");
    a.b2 = checked(decoder[3], planes, {1 + a.colours}, "b2");
    a.origins = checked(origins, planes, {a.n, a.rays, 3}, "origins");
    a.directions = checked(directions, planes, {a.n, a.rays, 3}, "directions");
    if (noise_coarse) {
        a.noise_coarse = checked(*noise_coarse, planes, {a.n, a.rays, a.coarse}, "noise_coarse");
    }
    if (noise_fine) {
        a.noise_fine = checked(*noise_fine, planes, {a.n, a.rays, a.fine}, "noise_fine");
    }
    a.near = static_cast<float>(lengths[0]);
    a.far = static_cast<float>(lengths[1]);
    a.span = static_cast<float>(lengths[1] - lengths[0]);
    a.box_side = static_cast<float>(lengths[2]);
    a.min_weight = static_cast<float>(lengths[3]);
    return a;
}

#ifndef EXPORT3D_CUDA

// Every task once, each by whichever thread is free: other programs may slow one core down.
template <class Task>
void for_each_task(int64_t tasks, Task task) {
    std::atomic<int64_t> next{0};
    const int64_t threads = std::min<int64_t>(at::get_num_threads(), tasks);
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            for (int64_t i; (i = next.fetch_add(1)) < tasks;) task(i);
        }
    });
}

void forward_on_cpu(const TriplaneRenderArgs& a) {
    const export3d::PackedDecoder decoder(a);
    const int64_t total = a.n * a.rays, group = export3d::rays_per_group(a);
    const int64_t step = std::max<int64_t>(1, 128 / group) * group;
    for_each_task((total + step - 1) / step, [&](int64_t i) {
        export3d::triplane_forward_cpu(a, decoder, i * step, std::min(total, (i + 1) * step));
    });
}

// Sums have a fixed order whatever the threads: rays are dealt to kSlots sums by their number, and
// a plane's texels are added to by one task, in the order of the rays.
void backward_on_cpu(const TriplaneRenderArgs& a) {
    constexpr int64_t kSlots = 32, kBlockFloats = int64_t(1) << 22;  // 16 MiB of waiting gradients
    const export3d::PackedDecoder decoder(a);
    const int64_t group = export3d::rays_per_group(a);
    const int64_t group_floats = group * (a.coarse + a.fine) * a.padded_channels;
    const int64_t fill = std::max<int64_t>(1, kBlockFloats / (kSlots * group_floats));
    const int64_t need = (a.rays + kSlots * group - 1) / (kSlots * group);
    const int64_t slot_rays = std::min(fill, need) * group;
    export3d::ScatterBlock block(a, kSlots * slot_rays);
    std::vector<export3d::DecoderGradient> sums;
    sums.reserve(kSlots);
    for (int64_t i = 0; i < kSlots; ++i) sums.emplace_back(decoder);
    const int64_t parts = a.padded_channels / export3d::kScatterChannels;
    for (int64_t image = 0; image < a.n; ++image) {
        const int64_t image_end = (image + 1) * a.rays;
        for (int64_t begin = image * a.rays; begin < image_end; begin += kSlots * slot_rays) {
            for_each_task(kSlots, [&](int64_t i) {
                const int64_t from = std::min(image_end, begin + i * slot_rays);
                const int64_t to = std::min(image_end, from + slot_rays);
                export3d::triplane_backward_cpu(a, decoder, from, to, begin, &sums[i], &block);
            });
            const int64_t here = std::min(image_end - begin, kSlots * slot_rays);
            for_each_task(3 * parts, [&](int64_t i) {
                export3d::triplane_scatter_cpu(a, block, (here + group - 1) / group, image,
                                               static_cast<int>(i / parts),
                                               i % parts * export3d::kScatterChannels);
            });
        }
    }
    for (auto& sum : sums) {
        sum.finish(decoder);
        sum.add_to(a, decoder);
    }
}

#endif

void run(const TriplaneRenderArgs& a, const Tensor& planes, bool backward) {
    if (a.n * a.rays == 0) return;
#ifdef EXPORT3D_CUDA
    const c10::cuda::CUDAGuard guard(planes.device());
    const Tensor space = at::empty({export3d_triplane_workspace(&a, backward)}, planes.options());
    const int error = export3d_triplane_cuda(&a, space.mutable_data_ptr<float>(), backward,
                                             c10::cuda::getCurrentCUDAStream().stream());
    TORCH_CHECK(error == 0, "CUDA kernel launch failed: error ", error);
#else
    (void)planes;
    backward ? backward_on_cpu(a) : forward_on_cpu(a);
#endif
}

std::tuple<Tensor, Tensor, Tensor> triplane_render(const Tensor& planes, at::TensorList decoder,
                                                   const Tensor& origins, const Tensor& directions,
                                                   const std::optional<Tensor>& noise_coarse,
                                                   const std::optional<Tensor>& noise_fine,
                                                   at::IntArrayRef sizes,
                                                   at::ArrayRef<double> lengths) {
    TriplaneRenderArgs a =
        arguments(planes, decoder, origins, directions, noise_coarse, noise_fine, sizes, lengths);
    Tensor features = at::empty({a.n, a.rays, a.colours}, origins.options());
    Tensor depth = at::empty({a.n, a.rays, 1}, origins.options());
    Tensor opacity = at::empty({a.n, a.rays, 1}, origins.options());
    a.features = features.mutable_data_ptr<float>();
    a.depth = depth.mutable_data_ptr<float>();
    a.opacity = opacity.mutable_data_ptr<float>();
    run(a, planes, false);
    return {features, depth, opacity};
}

// Gradients of planes, w1, b1, w2, b2 and, of_rays, origins and directions. cotangents: of
// features, depth, opacity.
std::vector<Tensor> triplane_render_backward(at::TensorList cotangents, const Tensor& planes,
                                             at::TensorList decoder, const Tensor& origins,
                                             const Tensor& directions,
                                             const std::optional<Tensor>& noise_coarse,
                                             const std::optional<Tensor>& noise_fine,
                                             at::IntArrayRef sizes, at::ArrayRef<double> lengths,
                                             bool of_rays) {
    TriplaneRenderArgs a =
        arguments(planes, decoder, origins, directions, noise_coarse, noise_fine, sizes, lengths);
    TORCH_CHECK(cotangents.size() == 3 && a.plane_type == 0, "malformed call");
    a.grad_features = checked(cotangents[0], planes, {a.n, a.rays, a.colours}, "grad_features");
    a.grad_depth = checked(cotangents[1], planes, {a.n, a.rays, 1}, "grad_depth");
    a.grad_opacity = checked(cotangents[2], planes, {a.n, a.rays, 1}, "grad_opacity");
    std::vector<Tensor> out = {at::zeros_like(planes)};
    for (const Tensor& weight : decoder) out.push_back(at::zeros_like(weight));
    if (of_rays) {
        for (const Tensor& ray : {origins, directions}) out.push_back(at::zeros_like(ray));
    }
    float** const places[] = {&a.grad_planes, &a.grad_w1,      &a.grad_b1,        &a.grad_w2,
                              &a.grad_b2,     &a.grad_origins, &a.grad_directions};
    for (size_t i = 0; i < out.size(); ++i) *places[i] = out[i].mutable_data_ptr<float>();
    run(a, planes, true);
    return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(EXPORT3D_LIBRARY, m) {
    m.def(
        "triplane_render(Tensor planes, Tensor[] decoder, Tensor origins, Tensor directions, "
        "Tensor? noise_coarse, Tensor? noise_fine, int[] sizes, float[] lengths) -> "
        "(Tensor, Tensor, Tensor)");
    m.def(
        "triplane_render_backward(Tensor[] cotangents, Tensor planes, Tensor[] decoder, "
        "Tensor origins, Tensor directions, Tensor? noise_coarse, Tensor? noise_fine, "
        "int[] sizes, float[] lengths, bool of_rays) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(EXPORT3D_LIBRARY, EXPORT3D_KEY, m) {
    m.impl("triplane_render", &triplane_render);
    m.impl("triplane_render_backward", &triplane_render_backward);
}
