"""Photos and videos in, animated heads out: `python gen_videos.py --help`, docs/videos.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import dnnlib.cli
from dnnlib.errors import UserError

if TYPE_CHECKING:
    from inference.network import Network
    from inference.output import Report
    from inference.tracked import Inputs

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_MANY: dict[str, Any] = {"multiple": True, "required": True, "type": _PATH}


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def put(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return put


_set = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value of the network's configuration that no weight depends on, for example "
    "--set render.samples_coarse=48; repeatable.",
)


def _remember(context: click.Context, parameter: click.Parameter, value: str) -> None:
    context.meta[parameter.name or ""] = value


_quality = click.option(
    "--quality",
    default="full",
    type=click.Choice(["full", "fast"]),
    expose_value=False,
    callback=_remember,
    help="fast leaves out the colours of faint samples: a little less exact, a quarter faster to render.",
)
_network = _options(
    click.option(
        "--network", "network_path", required=True, type=_PATH, help="Checkpoint of train.py."
    ),
    click.option(
        "--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run."
    ),
    click.option(
        "--precision",
        default="auto",
        type=click.Choice(["auto", "fp32", "bf16"]),
        help="auto: bf16 on a GPU, fp32 on a CPU.",
    ),
    click.option(
        "--bfm-weights",
        type=_PATH,
        help="Deep3DFaceRecon's weights, for networks of the space bfm64.",
    ),
    _quality,
    _set,
)
_source = _options(
    click.option("--source", required=True, type=_PATH, help="Portrait photo."),
    click.option(
        "--face",
        default="largest",
        metavar="largest|left|right|N",
        help="Which face of a photo with several; N counts from 0, left to right.",
    ),
)
_driving = _options(
    click.option("--driving", required=True, type=_PATH, help="Driving video."),
    click.option(
        "--smooth/--no-smooth", default=True, help="Take the jitter out of the tracked motion."
    ),
    click.option(
        "--max-frames",
        type=click.IntRange(min=1),
        help="Use only so many frames of the driving video.",
    ),
)
_expression = _options(
    click.option(
        "--absolute/--relative",
        "absolute",
        default=True,
        help="The driver's expression as it is, or its change from the driver's resting face added to the photo's own.",
    ),
    click.option(
        "--reference",
        default="neutral",
        type=click.Choice(["neutral", "first"]),
        help="Which frame is the driver's resting face: the one of the smallest expression, or the first.",
    ),
)
_view = _options(
    click.option(
        "--yaw", "yaw_deg", default=0.0, help="Degrees; the fixed view, or the centre of the orbit."
    ),
    click.option("--pitch", "pitch_deg", default=0.0, help="Degrees."),
    click.option("--orbit-yaw", "orbit_yaw_deg", default=25.0, help="Degrees to either side."),
    click.option("--orbit-pitch", "orbit_pitch_deg", default=8.0, help="Degrees up and down."),
    click.option(
        "--orbit-seconds", default=4.0, type=click.FloatRange(min=0.1), help="Time of one orbit."
    ),
)
_out = click.option("--out", required=True, type=_PATH, help="Video to write: .mp4, .mkv or .mov.")
_panel = click.option(
    "--panel-px", default=0, type=click.IntRange(0, 2048), help="Side of a panel; 0 chooses it."
)


@dnnlib.cli.group()
def main() -> None:
    """Make videos with a trained network."""


@main.command()
@_source
@_driving
@_network
@_out
@click.option(
    "--layout",
    default="panels",
    type=click.Choice(["panels", "result"]),
    help="source | driving | generated | depth side by side, or the result alone.",
)
@click.option(
    "--camera",
    default="driving",
    type=click.Choice(["driving", "fixed", "orbit"]),
    help="The driver's view, one view (--yaw, --pitch), or a swing around the head.",
)
@_expression
@_view
@_panel
def animate(
    source: Path,
    face: str,
    driving: Path,
    smooth: bool,
    max_frames: int | None,
    network_path: Path,
    device: str,
    precision: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    layout: Any,
    camera: Any,
    absolute: bool,
    reference: Any,
    panel_px: int,
    **view: float,
) -> None:
    """Animate a photo with a video: its expression and its view, with its sound."""
    from inference.animate import AnimateOptions
    from inference.animate import animate as run
    from inference.cameras import View
    from inference.output import check_video_path

    check_video_path(out, source, driving, network_path)
    network, inputs = _load(network_path, device, precision, bfm_weights, overrides)
    options = AnimateOptions(layout, camera, View(**view), not absolute, reference, panel_px)
    photo = inputs.photo(source, face)
    _say(run(network, photo, inputs.clip(driving, smooth, max_frames), out, options))


@main.command()
@_source
@_network
@_out
@click.option(
    "--seconds", default=4.0, type=click.FloatRange(min=0.04), help="Length of the video."
)
@_view
@_panel
def freeview(
    source: Path,
    face: str,
    network_path: Path,
    device: str,
    precision: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    seconds: float,
    panel_px: int,
    **view: float,
) -> None:
    """Look around one portrait: the expression is fixed, the camera moves."""
    from inference.cameras import View
    from inference.output import check_video_path
    from inference.views import freeview as run

    check_video_path(out, source, network_path)
    network, inputs = _load(network_path, device, precision, bfm_weights, overrides)
    _say(run(network, inputs.photo(source, face), out, View(**view), seconds, panel_px))


@main.command()
@_driving
@_network
@_out
@click.option(
    "--source-frame", default=0, type=click.IntRange(min=0), help="Frame that serves as the source."
)
@_panel
def reconstruct(
    driving: Path,
    smooth: bool,
    max_frames: int | None,
    network_path: Path,
    device: str,
    precision: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    source_frame: int,
    panel_px: int,
) -> None:
    """Rebuild a video from one of its frames: ground truth | generated | estimated depth, with its sound."""
    from inference.output import check_video_path
    from inference.tracked import photo_of_clip
    from inference.views import reconstruct as run

    check_video_path(out, driving, network_path)
    network, inputs = _load(network_path, device, precision, bfm_weights, overrides)
    clip = inputs.clip(driving, smooth, max_frames)
    _say(run(network, photo_of_clip(clip, source_frame), clip, out, panel_px))


@main.command()
@click.option("--source", "sources", **_MANY, help="Portrait photo; repeat for each column.")
@click.option("--driving", "drivings", **_MANY, help="Driving video; repeat for each row.")
@click.option(
    "--face", default="largest", metavar="largest|left|right|N", help="Which face of a photo."
)
@click.option(
    "--smooth/--no-smooth", default=True, help="Take the jitter out of the tracked motion."
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Use only so many frames.")
@_network
@_out
@_expression
@_panel
def grid(
    sources: tuple[Path, ...],
    drivings: tuple[Path, ...],
    face: str,
    smooth: bool,
    max_frames: int | None,
    network_path: Path,
    device: str,
    precision: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    absolute: bool,
    reference: Any,
    panel_px: int,
) -> None:
    """Transfer every driver's expression and view to every source, as a grid."""
    from inference.animate import AnimateOptions, expressions
    from inference.output import check_video_path
    from inference.views import grid as run

    check_video_path(out, *sources, *drivings, network_path)
    network, inputs = _load(network_path, device, precision, bfm_weights, overrides)
    photos = [inputs.photo(p, face) for p in sources]
    clips = [inputs.clip(p, smooth, max_frames) for p in drivings]
    options = AnimateOptions(relative=not absolute, reference=reference)
    betas = [[expressions(network, p, c, options) for p in photos] for c in clips]
    _say(run(network, photos, clips, out, betas, panel_px))


