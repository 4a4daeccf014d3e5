"""Relays of others, from Debian: coturn with ChannelData, nginx's `stream` as a UDP proxy."""

import shutil
import socket
import struct
from pathlib import Path

from bench.relay.contenders import Contender
from bench.relay.world import (
    HOST,
    TRANSCEIVERS,
    Flows,
    NotAvailable,
    Target,
    free_udp_port,
    port_of,
    udp_sinks,
    wait_bound,
)
from voicerelay.shm import stun

NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
# RFC 8656 §17: methods and attributes
_ALLOCATE, _CHANNEL_BIND, _SUCCESS = 0x0003, 0x0009, 0x0100
_CHANNEL_NUMBER, _XOR_PEER_ADDRESS, _REQUESTED_TRANSPORT = 0x000C, 0x0012, 0x0019
_CHANNEL = 0x4000  # numbers count within an allocation, so every flow uses the first
_UDP = 17


class Coturn(Contender):
    key = "coturn"
    title = "coturn, ChannelData"

    def launch(self, flows: Flows) -> Target:
        program = shutil.which("turnserver")
        if program is None:
            raise NotAvailable("not installed: apt-get install --no-install-recommends coturn")
        sinks = udp_sinks()
        port = free_udp_port()
        options = f"""
            -n --listening-ip {HOST} --relay-ip {HOST} --listening-port {port} --no-auth
            --allow-loopback-peers --no-cli --no-tls --no-dtls --no-tcp --no-tcp-relay
            --relay-threads 1 --no-stdout-log --simple-log --log-file {self.scratch}/turn.log
            --userdb {self.scratch}/turndb --pidfile {self.scratch}/pid"""
        child = self.processes.start([program, *options.split()], log=self.scratch / "log")
        wait_bound(child, port)
        ports = [port_of(sink) for sink in sinks]
        for flow in range(flows.count):
            _open_channel(flows, flow, (HOST, port), ports[flow % TRANSCEIVERS])
        return Target([(HOST, port)], sinks, [child.pid], channel_data=True, window=1024)


def _open_channel(flows: Flows, flow: int, server: tuple[str, int], peer_port: int) -> None:
    """Allocate from the flow's own address and bind a channel to its transceiver."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((flows.host(flow), flows.port))
        client.connect(server)
        client.settimeout(1)
        transaction = struct.pack("!II4x", 1, flow)
        _ask(client, _ALLOCATE, transaction, [(_REQUESTED_TRANSPORT, bytes((_UDP, 0, 0, 0)))])
        transaction = struct.pack("!II4x", 2, flow)
        peer = stun.xor_address(peer_port, socket.inet_aton(HOST), transaction)
        attributes = [
            (_CHANNEL_NUMBER, struct.pack("!HH", _CHANNEL, 0)),
            (_XOR_PEER_ADDRESS, peer),
        ]
        _ask(client, _CHANNEL_BIND, transaction, attributes)


def _ask(
    client: socket.socket, method: int, transaction: bytes, attributes: list[tuple[int, bytes]]
) -> None:
    request = stun.build(method, transaction, attributes)
    for _ in range(3):
        client.send(request)
        try:
            answer = client.recv(1500)
        except TimeoutError:
            continue
        kind = int.from_bytes(answer[:2], "big")
        if kind != method | _SUCCESS:
            raise NotAvailable(f"coturn refused: answer {kind:#06x} to {method:#06x}")
        return
    raise NotAvailable("coturn did not answer")


class Nginx(Contender):
    key = "nginx"
    title = "nginx `stream`, UDP"

    def launch(self, flows: Flows) -> Target:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None or not NGINX_STREAM.exists():
            raise NotAvailable(
                "not installed: apt-get install --no-install-recommends nginx libnginx-mod-stream"
            )
        sinks = udp_sinks()
        port = free_udp_port()
        config = self.scratch / "nginx.conf"
        config.write_text(_nginx_config(flows, port, [port_of(sink) for sink in sinks]))
        command = [program, "-p", str(self.scratch), "-c", str(config)]
        command += ["-e", str(self.scratch / "error.log")]
        child = self.processes.start(command, log=self.scratch / "log")
        wait_bound(child, port)
        return Target([(HOST, port)], sinks, [child.pid])


def _nginx_config(flows: Flows, port: int, sink_ports: list[int]) -> str:
    """One process without a master. The map is asked once a flow, when its session begins."""
    pairs = "\n".join(
        f"        {flows.host(flow)} {HOST}:{sink_ports[flow % TRANSCEIVERS]};"
        for flow in range(flows.count)
    )
    return f"""
load_module {NGINX_STREAM};
daemon off;
master_process off;
pid nginx.pid;
worker_rlimit_nofile {flows.count * 4 + 1024};
events {{ worker_connections {flows.count * 4 + 512}; }}
stream {{
    map_hash_max_size 16384;
    map_hash_bucket_size 128;
    map $remote_addr $transceiver {{
{pairs}
    }}
    server {{
        listen {HOST}:{port} udp reuseport rcvbuf=4m sndbuf=4m;
        proxy_timeout 60s;
        proxy_pass $transceiver;
    }}
}}
"""
