"""Notifications to systemd: readiness, reloads, stopping, a status line, and the watchdog.

Source: sd_notify(3). One datagram each; the packages for it on the index are unmaintained or need a compiler and
libsystemd, for these few lines.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends to `NOTIFY_SOCKET`; without that variable it does nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC", "")
        for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_seconds = int(usec) / 2e6 if usec.isdecimal() and for_us else 0.0

    def tell(self, *assignments: str) -> None:
        """Sends assignments, for example ``"READY=1", "STATUS=serving"``. A manager that does not listen is ignored."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, suppress(OSError):
            channel.setblocking(False)  # a stuck manager must not block the event loop
            channel.sendto("\n".join(assignments).encode(), address)

    def reloading(self) -> None:
        """Sends `RELOADING=1` with the time on CLOCK_MONOTONIC, by which systemd knows that this reload began after its
        SIGHUP (systemd.service(5), `Type=notify-reload`). `READY=1` must follow.
        """
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading the configuration")

    def keep_alive(self) -> None:
        """Sends `WATCHDOG=1` at half of `WATCHDOG_USEC` from now on; a stuck event loop sends none."""
        if self._watchdog_seconds > 0:
            self.tell("WATCHDOG=1")
            asyncio.get_running_loop().call_later(self._watchdog_seconds, self.keep_alive)
