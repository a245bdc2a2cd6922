"""Binding the service's address before anything else is started, and room for connections."""

import errno
import resource
import socket
from typing import Any

from app.errors import SettingsError


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to all addresses of `host`, not listening yet: until then nobody connects.

    Raises SettingsError, one line, where the address cannot be had. Found only after the database
    and the workers have started, a taken port would cost a minute of start and a clean way down.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                bound.append(_bound(socket.socket(family, kind, protocol), address))
            except OSError as error:
                # `localhost` has an IPv6 address also where the machine has no IPv6.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
        if not bound:
            raise OSError(errno.EADDRNOTAVAIL, "no such address on this machine")
    except OSError as error:
        for sock in bound:
            sock.close()
        said = (error.strerror or type(error).__name__).lower()
        raise SettingsError(f"--host, --port: cannot listen on {host}:{port}: {said}") from None
    return bound


def _bound(sock: socket.socket, address: tuple[Any, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


# Beside the connections that are served: those to the database, Stripe and OpenMeter, and logs.
_OTHER_FILES = 1_200


def allow_files(connections: int) -> None:
    """Raise this process's limit of open files, as far as it may, to so many connections.

    Many systems begin with 1,024. At the limit a server cannot even accept a connection in order
    to refuse it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
