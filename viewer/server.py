"""viser's server with a gate, one renderer and one worker; each visitor gets a session and a panel of their own."""

from __future__ import annotations

import contextlib
import io
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import viser
from viser import _messages as messages

from conventions.cameras import CAMERA_RADIUS
from dnnlib.errors import UserError
from viewer.gate import Gate, guarded, is_loopback, new_token
from viewer.panel import Panel
from viewer.renderer import Renderer
from viewer.session import Session, Studio

TITLE = "Export3D"


class Viewer:
    """A running server. `stop` it.

    Raises:
        UserError: the address cannot be listened on.
    """

    def __init__(self, studio: Studio, host: str, port: int, max_visitors: int) -> None:
        self.studio = studio
        self.token = None if is_loopback(host) else new_token()
        self._host = host
        self._panels: dict[int, Panel] = {}
        self._lock = Lock()
        gate = Gate(host, self.token, max_visitors)
        # viser prints an address, which lacks the token, and reports its own end
        with contextlib.redirect_stdout(io.StringIO()), guarded(gate):
            self._server = _start(host, port)
        self._max_visitors = max_visitors
        self._harden()
        self.renderer = Renderer()
        self.worker = ThreadPoolExecutor(1, "worker")
        camera = self._server.initial_camera
        camera.position, camera.look_at, camera.up = (
            (0.0, 0.0, CAMERA_RADIUS),
            (0.0, 0.0, 0.0),
            (0.0, 1.0, 0.0),
        )
        self._server.scene.set_up_direction("+y")
        self._server.gui.configure_theme(
            show_logo=False,
            show_share_button=False,
            control_width="large",
        )
        self._server.gui.set_panel_label(TITLE)
        self._server.gui.main_panel.dock_right()
        self._server.on_client_disconnect(self._leave)
        self._server.on_client_connect(self._enter)
        gate.count = self.count  # from now on it opens

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.get_port())

    @property
    def url(self) -> str:
        """The address to open, with the token if there is one."""
        host = {"0.0.0.0": _own_name(), "::": _own_name()}.get(self._host, self._host)
        host = f"[{host}]" if ":" in host else host
        token = f"/?token={self.token}" if self.token else "/"
        return f"http://{host}:{self.port}{token}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Of the visitors that are here."""
        with self._lock:
            return tuple(self._panels.values())

    def count(self) -> int:
        """Visitors that are connected."""
        return len(self._server._websock_server._live_connections)

    def stop(self) -> None:
        """Send everybody home."""
        for panel in self.panels:
            self._forget(panel.client.client_id)
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()
        self.renderer.stop()
        self.worker.shutdown(wait=False, cancel_futures=True)

    def _harden(self) -> None:
        """Takes away what viser lets every visitor ask of the server as a whole."""
        server = self._server._websock_server
        # a tunnel to a service elsewhere, open to everybody
        server.unregister_handler(messages.ShareUrlRequest)
        server.unregister_handler(messages.ShareUrlDisconnect)
        # files for everybody; each visitor's own go to their inbox
        server.unregister_handler(messages.FileTransferStartUpload)
        server.unregister_handler(messages.FileTransferPart)

    def _enter(self, client: viser.ClientHandle) -> None:
        with self._lock:
            # two may pass the gate at the same moment
            full = len(self._panels) >= self._max_visitors
            if not full:
                panel = Panel(client, Session(self.studio), self.renderer, self.worker)
                self._panels[client.client_id] = panel
        if full:
            client.add_notification(TITLE, "The viewer is full; try again later.", color="red")
            return
        panel.open()
        if client.client_id not in self._server.get_clients():  # left meanwhile
            self._forget(client.client_id)

    def _leave(self, client: viser.ClientHandle) -> None:
        self._forget(client.client_id)

    def _forget(self, client_id: int) -> None:
        with self._lock:
            panel = self._panels.pop(client_id, None)
        if panel is not None:
            panel.close()


def _start(host: str, port: int) -> viser.ViserServer:
    # viser tries 1000 ports and then waits for ever: what cannot be listened on is said before
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise UserError(
            f"--host {host} cannot be listened on ({error.strerror or error}); give 127.0.0.1 or 0.0.0.0"
        ) from error
    return viser.ViserServer(host=host, port=port, label=TITLE, verbose=False)


def _own_name() -> str:
    return socket.gethostname()