@main.command("novel-view")
@_source
@_driving
@_network
@_out
@click.option(
    "--yaws", default="-30,0,30", metavar="DEG,DEG,...", help="One panel a view, degrees of yaw."
)
@_expression
@_panel
def novel_view(
    source: Path,
    face: str,
    driving: Path,
    smooth: bool,
    max_frames: int | None,
    network_path: Path,
    device: str,
    precision: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    yaws: str,
    absolute: bool,
    reference: Any,
    panel_px: int,
) -> None:
    """Transfer the expression and look from several sides at once."""
    from inference.animate import AnimateOptions, expressions
    from inference.output import check_video_path
    from inference.views import novel_view as run

    try:
        yaws_deg = [float(y) for y in yaws.split(",")]
    except ValueError as error:
        raise UserError(
            f"--yaws {yaws} is not a list of degrees; write for example -30,0,30"
        ) from error
    check_video_path(out, source, driving, network_path)
    network, inputs = _load(network_path, device, precision, bfm_weights, overrides)
    photo = inputs.photo(source, face)
    clip = inputs.clip(driving, smooth, max_frames)
    betas = expressions(
        network, photo, clip, AnimateOptions(relative=not absolute, reference=reference)
    )
    _say(run(network, photo, clip, out, betas, yaws_deg, panel_px))


