"""The network's three verbs, panels, streaming: what a video is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from animate_support import FakeClip, photo, tiny_model, tiny_network

from conventions.cameras import camera_label
from conventions.spaces import ARKIT52
from dnnlib.errors import UserError
from inference.animate import AnimateOptions, animate_frames
from inference.demo import contact_sheet
from inference.network import Expressive, Network, choose_device, choose_precision, direction_scales
from inference.panels import PAGE, Canvas, DepthColours, fit


def test_camera_alone_leaves_the_planes_bit_identical() -> None:
    network, source = tiny_network(), photo()
    features = network.encode(source.crop, source.camera, source.beta)
    before = network.planes(features, source.beta)
    kept = before.planes.clone()
    left = network.render(before, camera_label(-0.4, 0.0))
    right = network.render(before, camera_label(0.4, 0.0))
    assert not np.array_equal(left.image, right.image)
    assert torch.equal(before.planes, kept)
    assert torch.equal(network.planes(features, source.beta).planes, kept)


def test_planes_are_made_anew_only_for_a_new_expression() -> None:
    network, source = tiny_network(), photo()
    calls = []
    made = network.planes
    network.planes = lambda s, b: calls.append(1) or made(s, b)  # type: ignore[method-assign, func-returns-value]
    head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
    frames = [head.frame(source.beta, camera_label(yaw, 0.0)) for yaw in (0.0, 0.2, 0.4)]
    assert len(calls) == 1
    changed = head.frame(source.beta + 0.3, camera_label(0.4, 0.0))
    assert len(calls) == 2
    assert not np.array_equal(changed.image, frames[-1].image)


def test_an_expression_and_a_refined_one_of_the_same_numbers_are_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, source = tiny_network(), photo()
    head = Expressive(network, network.encode(source.crop, source.camera, source.beta))
    camera, numbers = camera_label(0.0, 0.0), source.beta + 0.3
    other = network.planes(network.encode(source.crop, source.camera, source.beta), source.beta)
    monkeypatch.setattr(network, "planes_from_refined", lambda *_: other)
    plain = head.frame(numbers, camera)
    refined = head.frame_from_refined(torch.from_numpy(numbers.astype(np.float32))[None], camera)
    assert np.array_equal(refined.image, network.render(other, camera).image)
    assert not np.array_equal(refined.image, plain.image)


def test_result_layout_is_the_network_frame() -> None:
    network, source, clip = tiny_network(), photo(), FakeClip(3)
    frames = list(animate_frames(network, source, clip, AnimateOptions(shown="result")))
    direct = network.render(
        network.planes(network.encode(source.crop, source.camera, source.beta), clip.betas[2]),
        clip.cameras[2],
    )
    assert len(frames) == 3 and frames[0].shape == (32, 32, 3)
    assert np.array_equal(frames[2], direct.image)


def test_panels_show_source_driving_generated_depth() -> None:
    network, source, clip = tiny_network(), photo(), FakeClip(2)
    options = AnimateOptions("panels", panel_px=32)
    page = next(iter(animate_frames(network, source, clip, options)))
    assert page.shape[0] % 2 == 0 and page.shape[1] % 2 == 0
    cells = [page[34:66, 8 + 40 * i : 40 + 40 * i] for i in range(4)]
    result = next(iter(animate_frames(network, source, clip, AnimateOptions(shown="result"))))
    assert np.array_equal(cells[0], source.crop)
    assert np.array_equal(cells[1], next(clip.crops()))
    assert np.array_equal(cells[2], result)


def test_camera_and_expression_options_reach_the_network() -> None:
    network, source, clip = tiny_network(), photo(), FakeClip(4)

    def run(**options: object) -> np.ndarray:
        return np.stack(
            list(animate_frames(network, source, clip, AnimateOptions(shown="result", **options)))  # type: ignore[arg-type]
        )

    usual = run()
    assert not np.array_equal(usual, run(camera="fixed"))
    assert not np.array_equal(run(camera="orbit"), run(camera="fixed"))
    assert not np.array_equal(usual, run(relative=True))
    clip.betas[:] = 0.25
    # A driver that does not move: relative expression is the photo's own, whatever the driver shows.
    still = run(relative=True, camera="fixed")
    own = network.render(
        network.planes(network.encode(source.crop, source.camera, source.beta), source.beta),
        camera_label(0.0, 0.0),
    )
    assert all(np.array_equal(frame, own.image) for frame in still)


def test_nan_is_refused() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.superresolution.to_rgb.bias.fill_(float("nan"))
    network, source = Network(model, ARKIT52, name="broken.safetensors"), photo()
    planes = network.planes(network.encode(source.crop, source.camera, source.beta), source.beta)
    with pytest.raises(UserError, match=r"broken\.safetensors gives NaN"):
        network.render(planes, source.camera)


def test_bf16_is_close_to_fp32() -> None:
    source = photo()
    images = []
    for precision in ("fp32", "bf16"):
        network = Network(tiny_model(), ARKIT52, precision=precision)
        planes = network.planes(
            network.encode(source.crop, source.camera, source.beta), source.beta
        )
        images.append(network.render(planes, source.camera).image.astype(float))
    # 8 bits of mantissa through some twenty layers of random weights; worst mean seen 1.5 of 255
    assert np.abs(images[0] - images[1]).mean() < 6


@pytest.mark.slow
def test_compiled_network_gives_the_same_frames() -> None:
    source = photo()
    images = []
    for compiled in (False, True):
        network = Network(tiny_model(), ARKIT52, compiled=compiled)
        planes = network.planes(
            network.encode(source.crop, source.camera, source.beta), source.beta
        )
        images.append(network.render(planes, source.camera).image.astype(float))
    # float32 in another order: a value beside the middle of two grey levels may round to the other
    assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("avx512_f", "fp32"), (None, "fp32")],
)
def test_auto_precision_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, capability: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal needs a machine without CUDA")
def test_missing_cuda_is_refused() -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        choose_device("cuda")


def test_directions_have_a_size() -> None:
    scales = direction_scales(tiny_network())
    assert scales.shape == (4,) and (scales > 0).all()


def test_canvas_keeps_its_cells_apart() -> None:
    canvas = Canvas(["a", "", "c"], 2, 20, row_labels=["one", "two"])
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    page = canvas.compose([None, None, red])
    assert page.shape[:2] == canvas.size[::-1]
    assert (page == (255, 0, 0)).all(-1).sum() == 400
    with pytest.raises(ValueError):
        canvas.compose([red])


def test_fit_keeps_the_aspect() -> None:
    out = fit(np.zeros((10, 20, 3), np.uint8), 40, 40)
    assert (out[:10] == PAGE).all() and (out[-10:] == PAGE).all() and (out[12:28] == 0).all()


def test_depth_colours_are_lighter_when_near_and_steady() -> None:
    colours = DepthColours()
    depth = np.linspace(2.4, 2.9, 64, dtype=np.float32).reshape(8, 8)
    first = colours(depth, np.ones((8, 8), np.float32)).astype(int).sum(-1)
    assert (np.diff(first.ravel()) <= 0).all() and first[0, 0] > first[-1, -1]
    later = colours(depth[:1].repeat(8, 0), np.ones((8, 8), np.float32)).astype(int).sum(-1)
    assert np.array_equal(later[0], first[0])  # the range of the first frame holds
    nothing = colours(depth, np.zeros((8, 8), np.float32))
    assert (nothing == PAGE).all()


def test_contact_sheet_has_a_row_of_pictures_and_one_of_depth() -> None:
    image = np.full((32, 32, 3), 7, np.uint8)
    sheet = contact_sheet(image, [("smile", image, image), ("blink", image, image)], cell_px=32)
    assert (sheet == 7).all(-1).sum() == 5 * 32 * 32
