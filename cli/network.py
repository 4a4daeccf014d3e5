"""Addresses to listen on, and the public sockets: one SO_REUSEPORT group for each address."""

import errno
import ipaddress
import socket
import time
from contextlib import suppress

import psutil

from voicerelay.cli.errors import UserError

RECEIVE_BUFFER_BYTES = 8 << 20
SEND_BUFFER_BYTES = 2 << 20
MAX_LISTEN_ADDRESSES = 16
PORT_WAIT_S = 2.0  # for the last processes of a killed instance to be gone
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # <asm-generic/socket.h>; no constants in Python 3.11


def primary_address() -> str:
    """The address this host uses towards others; loopback when it has no other."""
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((probe, 9))  # a UDP connect sends nothing, it only asks the routes
            return str(sock.getsockname()[0])
    return next(iter(host_addresses(4) + host_addresses(6)), "127.0.0.1")


def expand(listen: list[str]) -> list[str]:
    """Explicit addresses for what the user asked for; a wildcard becomes all of the host's.

    Raises UserError.
    """
    hosts: list[str] = []
    for text in listen or [primary_address()]:
        address = _parse(text, "--listen")
        hosts += host_addresses(address.version) if address.is_unspecified else [str(address)]
    found = list(dict.fromkeys(hosts))
    if not found:
        raise UserError("--listen: the wildcard matches no address of this host; name one")
    if len(found) > MAX_LISTEN_ADDRESSES:
        raise UserError(f"--listen: {len(found)} addresses, at most {MAX_LISTEN_ADDRESSES}")
    return found


def candidate_hosts(listen: list[str], public: list[str]) -> list[str]:
    """What clients are told for each listen address: itself, or the public address for it.

    Raises UserError.
    """
    if not public:
        return listen
    parsed = [str(_parse(text, "--public-ip")) for text in public]
    if len(parsed) == len(listen):
        return parsed
    by_version = {ipaddress.ip_address(host).version: host for host in parsed}
    if len(by_version) != len(parsed):
        raise UserError("--public-ip: give one for each --listen address, or one for each family")
    return [by_version.get(ipaddress.ip_address(host).version, host) for host in listen]


def open_public_sockets(hosts: list[str], port: int, relays: int) -> list[list[socket.socket]]:
    """For each relay one bound UDP socket an address. Raises UserError."""
    for host in hosts:
        _probe(host, port, socket.SOCK_DGRAM, "UDP", "--port")
    return join_public_sockets(hosts, port, relays)


def join_public_sockets(hosts: list[str], port: int, processes: int) -> list[list[socket.socket]]:
    """More sockets in the same groups. Raises UserError."""
    try:
        return [[_bind_udp(host, port) for host in hosts] for _ in range(processes)]
    except OSError as exc:
        raise UserError(_explain(exc, hosts[0], port, "UDP", "--port")) from None


def host_port(host: str, port: int) -> str:
    """As in a URL: IPv6 addresses stand in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_http(host: str, port: int) -> None:
    """Raises UserError when the HTTP address cannot be bound."""
    _probe(host, port, socket.SOCK_STREAM, "HTTP", "--http")


def receive_buffer_bytes(sockets: list[list[socket.socket]]) -> int:
    """What the smallest receive buffer has; RECEIVE_BUFFER_BYTES unless the host's limit is lower."""
    return min(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        // 2  # the kernel doubles it, socket(7)
        for group in sockets
        for sock in group
    )


def size_buffers(sock: socket.socket) -> None:
    """As large as wanted, or as the host's limits allow."""
    for force, plain, size in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)  # capped by rmem_max, wmem_max


def close_all(sockets: list[list[socket.socket]]) -> None:
    for group in sockets:
        for sock in group:
            sock.close()


def _parse(text: str, option: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise UserError(f'{option}: "{text}" is not an IP address, such as 192.0.2.10') from None
    nobody = address.is_unspecified and option == "--public-ip"
    broadcast = text == "255.255.255.255"
    if (
        nobody
        or broadcast
        or address.is_multicast
        or (address.version == 6 and address.is_link_local)
    ):
        raise UserError(f"{option}: {text} cannot be called; give a unicast, routable address")
    return address


def host_addresses(version: int) -> list[str]:
    """This host's own, neither loopback nor link-local; `version`: 4 or 6."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found = []
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family != family:
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if not address.is_loopback and not address.is_link_local:
                found.append(str(address))
    return found


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _probe(host: str, port: int, kind: socket.SocketKind, name: str, option: str) -> None:
    """Bind without SO_REUSEPORT: fails while anybody, also an earlier instance, has the port."""
    deadline = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            with socket.socket(_family(host), kind) as sock:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((host, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(1)
            return
        except (TypeError, UnicodeError):
            raise UserError(f'{option}: "{host}" is not a host name or IP address') from None
        except OSError as exc:
            # In use: by an instance that is just ending. Not available: an IPv6 address whose
            # duplicate address detection is under way, as at boot.
            again = exc.errno == errno.EADDRINUSE or (
                exc.errno == errno.EADDRNOTAVAIL and host in host_addresses(6)
            )
            if not again or time.monotonic() > deadline:
                raise UserError(_explain(exc, host, port, name, option)) from None
        time.sleep(0.05)


def _bind_udp(host: str, port: int) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    size_buffers(sock)
    sock.bind((host, port))
    return sock


def _explain(exc: OSError, host: str, port: int, name: str, option: str) -> str:
    where = f"{name} {host_port(host, port)}"
    match exc.errno:
        case errno.EADDRINUSE:
            return f"{where} is in use; stop what uses it (ss -lpn) or choose another {option}"
        case errno.EACCES | errno.EPERM:
            return f"no permission for {where}; choose a {option} above 1023 or run with the right"
        case errno.EADDRNOTAVAIL:
            return f"{where}: {host} is not an address of this host (ip addr shows them)"
        case errno.EMFILE | errno.ENFILE:
            return f"{where}: too many open files; raise the limit (ulimit -n)"
        case _:
            return f"{where}: {exc.strerror}"