@main.command()
@_source
@_network
@_out
@click.option("--count", default=10, type=click.IntRange(min=1), help="Directions v1 .. vN.")
@click.option("--amount", default=1.0, help="1 is the range that single expression units cover.")
@click.option(
    "--seconds", default=3.0, type=click.FloatRange(min=0.08), help="One swing there and back."
)
@click.option("--columns", default=5, type=click.IntRange(min=1), help="Panels in a row.")
@_panel
def directions(
    source: Path,
    face: str,
    network_path: Path,
    device: str,
    precision: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    count: int,
    amount: float,
    seconds: float,
    columns: int,
    panel_px: int,
) -> None:
    """Move a portrait along each orthogonal direction v_i of the expression basis."""
    from inference.output import check_video_path
    from inference.views import directions as run

    check_video_path(out, source, network_path)
    network, inputs = _load(network_path, device, precision, bfm_weights, overrides)
    photo = inputs.photo(source, face)
    _say(run(network, photo, out, count, amount, seconds, columns, panel_px))


@main.command()
@click.option(
    "--panel",
    "panels",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="A video or a folder of frames and the name above it; repeat.",
)
@_out
@click.option("--columns", default=0, type=click.IntRange(min=0), help="Panels in a row; 0: all.")
@click.option("--panel-px", default=256, type=click.IntRange(32, 2048), help="Side of a panel.")
def compare(panels: tuple[str, ...], out: Path, columns: int, panel_px: int) -> None:
    """Put videos side by side: other methods' results, or the ablations' networks."""
    from inference.output import check_video_path
    from inference.views import compare as run

    pairs = []
    for panel in panels:
        name, equals, path = panel.partition("=")
        if not equals or not path:
            raise UserError(
                f"--panel {panel} is not of the form NAME=PATH; write for example ours=out.mp4"
            )
        pairs.append((name, Path(path)))
    check_video_path(out, *(path for _, path in pairs))
    _say(run(pairs, out, columns, panel_px))


@main.command()
@click.option(
    "--out", "out_dir", default="out", type=_PATH, help="Folder of demo.mp4 and demo.png."
)
@click.option(
    "--source", type=_PATH, help="Portrait photo instead of the one that ships with the project."
)
@click.option("--motion", "motion_path", type=_PATH, help="Motion file instead of the shipped one.")
@click.option(
    "--network", "network_path", type=_PATH, help="Checkpoint instead of the shipped one."
)
@click.option(
    "--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run."
)
@_set
def demo(
    out_dir: Path,
    source: Path | None,
    motion_path: Path | None,
    network_path: Path | None,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Animate a public-domain portrait with a motion that ships with the project."""
    from inference import demo as shipped
    from inference.motion import load_motion
    from inference.output import check_writable
    from inference.tracked import Inputs

    network = shipped.load_demo_network(
        network_path or shipped.NETWORK, device, overrides=overrides
    )
    for name in ("demo.mp4", "demo.png"):
        check_writable(out_dir / name, *(p for p in (source, motion_path, network_path) if p))
    motion = load_motion(motion_path or shipped.MOTION)
    inputs = Inputs(network)
    photo = (
        inputs.image(shipped.astronaut(), "astronaut") if source is None else inputs.photo(source)
    )
    report, sheet = shipped.run_demo(network, photo, out_dir, motion)
    _say(report)
    click.echo(f"wrote {sheet}")
    click.echo("Your own photo and video:")
    click.echo(
        f"  {_interpreter()} gen_videos.py animate --source photo.jpg --driving clip.mp4 "
        f"--network {network_path or _relative(shipped.NETWORK)} --out animated.mp4"
    )


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _interpreter() -> Path:
    # Not resolved: behind its link, an environment's interpreter is one without the project's packages.
    return _relative(Path(sys.executable))


def _load(
    path: Path,
    device: str,
    precision: str,
    bfm_weights: Path | None,
    overrides: tuple[str, ...],
) -> tuple[Network, Inputs]:
    from inference.network import Network
    from inference.tracked import Inputs

    quality = f"render.quality={click.get_current_context().meta['quality']}"
    network = Network.load(path, device, precision, (quality, *overrides))
    return network, Inputs(network, bfm_weights)


def _say(report: Report) -> None:
    for line in report.lines():
        click.echo(line)


if __name__ == "__main__":
    main()
