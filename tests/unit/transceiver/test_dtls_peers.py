"""DTLS with stacks that bring RSA certificates and cipher lists of their own, in either role."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from voicerelay.transceiver.dtls import Dtls

# What GStreamer's DTLS agent asks of OpenSSL, a stack with the library's defaults, one that is old.
GSTREAMER = b"DEFAULT:!NULL:!aNULL:!SHA256:!SHA384:!aECDH:!AESGCM+AES256:!aPSK"
CIPHERS = {"gstreamer": GSTREAMER, "default": b"DEFAULT", "cbc": b"ECDHE+AES128+SHA1"}
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def _key(kind: str) -> Key:
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048)


class Peer:
    """A DTLS endpoint of another make; `take` answers like a network without loss."""

    def __init__(self, role: str, kind: str, ciphers: bytes) -> None:
        key = _key(kind)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        context.use_certificate(self.certificate)
        context.use_privatekey(key)
        context.set_cipher_list(ciphers)
        context.set_tlsext_use_srtp(b"SRTP_AES128_CM_SHA1_80")
        self.ssl = SSL.Connection(context)
        self.ssl.set_ciphertext_mtu(1200)
        if role == "client":
            self.ssl.set_connect_state()
        else:
            self.ssl.set_accept_state()
        self.connected = False

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def take(self, data: bytes) -> bytes:
        """What it says to this."""
        if data:
            self.ssl.bio_write(data)
        try:
            self.ssl.do_handshake()
            self.connected = True
        except SSL.WantReadError:
            pass
        try:
            return self.ssl.bio_read(65536)
        except SSL.WantReadError:
            return b""


@pytest.mark.parametrize("ciphers", CIPHERS.values(), ids=CIPHERS)
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
@pytest.mark.parametrize("role", ["client", "server"])
def test_a_peer_of_another_make_gets_a_connection(role: str, kind: str, ciphers: bytes) -> None:
    async def run() -> None:
        # given a peer with a certificate and ciphers of its own
        peer = Peer(role, kind, ciphers)
        sent: list[bytes] = []
        remote = RTCDtlsParameters([RTCDtlsFingerprint("sha-256", peer.fingerprint)])
        ours = Dtls("server" if role == "client" else "client", remote, sent.append)

        # when both begin
        ours.begin()
        first = peer.take(b"")
        if first:
            ours.take(first)
        for _ in range(20):
            if not sent:
                break
            answer = peer.take(sent.pop(0))
            if answer:
                ours.take(answer)

        # then both are connected, with the same keys for media
        assert peer.connected
        assert ours.state == "connected"
        assert peer.ssl.get_selected_srtp_profile() == b"SRTP_AES128_CM_SHA1_80"
        await ours.stop()

    asyncio.run(run())
