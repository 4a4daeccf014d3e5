"""Only what a peer may say on an authenticated path comes as far as OpenSSL and libsrtp."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.shm.counters import TransceiverCounter as Drop
from voicerelay.transceiver.guard import (
    DTLS_RECORD_HEADER_BYTES,
    MAX_DTLS_BYTES,
    SRTP_MIN_BYTES,
    objection,
)


def record(kind: int, epoch: int, payload: bytes = bytes(2)) -> bytes:
    """A DTLS 1.2 record (RFC 6347 §4.1)."""
    head = bytes((kind, 254, 253)) + epoch.to_bytes(2, "big") + bytes(6)
    return head + len(payload).to_bytes(2, "big") + payload


PLAINTEXT_ALERT = record(21, 0, b"\x02\x28")  # 15 bytes: fatal, handshake failure


def test_a_plaintext_alert_is_dropped_and_an_encrypted_one_passes() -> None:
    assert objection(PLAINTEXT_ALERT) is Drop.DROPPED_PLAINTEXT_ALERT
    assert objection(record(21, 1, bytes(26))) is None


@pytest.mark.parametrize("kind", [20, 22, 23, 63])
def test_other_records_pass_in_any_epoch(kind: int) -> None:
    assert objection(record(kind, 0)) is None
    assert objection(record(kind, 1)) is None


@pytest.mark.parametrize(
    ("length", "passes"),
    [
        (DTLS_RECORD_HEADER_BYTES, False),
        (DTLS_RECORD_HEADER_BYTES + 1, True),
        (MAX_DTLS_BYTES, True),
        (MAX_DTLS_BYTES + 1, False),
    ],
)
def test_a_dtls_datagram_has_a_record_and_fits_an_ethernet_frame(length: int, passes: bool) -> None:
    found = objection(record(22, 0).ljust(length, b".")[:length])

    assert found is (None if passes else Drop.DROPPED_NOT_WEBRTC)


@pytest.mark.parametrize(("length", "passes"), [(SRTP_MIN_BYTES - 1, False), (12, True)])
def test_srtp_has_at_least_a_header(length: int, passes: bool) -> None:
    found = objection((b"\x80\x6f" + bytes(20))[:length])

    assert found is (None if passes else Drop.DROPPED_NOT_WEBRTC)


def test_an_empty_datagram_is_dropped() -> None:
    assert objection(b"") is Drop.DROPPED_NOT_WEBRTC


@settings(deadline=None)
@given(st.binary(max_size=1600))
def test_what_passes_is_dtls_or_srtp_and_never_a_plaintext_alert(data: bytes) -> None:
    if objection(data) is None:
        assert 20 <= data[0] <= 63 or 128 <= data[0] <= 191
        assert not (data[0] == 21 and data[3:5] == b"\x00\x00")
