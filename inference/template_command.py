"""`gen_videos.py track`: a clip's motion as a template (docs/videos.md)."""

from __future__ import annotations

from pathlib import Path

import click

import dnnlib.cli
from conventions.spaces import SPACES
from dnnlib.clips import ClipOf
from dnnlib.options import gathered
from dnnlib.params import InputFile, Option, OutputFile
from inference.options import ClipChoice

# What is heavy is imported when it is called, so that --help is quick.

TEMPLATE_CROP_PX = 256  # of crops that are tracked and not kept


@dnnlib.cli.command("track")
@gathered("driving", ClipChoice)
@click.option(
    "-o", "--out", required=True, type=OutputFile(".safetensors"), help="Motion template to write."
)
@click.option(
    "--space",
    default="arkit52",
    type=click.Choice(list(SPACES)),
    help="Expression space: that of the networks which it is to drive.",
)
@click.option(
    "--bfm-weights",
    cls=Option,
    only_with={"space": ("bfm64",)},
    type=InputFile("Deep3DFaceRecon's weights"),
    help="Deep3DFaceRecon's weights, for bfm64.",
)
def track(driving: ClipChoice, out: Path, space: str, bfm_weights: Path | None) -> None:
    """Keep a clip's motion as a template, which drives as the clip does; no picture is in it."""
    from inference.stored import open_clip
    from inference.template import Template, save_template
    from inference.tracked import follow_clip, new_tracker, notes_on

    path = driving.driving
    if isinstance(path, ClipOf):
        stored = open_clip(path.folder, path.clip, TEMPLATE_CROP_PX, driving.max_frames)
        template = Template.of_clip(stored, stored.space, stored.tracker_record)
    else:
        tracker = new_tracker(space, bfm_weights)
        how = (driving.smooth, driving.max_frames, driving.driver_face)
        clip = follow_clip(tracker, path, TEMPLATE_CROP_PX, *how)
        template = Template.of_clip(clip, tracker.space, tracker.record)
    save_template(out, template)
    for line in notes_on(template):
        click.echo(line)
    click.echo(f"wrote {out}: the motion of {len(template.betas)} frames")
