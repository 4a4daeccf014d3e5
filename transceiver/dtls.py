"""DTLS of one call, driven by its datagrams and one timer: aiortc's checks and keys without its tasks.

With seam.py and stock_seam.py it touches private names of aiortc; no other file does.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport, State
from OpenSSL import SSL
from pylibsrtp import Session

MAX_DATAGRAM_SENT_BYTES = 1200  # fits any path of 1280 bytes, IPv6's least MTU
MAX_FLIGHT_BYTES = 65536
# After so long a flight goes out again as it was; OpenSSL's own timer, 1 s (RFC 6347 §4.2.4.1), makes a new one.
RESEND_AFTER_S = (0.1, 0.3, 0.6)
MAX_RECORD_BYTES = 1 << 14  # of plain text, RFC 6347 §4.1
CERTIFICATE_LIFETIME_S = 24 * 3600.0
_CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA"
)

log = logging.getLogger("voicerelay.session")


class Certificate(RTCCertificate):
    """One certificate and one SSL context for all sessions of the process."""

    _shared: "Certificate | None" = None
    _made_at = 0.0
    _context: SSL.Context | None = None
    _fingerprints: list[RTCDtlsFingerprint] | None = None

    @classmethod
    def shared(cls) -> "Certificate":
        now = time.monotonic()
        if cls._shared is None or now - cls._made_at > CERTIFICATE_LIFETIME_S:
            cls._shared, cls._made_at = cls.generateCertificate(), now
        return cls._shared

    def getFingerprints(self) -> list[RTCDtlsFingerprint]:
        """SHA-256 only, as the certificate is signed (RFC 8122 §5); computed once."""
        if self._fingerprints is None:
            self._fingerprints = super().getFingerprints()[:1]
        return self._fingerprints

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> SSL.Context:
        if self._context is None:
            self._context = super()._create_ssl_context(srtp_profiles)
            # RSA suites too: as DTLS client we must speak with peers whose certificate is RSA.
            self._context.set_cipher_list(_CIPHERS)
            self._context.set_options(SSL.OP_NO_QUERY_MTU)
            # Nobody resumes, so as DTLS server we would keep 20,000 sessions for nothing.
            self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            # A call's DTLS is idle after its handshake; its buffers are 13 KB.
            self._context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        return self._context


class Dtls(RTCDtlsTransport):
    """Stock waits for datagrams in a task, and makes a further one for each that may time out.

    `send` puts a datagram on its way. "statechange" is emitted as aiortc does.
    """

    def __init__(self, role: str, remote: RTCDtlsParameters, send: Callable[[bytes], None]) -> None:
        no_transport: Any = None
        self.certificate = Certificate.shared()
        super().__init__(no_transport, [self.certificate])
        self._set_role(role)
        self._remote = remote
        self._put = send
        self._running_loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._receiving: set[asyncio.Task[None]] = set()
        self._flight: list[bytes] = []
        self._flight_at = 0.0
        self._resent = 0  # times

    def begin(self) -> None:
        """Begin the handshake, once; as client with a first flight."""
        if self._state is not State.NEW:
            return
        ssl = self._ssl = SSL.Connection(self.certificate._create_ssl_context(self._srtp_profiles))
        ssl.set_ciphertext_mtu(MAX_DATAGRAM_SENT_BYTES)
        if self._role == "server":
            ssl.set_accept_state()
        else:
            ssl.set_connect_state()
        self._set_state(State.CONNECTING)
        self._handshake()

    def take(self, data: bytes) -> None:
        """A DTLS datagram of the peer."""
        if self._ssl is None or self._state not in (State.CONNECTING, State.CONNECTED):
            return
        self._ssl.bio_write(data)
        if self._state is State.CONNECTING:
            self._handshake()
        if self._state is State.CONNECTED:
            self._read()

    def srtp_sessions(self) -> tuple[Session, Session]:
        """For receiving and for sending, once the state is "connected"."""
        return self._rx_srtp, self._tx_srtp

    async def stop(self) -> None:
        """Say goodbye with close_notify; nothing is sent or taken afterwards."""
        self._disarm()
        await super().stop()
        self._state = State.CLOSED

    def _handshake(self) -> None:
        assert self._ssl is not None
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._flush()
            self._arm()
            return
        except SSL.Error:
            self._fail()
            return
        self.encrypted = True
        self._disarm()
        self._flush()
        self._validate_peer_identity(self._remote)
        if self._state is State.CONNECTING:
            self._setup_srtp()
        if self._state is State.CONNECTING:
            self._set_state(State.CONNECTED)

    def _fail(self) -> None:
        self._flush()  # the alert that says why
        self._disarm()
        self._set_state(State.FAILED)

    def _read(self) -> None:
        """Data, close_notify, or a last flight again because ours was lost: OpenSSL repeats it."""
        assert self._ssl is not None
        try:
            while data := self._ssl.recv(MAX_RECORD_BYTES):
                self._pass_on(data)
        except SSL.ZeroReturnError:
            self._set_state(State.CLOSED)
        except SSL.Error:
            pass  # nothing more, or a record that is not authentic (RFC 6347 §4.1.2.7: drop it)
        self._flush()

    def _pass_on(self, data: bytes) -> None:
        """To SCTP, which is a coroutine that never waits: so the tasks run, and end, in order."""
        if self._data_receiver is not None:
            task = self._running_loop.create_task(self._receive(data))
            self._receiving.add(task)
            task.add_done_callback(self._receiving.discard)

    async def _receive(self, data: bytes) -> None:
        receiver: Any = self._data_receiver
        try:
            if receiver is not None:
                await receiver._handle_data(data)
        except Exception:  # what a peer's SCTP breaks in aiortc ends that call, and no other
            log.exception("SCTP of a peer")
            self._set_state(State.CLOSED)

    async def _send_data(self, data: bytes) -> None:
        """Stock raises when the peer has gone, and mostly in a task of SCTP's that nobody awaits."""
        if self._state is State.CONNECTED:
            await super()._send_data(data)

    async def _write_ssl(self) -> None:
        self._flush()

    def _flush(self) -> None:
        """Stock sends up to 1500 bytes of a flight as they lie, cutting records in two."""
        assert self._ssl is not None
        try:
            flight = self._ssl.bio_read(MAX_FLIGHT_BYTES)
        except SSL.Error:
            return
        self._flight = cut_at_records(flight)
        self._flight_at, self._resent = self._running_loop.time(), 0
        self._put_flight()

    def _put_flight(self) -> None:
        for datagram in self._flight:
            self._put(datagram)

    def _arm(self) -> None:
        """One timer for the flight under way (RFC 6347 §4.2.4)."""
        assert self._ssl is not None
        self._disarm()
        after_s = self._ssl.DTLSv1_get_timeout()
        if after_s is None:
            return
        due = self._running_loop.time() + after_s
        if self._resent < len(RESEND_AFTER_S):
            due = min(due, self._flight_at + RESEND_AFTER_S[self._resent])
        self._timer = self._running_loop.call_at(due, self._timed_out)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        assert self._ssl is not None
        if self._ssl.DTLSv1_get_timeout():  # OpenSSL's own is still to come
            self._resent += 1
            self._put_flight()
            self._arm()
            return
        try:
            self._ssl.DTLSv1_handle_timeout()
        except SSL.Error:
            self._fail()
            return
        self._flush()
        self._arm()


def cut_at_records(data: bytes) -> list[bytes]:
    """Cut a DTLS flight at record borders into datagrams of at most 1200 bytes (RFC 6347 §4.1.1)."""
    datagrams = []
    start = position = 0
    while position + 13 <= len(data):
        end = position + 13 + int.from_bytes(data[position + 11 : position + 13], "big")
        if end - start > MAX_DATAGRAM_SENT_BYTES and position > start:
            datagrams.append(data[start:position])
            start = position
        position = end
    if start < len(data):
        datagrams.append(data[start:])
    return datagrams
