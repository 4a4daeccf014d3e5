"""What we answer an offer with (RFC 8829 §5.3): Opus both ways and data channels on one transport. Pure."""

import secrets
from dataclasses import dataclass

from aiortc import sdp
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceCandidate, RTCIceParameters
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpParameters,
)
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from voicerelay.transceiver.lite import HOST_PRIORITY

SCTP_PORT = 5000
_DISCARD_HOST, _DISCARD_PORT = "0.0.0.0", 9  # RFC 8840 §4.1.1
_EXTENSIONS = ("urn:ietf:params:rtp-hdrext:sdes:mid", "urn:ietf:params:rtp-hdrext:ssrc-audio-level")
_OPUS_PARAMETERS = {"minptime": 10, "useinbandfec": 1}  # RFC 7587 §6.1: its FEC is of use to us
_ANSWERED = {
    "sendrecv": "sendrecv",
    "sendonly": "recvonly",
    "recvonly": "sendonly",
    "inactive": "inactive",
}


class NotAcceptable(Exception):
    """The offer is well formed, but no call can be made of it."""


@dataclass(frozen=True)
class Local:
    """What an answer says of us. `candidates`: host and port of each listen address."""

    ufrag: str
    password: str
    candidates: list[tuple[str, int]]
    fingerprints: list[RTCDtlsFingerprint]


@dataclass(frozen=True)
class Agreement:
    """An answer and what follows from it. `role`: ours in DTLS, "client" or "server".

    `sctp`: the peer's capabilities and port, None without data channels. `origin`: the answer's
    id and version, RFC 8866 §5.2.
    """

    sdp: str
    origin: tuple[int, int]
    role: str
    remote: RTCDtlsParameters
    payload_type: int
    ssrc: int
    sends: bool
    sctp: tuple[RTCSctpCapabilities | None, int] | None


def negotiate(
    offer: sdp.SessionDescription, local: Local, before: Agreement | None = None
) -> Agreement:
    """Answer a checked offer: its first audio with Opus, its first data channels; the rest is refused.

    before: what was agreed with the same peer connection. Raises NotAcceptable.
    """
    found = ((section, _opus_of(section)) for section in offer.media if section.kind == "audio")
    audio, opus = next(((s, codec) for s, codec in found if codec and s.port), (None, None))
    if audio is None or opus is None:
        raise NotAcceptable("the offer has no Opus")
    if not audio.rtcp_mux:
        raise NotAcceptable("the offer is without a=rtcp-mux, and there is one port only")
    assert audio.dtls is not None  # check_offer has seen it
    bundle = next((g.items for g in offer.group if _bundles(g, audio)), [])
    data = next((section for section in offer.media if _is_data(section, bundle)), None)
    direction = _ANSWERED[audio.direction or "sendrecv"]
    if before is not None:  # the DTLS association and our stream go on
        role, ssrc, origin = before.role, before.ssrc, (before.origin[0], before.origin[1] + 1)
    else:
        role = "server" if audio.dtls.role == "client" else "client"
        ssrc, origin = 1 + secrets.randbelow((1 << 32) - 1), (secrets.randbits(62), 1)

    answer = sdp.SessionDescription()
    answer.origin = f"- {origin[0]} {origin[1]} IN IP4 {_DISCARD_HOST}"
    answer.msid_semantic = [sdp.GroupDescription("WMS", ["*"])]
    for section in offer.media:
        if section is audio:
            ours = _audio(audio, opus, direction, sdp.SsrcDescription(ssrc, cname=f"{origin[0]:x}"))
        elif section is data:
            ours = _data(data)
        else:
            answer.media.append(_refusal(section))
            continue
        _describe_transport(ours, local, role)
        answer.media.append(ours)
    if bundle:
        together = [str(s.rtp.muxId) for s in offer.media if s is audio or s is data]
        answer.group = [sdp.GroupDescription("BUNDLE", list(together))]
    return Agreement(
        str(answer),
        origin,
        role,
        audio.dtls,
        opus.payloadType or 0,
        ssrc,
        "send" in direction,
        (data.sctpCapabilities, data.sctp_port or 0) if data else None,
    )


def _opus_of(section: sdp.MediaDescription) -> RTCRtpCodecParameters | None:
    for codec in section.rtp.codecs:
        if codec.mimeType.lower() == "audio/opus" and codec.clockRate == 48000:
            return codec
    return None


def _bundles(group: sdp.GroupDescription, audio: sdp.MediaDescription) -> bool:
    return group.semantic == "BUNDLE" and audio.rtp.muxId in group.items


def _is_data(section: sdp.MediaDescription, bundle: list[int | str]) -> bool:
    """Data channels (RFC 8841) on the transport of the audio; there is no other one."""
    return (
        section.kind == "application"
        and section.profile == "UDP/DTLS/SCTP"
        and 0 < (section.sctp_port or 0) <= 0xFFFF
        and section.rtp.muxId in bundle
    )


def _audio(
    offered: sdp.MediaDescription,
    opus: RTCRtpCodecParameters,
    direction: str,
    stream: sdp.SsrcDescription,
) -> sdp.MediaDescription:
    ours = sdp.MediaDescription("audio", 0, offered.profile, [opus.payloadType])
    ours.direction = direction
    ours.msid = "voicerelay voicerelay"
    ours.rtp = RTCRtpParameters(
        codecs=[
            RTCRtpCodecParameters(
                "audio/opus", 48000, 2, opus.payloadType, parameters=dict(_OPUS_PARAMETERS)
            )
        ],
        headerExtensions=[
            RTCRtpHeaderExtensionParameters(extension.id, extension.uri)
            for extension in offered.rtp.headerExtensions
            if extension.uri in _EXTENSIONS
        ],
        muxId=offered.rtp.muxId,
        rtcp=RTCRtcpParameters(),
    )
    ours.rtcp_host, ours.rtcp_port, ours.rtcp_mux = _DISCARD_HOST, _DISCARD_PORT, True
    ours.ssrc = [stream]
    return ours


def _data(offered: sdp.MediaDescription) -> sdp.MediaDescription:
    ours = sdp.MediaDescription("application", 0, offered.profile, ["webrtc-datachannel"])
    ours.rtp.muxId = offered.rtp.muxId
    ours.sctp_port = SCTP_PORT
    ours.sctpCapabilities = RTCSctpTransport.getCapabilities()
    return ours


def _refusal(offered: sdp.MediaDescription) -> sdp.MediaDescription:
    """Port zero (RFC 8829 §5.3.1); it stands outside the BUNDLE group."""
    ours = sdp.MediaDescription(offered.kind, 0, offered.profile, offered.fmt)
    ours.host = _DISCARD_HOST
    ours.rtp.muxId = offered.rtp.muxId
    ours.ice = RTCIceParameters()
    if offered.kind != "application":
        ours.direction = "inactive"
    return ours


def _describe_transport(ours: sdp.MediaDescription, local: Local, role: str) -> None:
    """ICE-lite with all its candidates, and DTLS."""
    ours.host, ours.port = local.candidates[0]
    ours.ice_candidates = [
        RTCIceCandidate(1, str(n + 1), host, port, HOST_PRIORITY - n * 256, "udp", "host")
        for n, (host, port) in enumerate(local.candidates)
    ]
    ours.ice_candidates_complete = True
    ours.ice = RTCIceParameters(local.ufrag, local.password, iceLite=True)
    ours.dtls = RTCDtlsParameters(local.fingerprints, role)
