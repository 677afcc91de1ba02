"""Visitors of the viewer without a browser: viser's own messages over a socket; and a studio that needs no tracker."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import numpy as np
import viser
import zstandard
from animate_support import FakeClip, photo, tiny_network
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from dnnlib import UserError
from dnnlib.reading.pictures import read_picture
from inference.tracked import Driving
from viewer.server import Viewer
from viewer.session import Studio

_QUIET_S = 0.3  # on the way from viser's queue to a visitor on this machine
_WAIT_S = 60  # of a busy machine; nothing is asserted about it


class NoTracker:
    """Takes every picture for an aligned crop, by the doors that the tracker uses."""

    def photo(self, path: Path, face: str = "largest") -> Any:
        image = np.asarray(Image.fromarray(read_picture(path)).resize((32, 32)))
        return replace(photo(path.stem), crop=image)

    def clip(self, path: Path, smooth: bool, max_frames: int | None, face: str) -> Driving:
        if not path.read_bytes()[4:8] == b"ftyp":
            raise UserError(f"{path} cannot be read as a video; convert it to MP4 or give another")
        return FakeClip(5, path.name)


def tiny_studio(folder: Path) -> Studio:
    """Two plain pictures as examples, no drivers."""
    photos = {}
    for name, grey in (("dark", 40), ("light", 200)):
        photos[name] = folder / f"{name}.png"
        Image.new("RGB", (32, 32), (grey, grey, grey)).save(photos[name])
    return Studio(tiny_network(), NoTracker(), photos, {})  # type: ignore[arg-type]


@contextmanager
def serving(studio: Studio, host: str = "127.0.0.1", visitors: int = 4) -> Iterator[Viewer]:
    viewer = Viewer(studio, host, 0, visitors)
    try:
        yield viewer
    finally:
        viewer.stop()


class Visitor:
    """A client that keeps what it is told."""

    def __init__(
        self, viewer: Viewer, headers: dict[str, str] | None = None, query: str = ""
    ) -> None:
        self._viewer = viewer
        self.messages: list[dict[str, Any]] = []
        self._heard_s = 0.0  # the last of them
        self._connection = connect(
            f"ws://127.0.0.1:{viewer.port}/{query}",
            subprotocols=[Subprotocol(f"viser-v{viser.__version__}")],
            additional_headers=headers,
            max_size=None,
            proxy=None,
            open_timeout=_WAIT_S,
        )
        Thread(target=self._listen, daemon=True).start()
        self.look_from((0.0, 0.0, 2.7))

    def _listen(self) -> None:
        try:
            for raw in self._connection:
                assert isinstance(raw, bytes)
                size = int.from_bytes(raw[8:16], "little")
                unpacked = zstandard.ZstdDecompressor().decompress(raw[16 : 16 + size])
                self.messages += msgspec.msgpack.decode(unpacked)["messages"]
                self._heard_s = time.monotonic()
        except ConnectionClosed:
            pass

    def send(self, kind: str, **values: Any) -> None:
        self._connection.send(msgspec.msgpack.encode({"type": kind, **values}))

    def look_from(self, position: tuple[float, float, float]) -> None:
        rest = {"fov": 1.3, "near": 0.01, "far": 1000.0, "image_height": 300, "image_width": 300}
        self.send(
            "ViewerCameraMessage",
            wxyz=(1.0, 0.0, 0.0, 0.0),
            position=position,
            look_at=(0.0, 0.0, 0.0),
            up_direction=(0.0, 1.0, 0.0),
            **rest,
        )

    def touch(self, label: str, value: Any) -> None:
        self.send("GuiUpdateMessage", uuid=self.handle(label), updates={"value": value})

    def handle(self, label: str) -> str:
        """The number of a slider or button."""

        def find() -> str | None:
            for m in self.messages:
                if m["type"].startswith("Gui") and (m.get("props") or {}).get("label") == label:
                    return str(m["uuid"])
            return None

        return str(wait(find))

    def upload(self, button: str, name: str, content: bytes, claim: int | None = None) -> None:
        size, part = claim or len(content), 512 * 1024
        ids = {"source_component_uuid": self.handle(button), "transfer_uuid": uuid.uuid4().hex}
        parts = [content[i : i + part] for i in range(0, len(content), part)]
        kind = {
            "filename": name,
            "mime_type": "image/png",
            "part_count": len(parts),
            "size_bytes": size,
        }
        self.send("FileTransferStartUpload", **ids, **kind)
        for i, piece in enumerate(parts):
            self.send("FileTransferPart", **ids, part_index=i, content=piece)

    @property
    def notes(self) -> list[str]:
        """What was said to it."""
        shown = [m for m in self.messages if m["type"] == "NotificationShowMessage"]
        return [m["props"]["body"] for m in shown]

    def told(self, text: str) -> str:
        return str(wait(lambda: next((n for n in self.notes if text in n), None)))

    @property
    def pictures(self) -> list[bytes]:
        shown = [m for m in self.messages if m["type"] == "BackgroundImageMessage"]
        return [m["rgb_data"] for m in shown if m["format"] == "jpeg"]

    def seen(self) -> np.ndarray:
        """The picture of now."""
        return np.asarray(Image.open(io.BytesIO(self.pictures[-1]))).astype(float)

    def rests(self, unlike: np.ndarray | None = None) -> np.ndarray:
        """A picture in full, which differs by more than a grey level from another one."""

        def find() -> np.ndarray | None:
            if not (self.pictures and self._at_rest()):
                return None
            seen = self.seen()
            return seen if unlike is None or np.abs(seen - unlike).mean() > 1 else None

        end_s = time.monotonic() + _WAIT_S
        while (found := find()) is None:
            assert time.monotonic() < end_s, self.notes
            time.sleep(0.1)
        return found

    def _at_rest(self) -> bool:
        """Whether the newest pictures of all are those that do not move, and all of it has come here.

        The times in the messages do not tell it: viser sends no text that is the same as before.
        """
        times = [panel.times for panel in self._viewer.panels]
        drawn = all(times) and not any("moving" in t for t in times)
        return drawn and time.monotonic() - self._heard_s > _QUIET_S

    def close(self) -> None:
        self._connection.close()


def wait(condition: Callable[[], Any]) -> Any:
    """What a condition gives once it is true."""
    end_s = time.monotonic() + _WAIT_S
    while not (value := condition()):
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.02)
    return value
