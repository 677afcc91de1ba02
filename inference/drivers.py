"""Whatever drives: a video, a GIF, a picture, a folder of frames, a motion template or a motion written by hand."""

from __future__ import annotations

from pathlib import Path

from conventions.spaces import check_same_space
from dnnlib.clips import ClipOf
from inference.motion import load_motion
from inference.network import Network
from inference.template import TEMPLATE_SUFFIX, Template, load_template
from inference.tracked import Driving, NetworkTracker, check_trained_on


def is_motion(path: Path) -> bool:
    """Whether a name is that of a motion without pictures."""
    return path.suffix.lower() in (TEMPLATE_SUFFIX, ".json")


def load_driver(
    path: Path | ClipOf,
    network: Network,
    tracker: NetworkTracker,
    smooth: bool = True,
    max_frames: int | None = None,
    face: str = "largest",
) -> Driving:
    """The motion of whatever drives, tracked where it is seen in pictures.

    Raises:
        UserError: it cannot be read, shows no (such) face, or is of another expression space or tracker.
    """
    if isinstance(path, ClipOf):
        return tracker.stored(path, max_frames)
    if not is_motion(path):
        return tracker.clip(path, smooth, max_frames, face)
    if path.suffix.lower() == ".json":
        template = Template.of_motion(load_motion(path), network.space, path.name, network.name)
    else:
        template = load_template(path)
        check_same_space(network.space, template.space, f"{network.name} and {path}")
        check_trained_on(network, {}, template.tracker)
    return template if max_frames is None else template.first(max_frames)
