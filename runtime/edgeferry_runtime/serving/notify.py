"""Words to the service manager that started the server, where there is one.

Source: systemd, sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping


class Notify:
    """Tells a service manager what the server is doing; without one, nothing.

    Args:
        environment: The environment, whose ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` count.

    Attributes:
        watchdog_s: How long the manager waits for a sign of life; None where it waits for none.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if self._address and usec.isdigit() and int(usec) and ours else None

    def tell(self, *lines: str) -> None:
        """Tell it; a manager that does not listen is left alone."""
        if self._address:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    async def watch(self, is_well: Callable[[], bool]) -> None:
        """Give two signs of life in each interval, while the loop turns and the server is well; does not end by itself.

        Args:
            is_well: Tells whether it is.
        """
        while self.watchdog_s is not None:
            if is_well():
                self.tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)
