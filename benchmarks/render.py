"""The fused tri-plane renderer against the plain torch one: seconds, memory, scaling, roofline.

    python -m benchmarks.render --threads 2 --json benchmarks/results/render.json

The case that counts: one image of 128^2 rays, 48 + 48 samples, planes 3 x 32 x 256^2, decoder 32-64-33. Both renderers
take turns in one process and the medians are compared. `python -m benchmarks.report` makes docs/performance.md of it.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import dnnlib.cli
from benchmarks.measure import alternate, machine, matmul_flops, peak_bytes, read_bytes_per_second
from benchmarks.options import REPEATS, device_option, json_option, threads_option
from conventions.cameras import camera_label
from dnnlib.files import write_json
from dnnlib.params import Whole
from inference.demo import NETWORK, astronaut, load_demo_network
from inference.tracked import NetworkTracker
from torch_utils.ops.triplane_render import PLANE_DTYPES, channels_last
from training.config import RenderConfig
from training.rendering.fused import QUALITIES, trace
from training.rendering.rays import ray_bundle
from training.rendering.triplane import TriplaneDecoder


@dataclass(frozen=True)
class Case:
    """What is rendered."""

    side: int = 128  # rays are side^2 an image
    coarse: int = 48
    fine: int = 48
    batch: int = 1
    size: int = 256  # of the planes
    channels: int = 32
    hidden: int = 64
    colours: int = 32

    @property
    def samples(self) -> int:
        return self.batch * self.side**2 * (self.coarse + self.fine)

    @property
    def flops(self) -> float:
        """Of the forward pass: sampling (12 texels) and the decoder's two layers; activations not counted."""
        per_sample = self.channels * (12 + self.hidden) + self.hidden * (1 + self.colours)
        return 2.0 * self.samples * per_sample

    @property
    def plane_bytes(self) -> float:
        """That the forward pass reads of the planes, from whatever cache."""
        return 4.0 * 12 * self.samples * self.channels


class Scene:
    """Random planes and decoder, seen from `batch` cameras."""

    def __init__(self, case: Case, device: str) -> None:
        torch.manual_seed(0)
        self.case = case
        self.planes = torch.randn(case.batch, 3, case.channels, case.size, case.size, device=device)
        self.decoder = TriplaneDecoder(case.channels, case.hidden, case.colours).to(device)
        labels = [torch.from_numpy(camera_label(0.2 * i - 0.2, 0.1)) for i in range(case.batch)]
        self.rays = ray_bundle(torch.stack(labels).to(device), case.side)

    def config(self, impl: str, quality: str = "full") -> RenderConfig:
        case = self.case
        return RenderConfig(
            samples_coarse=case.coarse,
            samples_fine=case.fine,
            hidden=case.hidden,
            impl=impl,  # type: ignore[arg-type]
            quality=quality,  # type: ignore[arg-type]
        )

    @torch.no_grad()
    def forward(self, impl: str, quality: str = "full", planes: Tensor | None = None) -> Tensor:
        seen = self.planes if planes is None else planes
        return trace(seen, self.decoder, *self.rays, self.config(impl, quality)).features

    def forward_backward(self, impl: str) -> None:
        planes = self.planes.detach().requires_grad_()
        out = trace(planes, self.decoder, *self.rays, self.config(impl))
        (out.features.sum() + out.depth.sum() + out.opacity.sum()).backward()


def against_reference(case: Case, device: str, repeats: int) -> dict[str, Any]:
    """Seconds, ratios and extra memory of both, in turns."""
    scene = Scene(case, device)
    ready = channels_last(scene.planes)
    scene.forward("auto")  # builds the operator, if need be
    error = (scene.forward("auto") - scene.forward("ref")).abs().max()
    forward = alternate(
        {
            "fused": lambda: scene.forward("auto"),
            "fused, planes ready": lambda: scene.forward("auto", planes=ready),
            "ref": lambda: scene.forward("ref"),
        },
        repeats,
        warm_up=False,
    )
    both = {
        name: peak_bytes(lambda i=impl: scene.forward_backward(i), device) for name, impl in IMPLS
    }
    backward = alternate(
        {name: lambda i=impl: scene.forward_backward(i) for name, impl in IMPLS},
        repeats,
        warm_up=False,
    )
    return {
        "case": vars(case),
        "seconds_forward": forward,
        "seconds_forward_backward": backward,
        "speedup_forward": forward["ref"] / forward["fused"],
        "speedup_forward_backward": backward["ref"] / backward["fused"],
        "extra_bytes_forward": {
            name: peak_bytes(lambda i=impl: scene.forward(i), device) for name, impl in IMPLS
        },
        "extra_bytes_forward_backward": both,
        "largest_difference_of_features": float(error),
    }


