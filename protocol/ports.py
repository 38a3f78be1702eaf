"""Where the directory's node listens: addresses and ports as p2pd wants them."""

import errno
import ipaddress
import socket

from hearthring.protocol.errors import DirectoryDown, PortInUse


def multiaddr(host: str, port: int) -> str:
    """``/ip4/…/tcp/…`` or ``/ip6/…``; ``/dns4/…`` where the host is a name."""
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns4"
    return f"/{kind}/{host}/tcp/{port}"


def listening(host: str) -> str:
    """The address of a host to listen on: p2pd takes no names."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        raise DirectoryDown(f"{host} is no address of this machine", field="host") from None


def reserve(host: str, port: int) -> int:
    """A port nobody listens on, any if 0. Raises ``PortInUse``.

    p2pd announces only explicit ports, and would share one with another process without a word.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{port} is taken", field="port", mend="choose another, or 0 for any"
            ) from None
        raise DirectoryDown(f"{host} is no address of this machine", field="host") from None
