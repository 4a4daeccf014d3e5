"""libopus, through cffi: one decoder and one encoder for each direction of a call, mono, 20 ms at a time."""

import ctypes.util
import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cffi import FFI

Pcm = npt.NDArray[np.int16]

RATES: Final = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz, RFC 6716 §2
FRAME_S: Final = 0.02
MAX_PACKET_S: Final = 0.12  # RFC 6716 §3.2.5
MAX_PAYLOAD_BYTES: Final = 1000  # of one RTP packet; with its headers below 1200
DTX_BYTES: Final = 2  # a payload so short need not be sent (libopus, opus_encode)
DEFAULT_BITRATE: Final = 32_000  # bit/s
DEFAULT_COMPLEXITY: Final = 5  # 0 to 10

_ffi: Any = FFI()
_ffi.cdef("""
typedef struct OpusEncoder OpusEncoder;
typedef struct OpusDecoder OpusDecoder;
const char *opus_get_version_string(void);
OpusEncoder *opus_encoder_create(int32_t rate, int channels, int application, int *error);
void opus_encoder_destroy(OpusEncoder *state);
int32_t opus_encode(OpusEncoder *state, const int16_t *pcm, int samples, unsigned char *data,
                    int32_t max_bytes);
int opus_encoder_ctl(OpusEncoder *state, int request, ...);
OpusDecoder *opus_decoder_create(int32_t rate, int channels, int *error);
void opus_decoder_destroy(OpusDecoder *state);
int opus_decode(OpusDecoder *state, const unsigned char *data, int32_t bytes, int16_t *pcm,
                int samples, int fec);
int opus_decoder_ctl(OpusDecoder *state, int request, ...);
int opus_packet_get_nb_samples(const unsigned char *packet, int32_t bytes, int32_t rate);
int opus_packet_get_samples_per_frame(const unsigned char *packet, int32_t rate);
int opus_packet_parse(const unsigned char *packet, int32_t bytes, unsigned char *toc,
                      const unsigned char *frames[48], int16_t sizes[48], int *offset);
""")
_VOIP = 2048
_SET_BITRATE, _SET_COMPLEXITY, _SET_INBAND_FEC, _SET_LOSS_PERCENT, _SET_DTX, _SET_SIGNAL = (
    4002,
    4010,
    4012,
    4014,
    4016,
    4024,
)
_SIGNAL_VOICE = 3001
_RESET_STATE = 4028
_BAD_ARGUMENT = -1
_FIRST_CELT_ONLY = 16  # configuration number, RFC 6716 §3.1


class OpusError(ValueError):
    """A payload that is not Opus; the message is libopus's error number."""


class OpusMissing(Exception):
    """There is no libopus on this host; the message says how to mend it."""


def _open_library() -> Any:
    """The copy in the PyAV wheel, which aiortc brings, else the system's."""
    av = importlib.util.find_spec("av")
    bundled = []
    if av is not None and av.origin is not None:
        bundled = sorted((Path(av.origin).parent.parent / "av.libs").glob("libopus-*.so*"))
    path = str(bundled[0]) if bundled else ctypes.util.find_library("opus")
    if path is None:
        raise OpusMissing("libopus is not installed (Debian: libopus0)")
    return _ffi.dlopen(path)


_lib = _open_library()


def version() -> str:
    """Of the library in use."""
    return str(_ffi.string(_lib.opus_get_version_string()).decode())


def functions() -> dict[str, int]:
    """Where the functions of the library lie that voice.c calls, by their names in voice.h."""
    names = {
        "decode": "opus_decode",
        "encode": "opus_encode",
        "samples": "opus_packet_get_nb_samples",
    }
    return {name: _address(getattr(_lib, of_opus)) for name, of_opus in names.items()}


def _address(function: Any) -> int:
    return int(_ffi.cast("uintptr_t", function))


_decode, _encode = _lib.opus_decode, _lib.opus_encode  # each frame of each call goes through them
# One buffer for all, so that it stays in the processor's cache: not for more than one thread. Every packet
# fits, so nobody asks for its length first; a copy costs less than that.
_pcm = np.zeros(round(RATES[-1] * MAX_PACKET_S), np.int16)
_decoded = _ffi.from_buffer("int16_t[]", _pcm, require_writable=True)
_encoded = _ffi.new("unsigned char[]", MAX_PAYLOAD_BYTES)
_payload = _ffi.buffer(_encoded)
_samples_type = _ffi.typeof("int16_t[]")  # looking it up by its name takes longer


def packet_samples(payload: bytes, rate: int) -> int:
    """Duration of a packet in samples at `rate`. Raises OpusError."""
    samples: int = _lib.opus_packet_get_nb_samples(payload, len(payload), rate)
    if samples <= 0:
        raise OpusError(samples)
    return samples


def frame_samples(payload: bytes, rate: int) -> int:
    """Duration of one of the frames in a packet (RFC 6716 §3.2), in samples. Raises OpusError."""
    if not payload:
        raise OpusError(_BAD_ARGUMENT)
    return int(_lib.opus_packet_get_samples_per_frame(payload, rate))


def is_packet(payload: bytes) -> bool:
    """Whether a payload is put together as RFC 6716 §3 demands, so that it can be decoded."""
    return _first_frame(payload) is not None