IMPLS = (("fused", "auto"), ("ref", "ref"))


def scaling(device: str, repeats: int) -> list[dict[str, Any]]:
    """Time and memory of the operator as one size grows."""
    base = Case(side=64)
    series: dict[str, list[Case]] = {
        "rays": [replace(base, side=side) for side in (32, 64, 96, 128, 192)],
        "samples": [replace(base, coarse=s, fine=s) for s in (12, 24, 48, 96)],
        "batch": [replace(base, batch=n, size=128) for n in (1, 2, 4, 8)],
    }
    rows = []
    for name, cases in series.items():
        for case in cases:
            scene = Scene(case, device)
            seconds = alternate(
                {
                    "forward": lambda s=scene: s.forward("auto"),
                    "forward_backward": lambda s=scene: s.forward_backward("auto"),
                },
                repeats,
            )
            extra = peak_bytes(lambda s=scene: s.forward_backward("auto"), device)
            rows.append(
                {"series": name, "case": vars(case), "seconds": seconds, "extra_bytes": extra}
            )
    return rows


def threads_scaling(repeats: int) -> dict[str, float]:
    """Seconds of the forward pass of 64^2 rays, by number of CPU threads."""
    scene, before, out = Scene(Case(side=64), "cpu"), torch.get_num_threads(), {}
    for count in range(1, before + 1):
        torch.set_num_threads(count)
        out[str(count)] = alternate({"forward": lambda: scene.forward("auto")}, repeats)["forward"]
    torch.set_num_threads(before)
    return out


def solid_ball(case: Case) -> Scene:
    """A head-like thing with a hard surface (random planes are fog, where nothing is faint)."""
    scene = Scene(case, "cpu")
    grid = (torch.arange(case.size) + 0.5) / case.size - 0.5
    disc = (grid[:, None] ** 2 + grid[None] ** 2).sqrt() < 0.3
    with torch.no_grad():
        scene.planes *= 0.3
        scene.planes[:, :, 0] = disc * 40.0 - 30.0  # summed over planes positive inside only
        scene.decoder.hidden.weight[0] = 0
        scene.decoder.hidden.weight[0, 0] = 3.0
        scene.decoder.out.weight[0, 0] = 8.0
        scene.decoder.out.bias[0] = -8.0
    return scene


def quality(case: Case, repeats: int) -> dict[str, Any]:
    """What each `render.quality` saves, and its PSNR against `full`, on a ball and on the shipped network's head."""
    ball = solid_ball(case)
    scenes: dict[str, tuple[Tensor, TriplaneDecoder, RenderConfig]] = {
        "solid ball": (channels_last(ball.planes), ball.decoder, ball.config("auto"))
    }
    if NETWORK.exists():
        network = load_demo_network(device="cpu", precision="fp32")
        photo = NetworkTracker(network).image(astronaut(), "astronaut")
        source = network.encode(photo.crop, photo.camera, photo.beta)
        head = network.planes(source, np.zeros(network.space.dim, np.float32))
        model, config = network.model, network.model.config.render
        many = replace(config, samples_coarse=case.coarse, samples_fine=case.fine)
        planes = channels_last(head.planes).clone()
        scenes["shipped network"] = (planes, model.decoder, config)
        scenes["shipped network, more samples"] = (planes, model.decoder, many)
    rows = []
    for name, (planes, decoder, config) in scenes.items():

        @torch.no_grad()
        def picture(quality: str) -> Tensor:
            chosen = replace(config, quality=quality)  # type: ignore[arg-type]  # noqa: B023
            return trace(planes, decoder, *ball.rays, chosen).features[..., :3]  # noqa: B023

        seconds = alternate({q: lambda q=q: picture(q) for q in QUALITIES}, repeats)
        for q in QUALITIES:
            error = (picture("full").clamp(0, 1) - picture(q).clamp(0, 1)).square().mean()
            psnr = -10 * math.log10(max(float(error), 1e-12))
            samples = f"{config.samples_coarse} + {config.samples_fine}"
            rows.append(
                {"scene": name, "samples": samples, "quality": q, "seconds": seconds[q]}
                | {"speedup": seconds["full"] / seconds[q], "psnr_db": psnr}
            )
    by_quality = {row["quality"]: row for row in rows if row["scene"] == "solid ball"}
    return {
        "seconds_full": by_quality["full"]["seconds"],
        "seconds_fast": by_quality["fast"]["seconds"],
        "psnr_db": by_quality["fast"]["psnr_db"],
        "rows": rows,
    }


