"""Judges the network: ports, addresses, buffers, firewall, and who may call."""

import ipaddress
import stat

from voicerelay.cli.doctor.facts import Binding, NetworkFacts, Wanted
from voicerelay.cli.doctor.finding import Finding, fail, ok, warn
from voicerelay.cli.network import host_port
from voicerelay.transceiver.signalling.cors import is_loopback

PACKETS_PER_CALL_S = 50  # one voice packet every 20 ms
RELAY_ABSENCE_S = 0.5  # a hung relay's queue is adopted within it
QUEUED_PACKET_BYTES = 1280  # what the kernel charges a receive buffer for a voice packet, about
FRAME_ABSENCE_S = 0.1  # a transceiver that reads nothing for so long
FRAMED_PACKET_BYTES = 200
CONNTRACK_PER_CALL = 2  # a client tries an address of each family


def check_network(wanted: Wanted, seen: NetworkFacts) -> list[Finding]:
    return [
        check_port(wanted, seen),
        check_http(wanted, seen),
        check_address(wanted, seen),
        *check_mapping(wanted, seen),
        check_receive_buffers(wanted, seen),
        check_frame_buffers(wanted, seen),
        check_firewall(wanted, seen),
        check_conntrack(wanted, seen),
        check_secure_context(wanted),
        check_callers(wanted, seen),
    ]


def check_port(wanted: Wanted, seen: NetworkFacts) -> Finding:
    """The one UDP port, on each listen address."""
    name, port = "UDP port", wanted.port
    if wanted.hosts_error:
        return fail(name, wanted.hosts_error, "ip addr   # shows this host's addresses; --listen")
    where = ", ".join(host_port(host, port) for host in wanted.hosts)
    if seen.instance_pid is not None:
        return ok(name, f"{where}: of the instance that runs, pid {seen.instance_pid}")
    bad = [binding for binding in seen.udp if binding.error]
    if not bad:
        return ok(name, f"{where}: free")
    return fail(name, _reason(bad[0], port), _mend_binding(bad[0], port, "u", "--port"))


def check_http(wanted: Wanted, seen: NetworkFacts) -> Finding:
    """The TCP port of signalling."""
    name, port = "HTTP port", wanted.http_port
    where = host_port(wanted.http_host, port)
    if seen.instance_pid is not None and (seen.http.in_use or not seen.http.error):
        return ok(name, f"{where}: of the instance that runs, pid {seen.instance_pid}")
    if not seen.http.error:
        return ok(name, f"{where}: free")
    return fail(name, _reason(seen.http, port), _mend_binding(seen.http, port, "t", "--http"))


def check_address(wanted: Wanted, seen: NetworkFacts) -> Finding:
    """Whether clients elsewhere can reach what they are told; nobody is asked."""
    name = "public address"
    told = wanted.public or wanted.hosts
    inner = [host for host in told if not ipaddress.ip_address(host).is_global]
    if not told:
        return fail(name, "no address to listen on", "voicerelay start --listen ADDR")
    if not inner:
        return ok(name, f"clients are told {', '.join(told)}")
    if wanted.public:
        return warn(
            name,
            f"--public-ip {inner[0]} is not an address of the internet",
            "give the address that clients reach: --public-ip ADDR",
        )
    if all(is_loopback(host) for host in told):
        return warn(
            name, f"{told[0]}: only this machine can call", "voicerelay start --listen 0.0.0.0"
        )
    better = [h for h in seen.host_addresses if ipaddress.ip_address(h).is_global]
    if better and len(inner) == len(told):
        mend = f"voicerelay start --listen {better[0]}"
    else:
        mend = "voicerelay start --public-ip ADDR   # the NAT's address, its UDP port sent on here"
    return warn(name, f"{inner[0]} is private: only its own network can call", mend)


def check_mapping(wanted: Wanted, seen: NetworkFacts) -> list[Finding]:
    """What a STUN server that the user named saw; nothing without one."""
    name, mapping = "from outside", seen.mapping
    if mapping is None:
        return []
    if mapping.error:
        return [fail(name, f"{mapping.server}: {mapping.error}", "name another: --stun HOST:PORT")]
    mapped = mapping.mapped.rpartition(":")[0].strip("[]")
    told = wanted.public or wanted.hosts
    findings = []
    if mapped not in told:
        text = f"{mapping.server} sees {mapping.mapped}, clients are told {', '.join(told)}"
        findings.append(warn(name, text, f"voicerelay start --public-ip {mapped}"))
    elif mapping.public_port and mapping.mapped.rpartition(":")[2] != str(wanted.port):
        text = f"{mapping.server} sees {mapping.mapped}: the NAT changes the port"
        findings.append(warn(name, text, f"send the NAT's UDP port {wanted.port} on to this host"))
    else:
        text = f"{mapping.server} sees {mapping.mapped}, as clients are told"
        findings.append(ok(name, text))
    return [*findings, _unsolicited(wanted, mapping.unsolicited, mapping.public_port)]


