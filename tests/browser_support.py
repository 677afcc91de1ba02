"""A headless Chromium, driven over its debugging socket."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WAIT_S = 120  # of a busy machine; nothing is asserted about it


def chromium() -> str | None:
    """The program, None where none is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One process; `page` opens another page in it, with cookies of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self._log = (folder / "chromium.log").open("wb")
        flags = (
            "--headless=new",
            "--no-sandbox",
            "--remote-debugging-port=0",
            "--window-size=1100,800",
        )
        flags += (
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--disable-dev-shm-usage",
        )
        flags += ("--disable-background-networking", "--no-first-run", "--no-proxy-server")
        command = [program, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(command, stderr=self._log, stdout=self._log)
        end_s = time.monotonic() + _WAIT_S
        while not (found := re.search(rb"DevTools listening on (ws://\S+)", self._read(folder))):
            assert time.monotonic() < end_s and self._process.poll() is None, self._read(folder)
            time.sleep(0.2)
        self.socket = Socket(found[1].decode())

    @staticmethod
    def _read(folder: Path) -> bytes:
        return (folder / "chromium.log").read_bytes()

    def page(self, url: str) -> Page:
        context = self.socket.ask("Target.createBrowserContext")["browserContextId"]
        made = self.socket.ask("Target.createTarget", url="about:blank", browserContextId=context)
        return Page(self.socket, made["targetId"], url)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


class Socket:
    """Commands and answers; what the browser tells meanwhile is kept in `events`."""

    def __init__(self, url: str) -> None:
        self._connection: ClientConnection = connect(url, max_size=None, proxy=None)
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": values}
        if session is not None:
            message["sessionId"] = session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=_WAIT_S))
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self.events.append(answer)


class Page:
    """One page; pixels are those of the window."""

    def __init__(self, socket: Socket, target: str, url: str) -> None:
        self._socket, self.target = socket, target
        attached = socket.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=url)

    def ask(self, method: str, **values: Any) -> dict[str, Any]:
        return self._socket.ask(method, self._session, **values)

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression once it is true."""
        end_s = time.monotonic() + _WAIT_S
        while not (value := self.value(script)):
            assert time.monotonic() < end_s, (script, self.text()[-2000:])
            time.sleep(0.1)
        return value

    def text(self) -> str:
        return str(self.value("document.body ? document.body.innerText : ''"))

    def wait_for(self, text: str) -> None:
        self.wait(f"document.body && document.body.innerText.includes({json.dumps(text)})")

    def click(self, text: str) -> None:
        """Clicks the button with this text."""
        find = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {json.dumps(text)})"
        self.wait(f"!!({find})")
        self.value(f"({find}).click()")

    def type_number(self, label: str, number: float) -> None:
        """Types into the number beside a slider."""
        find = (
            "(() => { const l = [...document.querySelectorAll('label')].find(l => l.innerText.trim() === "
            f"{json.dumps(label)}); let e = l; while (e && !e.querySelector('input[inputmode]')) e = e.parentElement; "
            "return e && e.querySelector('input[inputmode]'); })()"
        )
        self.wait(f"!!({find})")
        self.value(f"({find}).focus(); ({find}).select()")
        self.ask("Input.insertText", text=str(number))
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
            )

    def drag(self, start: tuple[int, int], end: tuple[int, int], steps: int = 8) -> None:
        """Moves the mouse from one place to another, its left button held."""
        at = {"button": "left", "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], **at)
        for i in range(1, steps + 1):
            x, y = (round(a + (b - a) * i / steps) for a, b in zip(start, end, strict=True))
            self.ask(
                "Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1
            )
            time.sleep(0.03)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **at)

    def choose_file(self, button: int, path: Path) -> None:
        """Gives a file to the page's upload button of this number."""
        root = self.ask("DOM.getDocument", depth=-1)["root"]["nodeId"]
        nodes = self.ask("DOM.querySelectorAll", nodeId=root, selector="input[type=file]")[
            "nodeIds"
        ]
        self.ask("DOM.setFileInputFiles", files=[str(path)], nodeId=nodes[button])

    def screenshot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def requested(self) -> set[str]:
        """Addresses that the page asked for, sockets included."""
        found = set()
        for event in self._socket.events:
            if event.get("sessionId") != self._session:
                continue
            if event["method"] == "Network.requestWillBeSent":
                found.add(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                found.add(event["params"]["url"])
        return {url for url in found if not url.startswith(("data:", "blob:", "about:"))}

    def close(self) -> None:
        self._socket.ask("Target.closeTarget", targetId=self.target)
