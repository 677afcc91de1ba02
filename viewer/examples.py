"""What the viewer offers before anybody sends something: photos and motions that ship, and those of who starts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import skimage.data

from dnnlib.errors import UserError
from inference.demo import MODELS_DIR
from inference.drivers import is_motion, load_driver
from inference.options import NetworkChoice
from tracking.pictures import open_pictures
from viewer.session import Studio
from viewer.words import network_words

EXAMPLES = MODELS_DIR / "examples"
ASTRONAUT = Path(skimage.data.__file__).parent / "astronaut.png"


def studio_of(
    choice: NetworkChoice, photos: Sequence[Path] = (), drivers: Sequence[Path] = ()
) -> Studio:
    """The network and what is offered with it; what the user names comes first.

    Raises:
        UserError: the network cannot be loaded, a photo or driver cannot be read, no face is in a photo, or two files
            have one name.
    """
    network, tracker = choice.load()
    for photo in photos:  # told now, not to the first visitor
        tracker.photo(photo)
    for driver in drivers:
        if is_motion(driver):
            load_driver(driver, network, tracker)
        else:
            next(iter(open_pictures(driver).timed()))
    offered = {**_by_name(photos), "astronaut": ASTRONAUT}
    offered |= {p.stem.replace("_", " "): p for p in sorted(EXAMPLES.glob("*.jpg"))}
    motions = {p.stem.replace("_", " "): p for p in sorted(EXAMPLES.glob("*.json"))}
    if network.space.name != "arkit52":
        motions = {}  # they name its units
    return Studio(
        network, tracker, offered, {**_by_name(drivers), **motions}, tuple(network_words(choice))
    )


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        if path.name in named:
            raise UserError(f"{path} and {named[path.name]} have one name; rename one of them")
        named[path.name] = path
    return named
