"""The client's path: one key for one client address on one socket group, in both directions."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.shm.path import PATH_BYTES, is_path, pack_path, path_address, unpack_path

LOCALS = st.integers(0, 255)
PORTS = st.integers(0, 65535)
ADDRESSES = st.ip_addresses()


@settings(deadline=None)
@given(LOCALS, ADDRESSES, PORTS)
def test_an_address_survives_packing(
    local: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    path = pack_path(local, str(address), port)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None

    found_local, found_host, found_port = unpack_path(path)

    assert (found_local, found_port) == (local, port)
    assert ipaddress.ip_address(found_host) == (mapped or address)
    assert path_address(path) == (port, (mapped or address).packed)


@settings(deadline=None)
@given(LOCALS, ADDRESSES, PORTS)
def test_every_packed_path_is_a_path(
    local: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    path = pack_path(local, str(address), port)

    assert len(path) == PATH_BYTES
    assert is_path(path)


def test_an_ipv4_address_and_its_mapped_form_are_one_path() -> None:
    plain = pack_path(0, "192.0.2.1", 5000)
    mapped = pack_path(0, "::ffff:192.0.2.1", 5000)

    assert plain == mapped


def test_the_listen_address_is_part_of_the_path() -> None:
    assert pack_path(0, "192.0.2.1", 5000) != pack_path(1, "192.0.2.1", 5000)


def test_a_scope_id_is_not_part_of_the_path() -> None:
    assert pack_path(0, "fe80::1%lo", 9) == pack_path(0, "fe80::1", 9)


@pytest.mark.parametrize(
    ("local", "host", "port"),
    [
        (0, "", 1),
        (0, "localhost", 1),
        (0, "192.0.2.256", 1),
        (0, "2001:db8::g", 1),
        (0, "192.0.2.1", -1),
        (0, "192.0.2.1", 65536),
        (-1, "192.0.2.1", 1),
        (256, "192.0.2.1", 1),
    ],
)
def test_what_is_no_address_is_refused(local: int, host: str, port: int) -> None:
    with pytest.raises(ValueError, match="not a client address"):
        pack_path(local, host, port)


@pytest.mark.parametrize(
    "value", [b"", bytes(PATH_BYTES - 1), bytes(PATH_BYTES + 1), b"\x00\x01" + bytes(18)]
)
def test_bytes_of_another_form_are_no_path(value: bytes) -> None:
    assert not is_path(value)