def _unsolicited(wanted: Wanted, came: bool | None, public_port: bool) -> Finding:
    name = "from strangers"
    port = f"UDP port {wanted.port}" if public_port else "another UDP port (ours is in use)"
    if came is None:
        return ok(name, "not known: that STUN server cannot answer from another address")
    if came:
        return ok(name, f"{port} takes packets from an address it has not sent to")
    return warn(
        name,
        f"{port} takes no packets from an address it has not sent to: a firewall or NAT",
        f"let UDP port {wanted.port} in there, and send it on to this host",
    )


def check_receive_buffers(wanted: Wanted, seen: NetworkFacts) -> Finding:
    """A public socket holds what comes while its relay is replaced."""
    name, got, full = (
        "receive buffers",
        seen.receive_buffer_bytes,
        seen.receive_buffer_wanted_bytes,
    )
    a_relay = wanted.sessions / wanted.relays
    # SO_RCVBUF counts half of what the kernel charges, socket(7).
    packets = a_relay * PACKETS_PER_CALL_S * RELAY_ABSENCE_S
    need = round(packets * QUEUED_PACKET_BYTES / 2)
    mend = f"sysctl -w net.core.rmem_max={full}   # or CAP_NET_ADMIN"
    text = f"{got >> 10} KiB; {wanted.sessions} calls through {wanted.relays} relays need {need >> 10} KiB"
    if got >= full:
        return ok(name, text)
    return ok(name, text, mend) if got >= need else warn(name, text, mend)


def check_frame_buffers(wanted: Wanted, seen: NetworkFacts) -> Finding:
    """Between relay and transceiver. Datagram queue lengths do not bound SOCK_SEQPACKET."""
    name, got = "frame buffers", seen.frame_buffer_bytes
    need = round(wanted.max_sessions * PACKETS_PER_CALL_S * FRAME_ABSENCE_S * FRAMED_PACKET_BYTES)
    text = f"{got >> 10} KiB; {wanted.max_sessions} calls of a transceiver need {need >> 10} KiB"
    if seen.dgram_qlen is not None:
        text += f" (net.unix.max_dgram_qlen {seen.dgram_qlen} does not matter to them)"
    if got >= need:
        return ok(name, text)
    return warn(name, text, f"sysctl -w net.core.wmem_max={1 << 20}")


def check_firewall(wanted: Wanted, seen: NetworkFacts) -> Finding:
    name = "firewall"
    if seen.firewall is None:
        return warn(name, "its rules cannot be read by this user", "sudo voicerelay doctor")
    if not seen.firewall:
        return ok(name, f"no rule found that keeps UDP port {wanted.port} out")
    mend = f"nft insert rule inet filter input udp dport {wanted.port} accept   # or as your firewall has it"
    return warn(name, "; ".join(seen.firewall), mend)


def check_conntrack(wanted: Wanted, seen: NetworkFacts) -> Finding:
    name, track = "conntrack", seen.conntrack
    need = wanted.sessions * CONNTRACK_PER_CALL
    if track is None:
        return ok(name, "not loaded")
    text = f"{track.entries} of {track.limit} entries; {wanted.sessions} calls need {need} more"
    if track.limit - track.entries >= need:
        return ok(name, text)
    limit = 1 << (track.limit + need - 1).bit_length()
    return warn(name, text, f"sysctl -w net.netfilter.nf_conntrack_max={limit}")


def check_secure_context(wanted: Wanted) -> Finding:
    """getUserMedia is there in secure contexts only (W3C Media Capture §10.2)."""
    name = "browser microphone"
    where = host_port(wanted.http_host, wanted.http_port)
    if is_loopback(wanted.http_host):
        return ok(name, f"http://{where} is a secure context on this machine; elsewhere only https")
    return warn(
        name,
        f"pages of http://{where} get no microphone; nothing here speaks TLS",
        "put a TLS proxy in front and keep --http on 127.0.0.1; or only servers call",
    )


def check_callers(wanted: Wanted, seen: NetworkFacts) -> Finding:
    name = "who may call"
    if wanted.key_file:
        if seen.key_file_mode is None:
            return fail(name, f"{wanted.key_file} cannot be read", f"ls -l {wanted.key_file}")
        if seen.key_file_mode & (stat.S_IROTH | stat.S_IWOTH):
            text = f"everybody on this host may read {wanted.key_file}"
            return warn(name, text, f"chmod o= {wanted.key_file}")
        return ok(name, f"who has a key of {wanted.key_file}, or a token")
    if is_loopback(wanted.http_host):
        who = "who reaches the proxy in front" if wanted.open else "anybody on this machine"
        return ok(name, who)
    if wanted.open:
        text = "anybody who reaches --http (--open)"
        return warn(name, text, "voicerelay start --api-key-file FILE, or --http on 127.0.0.1")
    return warn(
        name,
        "no keys, and --http is not on loopback: only an ASGI application of your own can start",
        "openssl rand -hex 24 > keys && chmod 600 keys   # then --api-key-file keys",
    )


def _reason(binding: Binding, port: int) -> str:
    return f"{host_port(binding.host, port)}: {binding.error}"


def _mend_binding(binding: Binding, port: int, kind: str, option: str) -> str:
    if binding.in_use:
        return f"ss -lpn{kind} sport = :{port}   # shows who has it; or choose another {option}"
    return f"choose another {option}, or run with the right"
