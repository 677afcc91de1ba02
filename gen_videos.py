"""Photos and videos in, animated heads out: `python gen_videos.py --help`, docs/videos.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import dnnlib.cli
from dnnlib.clips import ClipOf
from dnnlib.effects import refuse_unused
from dnnlib.options import gathered
from dnnlib.params import (
    InputFile,
    InputFolder,
    NamedInput,
    Number,
    Numbers,
    OutputFolder,
    Whole,
)
from inference.options import (
    CHECKPOINT,
    PORTRAIT,
    AnySourceChoice,
    ClipChoice,
    DriversChoice,
    DrivingChoice,
    NetworkChoice,
    SourceChoice,
    out_option,
    panel_option,
    set_option,
)
from inference.shapes.command import export_shape
from inference.show_command import show
from inference.template_command import track
from inference.view_options import BackgroundChoice, ExpressionChoice, ViewChoice

if TYPE_CHECKING:
    from inference.animate import Source
    from inference.output import Report
    from inference.tracked import Driving

_MANY: dict[str, Any] = {"multiple": True, "required": True}


@dnnlib.cli.group()
def main() -> None:
    """Make videos with a trained network."""


main.add_command(export_shape)
main.add_command(show)
main.add_command(track)


@main.command()
@gathered("source", AnySourceChoice)
@gathered("driving", DriversChoice)
@gathered("network", NetworkChoice)
@gathered("background", BackgroundChoice)
@out_option
@click.option(
    "--layout",
    "shown",
    type=click.Choice(["full", "result", "panels", "driving"]),
    show_default="full, with --panel-px panels",
    help="The whole photo with the animated head in it, the generated crop alone, source | driving | "
    "generated | depth side by side, or the driver's crop alone, which a result is scored with.",
)
@click.option(
    "--camera",
    default="driving",
    type=click.Choice(["driving", "fixed", "orbit"]),
    help="The driver's view, one view (--yaw, --pitch), or a swing around the head.",
)
@gathered("expression", ExpressionChoice)
@gathered("view", ViewChoice)
@panel_option
def animate(
    source: AnySourceChoice,
    driving: DriversChoice,
    network: NetworkChoice,
    background: BackgroundChoice,
    out: Path,
    shown: Any,
    camera: Any,
    expression: ExpressionChoice,
    panel_px: int,
    view: ViewChoice,
) -> None:
    """Animate photos or videos with videos: their expression and their view, with their sound.

    Several sources or drivers, or a folder of sources: --out is a folder, and gets a video of each.
    """
    from inference.animate import AnimateOptions
    from inference.animate import animate as run
    from inference.batch import animate_all, check_folder, sources_in

    paths = sources_in(source.sources)
    many = check_folder(out, source.sources, driving.drivings)
    shown = shown or ("panels" if panel_px else "full")
    refuse_unused("background", shown != "driving", "with --layout driving")
    behind = background.load(out, is_page=shown in ("panels", "driving"))
    model, tracker = network.load()
    options = AnimateOptions(
        shown=shown,
        camera=camera,
        view=view.view(),
        panel_px=panel_px,
        background=behind,
        **vars(expression.steer()),
    )

    def photo(path: Path) -> Source:
        return source.track(path, tracker)

    def clip(path: Path | ClipOf) -> Driving:
        return driving.load(path, model, tracker)

    if many:
        for report in animate_all(model, paths, driving.drivings, out, options, photo, clip):
            _say(report)
    else:
        _say(run(model, photo(paths[0]), clip(driving.drivings[0]), out, options))


@main.command()
@gathered("source", SourceChoice)
@gathered("network", NetworkChoice)
@gathered("background", BackgroundChoice)
@out_option
@click.option("--seconds", default=4.0, type=Number(0.04, 3600), help="Length of the video.")
@gathered("view", ViewChoice)
@panel_option
def freeview(
    source: SourceChoice,
    network: NetworkChoice,
    background: BackgroundChoice,
    out: Path,
    seconds: float,
    panel_px: int,
    view: ViewChoice,
) -> None:
    """Look around one portrait: the expression is fixed, the camera moves."""
    from inference.views import freeview as run

    behind = background.load(out)
    model, tracker = network.load()
    _say(run(model, source.track(tracker), out, view.view(), seconds, panel_px, behind))


@main.command()
@gathered("driving", ClipChoice)
@gathered("network", NetworkChoice)
@gathered("background", BackgroundChoice)
@out_option
@click.option(
    "--source-frame", default=0, type=Whole(0, 10_000_000), help="Frame that serves as the source."
)
@panel_option
def reconstruct(
    driving: ClipChoice,
    network: NetworkChoice,
    background: BackgroundChoice,
    out: Path,
    source_frame: int,
    panel_px: int,
) -> None:
    """Rebuild a video from one of its frames: ground truth | generated | estimated depth, with its sound."""
    from inference.tracked import photo_of_clip
    from inference.views import reconstruct as run

    behind = background.load(out)
    model, tracker = network.load()
    clip = driving.track(tracker)
    _say(run(model, photo_of_clip(clip, source_frame), clip, out, panel_px, behind), clip)


@main.command()
@click.option(
    *("-s", "--source", "sources"),
    **_MANY,
    type=PORTRAIT,
    help="Portrait photo; repeat for each column.",
)
@click.option(
    "--face", default="largest", metavar="largest|left|right|N", help="Which face of a photo."
)
@gathered("driving", DriversChoice)
@gathered("network", NetworkChoice)
@gathered("background", BackgroundChoice)
@out_option
@gathered("expression", ExpressionChoice)
@panel_option
def grid(
    sources: tuple[Path, ...],
    face: str,
    driving: DriversChoice,
    network: NetworkChoice,
    background: BackgroundChoice,
    out: Path,
    expression: ExpressionChoice,
    panel_px: int,
) -> None:
    """Transfer every driver's expression and view to every source, as a grid."""
    from inference.steering import Steering
    from inference.views import grid as run

    behind = background.load(out)
    model, tracker = network.load()
    photos = [tracker.photo(p, face) for p in sources]
    clips = [driving.load(p, model, tracker) for p in driving.drivings]
    steer = expression.steer()
    steerings = [Steering(model.space, c, steer, model.name) for c in clips]
    _say(run(model, photos, clips, out, steerings, panel_px, behind), *clips)


