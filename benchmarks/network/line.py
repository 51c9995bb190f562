"""A line with delay and loss: packets between this machine and a network namespace, carried by hand.

``python line.py NAMESPACE HERE THERE DELAY_MS LOSS`` joins two TUN devices, one on each side, until it is killed. It
needs root, and a kernel with TUN; netem is not needed. Delay and loss hold for each direction.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
TUN_WITHOUT_HEADER = 0x0001 | 0x1000
AT_ONCE = 64
MTU = 1500


def open_tun(name: str) -> int:
    """Make a TUN device and return its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), TUN_WITHOUT_HEADER))
    return descriptor


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *arguments], check=True)


def join(namespace: str, here: str, there: str) -> dict[int, int]:
    """Make both ends, give them their addresses, and return by descriptor the other one."""
    near, far = open_tun("efline0"), open_tun("efline1")
    ip("link", "set", "efline1", "netns", namespace)
    ip("addr", "add", here, "peer", there, "dev", "efline0")
    ip("link", "set", "efline0", "up", "mtu", str(MTU))
    ip("-n", namespace, "addr", "add", there, "peer", here, "dev", "efline1")
    ip("-n", namespace, "link", "set", "efline1", "up", "mtu", str(MTU))
    return {near: far, far: near}


def carry(ends: dict[int, int], delay_s: float, loss: float) -> None:
    """Carry packets for ever."""
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select(list(ends), [], [], timeout)
        due = time.monotonic() + delay_s
        for end in readable:
            for packet in packets(end):
                if random.random() >= loss:  # noqa: S311 - no secret depends on it
                    count += 1
                    heapq.heappush(waiting, (due, count, ends[end], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):
                os.write(end, packet)


def packets(end: int) -> list[bytes]:
    """Return what has arrived at one end, but not too much at once."""
    found: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while len(found) < AT_ONCE:
            found.append(os.read(end, 2 * MTU))
    return found


if __name__ == "__main__":
    ends = join(*sys.argv[1:4])
    sys.stdout.write("up\n")
    sys.stdout.flush()
    carry(ends, float(sys.argv[4]) / 1000, float(sys.argv[5]))
