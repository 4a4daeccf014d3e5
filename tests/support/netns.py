"""Hosts, links and a NAT made of network namespaces: real kernels' rules, and nothing on the machine's own net.

A test enters a namespace with its own thread; what it starts there (sockets, threads, a server, a
browser) stays there:

    with behind_nat() as net, serving(net.server, listen=[SERVER_V4]) as running:
        with net.clients[0].entered():
            asyncio.run(call(running.http_url))
"""

import contextlib
import ctypes
import functools
import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.server import Server, server

PREFIX = "vrtest"
COMMAND_TIMEOUT_S = 10
UDP_PORT = 3478
HTTP_PORT = 8080

# Documentation addresses (RFC 5737, RFC 3849) stand for the public net, RFC 1918 for behind the NAT.
SERVER_V4, SERVER_V6 = "203.0.113.10", "2001:db8:1::10"
PEER_V4, PEER_V6 = "203.0.113.20", "2001:db8:1::20"
NAT_ADDRESSES = ("203.0.113.1", "203.0.113.2")
FIRST_PUBLIC_PORT = 40_000

_CLONE_NEWNET = 0x40000000
_HOME = Path("/run/netns")
_NAME = re.compile(rf"{PREFIX}-(\d+)-\d+-\w+")
_numbers = itertools.count(1)

# Netlink (linux/netlink.h, linux/netfilter/nfnetlink_conntrack.h); no constants in Python.
_NETLINK_NETFILTER = 12
_CTNETLINK_DELETE = 1 << 8 | 2  # subsystem, message; without attributes it means all
_REQUEST_AND_ACK = 1 | 4
_FLUSH = struct.pack("=IHHIIBBH", 20, _CTNETLINK_DELETE, _REQUEST_AND_ACK, 1, 0, 0, 0, 0)
_NETLINK_ERROR = struct.Struct("=IHHIIi")


class NetnsError(Exception):
    """A command failed or the kernel refused; the text says which and why."""


