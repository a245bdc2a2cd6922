"""Addresses of APIs, as settings name them. Pure."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

# Scheme, host or [address], port, path, as the API clients take them: neither user nor password
# (they would reach logs), neither query nor fragment (paths are appended), nothing to be escaped.
_API_ADDRESS = re.compile(
    r"https?://([a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
    r"(/[a-z0-9_~-][a-z0-9._~-]*)*/*",
    re.IGNORECASE,
)
_NUMBER_AND_DOTS = re.compile(r"[0-9.]+")


def is_api_address(address: str) -> bool:
    """Whether it is an http(s) address of a host, a port and a path, and of nothing else."""
    return _API_ADDRESS.fullmatch(address) is not None and _is_reachable(address)


def _is_reachable(address: str) -> bool:
    """Whether port and numeric host of a well-formed address are in range."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        if ":" in host or _NUMBER_AND_DOTS.fullmatch(host):
            ip_address(host)
        return parts.port != 0
    except ValueError:
        return False


def is_private(host: str) -> bool:
    """Whether a host is this machine, a private address, or a name that only a cluster knows."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".svc", ".local", ".internal", ".localhost"))
