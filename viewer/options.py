"""Command-line options of `visualizer.py`, gathered into one typed value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dnnlib.errors import UserError
from dnnlib.options import option
from dnnlib.params import InputFile, Number, Whole
from inference.options import PORTRAIT

_HOST = re.compile(r"[0-9A-Za-z.:-]{1,253}")


@dataclass(frozen=True, kw_only=True)
class ServeChoice:
    """Where the viewer listens, to how many, and what it offers."""

    sources: tuple[Path, ...] = option(
        "-s --source",
        default=(),
        multiple=True,
        type=PORTRAIT,
        help="Portrait photo to offer beside the examples; repeatable, the first is shown first.",
    )
    drivings: tuple[Path, ...] = option(
        "-d --driving",
        default=(),
        multiple=True,
        type=InputFile("a video, a motion template or a motion file"),
        help="Video, motion template or motion file to offer as a driver; repeatable.",
    )
    host: str = option(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="Address to listen on. Others than this machine's own (0.0.0.0: all) ask visitors for a token, which is "
        "printed with the address.",
    )
    port: int = option(
        "--port",
        default=8080,
        type=Whole(0, 65535),
        help="Port to listen on, the next free one if it is taken; 0: any free one.",
    )
    max_visitors: int = option(
        "--max-visitors", default=8, type=Whole(1, 100), help="How many may look at once."
    )
    seconds: float = option(
        "--seconds", default=0.0, type=Number(0, 1e7), help="Stop after so long; 0: at Ctrl-C."
    )

    def check(self) -> None:
        """Raises UserError for a host that is no address."""
        if not _HOST.fullmatch(self.host):
            raise UserError(
                f"--host {self.host!r} is no address; give 127.0.0.1, 0.0.0.0 or one of this machine's"
            )
