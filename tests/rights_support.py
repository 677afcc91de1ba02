"""Files whose modes count, although the tests may run as root."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any


def drop_rights() -> None:
    """Let the bits of files count for root, too, in this thread: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(head, data) == 0:
        for i in (0, 1):  # effective, permitted
            data[i] &= ~0b110
        libc.capset(head, data)


def without_rights(act: Callable[[], Any]) -> Any:
    """What `act` returns or raises where the bits of files count."""
    said: dict[str, Any] = {}

    def run() -> None:
        drop_rights()
        try:
            said["value"] = act()
        except BaseException as error:
            said["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in said:
        raise said["error"]
    return said["value"]
