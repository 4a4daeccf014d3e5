"""Whom a load test may be turned on: this machine, or whatever its user says explicitly."""

import ipaddress
import socket
from functools import cache
from urllib.parse import urlsplit

import psutil

from voicerelay.cli.errors import UserError

FIRST_SOURCE = int(ipaddress.IPv4Address("127.0.0.2"))  # Linux answers for all of 127.0.0.0/8


def check_url(url: str, allow_remote: bool) -> None:
    """Raises UserError for what is no HTTP URL, or not of this machine."""
    try:
        parts = urlsplit(url)
        host, usable = parts.hostname, parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        host, usable = None, False
    if not host or not usable:
        raise UserError(
            f'"{url}" is no URL, such as http://127.0.0.1:8080 or http://127.0.0.1:8080/whip'
        )
    if parts.username or parts.password:
        raise UserError("URL: processes show their arguments; use --key-file")
    if not allow_remote and not all(is_here(address) for address in addresses_of(host)):
        raise UserError(f"{host} is not this machine; give --allow-remote if you may load it")


def addresses_of(host: str) -> list[str]:
    """What a name stands for. Raises UserError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        raise UserError(f"{host}: there is no such host") from None
    return [str(entry[4][0]) for entry in found]


def is_here(address: str) -> bool:
    """Whether an address is one of this machine's."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return parsed.is_loopback or str(parsed) in _own_addresses()


def sources(url: str, count: int) -> list[str]:
    """Addresses of this machine that calls come from: several where the server is here too. Raises UserError."""
    address = addresses_of(urlsplit(url).hostname or "")[0]
    if is_here(address) and ":" not in address:
        return [str(ipaddress.IPv4Address(FIRST_SOURCE + index)) for index in range(count)]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing
        except OSError as exc:
            raise UserError(f"{address} cannot be reached: {exc.strerror}") from None
        return [str(probe.getsockname()[0])]


@cache
def _own_addresses() -> frozenset[str]:
    return frozenset(
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )
