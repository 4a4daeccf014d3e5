"""What an offer must have before a peer connection is made of it (RFC 8829, RFC 9725 §4.2)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from aiortc.sdp import MediaDescription, SessionDescription

MAX_OFFER_BYTES = 64 * 1024


MAX_MEDIA_SECTIONS = 16
_ICE_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")  # RFC 8839 §5.4
_NO_PORT = re.compile(r"\A(\w+) 0 ")
_BUNDLE_ONLY = "\r\na=bundle-only\r\n"
# What no answer of ours depends on: candidates, for a lite agent never contacts any; names of streams;
# feedback, which aiortc's parser multiplies; and of video, which is refused, all that tells of its codecs.
_UNREAD = ("a=candidate:", "a=rtcp-fb:", "a=rtcp:", "a=ssrc", "a=msid")
_UNREAD_OF_VIDEO = (*_UNREAD, "a=rtpmap:", "a=fmtp:", "a=extmap:", "a=rid:", "a=simulcast:")


class OfferError(Exception):
    """The offer is refused: `status` 400 (malformed) or 406 (well formed, but no voice call)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Offer:
    """A checked offer. `sdp`: those of its lines that an answer depends on."""

    sdp: str
    ice_ufrag: str
    description: SessionDescription = field(compare=False, repr=False)  # the same, parsed


def check_offer(text: str) -> Offer:
    """Check an offer. Raises OfferError, and nothing else."""
    if not text.startswith("v=0"):
        raise OfferError(400, "malformed_sdp", "the body is not SDP: it must begin with v=0")
    if text.count("\nm=") > MAX_MEDIA_SECTIONS:
        raise OfferError(406, "media_sections", f"at most {MAX_MEDIA_SECTIONS} m-lines are read")
    sdp = _in_use("".join(line + "\r\n" for line in _lines_to_keep(text)))
    try:
        description = SessionDescription.parse(sdp)
    except Exception as exc:  # the parser asserts, indexes and unpacks what peers write
        raise OfferError(400, "malformed_sdp", "the SDP cannot be read") from exc
    audio = _audio_of(description.media)
    # Further sections are bundled with it or refused, and may be silent about transport (RFC 8829 §5.2.1).
    ice = audio.ice
    if ice is None or not ice.usernameFragment or not ice.password:
        raise OfferError(400, "no_ice_credentials", "a=ice-ufrag or a=ice-pwd is missing")
    if audio.dtls is None or not audio.dtls.fingerprints:
        raise OfferError(400, "no_dtls", "a=fingerprint or a=setup is missing")
    if not _ICE_UFRAG.fullmatch(ice.usernameFragment):
        raise OfferError(400, "no_ice_credentials", "a=ice-ufrag has characters that ICE does not")
    return Offer(sdp, ice.usernameFragment, description)


def _audio_of(media: list[MediaDescription]) -> MediaDescription:
    """The section that is the call. Raises OfferError."""
    audio = [section for section in media if section.kind == "audio" and section.port]
    if not audio:
        raise OfferError(406, "no_audio", "the offer has no audio line")
    for section in media:
        if section.kind not in ("audio", "video", "application"):
            raise OfferError(406, "media_kind", f"no use for m={section.kind[:16]}")
    for section in audio:
        if any(codec.mimeType.lower() == "audio/opus" for codec in section.rtp.codecs):
            return section
    raise OfferError(406, "no_opus", "the offer has no Opus codec")


def _in_use(sdp: str) -> str:
    """A section that is a=bundle-only has port 0 and is offered all the same (RFC 9143 §6)."""
    head, *sections = sdp.split("\r\nm=")
    sections = [
        _NO_PORT.sub(r"\1 9 ", section, count=1) if _BUNDLE_ONLY in section else section
        for section in sections
    ]
    return "\r\nm=".join([head, *sections])


def _lines_to_keep(text: str) -> Iterator[str]:
    unread: tuple[str, ...] = _UNREAD
    for padded in text.splitlines():
        line = padded.strip()
        if line.startswith("m="):
            unread = _UNREAD_OF_VIDEO if line.startswith("m=video") else _UNREAD
        if line and not line.startswith(unread):
            yield line