@functools.cache
def obstacle() -> str:
    """Why no namespaces can be made here, for a skip; empty when they can."""
    missing = [name for name in ("ip", "nft", "unshare") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    allowed = subprocess.run(["unshare", "-mn", "true"], check=False, capture_output=True)
    return "needs root with CAP_SYS_ADMIN" if allowed.returncode else ""


class Namespace:
    """One host; `namespace()` makes it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._interfaces = 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread in, and back at the end; do not await in between in a shared loop.

        A thread or process that is started inside belongs to the namespace for all its life.
        """
        with open("/proc/thread-self/ns/net", "rb") as before, open(_HOME / self.name, "rb") as new:
            _set_namespace(new.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    def run(self, *command: str, stdin: str = "") -> None:
        """Run a command inside. Raises NetnsError when it fails."""
        with self.entered():
            _run(*command, stdin=stdin)

    def sysctl(self, name: str, value: int) -> None:
        """Set a sysctl below `net`, such as "ipv4/ip_forward"."""
        with self.entered():
            Path("/proc/sys/net", name).write_text(str(value))

    def add_addresses(self, *addresses: str, interface: str = "eth0") -> None:
        """Give an interface more addresses, "ADDRESS/LENGTH"."""
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", interface)

    def default_route(self, gateway: str) -> None:
        """Send everything else to `gateway`."""
        self.run("ip", "-6" if ":" in gateway else "-4", "route", "add", "default", "via", gateway)

    def next_interface(self) -> str:
        """eth0, eth1, ... in the order of the links."""
        self._interfaces += 1
        return f"eth{self._interfaces - 1}"


@contextlib.contextmanager
def namespace(label: str) -> Iterator[Namespace]:
    """A new host with loopback only; it goes away with all its links."""
    _remove_leftovers()
    name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}-{label}"
    _run("ip", "netns", "add", name)
    try:
        host = Namespace(name)
        host.run("ip", "link", "set", "lo", "up")
        if has_ipv6():
            for scope in ("all", "default"):
                # An address would be unusable for its first second (duplicate address detection).
                host.sysctl(f"ipv6/conf/{scope}/accept_dad", 0)
        yield host
    finally:
        _run("ip", "netns", "delete", name)


def link(
    one: Namespace, other: Namespace, ones: Sequence[str] = (), others: Sequence[str] = ()
) -> tuple[str, str]:
    """A cable between two hosts with the addresses ("ADDRESS/LENGTH") of its ends; its interfaces."""
    here, there = one.next_interface(), other.next_interface()
    peer = ("peer", "name", there, "netns", other.name)
    one.run("ip", "link", "add", here, "type", "veth", *peer)
    for host, interface, addresses in ((one, here, ones), (other, there, others)):
        host.run("ip", "link", "set", interface, "up")
        host.add_addresses(*addresses, interface=interface)
    return here, there


@dataclass
class Pair:
    """A server and a client on one link, no route beyond."""

    server: Namespace
    client: Namespace


@contextlib.contextmanager
def pair(*, v4: bool = False, v6: bool = False) -> Iterator[Pair]:
    """A server and a client that share a link, with SERVER_* and PEER_* of the wanted families."""
    with namespace("server") as server, namespace("client") as client:
        server_end = [f"{SERVER_V4}/24"] * v4 + [f"{SERVER_V6}/64"] * v6
        client_end = [f"{PEER_V4}/24"] * v4 + [f"{PEER_V6}/64"] * v6
        link(server, client, server_end, client_end)
        yield Pair(server, client)


@dataclass
class NatNetwork:
    """Clients that reach the server through a NAT.

    Each client has one public UDP port for itself, so a test knows as whom the server sees it. A
    second socket of a client gets nothing through until `rebind` has freed the port.
    """

    server: Namespace
    nat: Namespace
    clients: list[Namespace]
    _public: dict[int, tuple[str, int]] = field(default_factory=dict)

    def rebind(self, public: Mapping[int, tuple[str, int]]) -> None:
        """Forget every mapping; client number -> public address and UDP port from now on.

        A client that is not named gets nothing through.
        """
        self._public = dict(public)
        self.nat.run("nft", "-f", "-", stdin=self._rules())
        with self.nat.entered():
            _flush_conntrack()

    def _rules(self) -> str:
        sources = {number: _client_address(number) for number in self._public}
        translations = "\n".join(
            f"ip saddr {sources[number]} meta l4proto udp snat to {host}:{port}\n"
            f"ip saddr {sources[number]} snat to {host}"
            for number, (host, port) in self._public.items()
        )
        passing = "\n".join(f"ip saddr {source} accept" for source in sources.values())
        # Packets to a mapping that is gone are dropped silently, as home routers do.
        return f"""
            table ip voicerelay
            delete table ip voicerelay
            table ip voicerelay {{
                chain translate {{
                    type nat hook postrouting priority srcnat;
                    {translations}
                }}
                chain pass {{
                    type filter hook forward priority filter; policy drop;
                    ct state established accept
                    {passing}
                }}
                chain local {{
                    type filter hook input priority filter; policy drop;
                }}
            }}"""


@contextlib.contextmanager
def behind_nat(clients: int = 1) -> Iterator[NatNetwork]:
    """Clients behind a NAT with the public NAT_ADDRESSES, on one link with SERVER_V4.

    Client n has the first address and port FIRST_PUBLIC_PORT + n until `rebind`.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(namespace("server"))
        nat = stack.enter_context(namespace("nat"))
        link(nat, server, [f"{host}/24" for host in NAT_ADDRESSES], [f"{SERVER_V4}/24"])
        nat.sysctl("ipv4/ip_forward", 1)
        network = NatNetwork(server, nat, [])
        for number in range(clients):
            client = stack.enter_context(namespace(f"client{number}"))
            link(nat, client, [f"10.0.{number}.1/24"], [f"{_client_address(number)}/24"])
            client.default_route(f"10.0.{number}.1")
            network.clients.append(client)
        network.rebind({n: (NAT_ADDRESSES[0], FIRST_PUBLIC_PORT + n) for n in range(clients)})
        yield network


@contextlib.contextmanager
def serving(
    host: Namespace, *, listen: Sequence[str] = (), http: str = "", extra: Sequence[str] = ()
) -> Iterator[Server]:
    """A ready server with one transceiver: UDP_PORT of `listen`, HTTP_PORT of `http` or of the first of them."""
    web = http or listen[0]
    place = f"[{web}]:{HTTP_PORT}" if ":" in web else f"{web}:{HTTP_PORT}"
    # All ports of a new host are free; of options given twice the last one counts.
    options = ["--port", str(UDP_PORT), "--http", place, "--open", *extra]
    for address in listen:
        options += ["--listen", address]
    with contextlib.ExitStack() as stack:
        with host.entered():
            running = stack.enter_context(server(listen=(), transceivers=1, extra=options))
        running.port, running.http_url = UDP_PORT, f"http://{place}"
        yield running


def has_ipv6() -> bool:
    """Whether this kernel speaks IPv6 at all."""
    return Path("/proc/net/if_inet6").exists()


def _client_address(number: int) -> str:
    return f"10.0.{number}.2"


def _flush_conntrack() -> None:
    """Forget every connection of this thread's namespace, as `conntrack --flush` does."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(COMMAND_TIMEOUT_S)
        netlink.send(_FLUSH)
        error = -_NETLINK_ERROR.unpack_from(netlink.recv(4096))[-1]
    if error:
        raise NetnsError(f"conntrack cannot be flushed: {os.strerror(error)}")


def _set_namespace(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(fd, _CLONE_NEWNET):
        raise NetnsError(f"setns: {os.strerror(ctypes.get_errno())}")


@functools.cache
def _remove_leftovers() -> None:
    """Once in a process: remove what killed runs left; those of a living test run stay."""
    for path in _HOME.glob(f"{PREFIX}-*"):
        match = _NAME.fullmatch(path.name)
        # Our own number, before we made any: it was another process that had it.
        if match and (int(match[1]) == os.getpid() or not Path("/proc", match[1]).exists()):
            with contextlib.suppress(NetnsError):  # another run may remove it at the same time
                _run("ip", "netns", "delete", path.name)


def _run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=COMMAND_TIMEOUT_S,
    )
    if done.returncode:
        raise NetnsError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}\n{stdin}")
