"""Gathers what the network is like: binds, asks the kernel, and a STUN server only if one is named."""

import errno
import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from voicerelay.cli import network
from voicerelay.cli.doctor.facts import Binding, Conntrack, Mapping, NetworkFacts, Wanted
from voicerelay.cli.doctor.firewall import iptables_objections, nft_objections
from voicerelay.cli.doctor.stun_query import CHANGE_ADDRESS_AND_PORT, Reply, query, read_reply
from voicerelay.cli.network import host_port
from voicerelay.relay.links import SEND_BUFFER_BYTES

COMMAND_TIMEOUT_S = 5.0
STUN_TRIES = 3
STUN_WAIT_S = 0.5
MAX_DATAGRAM_BYTES = 2048


def gather_network(
    wanted: Wanted, instance: dict[str, Any] | None, stun: tuple[str, int] | None
) -> NetworkFacts:
    """`instance`: status of the one that runs; its sockets count then.

    `stun`: host and port of a server that may be asked; nobody else is contacted.
    """
    udp = tuple(_binding(host, wanted.port, socket.SOCK_DGRAM) for host in wanted.hosts)
    return NetworkFacts(
        udp=udp,
        http=_binding(wanted.http_host, wanted.http_port, socket.SOCK_STREAM),
        instance_pid=instance["pid"] if instance else None,
        host_addresses=tuple(network.host_addresses(4) + network.host_addresses(6)),
        receive_buffer_bytes=(instance or {}).get("receive_buffer_bytes")
        or _receive_buffer_bytes(),
        receive_buffer_wanted_bytes=network.RECEIVE_BUFFER_BYTES,
        frame_buffer_bytes=_frame_buffer_bytes(),
        dgram_qlen=_number("/proc/sys/net/unix/max_dgram_qlen"),
        conntrack=_conntrack(),
        firewall=_firewall(wanted.port),
        mapping=_ask(wanted, stun) if stun else None,
        key_file_mode=_mode(wanted.key_file),
    )


def _binding(host: str, port: int, kind: socket.SocketKind) -> Binding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, kind) as sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(1)
    except (OSError, UnicodeError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else "") or str(exc)
        in_use = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        return Binding(host, reason, in_use)
    return Binding(host)


def _receive_buffer_bytes() -> int:
    """As a public socket gets it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        network.size_buffers(sock)
        return network.receive_buffer_bytes([[sock]])


def _frame_buffer_bytes() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2


def _conntrack() -> Conntrack | None:
    folder = Path("/proc/sys/net/netfilter")
    entries, limit = (
        _number(str(folder / name)) for name in ("nf_conntrack_count", "nf_conntrack_max")
    )
    return None if entries is None or not limit else Conntrack(entries, limit)


def _firewall(port: int) -> tuple[str, ...] | None:
    """Objections; None when a tool is there that does not let this user read."""
    if os.geteuid() != 0:
        return None
    found: list[str] = []
    nft = _output("nft", "-j", "list", "ruleset")
    if nft:
        with suppress(ValueError):
            found += nft_objections(nft, port)
    for tool in ("iptables-save", "ip6tables-save"):
        found += iptables_objections(_output(tool), port)
    return tuple(dict.fromkeys(found))


def _output(*command: str) -> str:
    """Of a command; empty where it is missing or fails."""
    path = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin:/sbin")
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, *command[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _mode(path: str) -> int | None:
    if not path or not os.access(path, os.R_OK):
        return None
    return Path(path).stat().st_mode


def _ask(wanted: Wanted, server: tuple[str, int]) -> Mapping:
    """From the public port where it is free, else from another: its packets are the instance's."""
    name = host_port(*server)
    try:
        family, _, _, _, target = socket.getaddrinfo(*server, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            public_port = _bind_like_ours(sock, wanted)
            reply, _ = _exchange(sock, target, 0)
            if reply is None:
                return Mapping(name, error=f"no answer within {STUN_TRIES * STUN_WAIT_S:.1f} s")
            unsolicited: bool | None = None
            if reply.has_other:
                _, source = _exchange(sock, target, CHANGE_ADDRESS_AND_PORT)
                # A server that answers from where it was asked has ignored the wish.
                unsolicited = None if source == target[:2] else source is not None
            return Mapping(
                name,
                source=host_port(*sock.getsockname()[:2]),
                mapped=host_port(reply.host, reply.port),
                public_port=public_port,
                unsolicited=unsolicited,
            )
    except (OSError, UnicodeError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else "") or str(exc)
        return Mapping(name, error=reason)


def _bind_like_ours(sock: socket.socket, wanted: Wanted) -> bool:
    """Whether it could be bound to the public port of a listen address."""
    hosts = [host for host in wanted.hosts if (":" in host) == (sock.family == socket.AF_INET6)]
    for port in (wanted.port, 0):
        with suppress(OSError):
            sock.bind((hosts[0] if hosts else "", port))
            return bool(hosts and port)
    return False


def _exchange(
    sock: socket.socket, target: Any, change: int
) -> tuple[Reply | None, tuple[str, int] | None]:
    """The reply and where it came from; (None, None) when none came."""
    transaction = secrets.token_bytes(12)
    for _ in range(STUN_TRIES):
        sock.sendto(query(transaction, change), target)
        deadline = time.monotonic() + STUN_WAIT_S
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                data, source = sock.recvfrom(MAX_DATAGRAM_BYTES)
            except (TimeoutError, ConnectionRefusedError):
                break
            reply = read_reply(data, transaction)
            if reply is not None:
                return reply, source[:2]
    return None, None
