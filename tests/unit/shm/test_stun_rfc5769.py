"""STUN against the test vectors of RFC 5769: integrity, fingerprint and mapped address."""

import ipaddress

import pytest

from voicerelay.shm import stun
from voicerelay.shm.path import pack_path, path_address

PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
PORT = 32853

# §2.1
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
# §2.2
IPV4_MAPPED = bytes.fromhex("0001a147e112a643")
IPV4_RESPONSE = (
    bytes.fromhex(
        "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f722000200008"
    )
    + IPV4_MAPPED
    + bytes.fromhex("000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96")
)
# §2.3
IPV6_MAPPED = bytes.fromhex("0002a1470113a9faa5d3f179bc25f4b5bed2b9d9")
IPV6_RESPONSE = (
    bytes.fromhex(
        "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f722000200014"
    )
    + IPV6_MAPPED
    + bytes.fromhex("00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c")
)


@pytest.mark.parametrize("data", [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE])
def test_integrity_and_fingerprint_hold(data: bytes) -> None:
    message = stun.parse(data)

    assert message.transaction == TRANSACTION
    assert message.fingerprint
    assert stun.integrity_holds(data, message, PASSWORD)


@pytest.mark.parametrize("data", [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE])
def test_another_password_does_not_hold(data: bytes) -> None:
    assert not stun.integrity_holds(data, stun.parse(data), PASSWORD[:-1])


@pytest.mark.parametrize("data", [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE])
def test_a_wrong_fingerprint_is_refused(data: bytes) -> None:
    with pytest.raises(stun.StunError, match="fingerprint"):
        stun.parse(data[:-1] + bytes([data[-1] ^ 1]))


def test_the_request_is_read() -> None:
    message = stun.parse(REQUEST)

    assert message.kind == stun.BINDING_REQUEST
    assert message.username == b"evtj:h6vY"
    assert message.controlled
    assert not message.use_candidate
    assert message.unknown == ()
    assert stun.server_ufrag(REQUEST) == b"evtj"


@pytest.mark.parametrize(
    ("host", "value"),
    [("192.0.2.1", IPV4_MAPPED), ("2001:db8:1234:5678:11:2233:4455:6677", IPV6_MAPPED)],
)
def test_the_mapped_address_is_that_of_the_vector(host: str, value: bytes) -> None:
    port, address = path_address(pack_path(0, host, PORT))

    assert address == ipaddress.ip_address(host).packed
    assert stun.xor_address(port, address, TRANSACTION) == value