def plane_types(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds of a forward pass with planes of each number type, and PSNR of the features against float32."""
    scene = Scene(case, "cpu")
    planes = {
        str(dtype).removeprefix("torch."): channels_last(scene.planes.to(dtype))
        for dtype in PLANE_DTYPES
    }
    seconds = alternate(
        {name: lambda p=p: scene.forward("auto", planes=p) for name, p in planes.items()}, repeats
    )
    exact = scene.forward("auto")
    found = {}
    for name, stored in planes.items():
        error = (scene.forward("auto", planes=stored) - exact).square().mean()
        found[name] = {
            "seconds": seconds[name],
            "psnr_db": -10 * math.log10(max(float(error), 1e-20)),
        }
    return found


def roofline(case: Case, seconds: float) -> dict[str, float]:
    """The forward pass against what torch's matrix product and a plain sum reach here."""
    flops, cached, memory = matmul_flops(), read_bytes_per_second(8), read_bytes_per_second(256)
    return {
        "gflop": case.flops / 1e9,
        "plane_gbyte": case.plane_bytes / 1e9,
        "matmul_gflops": flops / 1e9,
        "read_8MiB_gbyte_s": cached / 1e9,
        "read_256MiB_gbyte_s": memory / 1e9,
        "achieved_gflops": case.flops / seconds / 1e9,
        "share_of_matmul": case.flops / seconds / flops,
    }


@dnnlib.cli.command()
@click.option("--repeats", default=9, type=REPEATS, help="Turns of each renderer.")
@threads_option
@device_option
@click.option("--side", default=128, type=Whole(2, 4096), help="Rays are side x side.")
@click.option(
    "--scaling/--no-scaling",
    "with_scaling",
    default=True,
    help="Also the growth, roofline, quality.",
)
@json_option
def main(
    repeats: int, threads: int, device: str, side: int, with_scaling: bool, json_path: Path | None
) -> None:
    """Time the tri-plane renderer against its plain torch reference."""
    if threads:
        torch.set_num_threads(threads)
    case = Case(side=side)
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(device),
        "repeats": repeats,
        "method": "medians of alternating runs in one process, wall time",
        **against_reference(case, device, repeats),
    }
    for what in ("forward", "forward_backward"):
        seconds, extra = record[f"seconds_{what}"], record[f"extra_bytes_{what}"]
        click.echo(
            f"{what}: fused {seconds['fused']:.3f} s, plain torch {seconds['ref']:.3f} s, "
            f"{record[f'speedup_{what}']:.1f} times faster; extra memory "
            f"{extra['fused'] / 2**20:.0f} MiB and {extra['ref'] / 2**20:.0f} MiB"
        )
    if with_scaling:
        record["scaling"] = scaling(device, min(repeats, 3))
        if device == "cpu":
            record["threads"] = threads_scaling(repeats)
            record["roofline"] = roofline(case, record["seconds_forward"]["fused, planes ready"])
            record["quality"] = quality(case, min(repeats, 3))
            record["plane_types"] = plane_types(case, repeats)
            share = record["roofline"]["share_of_matmul"]
            click.echo(f"roofline: {share:.0%} of torch's matrix product")
            for row in record["quality"]["rows"]:
                click.echo(
                    f"{row['quality']} ({row['scene']}, {row['samples']} samples): {row['seconds']:.3f} s, "
                    f"{row['speedup']:.2f} times faster, {row['psnr_db']:.1f} dB"
                )
    if json_path is not None:
        write_json(json_path, record)
        click.echo(f"wrote {json_path}")


if __name__ == "__main__":
    main()
