"""What a session lets through to DTLS and SRTP: only what the peer of an authenticated path may say."""

from voicerelay.shm.counters import TransceiverCounter

DTLS_ALERT = 21
DTLS_RECORD_HEADER_BYTES = 13
SRTP_MIN_BYTES = 12
MAX_DTLS_BYTES = 1500


def objection(data: bytes) -> TransceiverCounter | None:
    """Why a DTLS or SRTP datagram from a valid path must be dropped; None when it may pass."""
    if not data:
        return TransceiverCounter.DROPPED_NOT_WEBRTC
    first = data[0]
    if 20 <= first <= 63:
        if not DTLS_RECORD_HEADER_BYTES < len(data) <= MAX_DTLS_BYTES:
            return TransceiverCounter.DROPPED_NOT_WEBRTC
        if first == DTLS_ALERT and data[3:5] == b"\x00\x00":
            # Epoch 0 is plaintext: anybody who can forge the source address can say "fatal", and
            # OpenSSL would believe it (RFC 9147 §4.5.2: discard silently). A real failure of the
            # handshake shows as a time-out instead.
            return TransceiverCounter.DROPPED_PLAINTEXT_ALERT
        return None
    if 128 <= first <= 191 and len(data) >= SRTP_MIN_BYTES:
        return None
    return TransceiverCounter.DROPPED_NOT_WEBRTC
