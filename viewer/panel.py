"""One visitor's panel: sliders and buttons change their session, their mouse turns the view, the renderer shows it."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import viser
from viser import _messages as messages

from conventions.cameras import CAMERA_RADIUS
from conventions.spaces import EXPRESSION_REGIONS, REGIONS, units_of
from dnnlib.errors import UserError
from inference.looks import KINDS
from viewer.canvas import on_canvas, view_angles_deg
from viewer.inbox import DRIVER, PHOTO, Inbox, Wanted
from viewer.renderer import Renderer
from viewer.session import (
    DIRECTION_RANGE,
    SAVED,
    SHOWN_DIRECTIONS,
    STRENGTH_MAX,
    UNIT_RANGE,
    Saved,
    Session,
)

NOBODY = "nothing"
TOLD_S = 0.25  # between two tellings of times and of the clip's place
PING_S = 2.0
_OTHER = "other"


class Panel:
    """What one visitor sees and touches."""

    def __init__(
        self,
        client: viser.ClientHandle,
        session: Session,
        renderer: Renderer,
        worker: ThreadPoolExecutor,
    ) -> None:
        self.client, self.session = client, session
        self._renderer, self._worker = renderer, worker
        self._lock = Lock()
        self._busy = False
        self._told_s = 0.0
        self._round_trip_s: float | None = None
        self._pinging: Future[None] | None = None
        self._wanted: dict[str, Wanted] = {}  # upload button -> what it takes
        self._inbox = Inbox(session.folder, self._received, self.refuse)
        self.times = ""  # as they are shown

    # ---- coming and going ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Lay out the panel and show the first example."""
        self._take_messages()
        gui = self.client.gui
        self._status = gui.add_markdown("")
        with gui.add_folder("Photo"):
            self._add_photos()
        with gui.add_folder("What is shown"):
            shown = gui.add_dropdown("output", KINDS, initial_value="image")
            _touched(shown, lambda: self._change(self.session.set_kind, shown.value))
            _touched(gui.add_button("Photo's own view"), self._front)
        with gui.add_folder("Driver"):
            self._add_driver()
        with gui.add_folder("Save"):
            for what in SAVED:
                _touched(gui.add_button(f"{what} ({SAVED[what]})"), partial(self._save, what))
            gui.add_markdown("The same from the command line:")
            self._command = gui.add_markdown("")
        with gui.add_folder("Expression"):
            self._add_units()
        self.client.camera.on_update(lambda _: self._turn())
        server = self.client._viser_server
        with contextlib.suppress(RuntimeError):  # the server has just been stopped
            self._pinging = asyncio.run_coroutine_threadsafe(self._ping(), server._event_loop)
        if first := next(iter(self.session.studio.photos), None):
            self._choose_photo(first)

    def close(self) -> None:
        """The visitor has gone: forget what was theirs."""
        self._renderer.forget(self)
        if self._pinging is not None:
            self._pinging.cancel()
        self._inbox.close()
        self.session.close()

    # ---- what is drawn: the renderer's thread -------------------------------------------------------------------

    @property
    def playing(self) -> bool:
        return self.session.playing

    def draw(self, moving: bool, asked_s: float) -> None:
        """Make the picture of this moment and send it."""
        try:
            shot = self.session.picture(moving)
        except UserError as error:
            self._renderer.forget(self)
            self.refuse(str(error))
            return
        if shot is None or self.session.closed:
            return
        camera = self.client.camera
        page = on_canvas(shot.image, camera.image_width, camera.image_height, moving)
        self.client.scene.set_background_image(
            page, format="jpeg", jpeg_quality=80 if moving else 95
        )
        self.client.flush()
        now = perf_counter()
        self._tell(
            f"{1e3 * shot.seconds:.0f} ms to render, {1e3 * (now - asked_s):.0f} ms from touch to picture, "
            f"{self._trip()} to the browser and back; {len(shot.image)} px{', moving' if moving else ''}",
            not moving,
        )

    def _tell(self, times: str, at_rest: bool) -> None:
        self.times = times
        now = perf_counter()
        if not at_rest and now - self._told_s < TOLD_S:
            return
        self._told_s = now
        self._status.content = times
        if self.session.n_frames:
            self._time.value = min(self.session.wish.frame, self.session.n_frames - 1)
        if at_rest:
            self._command.content = f"```sh\n{self.session.command()}\n```"

    def _trip(self) -> str:
        return "?" if self._round_trip_s is None else f"{1e3 * self._round_trip_s:.0f} ms"

    async def _ping(self) -> None:
        """Measures the way to the browser and back, as long as it is there."""
        connections = self.client._viser_server._websock_server._live_connections
        while (connection := connections.get(self.client.client_id)) is not None:
            try:
                self._round_trip_s = await (await connection.ping())
            except Exception:  # it has gone
                return
            await asyncio.sleep(PING_S)

    # ---- what is touched: viser's threads -----------------------------------------------------------------------

    def refuse(self, sentence: str) -> None:
        """Say what went wrong."""
        if self.session.closed:
            return
        self.client.add_notification("That did not work", sentence, color="red")

    def _change(self, change: Callable[..., None], *values: object) -> None:
        change(*values)
        self._renderer.ask(self)

    def _turn(self) -> None:
        camera = self.client.camera
        angles = view_angles_deg(camera.position.tolist(), camera.look_at.tolist())
        self._change(self.session.set_view, *angles)

    def _front(self) -> None:
        camera = self.client.camera
        with self.client.atomic():
            camera.position = (0.0, 0.0, CAMERA_RADIUS)
            camera.look_at = (0.0, 0.0, 0.0)
            camera.up_direction = (0.0, 1.0, 0.0)

    def _add_photos(self) -> None:
        gui, photos = self.client.gui, self.session.studio.photos
        if photos:
            examples = gui.add_dropdown("example", tuple(photos))
            _touched(examples, lambda: self._choose_photo(examples.value))
        upload = gui.add_upload_button("Your photo", mime_type="image/*")
        self._wanted[upload._impl.uuid] = PHOTO

    def _add_driver(self) -> None:
        gui, session = self.client.gui, self.session
        drivers = gui.add_dropdown("example", (NOBODY, *session.studio.drivers))
        _touched(drivers, lambda: self._choose_driver(drivers.value))
        upload = gui.add_upload_button(
            "Your video or motion", mime_type="video/*,image/gif,.safetensors,.json"
        )
        self._wanted[upload._impl.uuid] = DRIVER
        self._play = gui.add_button("Play", disabled=True)
        _touched(self._play, lambda: self._set_playing(not session.playing))
        self._time: Any = gui.add_slider("frame", 0, 1, 1, 0, disabled=True)
        _touched(self._time, lambda: self._change(session.set_frame, self._time.value))
        strength = gui.add_slider("strength", 0.0, STRENGTH_MAX, 0.05, 1.0)
        _touched(strength, lambda: self._change(session.set_steer, strength.value))
        relative = gui.add_checkbox("only its change (relative)", False)
        _touched(relative, lambda: self._change(session.set_steer, None, relative.value))
        for region in REGIONS:
            self._add_region(region)

    def _add_region(self, region: str) -> None:
        box = self.client.gui.add_checkbox(f"follow {region}", True)

        def follow() -> None:
            self._change(self.session.set_steer, None, None, {region: box.value})

        _touched(box, follow)

    def _add_units(self) -> None:
        gui, session = self.client.gui, self.session
        space = session.studio.network.space
        sliders: list[Any] = []

        def slider(label: str, reach: float, change: Callable[..., None], key: object) -> None:
            made = gui.add_slider(label, -reach, reach, 0.01, 0.0)
            _touched(made, lambda: self._change(change, key, made.value))
            sliders.append(made)

        def none() -> None:
            for made in sliders:
                made.value = 0.0
            self._change(session.reset)

        _touched(gui.add_button("Nothing added"), none)
        groups = {region: units_of(space, region) for region in EXPRESSION_REGIONS}
        named = {i for units in groups.values() for i in units}
        groups[_OTHER] = tuple(i for i in range(space.dim) if i not in named)
        for region, units in groups.items():
            if not units:
                continue
            with gui.add_folder(region, expand_by_default=region == "mouth"):
                for i in units:
                    slider(space.names[i], UNIT_RANGE, session.set_unit, space.names[i])
        count = min(SHOWN_DIRECTIONS, len(session.studio.network.directions()))
        if count:
            with gui.add_folder(f"directions v1 to v{count}", expand_by_default=False):
                for i in range(count):
                    slider(f"v{i + 1}", DIRECTION_RANGE, session.set_direction, i)

    def _set_playing(self, playing: bool) -> None:
        self.session.play(playing)
        self._play.label = "Pause" if self.session.playing else "Play"
        self._renderer.ask(self)

    # ---- what takes longer: the worker --------------------------------------------------------------------------

    def _choose_photo(self, name: object) -> None:
        path = self.session.studio.photos.get(str(name))
        if path is not None:
            self._work(f"looking at {name}", lambda: self.session.take_photo(path))

    def _choose_driver(self, name: object) -> None:
        path = self.session.studio.drivers.get(str(name))
        self._work(f"following {name}", lambda: self._take_driver(path, None))

    def _take_driver(self, path: Path | None, words: str | None) -> None:
        self.session.take_driver(path, words)
        count = self.session.n_frames
        self._play.disabled = self._time.disabled = count < 2
        self._play.label = "Play"
        self._time.max = max(1, count - 1)
        self._time.value = 0
        if count > 1:
            self._set_playing(True)

    def _save(self, what: Saved) -> None:
        def save() -> None:
            self.client.send_file_download(*self.session.save(what), save_immediately=True)

        self._work(f"making the {what}", save)

    def _received(self, button: str, name: str, path: Path) -> None:
        if self._wanted[button] is PHOTO:
            self._work(f"looking at {name}", lambda: self.session.take_photo(path, name), path)
        else:
            self._work(f"following {name}", lambda: self._take_driver(path, name), path)

    def _work(self, what: str, job: Callable[[], None], sent: Path | None = None) -> None:
        """One thing at a time: who waits for something is not to ask for more. sent: a file to delete if it fails."""
        with self._lock:
            if self._busy:
                self.refuse("One thing is still being made; wait for it and try again.")
                if sent is not None:
                    sent.unlink(missing_ok=True)
                return
            self._busy = True
        note = self.client.add_notification(
            "One moment", what, loading=True, with_close_button=False
        )

        def run() -> None:
            try:
                if not self.session.closed:
                    job()
                    self._renderer.ask(self)
            except UserError as error:
                self.refuse(str(error))
                if sent is not None:
                    sent.unlink(missing_ok=True)
            except Exception:
                if not self.session.closed:
                    traceback.print_exc()
                    self.refuse("The viewer failed at it; its log says why.")
            finally:
                self._busy = False
                note.remove()

        try:
            self._worker.submit(run)
        except RuntimeError:  # the server stops
            self._busy = False

    # ---- messages of the browser --------------------------------------------------------------------------------

    def _take_messages(self) -> None:
        """Files go to the inbox instead of memory; of a slider nothing but its value may be set."""
        connection = self.client._websock_connection
        for kind in (messages.FileTransferStartUpload, messages.FileTransferPart):
            connection.unregister_handler(kind)
        connection.register_handler(messages.FileTransferStartUpload, self._start_file)
        connection.register_handler(messages.FileTransferPart, self._part_of_file)
        update = connection._incoming_handlers[messages.GuiUpdateMessage][:]
        connection.unregister_handler(messages.GuiUpdateMessage)

        async def values_alone(client_id: Any, message: Any) -> None:
            if set(message.updates) == {"value"}:
                for handler in update:
                    await handler(client_id, message)  # type: ignore[misc]

        connection.register_handler(messages.GuiUpdateMessage, values_alone)

    def _start_file(self, client_id: Any, message: Any) -> None:
        wanted = self._wanted.get(message.source_component_uuid)
        if wanted is None:
            return
        button, transfer = message.source_component_uuid, message.transfer_uuid
        if not self._inbox.start(transfer, button, wanted, message.filename, message.size_bytes):
            self._acknowledge(button, transfer, message.size_bytes, message.size_bytes)

    def _part_of_file(self, client_id: Any, message: Any) -> None:
        button, transfer = message.source_component_uuid, message.transfer_uuid
        upload = self._inbox.size(transfer)
        if upload is None:
            return
        taken = self._inbox.part(transfer, message.part_index, message.content)
        # one that is refused is at its end, too: its button is to be used again
        self._acknowledge(button, transfer, upload if taken is None else taken, upload)

    def _acknowledge(self, button: str | None, transfer: str, taken: int, size: int) -> None:
        self.client._websock_connection.queue_message(
            messages.FileTransferPartAck(button, transfer, taken, size)
        )


def _touched(handle: Any, action: Callable[[], None]) -> None:
    """Runs an action when the visitor changes or clicks a handle, not when the program does."""

    def run(event: Any) -> None:
        if event.client is not None:
            action()

    is_button = isinstance(handle, viser.GuiButtonHandle)
    (handle.on_click if is_button else handle.on_update)(run)
