"""Who may come in: a check of every request, before viser sees it.

On the loopback address everybody on this machine may, but no page of another site: its script in a visitor's browser
could connect as well (the Origin check), under a name of its own that leads here (the Host check). On other addresses
a token is asked for. The address that is printed holds it; it becomes a cookie, which the page's socket brings along.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

MAX_MESSAGE_BYTES = 2 * 2**20  # of one message from a browser; parts of files have 512 KiB
_STARTING = Lock()
# The page is one file of viser's with its own scripts; nothing is fetched from elsewhere.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


class Gate:
    """Answers requests that are not to come in."""

    def __init__(self, host: str, token: str | None, max_visitors: int) -> None:
        self.token = token
        self.max_visitors = max_visitors
        self.count: Callable[[], int] = lambda: max_visitors  # inside; nobody until it is said
        self._names = {"localhost", "127.0.0.1", "::1", host} if token is None else None
        self._cookie = f"export3d-{secrets.token_hex(4)}"  # browsers share cookies between ports

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to who may not come in (or comes with a token to be kept), None to who may."""
        address = urlsplit(f"//{request.headers.get('Host', '')}")
        if self._names is not None and address.hostname not in self._names:
            return connection.respond(403, "Open the viewer under the address that it printed.\n")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != address.netloc:
            return connection.respond(403, "Pages of other sites may not use the viewer.\n")
        asked = urlsplit(request.path)
        by_address = self._is_token(parse_qs(asked.query).get("token", [""])[0])
        if self.token is not None and not (by_address or self._is_token(self._kept(request))):
            return connection.respond(
                403, "Open the viewer under the address that it printed, with its token.\n"
            )
        if self.count() >= self.max_visitors:
            return connection.respond(503, "The viewer is full; try again later.\n")
        if by_address and request.headers.get("Upgrade") is None:
            # out of the address bar, the history and what links tell
            answer = connection.respond(303, "\n")
            answer.headers["Location"] = "/"
            answer.headers["Set-Cookie"] = (
                f"{self._cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            )
            return answer
        return None

    def _kept(self, request: Request) -> str:
        try:
            cookies = SimpleCookie("; ".join(request.headers.get_all("Cookie")))
        except CookieError:
            return ""
        return cookies[self._cookie].value if self._cookie in cookies else ""

    def _is_token(self, given: str) -> bool:
        if self.token is None or not given:
            return False
        return hmac.compare_digest(given.encode(), self.token.encode())


@contextmanager
def guarded(gate: Gate) -> Iterator[None]:
    """A viser server that starts inside has this gate.

    viser makes its own websockets server and takes no check of requests; it is put in where that server is made.

    Raises:
        RuntimeError: viser made its server in another way, so that nothing is checked.
    """
    with _STARTING:
        real = websockets.asyncio.server.serve
        made = []

        def serve(*args: Any, process_request: Any, **options: Any) -> Any:
            def check(connection: ServerConnection, request: Request) -> Response | None:
                answer = gate.refuse(connection, request)
                if answer is None:
                    answer = process_request(connection, request)
                if answer is not None:
                    for name, value in _HEADERS.items():
                        answer.headers[name] = value
                return answer

            made.append(args)
            options["max_size"] = MAX_MESSAGE_BYTES
            return real(*args, process_request=check, **options)

        websockets.asyncio.server.serve = serve  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            websockets.asyncio.server.serve = real  # type: ignore[misc]
        if not made:
            raise RuntimeError("this version of viser has no gate; install the locked one")