def has_fec(payload: bytes) -> bool:
    """Whether a packet carries a copy of the frame before it (RFC 6716 §2.1.7)."""
    frame = _first_frame(payload)
    if not frame or payload[0] >> 3 >= _FIRST_CELT_ONLY:
        return False
    # RFC 6716 §4.2.3: a frame begins with one VAD bit for each 20 ms and one LBRR bit, for each
    # channel. (opus_packet_has_lbrr says the same; libopus has it from 1.5 on.)
    bits = max(1, frame_samples(payload, RATES[-1]) // round(RATES[-1] * FRAME_S))
    flags = frame[0] >> (7 - bits) & 1
    if payload[0] & 0x04:  # stereo
        flags |= frame[0] >> (6 - 2 * bits) & 1
    return bool(flags)


def _first_frame(payload: bytes) -> bytes | None:
    """None where there is no Opus packet; empty for a frame that was not sent (DTX)."""
    if not payload:
        return None
    frames, sizes = _ffi.new("const unsigned char *[48]"), _ffi.new("int16_t[48]")
    data = _ffi.from_buffer(payload)
    if _lib.opus_packet_parse(data, len(payload), _ffi.NULL, frames, sizes, _ffi.NULL) <= 0:
        return None
    return bytes(_ffi.buffer(frames[0], sizes[0]))


class Decoder:
    """Opus to PCM: int16 mono at `rate` (one of RATES). What it returns is the caller's own."""

    __slots__ = ("_frame", "_max_samples", "_samples", "_state", "rate")

    def __init__(self, rate: int) -> None:
        if rate not in RATES:
            raise ValueError(f"rate {rate} is none of {RATES}")
        error = _ffi.new("int *")
        self.rate = rate
        self._state = _ffi.gc(_lib.opus_decoder_create(rate, 1, error), _lib.opus_decoder_destroy)
        if error[0]:
            raise MemoryError("opus_decoder_create")
        self._max_samples = round(rate * MAX_PACKET_S)
        self._samples = round(rate * FRAME_S)
        self._frame = _pcm[: self._samples]

    @property
    def state(self) -> Any:
        """libopus's, for voice.c."""
        return self._state

    def decode(self, payload: bytes) -> Pcm:
        """The PCM of a packet, as long as the packet. Raises OpusError."""
        if not payload:  # libopus would take it for a loss
            raise OpusError(_BAD_ARGUMENT)
        done: int = _decode(self._state, payload, len(payload), _decoded, self._max_samples, 0)
        return self._frame.copy() if done == self._samples else self._taken(done)

    def recover(self, following: bytes, samples: int) -> Pcm:
        """The lost packet of `samples` before `following`, from its in-band FEC. Raises OpusError.

        Decode `following` itself afterwards. Without FEC in it the result is concealment.
        """
        if not following:
            raise OpusError(_BAD_ARGUMENT)
        samples = min(samples, self._max_samples)
        return self._taken(_decode(self._state, following, len(following), _decoded, samples, 1))

    def conceal(self, samples: int) -> Pcm:
        """Packet loss concealment: `samples` of what might have been, at most 120 ms.

        Raises OpusError where they are no multiple of 2.5 ms.
        """
        samples = min(samples, self._max_samples)
        return self._taken(_decode(self._state, _ffi.NULL, 0, _decoded, samples, 0))

    def reset(self) -> None:
        """Forget the stream so far; the next packet is the first of another."""
        _lib.opus_decoder_ctl(self._state, _RESET_STATE)

    def _taken(self, done: int) -> Pcm:
        if done <= 0:
            raise OpusError(done)
        return _pcm[:done].copy()


class Encoder:
    """PCM to Opus, mono voice at `rate` (one of RATES)."""

    __slots__ = ("_state", "rate", "samples")

    def __init__(
        self, rate: int, bitrate: int = DEFAULT_BITRATE, complexity: int = DEFAULT_COMPLEXITY
    ) -> None:
        if rate not in RATES:
            raise ValueError(f"rate {rate} is none of {RATES}")
        error = _ffi.new("int *")
        self.rate = rate
        self.samples = round(rate * FRAME_S)  # of the frame that `encode` takes
        self._state = _ffi.gc(
            _lib.opus_encoder_create(rate, 1, _VOIP, error), _lib.opus_encoder_destroy
        )
        if error[0]:
            raise MemoryError("opus_encoder_create")
        self._set(_SET_BITRATE, bitrate)
        self._set(_SET_SIGNAL, _SIGNAL_VOICE)
        self.set_complexity(complexity)

    @property
    def state(self) -> Any:
        """libopus's, for voice.c."""
        return self._state

    def encode(self, frame: Pcm) -> bytes:
        """One packet of a 20 ms frame (contiguous int16, `samples` long)."""
        if len(frame) != self.samples:
            raise ValueError(f"a frame has {self.samples} samples, not {len(frame)}")
        pcm = _ffi.from_buffer(_samples_type, frame)
        size = _encode(self._state, pcm, self.samples, _encoded, MAX_PAYLOAD_BYTES)
        if size < 0:
            raise OpusError(size)
        payload: bytes = _payload[:size]
        return payload

    def set_complexity(self, complexity: int) -> None:
        """0 (cheap) to 10 (best)."""
        self._set(_SET_COMPLEXITY, complexity)

    def set_fec(self, loss_percent: int) -> None:
        """Prepare for so much loss with in-band FEC; 0 switches it off."""
        self._set(_SET_INBAND_FEC, int(loss_percent > 0))
        self._set(_SET_LOSS_PERCENT, loss_percent)

    def set_dtx(self, on: bool) -> None:
        """Send next to nothing during silence (RFC 6716 §2.1.9)."""
        self._set(_SET_DTX, int(on))

    def _set(self, request: int, value: int) -> None:
        if _lib.opus_encoder_ctl(self._state, request, _ffi.cast("int32_t", value)):
            raise ValueError(f"libopus refuses {value} for request {request}")
