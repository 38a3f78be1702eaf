"""The home's Ethernet switch: one process, a TAP device in every namespace.

Whole frames pass through, so TCP, QUIC and TLS all meet delay, loss and rates, where many kernels
have no netem. In pure Python it carries about 280 Mbit/s. Started by ``home.py``: its first line on
stdin lists the ports, every later one is an order, answered by one line on stdout. It ends when
stdin does.
"""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from typing import Any

from bench.homelab.link import Link

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_BURST = 64
"""Frames read from one port before the others get a turn."""
_UNITS = {"up": 1e6 / 8, "down": 1e6 / 8, "delay": 1e-3, "jitter": 1e-3, "loss": 1.0}


def open_tap(number: int, namespace: str, address: str) -> int:
    """A TAP device as ``eth0`` of a namespace; the file descriptor of its other end."""
    tap = f"hl{os.getpid()}_{number}"[:15]
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", tap.encode(), _IFF_TAP | _IFF_NO_PI))
    for words in (
        ("link", "set", tap, "netns", namespace, "name", "eth0"),
        ("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0"),
        ("-n", namespace, "link", "set", "eth0", "up"),
        ("-n", namespace, "link", "set", "lo", "up"),
    ):
        subprocess.run(["ip", *words], check=True)
    return handle


class Switch:
    """Learns addresses, floods what it doesn't know, and holds frames until they are due."""

    def __init__(self, links: dict[int, Link], seed: int) -> None:
        self.links, self._draw = links, random.Random(seed)
        self._by_name = {link.name: link for link in links.values()}
        self._handles = {link.name: handle for handle, link in links.items()}
        self._table: dict[bytes, Link] = {}
        self._due: list[tuple[float, int, Link, bytes]] = []
        self._serial = 0

    def order(self, words: dict[str, Any]) -> dict[str, Any]:
        """Obey one order: change a link, or what it is deaf to; the answer tells losses."""
        link = self._by_name[words["machine"]]
        for name, value in words.get("change", {}).items():
            setattr(link, name, float(value) * _UNITS[name])
        if "deaf_to" in words:
            link.deaf_to = set(words["deaf_to"])
        return {"dropped": link.dropped}

    def wait(self) -> float | None:
        """Seconds until the next frame is due."""
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def deliver(self) -> None:
        """Hand over what is due."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, link, frame = heapq.heappop(self._due)
            try:
                os.write(self._handles[link.name], frame)
            except OSError:
                link.dropped += 1

    def take(self, handle: int) -> None:
        """Read what a machine has sent."""
        source, now = self.links[handle], time.monotonic()
        for _ in range(_BURST):
            try:
                frame = os.read(handle, 65536)
            except OSError:
                return
            self._table[frame[6:12]] = source
            known = None if frame[0] & 1 else self._table.get(frame[:6])
            left = source.send(len(frame), now, self._draw)
            if left is None:
                continue
            for link in [known] if known else self.links.values():
                if link is source:
                    continue
                at = link.arrival(len(frame), left, source, self._draw)
                if at is not None:
                    self._serial += 1
                    heapq.heappush(self._due, (at, self._serial, link, frame))


def main() -> None:
    """Serve until stdin ends."""
    ports = json.loads(sys.stdin.readline())
    links = {}
    for number, port in enumerate(ports["ports"]):
        handle = open_tap(number, port["namespace"], port["address"])
        shape = {name: port[name] * unit for name, unit in _UNITS.items()}
        links[handle] = Link(port["name"], **shape)
    switch = Switch(links, ports["seed"])
    poll = select.epoll()
    for handle in (sys.stdin.fileno(), *links):
        poll.register(handle, select.EPOLLIN)
    print("{}", flush=True)
    waiting = b""
    while True:
        switch.deliver()
        for handle, _ in poll.poll(switch.wait()):
            if handle in links:
                switch.take(handle)
                continue
            data = os.read(handle, 65536)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                print(json.dumps(switch.order(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
