"""Doctor's judgement of the network, of facts made up here."""

import dataclasses
from typing import Any

import pytest

from voicerelay.cli.doctor import checks_network as checks
from voicerelay.cli.doctor.facts import Binding, Conntrack, Mapping, NetworkFacts, Wanted
from voicerelay.cli.doctor.finding import Finding, State

WANTED = Wanted(
    port=3478,
    hosts=("203.0.114.5",),
    public=(),
    http_host="127.0.0.1",
    http_port=8080,
    relays=2,
    transceivers=2,
    max_sessions=200,
    capacity=16_384,
)
SEEN = NetworkFacts(
    udp=(Binding("203.0.114.5"),),
    http=Binding("127.0.0.1"),
    instance_pid=None,
    host_addresses=("203.0.114.5",),
    receive_buffer_bytes=8 << 20,
    receive_buffer_wanted_bytes=8 << 20,
    frame_buffer_bytes=1 << 20,
)
TAKEN = Binding("203.0.114.5", "Address already in use", in_use=True)


def wanted(**changes: Any) -> Wanted:
    return dataclasses.replace(WANTED, **changes)


def seen(**changes: Any) -> NetworkFacts:
    return dataclasses.replace(SEEN, **changes)


def one(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def test_nothing_is_to_mend_on_a_host_of_the_internet() -> None:
    findings = checks.check_network(WANTED, SEEN)

    assert {finding.state for finding in findings} == {State.OK}


def test_every_finding_that_is_not_ok_has_a_mend() -> None:
    bad = seen(
        udp=(TAKEN,),
        http=TAKEN,
        receive_buffer_bytes=1,
        frame_buffer_bytes=1,
        firewall=None,
        conntrack=Conntrack(9, 10),
        mapping=Mapping("s:1", mapped="198.51.100.1:9", unsolicited=False),
    )

    findings = checks.check_network(wanted(http_host="0.0.0.0", hosts=("10.0.0.1",)), bad)

    assert [finding.name for finding in findings if finding.state == State.OK] == []
    assert [finding.name for finding in findings if not finding.mend] == []


def test_a_taken_port_fails_and_the_command_shows_who_has_it() -> None:
    found = checks.check_port(WANTED, seen(udp=(TAKEN,)))

    assert (found.state, "in use" in found.seen) == (State.FAIL, True)
    assert found.mend.startswith("ss -lpnu sport = :3478")


def test_a_port_without_the_right_fails_otherwise() -> None:
    found = checks.check_port(wanted(port=443), seen(udp=(Binding("a", "Permission denied"),)))

    assert (found.state, "ss " in found.mend) == (State.FAIL, False)


@pytest.mark.parametrize("check", [checks.check_port, checks.check_http], ids=["udp", "http"])
def test_the_running_instance_may_have_its_ports(check: Any) -> None:
    found = check(WANTED, seen(udp=(TAKEN,), http=TAKEN, instance_pid=17))

    assert (found.state, "pid 17" in found.seen) == (State.OK, True)


def test_an_address_that_is_none_of_ours_is_told() -> None:
    found = checks.check_port(wanted(hosts=(), hosts_error='--listen: "x" is not'), SEEN)

    assert (found.state, found.seen) == (State.FAIL, '--listen: "x" is not')


@pytest.mark.parametrize(
    ("hosts", "public", "here", "state", "mend"),
    [
        (("203.0.114.5",), (), (), State.OK, ""),
        (("10.0.0.1",), ("203.0.114.5",), (), State.OK, ""),
        (("10.0.0.1",), (), (), State.WARN, "--public-ip"),
        (("100.64.0.1",), (), (), State.WARN, "--public-ip"),
        (("10.0.0.1",), ("10.9.9.9",), (), State.WARN, "--public-ip"),
        (("10.0.0.1",), (), ("203.0.114.5",), State.WARN, "--listen 203.0.114.5"),
        (("203.0.114.5", "fd00::1"), (), ("203.0.114.5",), State.WARN, "--public-ip"),
        (("127.0.0.1",), (), (), State.WARN, "--listen 0.0.0.0"),
        ((), (), (), State.FAIL, "--listen"),
    ],
)
def test_a_private_address_needs_a_public_one(
    hosts: tuple[str, ...], public: tuple[str, ...], here: tuple[str, ...], state: State, mend: str
) -> None:
    found = checks.check_address(wanted(hosts=hosts, public=public), seen(host_addresses=here))

    assert (found.state, mend in found.mend) == (state, True)


def test_nobody_is_asked_from_outside_unless_named() -> None:
    assert checks.check_mapping(WANTED, SEEN) == []


@pytest.mark.parametrize(
    ("mapping", "state", "text"),
    [
        (Mapping("s:1", mapped="203.0.114.5:3478", public_port=True), State.OK, "as clients"),
        (Mapping("s:1", mapped="203.0.114.5:9", public_port=True), State.WARN, "changes the port"),
        (Mapping("s:1", mapped="203.0.114.5:9"), State.OK, "as clients"),
        (Mapping("s:1", mapped="198.51.100.1:3478"), State.WARN, "sees 198.51.100.1"),
        (Mapping("s:1", error="no answer"), State.FAIL, "no answer"),
    ],
)
def test_what_a_stun_server_saw(mapping: Mapping, state: State, text: str) -> None:
    found = one(checks.check_mapping(WANTED, seen(mapping=mapping)), "from outside")

    assert (found.state, text in found.seen) == (state, True)


@pytest.mark.parametrize(
    ("came", "state"), [(True, State.OK), (False, State.WARN), (None, State.OK)]
)
def test_whether_packets_of_strangers_come_through(came: bool | None, state: State) -> None:
    mapping = Mapping("s:1", mapped="203.0.114.5:3478", unsolicited=came)

    found = one(checks.check_mapping(WANTED, seen(mapping=mapping)), "from strangers")

    assert found.state == state


@pytest.mark.parametrize(
    ("size", "sessions", "state", "has_mend"),
    [
        (8 << 20, 200, State.OK, False),
        (4 << 20, 200, State.OK, True),
        (212_992, 200, State.WARN, True),
        (212_992, 5, State.OK, True),
    ],
)
def test_receive_buffers_against_need(
    size: int, sessions: int, state: State, has_mend: bool
) -> None:
    found = checks.check_receive_buffers(
        wanted(max_sessions=sessions), seen(receive_buffer_bytes=size)
    )

    assert (found.state, bool(found.mend)) == (state, has_mend)


@pytest.mark.parametrize(("size", "state"), [(212_992, State.OK), (65_536, State.WARN)])
def test_frame_buffers_against_need(size: int, state: State) -> None:
    assert checks.check_frame_buffers(WANTED, seen(frame_buffer_bytes=size)).state == state


@pytest.mark.parametrize(
    ("firewall", "state"), [((), State.OK), (("policy drop",), State.WARN), (None, State.WARN)]
)
def test_the_firewall_as_far_as_it_can_be_read(
    firewall: tuple[str, ...] | None, state: State
) -> None:
    assert checks.check_firewall(WANTED, seen(firewall=firewall)).state == state


@pytest.mark.parametrize(
    ("track", "state"),
    [(None, State.OK), (Conntrack(10, 65_536), State.OK), (Conntrack(0, 512), State.WARN)],
)
def test_conntrack_has_room_for_all_calls(track: Conntrack | None, state: State) -> None:
    assert checks.check_conntrack(WANTED, seen(conntrack=track)).state == state


def test_the_mended_conntrack_limit_is_enough() -> None:
    mend = checks.check_conntrack(WANTED, seen(conntrack=Conntrack(500, 512))).mend

    limit = int(mend.rpartition("=")[2])
    assert checks.check_conntrack(WANTED, seen(conntrack=Conntrack(500, limit))).state == State.OK


@pytest.mark.parametrize(
    ("host", "state"), [("127.0.0.1", State.OK), ("::1", State.OK), ("0.0.0.0", State.WARN)]
)
def test_browsers_need_a_secure_context(host: str, state: State) -> None:
    assert checks.check_secure_context(wanted(http_host=host)).state == state


@pytest.mark.parametrize(
    ("changes", "mode", "state"),
    [
        ({}, None, State.OK),
        ({"open": True}, None, State.OK),
        ({"http_host": "0.0.0.0"}, None, State.WARN),
        ({"http_host": "0.0.0.0", "open": True}, None, State.WARN),
        ({"http_host": "0.0.0.0", "key_file": "keys"}, 0o100600, State.OK),
        ({"key_file": "keys"}, 0o100644, State.WARN),
        ({"key_file": "keys"}, None, State.FAIL),
    ],
)
def test_who_may_call(changes: dict[str, Any], mode: int | None, state: State) -> None:
    assert checks.check_callers(wanted(**changes), seen(key_file_mode=mode)).state == state
