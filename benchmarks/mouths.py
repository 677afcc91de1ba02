"""Mouths that open and lips that close: how far the picture is off there, against true frames of synthetic people.

    python -m benchmarks.mouths --network now=models/demo.safetensors --json benchmarks/results/mouths.json

The photo of each person and the frame that is wanted differ in the mouth alone. Source and driver are given by what the
tracker reads from them, as for people. Three cases: the jaw opens, it opens from a smile, a grin closes. The number
is the mean absolute error of 0..255 within a disc around the mouth of the true frame, at the network's resolution; that
of showing the photo stands beside it.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

import dnnlib.cli
from benchmarks.options import PEOPLE, json_option
from conventions.cameras import camera_label, project_points
from dataset.synthesis.heads import SyntheticHeads
from dataset.synthesis.motion import units_to_beta
from dnnlib.errors import UserError
from dnnlib.files import write_json
from dnnlib.params import NamedInput
from inference.network import Expressive, Network
from inference.tracked import NetworkTracker

CASES = {  # units of the photo, of the wanted frame
    "opens": ({}, {"jawOpen": 0.8}),
    "opens from a smile": (
        {"mouthSmile": 0.8, "mouthUpperUp": 0.5, "mouthLowerDown": 0.4},
        {"jawOpen": 0.8},
    ),
    "closes from a grin": ({"mouthSmile": 0.8, "mouthUpperUp": 0.5, "mouthLowerDown": 0.4}, {}),
}
MIDDLE, RADIUS = (0.0, -0.115, 0.22), 0.07  # world units
CAMERA_PX = 256
SEED = 1  # of people whom the shipped network does not know


def mouth_disc(camera: np.ndarray, size: int) -> np.ndarray:
    """bool [size, size] around the open mouth of an aligned head."""
    centre, beside = project_points(np.array([MIDDLE]) + [[0, 0, 0], [RADIUS, 0, 0]], camera) * size
    rows, columns = np.indices((size, size)) + 0.5
    near: np.ndarray = np.hypot(columns - centre[0], rows - centre[1]) < np.hypot(
        *(beside - centre)
    )
    return near


def errors(networks: dict[str, Network], people: int) -> dict[str, dict[str, list[float]]]:
    """Case -> network, or "photo" -> error of each person in whom the tracker finds a face."""
    heads = SyntheticHeads(SEED, 0.0)
    tracker = NetworkTracker(next(iter(networks.values())), size=0)
    found: dict[str, dict[str, list[float]]] = {
        case: {name: [] for name in ("photo", *networks)} for case in CASES
    }
    for person in range(people):
        camera = camera_label(0.15 * (person % 3 - 1), 0.0)
        for case, units in CASES.items():
            pictures = [
                heads.render(person, units_to_beta(**u), camera, CAMERA_PX).image for u in units
            ]
            try:
                photo, wanted = (tracker.image(x, f"person {person}") for x in pictures)
            except UserError:  # no face found: hair or glasses of some hide it
                continue
            disc = mouth_disc(wanted.camera, len(wanted.crop))
            shown = {"photo": photo.crop}
            for name, network in networks.items():
                source = network.encode(photo.crop, photo.camera, photo.beta)
                head = Expressive(network, source)
                shown[name] = head.frame(wanted.beta, wanted.camera).image
            for name, image in shown.items():
                off = np.abs(image.astype(float) - wanted.crop)[disc].mean()
                found[case][name].append(float(off))
    return found


@dnnlib.cli.command()
@click.option(
    "--network", "named", multiple=True, required=True, type=NamedInput(wanted="a checkpoint of train.py"),
    help="NAME=PATH of a checkpoint of train.py; repeatable.",
)  # fmt: skip
@click.option("--people", default=40, type=PEOPLE, help="How many.")
@json_option
def main(named: tuple[tuple[str, str], ...], people: int, json_path: Path | None) -> None:
    """Measure and print."""
    found = errors({name: Network.load(path) for name, path in named}, people)
    result = {
        case: {
            name: {"error": round(float(np.mean(x)), 2), "people": len(x)} for name, x in of.items()
        }
        for case, of in found.items()
    }
    for case, of in result.items():
        click.echo(f"{case:22}" + "  ".join(f"{name} {x['error']:.2f}" for name, x in of.items()))
    if json_path is not None:
        write_json(json_path, result)


if __name__ == "__main__":
    main()