@main.command("novel-view")
@gathered("source", SourceChoice)
@gathered("driving", DrivingChoice)
@gathered("network", NetworkChoice)
@gathered("background", BackgroundChoice)
@out_option
@click.option(
    "--yaws",
    "yaws_deg",
    default="-30,0,30",
    type=Numbers(-180, 180, at_most=32),
    metavar="DEG,DEG,...",
    help="One panel a view, degrees of yaw.",
)
@gathered("expression", ExpressionChoice)
@panel_option
def novel_view(
    source: SourceChoice,
    driving: DrivingChoice,
    network: NetworkChoice,
    background: BackgroundChoice,
    out: Path,
    yaws_deg: tuple[float, ...],
    expression: ExpressionChoice,
    panel_px: int,
) -> None:
    """Transfer the expression and look from several sides at once."""
    from inference.steering import Steering
    from inference.views import novel_view as run

    behind = background.load(out)
    model, tracker = network.load()
    photo = source.track(tracker)
    clip = driving.track(model, tracker)
    steering = Steering(model.space, clip, expression.steer(), model.name)
    _say(run(model, photo, clip, out, steering, yaws_deg, panel_px, behind), clip)


@main.command()
@gathered("source", SourceChoice)
@gathered("network", NetworkChoice)
@gathered("background", BackgroundChoice)
@out_option
@click.option("--count", default=10, type=Whole(1, 1000), help="Directions v1 .. vN.")
@click.option(
    "--amount",
    default=1.0,
    type=Number(-100, 100),
    help="1 is a motion that shows: each direction goes until the picture has changed enough, at most 4 standard "
    "deviations.",
)
@click.option(
    "--data",
    type=InputFolder("a data set"),
    help="Data set whose expressions tell how far coefficients go; by default those of synthetic heads.",
)
@click.option("--seconds", default=3.0, type=Number(0.08, 3600), help="One swing there and back.")
@click.option("--columns", default=5, type=Whole(1, 1000), help="Panels in a row.")
@panel_option
def directions(
    source: SourceChoice,
    network: NetworkChoice,
    background: BackgroundChoice,
    out: Path,
    count: int,
    amount: float,
    data: Path | None,
    seconds: float,
    columns: int,
    panel_px: int,
) -> None:
    """Move a portrait along each orthogonal direction v_i of the expression basis."""
    from inference.directions import directions as run

    behind = background.load(out)
    model, tracker = network.load()
    photo = source.track(tracker)
    _say(run(model, photo, out, count, amount, seconds, columns, panel_px, behind, data))


@main.command()
@click.option(
    "--panel",
    "panels",
    multiple=True,
    required=True,
    type=NamedInput(wanted="a video or a folder of frames"),
    metavar="NAME=PATH",
    help="A video or a folder of frames and the name above it; repeat.",
)
@out_option
@click.option("--columns", default=0, type=Whole(0, 1000), help="Panels in a row; 0: all.")
@click.option("--panel-px", default=256, type=Whole(32, 2048), help="Side of a panel.")
def compare(panels: tuple[tuple[str, str], ...], out: Path, columns: int, panel_px: int) -> None:
    """Put videos side by side: other methods' results, or the ablations' networks."""
    from inference.views import compare as run

    pairs = [(name, Path(path)) for name, path in panels]
    _say(run(pairs, out, columns, panel_px))


@main.command()
@click.option(
    "--out",
    "out_dir",
    default="out",
    type=OutputFolder("demo.mp4", "demo.png"),
    help="Folder of demo.mp4 and demo.png.",
)
@click.option(
    "-s",
    "--source",
    type=PORTRAIT,
    help="Portrait photo instead of the one that ships with the project.",
)
@click.option(
    "--motion",
    "motion_path",
    type=InputFile("a motion file"),
    help="Motion file instead of the shipped one.",
)
@click.option(
    "--network", "network_path", type=CHECKPOINT, help="Checkpoint instead of the shipped one."
)
@dnnlib.cli.device_option()
@set_option
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
    from inference.tracked import AUTO, NetworkTracker

    network = shipped.load_demo_network(
        network_path or shipped.NETWORK, device, overrides=overrides
    )
    motion = load_motion(motion_path or shipped.MOTION)
    tracker = NetworkTracker(network, size=AUTO)
    photo = (
        tracker.image(shipped.astronaut(), "astronaut") if source is None else tracker.photo(source)
    )
    report, sheet = shipped.run_demo(network, photo, out_dir, motion)
    _say(report)
    click.echo(f"wrote {sheet}")
    click.echo("Your own photo and video:")
    click.echo(
        f"  {_interpreter()} gen_videos.py animate --source photo.jpg --driving clip.mp4 "
        f"{f'--network {network_path} ' if network_path else ''}--out animated.mp4"
    )


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _interpreter() -> Path:
    # Not resolved: behind its link, an environment's interpreter is one without the project's packages.
    return _relative(Path(sys.executable))


def _say(report: Report, *drivers: Driving) -> None:
    from inference.tracked import notes_on

    for driving in drivers:
        report.notes += notes_on(driving)
    for line in report.lines():
        click.echo(line)


if __name__ == "__main__":
    main()
