"""A trained network behind three verbs that speak numpy: encode a photo, make planes, render a frame.

The verbs are split as the method is: `encode` once per photo, `planes` once per expression, `render` once per view.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conventions.spaces import ExpressionSpace
from dnnlib.errors import UserError
from running.precision import multiplies_bf16
from torch_utils.ops import library
from torch_utils.ops.triplane_render import channels_last
from training.checkpoints import load_model, read_metadata
from training.rendering.fused import trace
from training.rendering.rays import ray_bundle
from training.rendering.volume import surface_depth

if TYPE_CHECKING:
    from conventions.spaces import ExpressionSpace
    from training.generator.model import Export3D, Volume
    from training.generator.planes import SourceFeatures

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")


class Rendered(NamedTuple):
    """One rendered view, ready for a panel."""

    image: np.ndarray  # uint8 [kH, kW, 3], of the source crop's size
    depth: np.ndarray  # float32 [h, h] of the raw image, distance along the ray, world units
    opacity: np.ndarray  # float32 [h, h], [0, 1]
    raw: np.ndarray | None = None  # uint8 [h, h, 3], before super-resolution


class Network:
    """A model in evaluation mode with the facts that came with its weights.

    Nothing is cached here: `source` and `planes` are the caller's to keep, which is what makes a photo cost one
    encoding and a camera move cost no new planes.
    """

    def __init__(
        self,
        model: Export3D,
        space: ExpressionSpace,
        metadata: dict[str, Any] | None = None,  # of the checkpoint: "crop", "tracker", ...
        name: str = "the network",  # for messages
        device: str = "cpu",  # "auto" | "cpu" | "cuda"
        precision: str = "fp32",  # "auto" | "fp32" | "bf16"
        compiled: bool = False,  # torch.compile of what runs per frame; minutes at the first frame
    ) -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        # convolutions of this layout are a tenth faster on a CPU (docs/performance.md)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        self.model = model.eval().requires_grad_(False)
        model.plane_mean = channels_last(model.plane_mean[None])[0]  # as the planes it is added to
        if compiled:
            # Graphs save launches on a GPU. What a graph returns is overwritten by its next run: `Volume` are new
            # tensors (T_EMA is added behind the plane head) and a frame is copied at once.
            # Without a C++ compiler: a warning, and the frames as without this.
            torch._dynamo.config.suppress_errors = True
            library.use_library(self.device.type)  # type: ignore[arg-type]  # now: a build ends the graph
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            for part in (model.vit, model.plane_head, model.superresolution):
                part.compile(mode=mode, dynamic=False)
        self.space = space
        self.metadata = metadata or {}
        self.name = name

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str = "auto",
        precision: str = "auto",
        overrides: Sequence[str] = (),  # of its configuration, see `load_model`
        compiled: bool = False,
    ) -> Network:
        """The network of a checkpoint of kind "model".

        Raises:
            UserError: the file is missing, damaged or of another kind, or the device does not exist.
        """
        chosen = choose_device(device)
        model = load_model(path, "cpu", overrides)
        metadata = read_metadata(path, kind="model")
        space = ExpressionSpace.from_dict(metadata["expression"])
        return cls(model, space, metadata, Path(path).name, chosen.type, precision, compiled)

    def at_quality(self, quality: Literal["full", "fast", "draft"]) -> Network:
        """The same weights, rendered with more or less work (`render.quality`); volumes serve both."""
        other = copy(self)
        other.model = copy(self.model)  # a module's copy shares its parts
        config = other.model.config
        render = replace(config.render, quality=quality)
        other.model.config = replace(config, render=render)
        return other

    @property
    def resolution(self) -> int:
        """H = W that the network sees, and of the result where the source comes without detail, pixels."""
        return self.model.config.resolution

    @property
    def takes_detail(self) -> bool:
        """Whether frames may be larger than H, with the photo's own detail."""
        return self.model.texture

    def crop_size(self, wanted: int) -> int:
        """The largest side of a source crop up to `wanted` pixels that it can be given; at least its resolution."""
        times = wanted // self.resolution if self.takes_detail else 1
        return self.resolution * max(1, times)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def encode(
        self,
        image: np.ndarray,
        camera: np.ndarray | None,
        beta: np.ndarray | None,
    ) -> SourceFeatures:
        """Crop uint8 [kH, kW, 3] -> features of the source, whatever the expression and view to come.

        The network sees the crop shrunk to H; frames come at kH, with the crop's detail, see `takes_detail`.

        camera, beta: the source's own label [25] and expression [D], as the tracker gives them; None counts as frontal
        and neutral, and is never the default: a photo without its own beta keeps its expression under the driver's.

        Raises:
            ValueError: the crop is no multiple of H, or larger and the network takes no detail.
        """
        tensor = torch.tensor(np.ascontiguousarray(image), device=self.device)
        tensor = tensor.permute(2, 0, 1)[None].float() / 127.5 - 1
        detail, times = None, tensor.shape[-1] // self.resolution
        if times > 1:
            detail, tensor = tensor, functional.avg_pool2d(tensor, times)
        with self._running():
            label, own = (None if x is None else self._labels(x) for x in (camera, beta))
            return self.model.encode_source(tensor, label, own, detail)

    def refine(self, beta: np.ndarray) -> Tensor:
        """beta [D] or [N, D] -> beta' [N, d]."""
        with self._running():
            return self.model.expression(self._labels(beta)).float()

    def directions(self) -> Tensor:
        """v_1 .. v_n, the rows of [n, d]."""
        with self._running():
            return self.model.expression.directions().float().to(self.device)

    def planes(self, source: SourceFeatures, beta: np.ndarray) -> Volume:
        """The tri-planes of the source with the expression beta [D]."""
        with self._running():
            return self.model.planes(source, self._labels(beta))

    def planes_from_refined(self, source: SourceFeatures, refined: Tensor) -> Volume:
        """The tri-planes of the source with the refined expression beta' [1, d]."""
        with self._running():
            return self.model.planes_from_refined(source, refined)

    def render(self, planes: Volume, camera: np.ndarray) -> Rendered:
        """See the planes from a camera label [25].

        Raises:
            UserError: the result holds NaN or infinity.
        """
        with self._running():
            out = self.model.render(planes, self._labels(camera))
            image = out.image[0].float()
            if not bool(torch.isfinite(image).all()):
                raise UserError(
                    f"{self.name} gives NaN or infinity for this input; take another checkpoint or --precision fp32"
                )
            return Rendered(
                _pixels(image),
                out.depth[0, 0].float().cpu().numpy(),
                out.opacity[0, 0].float().cpu().numpy(),
                _pixels(out.raw[0].float()),
            )

    def field(self, planes: Volume, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The volume at points [M, 3] in world units: colours [M, 3], about [0, 1], and density [M] >= 0, float32."""
        with self._running():
            at = torch.from_numpy(np.asarray(points, np.float32)).to(self.device)
            features, density = self.model.field(planes.planes, at[None])
            return features[0, :, :3].cpu().numpy(), density[0, :, 0].cpu().numpy()

    def surface(
        self, planes: Volume, camera: np.ndarray, side: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth of what the rays of [side, side] pixels hit, world units along the ray, and opacity, float32."""
        config = self.model.config.render
        with self._running():
            rays = ray_bundle(self._labels(camera), side)
            _, depth, opacity = trace(planes.planes, self.model.decoder, *rays, config)
            depth = surface_depth(depth, opacity, config.far)
            shape = (side, side)
            return depth.float().view(shape).cpu().numpy(), opacity.float().view(
                shape
            ).cpu().numpy()

    def _labels(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.atleast_2d(np.asarray(values, dtype=np.float32))).to(self.device)

    @contextmanager
    def _running(self) -> Iterator[None]:
        bf16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            yield


def _pixels(image: Tensor) -> np.ndarray:
    """[3, H, W] in [-1, 1] -> uint8 [H, W, 3]."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array: np.ndarray = pixels.permute(1, 2, 0).cpu().numpy()
    return array


def direction_scales(network: Network) -> Tensor:
    """float32 [n]: for each direction the largest |v_i . (f_e(e_k) - f_e(0))| over the units e_k of the space."""
    dim = network.space.dim
    refined = network.refine(np.concatenate([np.zeros((1, dim)), np.eye(dim)]))
    along = (refined[1:] - refined[:1]) @ network.directions().T
    return along.abs().amax(dim=0)


class Expressive:
    """Planes that are made anew only when the expression changes: an orbit costs renders, nothing else."""

    def __init__(self, network: Network, source: SourceFeatures) -> None:
        self.network = network
        self._source = source  # not part of the key: another photo is another Expressive
        self._key: tuple[str, bytes] | None = None
        self._planes: Volume | None = None

    def frame(self, beta: np.ndarray, camera: np.ndarray) -> Rendered:
        """The source with the expression beta [D] from the camera label [25]."""
        key = ("beta", np.asarray(beta, np.float32).tobytes())
        volume = self._volume(key, lambda: self.network.planes(self._source, beta))
        return self.network.render(volume, camera)

    def frame_from_refined(self, refined: Tensor, camera: np.ndarray) -> Rendered:
        """The source with the refined expression beta' [1, d] from the camera label [25]."""
        return self.network.render(self.volume(refined), camera)

    def volume(self, refined: Tensor) -> Volume:
        """The source with the refined expression beta' [1, d], to be seen from anywhere."""
        key = ("refined", refined.cpu().numpy().tobytes())
        return self._volume(key, lambda: self.network.planes_from_refined(self._source, refined))

    def _volume(self, key: tuple[str, bytes], make: Callable[[], Volume]) -> Volume:
        if self._planes is None or key != self._key:
            made = make()
            # as the renderer reads them: turned once per expression, not once per view
            self._planes, self._key = made._replace(planes=channels_last(made.planes)), key
        return self._planes


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises UserError for CUDA on a machine without."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "--device cuda is asked for but torch finds no CUDA device; use --device cpu"
        )
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 on a GPU and on a CPU with instructions for it, else fp32: without them it is far slower."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" or multiplies_bf16() else "fp32"
