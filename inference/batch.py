"""Several sources or drivers: a folder of videos, each driver tracked once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

from dnnlib.clips import ClipOf
from dnnlib.errors import UserError
from dnnlib.listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES, listed
from inference.animate import AnimateOptions, Source, animate
from inference.network import Network
from inference.output import Report
from inference.tracked import Driving

SUFFIX = ".mp4"  # of the videos in a folder
SUFFIX_TRANSPARENT = ".webm"


def sources_in(paths: Sequence[Path]) -> list[Path]:
    """The photos and videos that are named, and those that lie in a folder that is.

    Raises:
        UserError: a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        inside = listed(path, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} holds no photos or videos; give another folder")
        found += inside
    return found


def check_folder(out: Path, sources: Sequence[Path], drivings: Sequence[Path | ClipOf]) -> bool:
    """Whether a folder of videos is made: there are several sources or drivers, or a folder of sources.

    Raises:
        UserError: one is to be made, and `out` is the name of a file.
    """
    many = len(sources) > 1 or len(drivings) > 1 or any(path.is_dir() for path in sources)
    if many and out.suffix:
        raise UserError(
            f"--out {out} is one file for several videos; give a name without {out.suffix}, for a folder"
        )
    return many


def names_of(
    sources: Sequence[Path], drivings: Sequence[Path | ClipOf], suffix: str = SUFFIX
) -> list[str]:
    """A file name for each pair, source after source: SOURCE.mp4, or SOURCE-DRIVER.mp4; no name twice."""
    names: list[str] = []
    for source, driving in product(sources, drivings):
        stem = source.stem if len(drivings) == 1 else f"{source.stem}-{driving.stem}"
        name, number = stem, 1
        while f"{name}{suffix}" in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(f"{name}{suffix}")
    return names


def animate_all(
    network: Network,
    sources: Sequence[Path],
    drivings: Sequence[Path | ClipOf],
    out: Path,  # a folder
    options: AnimateOptions,
    load_source: Callable[[Path], Source],
    load_driving: Callable[[Path | ClipOf], Driving],
) -> Iterator[Report]:
    """A video for each source with each driver, one report after the other.

    What cannot be read is left out, and said at the end; the other videos stay.

    Raises:
        UserError: a driver cannot be read, or (after the last video) some sources could not.
    """
    drivers = [load_driving(path) for path in drivings]
    transparent = options.background.kind == "transparent"
    names = iter(names_of(sources, drivings, SUFFIX_TRANSPARENT if transparent else SUFFIX))
    failures: list[str] = []
    for path in sources:
        mine = [next(names) for _ in drivers]
        try:
            source = load_source(path)
        except UserError as error:
            failures.append(str(error))
            continue
        for driving, name in zip(drivers, mine, strict=True):
            yield animate(network, source, driving, out / name, options)
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise UserError(
            f"{len(failures)} of {len(sources)} sources were left out: {failures[0]}{more}"
        )
